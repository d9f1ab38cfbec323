/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sidecore bench: loads a server from one polling thread and prints one line, or one JSON object.
 *
 * It measures any server, not only this one: net and block speak plain vhost-user and vfio-user (src/client/). "copy"
 * measures what the machine's memory allows, the limit of everything that copies once.
 */
#include "cli/commands.h"

#include "cli/bench_server.h"
#include "client/block_load.h"
#include "client/net_load.h"
#include "client/virtqueue_driver.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define EXIT_BAD_RESULT 3

static const char *const general_help =
	"Usage: sidecore bench net|block|copy [OPTION]...\n"
	"\n"
	"Load a vhost-user or vfio-user server from one thread, without a virtual machine.\n"
	"\n"
	"  net     frames per second: guest to host, host to guest, guest to guest\n"
	"  block   requests per second and latency: random reads and writes\n"
	"  copy    bytes per second that one core copies: the machine's own limit\n"
	"\n"
	"'sidecore bench net --help' and so on list the options.\n";

static const char *const net_help =
	"Usage: sidecore bench net --socket PATH [--socket PATH] [OPTION]...\n"
	"\n"
	"  -s, --socket PATH      the card's socket; give it twice for --mode forward\n"
	"      --device NAME      what the card is: virtio (vhost-user; default), igb, e1000e or e1000 (vfio-user);\n"
	"                         a second one for the second card, which else is like the first\n"
	"  -m, --mode MODE        tx (guest to host; default), rx (host to guest), forward (first socket to second)\n"
	"      --both             forward in both directions\n"
	"  -z, --size BYTES       frame size without FCS, 64 to 65000 (default 64)\n"
	"  -g, --gso              frames are TCP segments that cross whole (virtio-net GSO; size 65000 unless given)\n"
	"      --window FRAMES    forward: frames under way in each direction (default: the ring; 0: no limit)\n"
	"      --ring-size N      descriptors of each ring (default 256)\n"
	"  -b, --batch N          frames moved at once, 1 to 256 (default 64)\n"
	"      --mergeable        take mergeable receive buffers\n"
	"      --touch            read the first line of each received frame\n"
	"      --mac ADDRESS      MAC address of the card; once for each socket\n"
	"                         (default 52:54:00:00:00:01 and 52:54:00:00:00:02)\n";

static const char *const block_help =
	"Usage: sidecore bench block --socket PATH [OPTION]...\n"
	"\n"
	"  -s, --socket PATH      the disk's socket\n"
	"      --device NAME      what the disk is: virtio (vhost-user; default) or nvme (vfio-user)\n"
	"  -d, --depth N          requests in flight in each queue (default 1)\n"
	"  -z, --block-size BYTES bytes of a request (default 4096)\n"
	"  -r, --read-percent P   share of reads, 0 to 100 (default 100); writes DESTROY what is on the disk\n"
	"  -q, --queues N         queues (default 1)\n"
	"      --span BYTES       use only the first BYTES of the disk\n"
	"      --verify           writes carry a pattern; reads of what was written are compared\n"
	"      --indirect         put each request in an indirect table\n"
	"      --seed N           of the random places\n";

static const char *const copy_help =
	"Usage: sidecore bench copy [OPTION]...\n"
	"\n"
	"  -z, --size BYTES       bytes of one copy (default 65000)\n"
	"      --span BYTES       bytes that sources, and destinations, are spread over (default 16 MiB)\n";

static const char *const common_help =
	"\n"
	"  -S, --seconds SECONDS  measured time (default 2)\n"
	"      --warm-up SECONDS  time before that (default 0.3)\n"
	"  -c, --cpu N            run on this CPU\n"
	"  -P, --pages SIZE       guest memory in pages of 4k (default) or 2m (reserve them: vm.nr_hugepages)\n"
	"  -j, --json             print one JSON object\n"
	"  -h, --help             print this\n";

