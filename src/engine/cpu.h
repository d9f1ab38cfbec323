/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which CPU each sidecore gets.
 */
#ifndef ENGINE_CPU_H
#define ENGINE_CPU_H

#include <sched.h>

#include "engine/engine.h"

/**
 * cpu_place() - choose the CPUs of all sidecores.
 * @allowed:	CPUs that the process may use
 * @wanted:	one entry a sidecore; cpu -1 is "the last allowed one that nobody else has"
 * @cpus:	out: @count CPU numbers
 *
 * Return: 0; -EINVAL, with a log line that names the allowed CPUs, when a CPU is not allowed, is given twice, or there
 * are not enough.
 */
int cpu_place(const cpu_set_t *allowed, const struct sidecore_config *wanted, unsigned count, int *cpus);

/** cpu_list() - write a set as people do, "0-3,8"; cut at @size. */
void cpu_list(const cpu_set_t *set, char *text, size_t size);

#endif
