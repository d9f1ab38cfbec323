/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sidecore bench: loads a server from one polling thread and prints one line, or one JSON object.
 *
 * It measures any server, not only this one: net and block speak plain vhost-user and vfio-user (src/client/). "copy"
 * measures what the machine's memory allows, the limit of everything that copies once.
 */
#include "cli/commands.h"

#include "cli/bench.h"

#include <errno.h>
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

/* ---- the benchmarks ---- */

/* Where @name stands in @names, which end with NULL; NULL is the first. Return: that, or a negative errno. */
static int find_device(const char *name, const char *const *names)
{
	for (int i = 0; names[i]; i++) {
		if (!name || strcmp(name, names[i]) == 0)
			return i;
	}

	return bench_complain("no such device", name);
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
	bench_print_net(bench, &result);

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
	bench_print_block(bench, &result);

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
		bench_print_object(json_pack("{s:f, s:f, s:f}", "bytes_per_second", rate, "copies_per_second",
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
		{ "net", bench_net_help, true, bench_net },
		{ "block", bench_block_help, true, bench_block },
		{ "copy", bench_copy_help, false, bench_copy },
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
		error = bench_parse(&bench, argc - 1, argv + 1);
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