static const char *const ring_help =
	"  -p, --packed           packed rings\n"
	"      --event-index      take VIRTIO_RING_F_EVENT_IDX\n"
	"      --in-order         take VIRTIO_F_IN_ORDER\n"
	"      --interrupts       sleep until the device interrupts when there is nothing to do\n"
	"      --trapped          emulated devices: doorbells are messages, even where they can be mapped\n"
	"      --listen           bind the socket and wait for the server to connect\n"
	"      --server-pid PID   also report the CPU time that this process used\n"
	"      --server-cpu N     count only its threads that run on this CPU\n";

enum option_id {
	OPTION_BOTH = 256,
	OPTION_WINDOW,
	OPTION_RING_SIZE,
	OPTION_MERGEABLE,
	OPTION_TOUCH,
	OPTION_MAC,
	OPTION_SPAN,
	OPTION_VERIFY,
	OPTION_INDIRECT,
	OPTION_SEED,
	OPTION_WARM_UP,
	OPTION_EVENT_INDEX,
	OPTION_IN_ORDER,
	OPTION_DEVICE,
	OPTION_INTERRUPTS,
	OPTION_TRAPPED,
	OPTION_LISTEN,
	OPTION_SERVER_PID,
	OPTION_SERVER_CPU,
};

/* One table for all: which of them a benchmark has is said by its list of letters and ids. */
static const struct option long_options[] = {
	{ "socket", required_argument, NULL, 's' },
	{ "mode", required_argument, NULL, 'm' },
	{ "both", no_argument, NULL, OPTION_BOTH },
	{ "size", required_argument, NULL, 'z' },
	{ "block-size", required_argument, NULL, 'z' },
	{ "gso", no_argument, NULL, 'g' },
	{ "window", required_argument, NULL, OPTION_WINDOW },
	{ "ring-size", required_argument, NULL, OPTION_RING_SIZE },
	{ "batch", required_argument, NULL, 'b' },
	{ "mergeable", no_argument, NULL, OPTION_MERGEABLE },
	{ "touch", no_argument, NULL, OPTION_TOUCH },
	{ "mac", required_argument, NULL, OPTION_MAC },
	{ "depth", required_argument, NULL, 'd' },
	{ "read-percent", required_argument, NULL, 'r' },
	{ "queues", required_argument, NULL, 'q' },
	{ "span", required_argument, NULL, OPTION_SPAN },
	{ "verify", no_argument, NULL, OPTION_VERIFY },
	{ "indirect", no_argument, NULL, OPTION_INDIRECT },
	{ "seed", required_argument, NULL, OPTION_SEED },
	{ "seconds", required_argument, NULL, 'S' },
	{ "warm-up", required_argument, NULL, OPTION_WARM_UP },
	{ "cpu", required_argument, NULL, 'c' },
	{ "pages", required_argument, NULL, 'P' },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ "packed", no_argument, NULL, 'p' },
	{ "event-index", no_argument, NULL, OPTION_EVENT_INDEX },
	{ "in-order", no_argument, NULL, OPTION_IN_ORDER },
	{ "device", required_argument, NULL, OPTION_DEVICE },
	{ "interrupts", no_argument, NULL, OPTION_INTERRUPTS },
	{ "trapped", no_argument, NULL, OPTION_TRAPPED },
	{ "listen", no_argument, NULL, OPTION_LISTEN },
	{ "server-pid", required_argument, NULL, OPTION_SERVER_PID },
	{ "server-cpu", required_argument, NULL, OPTION_SERVER_CPU },
	{ NULL, 0, NULL, 0 },
};

static const char short_options[] = "s:m:z:gb:d:r:q:S:c:P:jhp";

/**
 * struct bench - one run of the command.
 * @help:	its own part of the help text; @rings adds the options of vhost-user loads
 * @rings:	it drives rings
 * @json:	print JSON
 * @size:	--size or --block-size; 0 if not given
 * @span:	--span
 * @seconds:	--seconds
 * @warm_up:	--warm-up
 * @huge_pages:	--pages 2m
 * @sockets:	how many --socket were given
 * @macs:	how many --mac were given
 * @devices:	--device
 * @device_count: how many
 * @window_set:	--window was given
 * @net:	options of a net load
 * @block:	options of a block load
 * @server:	the process to watch
 */
