/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sidecore bench: its command line, and the help texts. One table of options is for all benchmarks.
 */
#include "cli/bench.h"

#include "client/virtqueue_driver.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char bench_net_help[] =
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

const char bench_block_help[] =
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

const char bench_copy_help[] =
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
	"      --server-pid PID   also report the CPU time and cycles that this process used\n"
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
 * bench_complain() - say what is wrong with the command line.
 * @what:	what it is
 * @value:	what was given
 *
 * Return: -EINVAL.
 */
int bench_complain(const char *what, const char *value)
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
		return bench_complain(name, text);
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
		return bench_complain(name, text);

	return 0;
}

static int parse_mac(const char *text, uint8_t *address)
{
	unsigned int bytes[NET_ENDPOINT_ADDRESS_LEN];
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4], &bytes[5],
		   &end) != 6 ||
	    text[end])
		return bench_complain("--mac", text);
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
		{ "tx", NET_LOAD_TX },	    { "tx-only", NET_LOAD_TX },	     { "rx", NET_LOAD_RX },
		{ "rx-only", NET_LOAD_RX }, { "forward", NET_LOAD_FORWARD },
	};

	for (unsigned int i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (strcmp(text, modes[i].name) == 0) {
			bench->net.mode = modes[i].mode;
			return 0;
		}
	}

	return bench_complain("--mode is tx, rx or forward", text);
}

static int pin_to(uint64_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0) {
		int error = -errno;

		fprintf(stderr, "sidecore bench: cannot run on CPU %llu: %s\n", (unsigned long long)cpu,
			strerror(-error));
		return error;
	}

	return 0;
}

static int take_socket(struct bench *bench, const char *path)
{
	if (bench->sockets == 2)
		return bench_complain("a third --socket", path);
	bench->net.sockets[bench->sockets++] = path;
	bench->block.socket_path = bench->net.sockets[0];

	return 0;
}

static int take_device(struct bench *bench, const char *name)
{
	if (bench->device_count == 2)
		return bench_complain("a third --device", name);
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
		return bench->macs < 2 ? parse_mac(value, bench->net.addresses[bench->macs++])
				       : bench_complain("a third --mac", value);
	case 'P':
		bench->huge_pages = strcasecmp(value, "2m") == 0;
		return bench->huge_pages || strcasecmp(value, "4k") == 0 ? 0
									 : bench_complain("--pages is 4k or 2m", value);
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

/**
 * bench_parse() - read the command line of a benchmark.
 * @bench:	has defaults, and gets what was given
 * @argc:	arguments, argv[0] is "sidecore bench NAME"
 * @argv:	arguments
 *
 * Return: 0 to go on, 1 if help was printed, or a negative errno; what is wrong has been said.
 */
int bench_parse(struct bench *bench, int argc, char **argv)
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
		return bench_complain("unknown argument", argv[optind]);
	if (bench->rings && bench->sockets == 0)
		return bench_complain("missing option", "--socket");

	return 0;
}
