/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/bench_server.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Fields of proc(5) "stat", counted from 1 as its manual does. */
#define FIELD_STATE 3
#define FIELD_UTIME 14
#define FIELD_STIME 15
#define FIELD_CPU   39

/* CPU seconds of one thread; 0 if it ran on another CPU than @cpu last, or is gone. */
static double thread_seconds(pid_t pid, const char *task, int cpu)
{
	unsigned long ticks = 0;
	char path[64], line[1024];
	char *field, *rest;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/stat", (int)pid, task);
	file = fopen(path, "re");
	if (!file)
		return 0;
	rest = fgets(line, sizeof(line), file) ? strrchr(line, ')') : NULL; /* the name may hold anything */
	fclose(file);
	if (!rest)
		return 0;

	rest++;
	for (unsigned int number = FIELD_STATE; (field = strsep(&rest, " ")); number++) {
		if (*field == 0) {
			number--; /* the space behind the name */
			continue;
		}
		if (number == FIELD_UTIME || number == FIELD_STIME)
			ticks += strtoul(field, NULL, 10);
		else if (number == FIELD_CPU && cpu >= 0 && strtol(field, NULL, 10) != cpu)
			return 0;
	}

	return (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

/**
 * bench_server_cpu_seconds() - CPU time that a process has used.
 * @pid:	process
 * @cpu:	count only threads that last ran on this CPU; -1 counts all
 *
 * Return: seconds; 0 if there is no such process.
 */
double bench_server_cpu_seconds(pid_t pid, int cpu)
{
	struct dirent *entry;
	double seconds = 0;
	char path[64];
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	if (!tasks)
		return 0;
	while ((entry = readdir(tasks))) {
		if (entry->d_name[0] != '.')
			seconds += thread_seconds(pid, entry->d_name, cpu);
	}
	closedir(tasks);

	return seconds;
}

static void begin(void *context)
{
	struct bench_server *server = context;

	if (server->pid)
		server->begin = bench_server_cpu_seconds(server->pid, server->cpu);
	server->cycles = load_cycles();
}

static void end(void *context)
{
	struct bench_server *server = context;

	server->cycles = load_cycles() - server->cycles;
	if (server->pid)
		server->used = bench_server_cpu_seconds(server->pid, server->cpu) - server->begin;
}

/**
 * bench_server_hooks() - hooks that fill @server in around the measured time of a load.
 * @server:	server to watch; outlives the load
 *
 * Return: the hooks.
 */
struct load_hooks bench_server_hooks(struct bench_server *server)
{
	return (struct load_hooks){ .begin = begin, .end = end, .context = server };
}