struct bench {
	const char *help;
	bool rings;
	bool json;
	uint64_t size;
	uint64_t span;
	double seconds;
	double warm_up;
	bool huge_pages;
	unsigned int sockets;
	unsigned int macs;
	const char *devices[2];
	unsigned int device_count;
	bool window_set;
	struct net_load_options net;
	struct block_load_options block;
	struct bench_server server;
};

/* ---- arguments ---- */

static int complain(const char *what, const char *value)
{
	fprintf(stderr, "sidecore bench: %s: '%s'; see --help\n", what, value);

	return -EINVAL;
}

/* A whole number of [@minimum, @maximum], with K, M or G behind it for binary multiples. */
static int parse_number(const char *name, const char *text, uint64_t minimum, uint64_t maximum, uint64_t *number)
{
	static const char suffixes[] = "KMG";
	unsigned long long value;
	const char *suffix;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (end == text || errno || strchr(text, '-'))
		return complain(name, text);
	suffix = *end ? strchr(suffixes, *end & ~0x20) : NULL;
	if (suffix && end[1] == 0 && !__builtin_mul_overflow(value, 1ULL << (10 * (suffix - suffixes + 1)), &value))
		end++;
	if (*end || value < minimum || value > maximum) {
		fprintf(stderr, "sidecore bench: %s: '%s' is not a number from %llu to %llu\n", name, text,
			(unsigned long long)minimum, (unsigned long long)maximum);
		return -EINVAL;
	}
	*number = value;

	return 0;
}

static int parse_seconds(const char *name, const char *text, double *seconds)
{
	char *end;

	*seconds = strtod(text, &end);
	if (end == text || *end || !(*seconds >= 0 && *seconds <= 86400))
		return complain(name, text);

	return 0;
}

static int parse_mac(const char *text, uint8_t *address)
{
	unsigned int bytes[NET_ENDPOINT_ADDRESS_LEN];
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4], &bytes[5],
		   &end) != 6 ||
	    text[end])
		return complain("--mac", text);
	for (unsigned int i = 0; i < NET_ENDPOINT_ADDRESS_LEN; i++)
		address[i] = (uint8_t)bytes[i];

	return 0;
}

static int parse_mode(struct bench *bench, const char *text)
{
	static const struct {
		const char *name;
		enum net_load_mode mode;
	} modes[] = {
		{ "tx", NET_LOAD_TX },	 { "tx-only", NET_LOAD_TX },	     { "rx", NET_LOAD_RX },
		{ "rx-only", NET_LOAD_RX }, { "forward", NET_LOAD_FORWARD },
	};

	for (unsigned int i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(text, modes[i].name) == 0) {
			bench->net.mode = modes[i].mode;
			return 0;
		}
	}

	return complain("--mode is tx, rx or forward", text);
}

static int pin_to(uint64_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0) {
		int error = -errno;

		fprintf(stderr, "sidecore bench: cannot run on CPU %llu: %s\n", (unsigned long long)cpu, strerror(-error));
		return error;
	}

	return 0;
}

static int take_socket(struct bench *bench, const char *path)
{
	if (bench->sockets == 2)
		return complain("a third --socket", path);
	bench->net.sockets[bench->sockets++] = path;
	bench->block.socket_path = bench->net.sockets[0];

	return 0;
}

static int take_device(struct bench *bench, const char *name)
{
	if (bench->device_count == 2)
		return complain("a third --device", name);
	bench->devices[bench->device_count++] = name;

	return 0;
}

