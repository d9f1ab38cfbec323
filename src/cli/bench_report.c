/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sidecore bench: what came out, as a line for people or as one JSON object.
 */
#include "cli/bench.h"

#include <stdio.h>
#include <stdlib.h>

/**
 * bench_print_object() - print @object in a line, and give it back.
 * @object:	a reference, which is taken over
 */
void bench_print_object(json_t *object)
{
	char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(8));

	puts(text ? text : "{}");
	free(text);
	json_decref(object);
}

/* Cycles that the server spent for each of @count frames or requests, its polls in vain included. */
static double server_cycles(const struct bench_server *server, double seconds, uint64_t count)
{
	return seconds > 0 && count ? server->used / seconds * (double)server->cycles / (double)count : 0;
}

/* @per: the key for cycles for each of @count. */
static void add_server(json_t *object, const struct bench_server *server, double seconds, const char *per,
		       uint64_t count)
{
	if (!server->pid)
		return;
	json_object_set_new(object, "server_cpu_seconds", json_real(server->used));
	json_object_set_new(object, "server_cpu_share", json_real(seconds > 0 ? server->used / seconds : 0));
	json_object_set_new(object, per, json_real(server_cycles(server, seconds, count)));
}

static void print_server(const struct bench_server *server, double seconds, const char *what, uint64_t count)
{
	if (server->pid)
		printf(", server CPU %.0f %%, %.0f cycles per %s", seconds > 0 ? 100 * server->used / seconds : 0,
		       server_cycles(server, seconds, count), what);
	putchar('\n');
}

/**
 * bench_print_net() - print the result of a network load.
 * @bench:	how it was run
 * @result:	what it gave
 */
void bench_print_net(const struct bench *bench, const struct net_load_result *result)
{
	double rate = (double)result->frames / result->seconds;
	double bytes = (double)result->bytes / result->seconds;

	if (bench->json) {
		json_t *object = json_pack(
			"{s:f, s:f, s:f, s:I, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "frames_per_second",
			rate, "bytes_per_second", bytes, "seconds", result->seconds, "frames",
			(json_int_t)result->frames, "client_busy_share", result->busy_share, "client_cycles_per_frame",
			result->cycles_per_frame, "kicks", (json_int_t)result->kicks, "interrupts",
			(json_int_t)result->waits, "sent", (json_int_t)result->sent, "lost", (json_int_t)result->lost,
			"unexpected", (json_int_t)result->unexpected, "checked", (json_int_t)result->checked, "corrupt",
			(json_int_t)result->corrupt, "reordered", (json_int_t)result->reordered);

		add_server(object, &bench->server, result->seconds, "server_cycles_per_frame", result->frames);
		bench_print_object(object);
		return;
	}

	printf("%.3f Mpps, %.2f Gbit/s, client busy %.0f %%, %.0f cycles per frame, %llu kicks", rate / 1e6,
	       bytes * 8 / 1e9, 100 * result->busy_share, result->cycles_per_frame, (unsigned long long)result->kicks);
	if (bench->net.mode == NET_LOAD_FORWARD)
		printf(", lost %llu, checked %llu, corrupt %llu, reordered %llu, unexpected %llu",
		       (unsigned long long)result->lost, (unsigned long long)result->checked,
		       (unsigned long long)result->corrupt, (unsigned long long)result->reordered,
		       (unsigned long long)result->unexpected);
	print_server(&bench->server, result->seconds, "frame", result->frames);
}

/**
 * bench_print_block() - print the result of a block load.
 * @bench:	how it was run
 * @result:	what it gave
 */
void bench_print_block(const struct bench *bench, const struct block_load_result *result)
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
				  (json_int_t)result->verified, "mismatches", (json_int_t)result->mismatches);

		add_server(object, &bench->server, result->seconds, "server_cycles_per_request", result->requests);
		bench_print_object(object);
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
	print_server(&bench->server, result->seconds, "request", result->requests);
}
