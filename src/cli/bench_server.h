/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLI_BENCH_SERVER_H
#define CLI_BENCH_SERVER_H

#include "client/load_clock.h"

#include <sys/types.h>

/**
 * struct bench_server - the process under load, watched from outside.
 * @pid:	its pid; 0 if none is watched
 * @cpu:	count only threads that last ran on this CPU; -1 counts all
 * @begin:	CPU seconds at the begin of the measured time
 * @used:	CPU seconds used in the measured time
 * @cycles:	cycles of the measured time; while it is measured, the counter at its begin
 */
struct bench_server {
	pid_t pid;
	int cpu;
	double begin;
	double used;
	uint64_t cycles;
};

struct load_hooks bench_server_hooks(struct bench_server *server);
double bench_server_cpu_seconds(pid_t pid, int cpu);

#endif