/* Options that are plain numbers. Return: 0, a negative errno, or 1 if @option is none of them. */
static int take_number(struct bench *bench, int option, const char *value)
{
	uint64_t number = 0;
	int error;

	switch (option) {
	case 'z':
		return parse_number("--size", value, 1, 1ULL << 30, &bench->size);
	case OPTION_SPAN:
		return parse_number("--span", value, 1, UINT64_MAX, &bench->span);
	case OPTION_SEED:
		return parse_number("--seed", value, 1, UINT64_MAX, &bench->block.seed);
	case OPTION_WINDOW:
		error = parse_number("--window", value, 0, VIRTQUEUE_DRIVER_SIZE_MAX, &number);
		bench->net.window = (uint32_t)number;
		bench->window_set = true;
		return error;
	case OPTION_RING_SIZE:
		error = parse_number("--ring-size", value, 2, VIRTQUEUE_DRIVER_SIZE_MAX, &number);
		bench->net.endpoint.ring_size = (uint16_t)number;
		return error;
	case 'b':
		error = parse_number("--batch", value, 1, NET_ENDPOINT_BATCH_MAX, &number);
		bench->net.endpoint.batch = (uint16_t)number;
		return error;
	case 'd':
		error = parse_number("--depth", value, 1, BLOCK_LOAD_DEPTH_MAX, &number);
		bench->block.depth = (uint16_t)number;
		return error;
	case 'q':
		error = parse_number("--queues", value, 1, BLOCK_LOAD_QUEUES_MAX, &number);
		bench->block.queues = (uint16_t)number;
		return error;
	case 'r':
		error = parse_number("--read-percent", value, 0, 100, &number);
		bench->block.read_percent = (uint32_t)number;
		return error;
	case OPTION_SERVER_PID:
		error = parse_number("--server-pid", value, 1, INT32_MAX, &number);
		bench->server.pid = (pid_t)number;
		return error;
	case OPTION_SERVER_CPU:
		error = parse_number("--server-cpu", value, 0, CPU_SETSIZE - 1, &number);
		bench->server.cpu = (int)number;
		return error;
	case 'c':
		error = parse_number("--cpu", value, 0, CPU_SETSIZE - 1, &number);
		return error ? error : pin_to(number);
	default:
		return 1;
	}
}

static int take_option(struct bench *bench, int option, const char *value)
{
	int error = take_number(bench, option, value);

	if (error <= 0)
		return error;

	switch (option) {
	case 's':
		return take_socket(bench, value);
	case 'm':
		return parse_mode(bench, value);
	case 'S':
		return parse_seconds("--seconds", value, &bench->seconds);
	case OPTION_WARM_UP:
		return parse_seconds("--warm-up", value, &bench->warm_up);
	case OPTION_MAC:
		return bench->macs < 2 ? parse_mac(value, bench->net.addresses[bench->macs++]) :
					 complain("a third --mac", value);
	case 'P':
		bench->huge_pages = strcasecmp(value, "2m") == 0;
		return bench->huge_pages || strcasecmp(value, "4k") == 0 ? 0 : complain("--pages is 4k or 2m", value);
	case 'j':
		bench->json = true;
		return 0;
	case 'g':
		bench->net.endpoint.gso = true;
		return 0;
	case 'p':
		bench->net.endpoint.packed = bench->block.packed = true;
		return 0;
	case OPTION_BOTH:
		bench->net.both_ways = true;
		return 0;
	case OPTION_MERGEABLE:
		bench->net.endpoint.mergeable = true;
		return 0;
	case OPTION_TOUCH:
		bench->net.endpoint.touch = true;
		return 0;
	case OPTION_VERIFY:
		bench->block.verify = true;
		return 0;
	case OPTION_INDIRECT:
		bench->block.indirect = true;
		return 0;
	case OPTION_EVENT_INDEX:
		bench->net.endpoint.event_index = bench->block.event_index = true;
		return 0;
	case OPTION_IN_ORDER:
		bench->net.endpoint.in_order = bench->block.in_order = true;
		return 0;
	case OPTION_DEVICE:
		return take_device(bench, value);
	case OPTION_INTERRUPTS:
		bench->net.endpoint.interrupts = bench->block.interrupts = true;
		return 0;
	case OPTION_TRAPPED:
		bench->net.endpoint.trapped = bench->block.trapped = true;
		return 0;
	case OPTION_LISTEN:
		bench->net.endpoint.listen = bench->block.listen = true;
		return 0;
	default:
		return -EINVAL; /* getopt_long has said which */
	}
}

/* Return: 0 to go on, 1 if help was printed, or a negative errno. */
static int parse(struct bench *bench, int argc, char **argv)
{
	int option;

	optind = 1;
	while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
		int error;

		if (option == 'h') {
			printf("%s%s%s", bench->help, common_help, bench->rings ? ring_help : "");
			return 1;
		}
		error = take_option(bench, option, optarg);
		if (error)
			return error;
	}
	if (optind < argc)
		return complain("unknown argument", argv[optind]);
	if (bench->rings && bench->sockets == 0)
		return complain("missing option", "--socket");

	return 0;
}

