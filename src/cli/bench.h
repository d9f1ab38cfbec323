/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include "cli/bench_server.h"
#include "client/block_load.h"
#include "client/net_load.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

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

extern const char bench_net_help[];
extern const char bench_block_help[];
extern const char bench_copy_help[];

int bench_complain(const char *what, const char *value);
int bench_parse(struct bench *bench, int argc, char **argv);
void bench_print_object(json_t *object);
void bench_print_net(const struct bench *bench, const struct net_load_result *result);
void bench_print_block(const struct bench *bench, const struct block_load_result *result);

#endif