/* ---- results ---- */

static void print_object(json_t *object)
{
	char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(8));

	puts(text ? text : "{}");
	free(text);
	json_decref(object);
}

static void add_server(json_t *object, const struct bench_server *server, double seconds)
{
	if (!server->pid)
		return;
	json_object_set_new(object, "server_cpu_seconds", json_real(server->used));
	json_object_set_new(object, "server_cpu_share", json_real(seconds > 0 ? server->used / seconds : 0));
}

static void print_server(const struct bench_server *server, double seconds)
{
	if (server->pid)
		printf(", server CPU %.0f %%", seconds > 0 ? 100 * server->used / seconds : 0);
	putchar('\n');
}

static void print_net(const struct bench *bench, const struct net_load_result *result)
{
	double rate = (double)result->frames / result->seconds;
	double bytes = (double)result->bytes / result->seconds;

	if (bench->json) {
		json_t *object =
			json_pack("{s:f, s:f, s:f, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
				  "frames_per_second", rate, "bytes_per_second", bytes, "seconds", result->seconds, "frames",
				  (json_int_t)result->frames, "client_busy_share", result->busy_share,
				  "client_cycles_per_frame", result->cycles_per_frame, "kicks",
				  (json_int_t)result->kicks, "interrupts", (json_int_t)result->waits, "sent",
				  (json_int_t)result->sent, "lost",
				  (json_int_t)result->lost, "unexpected", (json_int_t)result->unexpected, "checked",
				  (json_int_t)result->checked, "corrupt", (json_int_t)result->corrupt, "reordered",
				  (json_int_t)result->reordered);

		add_server(object, &bench->server, result->seconds);
		print_object(object);
		return;
	}

	printf("%.3f Mpps, %.2f Gbit/s, client busy %.0f %%, %.0f cycles per frame, %llu kicks", rate / 1e6,
	       bytes * 8 / 1e9, 100 * result->busy_share, result->cycles_per_frame, (unsigned long long)result->kicks);
	if (bench->net.mode == NET_LOAD_FORWARD)
		printf(", lost %llu, checked %llu, corrupt %llu, reordered %llu, unexpected %llu",
		       (unsigned long long)result->lost, (unsigned long long)result->checked,
		       (unsigned long long)result->corrupt, (unsigned long long)result->reordered,
		       (unsigned long long)result->unexpected);
	print_server(&bench->server, result->seconds);
}

static void print_block(const struct bench *bench, const struct block_load_result *result)
{
	double rate = (double)result->requests / result->seconds;
	double bytes = (double)result->bytes / result->seconds;

	if (bench->json) {
		json_t *object =
			json_pack("{s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I}",
				  "requests_per_second", rate, "bytes_per_second", bytes, "seconds", result->seconds,
				  "requests", (json_int_t)result->requests, "p50_ns", (json_int_t)result->p50_ns,
				  "p99_ns", (json_int_t)result->p99_ns, "maximum_ns", (json_int_t)result->maximum_ns,
				  "client_busy_share", result->busy_share, "client_cycles_per_request",
				  result->cycles_per_request, "kicks", (json_int_t)result->kicks, "interrupts",
				  (json_int_t)result->waits, "errors", (json_int_t)result->errors, "verified",
				  (json_int_t)result->verified, "mismatches",
				  (json_int_t)result->mismatches);

		add_server(object, &bench->server, result->seconds);
		print_object(object);
		return;
	}

	printf("%.3f k requests/s, %.2f GB/s, p50 %.2f us, p99 %.2f us, client busy %.0f %%, %.0f cycles per request, "
	       "%llu kicks, %llu errors",
	       rate / 1e3, bytes / 1e9, (double)result->p50_ns / 1e3, (double)result->p99_ns / 1e3,
	       100 * result->busy_share, result->cycles_per_request, (unsigned long long)result->kicks,
	       (unsigned long long)result->errors);
	if (bench->block.verify)
		printf(", verified %llu, wrong %llu", (unsigned long long)result->verified,
		       (unsigned long long)result->mismatches);
	print_server(&bench->server, result->seconds);
}

/* ---- the benchmarks ---- */

/* Where @name stands in @names, which end with NULL; NULL is the first. Return: that, or a negative errno. */
static int find_device(const char *name, const char *const *names)
{
	for (int i = 0; names[i]; i++) {
		if (!name || strcmp(name, names[i]) == 0)
			return i;
	}

	return complain("no such device", name);
}

/* A second card is like the first unless it was named. */
static int choose_cards(struct bench *bench)
{
	static const char *const names[] = { [NET_ENDPOINT_VIRTIO] = "virtio",
					     [NET_ENDPOINT_IGB] = "igb",
					     [NET_ENDPOINT_E1000E] = "e1000e",
					     [NET_ENDPOINT_E1000] = "e1000",
					     NULL };

	for (unsigned int i = 0; i < 2; i++) {
		int device = find_device(bench->devices[i < bench->device_count ? i : 0], names);

		if (device < 0)
			return device;
		bench->net.devices[i] = (enum net_endpoint_device)device;
	}

	return 0;
}

static int bench_net(struct bench *bench)
{
	struct load_hooks hooks = bench_server_hooks(&bench->server);
	struct net_load_options *options = &bench->net;
	struct net_load_result result;
	int error;

	if (!bench->size)
		bench->size = options->endpoint.gso ? NET_ENDPOINT_FRAME_MAX : NET_ENDPOINT_FRAME_MIN;
	if (bench->size < NET_ENDPOINT_FRAME_MIN || bench->size > NET_ENDPOINT_FRAME_MAX) {
		fprintf(stderr, "sidecore bench: --size is from %d to %d\n", NET_ENDPOINT_FRAME_MIN,
			NET_ENDPOINT_FRAME_MAX);
		return EXIT_USAGE;
	}
	if ((options->mode == NET_LOAD_FORWARD) != (bench->sockets == 2)) {
		fprintf(stderr, "sidecore bench: --mode forward takes two --socket, the others one\n");
		return EXIT_USAGE;
	}
	if (choose_cards(bench))
		return EXIT_USAGE;
	options->endpoint.frame_size = (uint32_t)bench->size;
	options->endpoint.huge_pages = bench->huge_pages;
	options->seconds = bench->seconds;
	options->warm_up = bench->warm_up;
	if (!bench->window_set)
		options->window = NET_LOAD_WINDOW_RING;

	error = net_load_run(options, &hooks, &result);
	if (error) {
		fprintf(stderr, "sidecore bench: %s\n", result.error[0] ? result.error : strerror(-error));
		return EXIT_FAILURE;
	}
	print_net(bench, &result);

	return result.corrupt || result.reordered ? EXIT_BAD_RESULT : EXIT_SUCCESS;
}

static int bench_block(struct bench *bench)
{
	struct load_hooks hooks = bench_server_hooks(&bench->server);
	static const char *const names[] = { [BLOCK_LOAD_VIRTIO] = "virtio", [BLOCK_LOAD_NVME] = "nvme", NULL };
	struct block_load_options *options = &bench->block;
	int device = find_device(bench->devices[0], names);
	struct block_load_result result;
	int error;

	if (device < 0)
		return EXIT_USAGE;
	options->device = (enum block_load_device)device;

	options->block_size = bench->size ? (uint32_t)bench->size : 4096;
	options->huge_pages = bench->huge_pages;
	options->seconds = bench->seconds;
	options->warm_up = bench->warm_up;
	options->span = bench->span;
	if (options->block_size % 512 || options->block_size > BLOCK_LOAD_SIZE_MAX) {
		fprintf(stderr, "sidecore bench: --block-size is a multiple of 512 up to %u\n", BLOCK_LOAD_SIZE_MAX);
		return EXIT_USAGE;
	}

	error = block_load_run(options, &hooks, &result);
	if (error) {
		fprintf(stderr, "sidecore bench: %s\n", result.error[0] ? result.error : strerror(-error));
		return EXIT_FAILURE;
	}
	print_block(bench, &result);

	return result.errors || result.mismatches ? EXIT_BAD_RESULT : EXIT_SUCCESS;
}

static void *map_pages(size_t size, bool huge_pages)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | (huge_pages ? MAP_HUGETLB : 0);
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

/* Copies @size bytes from one place to another, both walking through @span, as a switch copies between guests. */
static int bench_copy(struct bench *bench)
{
	size_t size = bench->size ? bench->size : NET_ENDPOINT_FRAME_MAX;
	size_t span = bench->span ? bench->span : 16u << 20;
	size_t count = span / size, huge = 2u << 20;
	uint64_t copies = 0, start, cycles;
	struct load_clock clock;
	double seconds, rate;
	uint8_t *from, *to;

	if (span > SIZE_MAX - huge || count == 0) {
		fprintf(stderr, "sidecore bench: --span must hold --size\n");
		return EXIT_USAGE;
	}
	span = (span + huge - 1) & ~(huge - 1);
	from = map_pages(span, bench->huge_pages);
	to = map_pages(span, bench->huge_pages);
	if (!from || !to) {
		fprintf(stderr, "sidecore bench: cannot map memory: %s\n", strerror(errno));
		if (from)
			munmap(from, span);
		if (to)
			munmap(to, span);
		return EXIT_FAILURE;
	}

	load_clock_measure(&clock);
	start = load_cycles();
	do {
		for (size_t i = 0; i < count; i++)
			memcpy(to + i * size, from + i * size, size);
		__asm__ volatile("" ::: "memory"); /* the copies are wanted */
		copies += count;
		cycles = load_cycles() - start;
	} while ((double)cycles < bench->seconds * clock.cycles_per_second);
	munmap(from, span);
	munmap(to, span);

	seconds = (double)cycles / clock.cycles_per_second;
	rate = (double)copies * (double)size / seconds;
	if (bench->json)
		print_object(json_pack("{s:f, s:f, s:f}", "bytes_per_second", rate, "copies_per_second",
				       (double)copies / seconds, "seconds", seconds));
	else
		printf("%.2f GB/s, %.3f M copies/s of %zu bytes\n", rate / 1e9, (double)copies / seconds / 1e6, size);

	return EXIT_SUCCESS;
}

/**
 * cli_bench() - sidecore bench.
 * @argc:	arguments, argv[0] is "sidecore bench"
 * @argv:	arguments
 *
 * Return: exit status: 0, 1 if it could not be measured, 2 for a bad command line, 3 if frames or data came back wrong.
 */
int cli_bench(int argc, char **argv)
{
	static const struct {
		const char *name;
		const char *help;
		bool rings;
		int (*run)(struct bench *bench);
	} benchmarks[] = {
		{ "net", net_help, true, bench_net },
		{ "block", block_help, true, bench_block },
		{ "copy", copy_help, false, bench_copy },
	};
	struct bench bench = {
		.seconds = 2,
		.warm_up = 0.3,
		.net = { .endpoint = { .ring_size = 256, .batch = 64 },
			 .addresses = { { 0x52, 0x54, 0, 0, 0, 1 }, { 0x52, 0x54, 0, 0, 0, 2 } } },
		.block = { .depth = 1, .queues = 1, .read_percent = 100 },
		.server = { .cpu = -1 },
	};

	for (unsigned int i = 0; argc > 1 && i < sizeof(benchmarks) / sizeof(benchmarks[0]); i++) {
		char name[32];
		int error;

		if (strcmp(argv[1], benchmarks[i].name) != 0)
			continue;
		bench.help = benchmarks[i].help;
		bench.rings = benchmarks[i].rings;
		snprintf(name, sizeof(name), "sidecore bench %s", benchmarks[i].name);
		argv[1] = name; /* what getopt_long() puts before its complaints */
		error = parse(&bench, argc - 1, argv + 1);
		if (error)
			return error < 0 ? EXIT_USAGE : EXIT_SUCCESS;
		return benchmarks[i].run(&bench);
	}

	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		fputs(general_help, stdout);
		return EXIT_SUCCESS;
	}
	if (argc > 1)
		fprintf(stderr, "sidecore bench: unknown benchmark \"%s\"; --help lists them\n", argv[1]);
	else
		fputs(general_help, stderr);

	return EXIT_USAGE;
}
