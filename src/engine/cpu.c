/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * CPUs that were asked for are taken first; the others are then filled from the last allowed CPU downwards, because
 * interrupts and everything else of a host gather on the first ones.
 */
#include "engine/cpu.h"

#include <errno.h>
#include <stdio.h>

#include "base/log.h"

void cpu_list(const cpu_set_t *set, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (int first = 0; first < CPU_SETSIZE; first++) {
		int last = first, written;

		if (!CPU_ISSET(first, set))
			continue;
		while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, set))
			last++;
		written = last == first ? snprintf(text + used, size - used, "%s%d", used ? "," : "", first)
					: snprintf(text + used, size - used, "%s%d-%d", used ? "," : "", first, last);
		if (written < 0 || (size_t)written >= size - used)
			return;
		used += (size_t)written;
		first = last;
	}
}

static int place_wanted(const cpu_set_t *allowed, const struct sidecore_config *wanted, unsigned count,
			cpu_set_t *taken)
{
	char list[256];

	for (unsigned i = 0; i < count; i++) {
		int cpu = wanted[i].cpu;

		if (cpu == -1)
			continue;
		cpu_list(allowed, list, sizeof(list));
		if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, allowed)) {
			log_error("sidecore %u cannot run on CPU %d: the allowed CPUs are %s; choose one of them, or "
				  "widen "
				  "the affinity (taskset, AllowedCPUs=)",
				  i, cpu, list);
			return -EINVAL;
		}
		if (CPU_ISSET(cpu, taken)) {
			log_error("CPU %d is given to two sidecores; the allowed CPUs are %s", cpu, list);
			return -EINVAL;
		}
		CPU_SET(cpu, taken);
	}
	return 0;
}

int cpu_place(const cpu_set_t *allowed, const struct sidecore_config *wanted, unsigned count, int *cpus)
{
	int next = CPU_SETSIZE - 1, error;
	cpu_set_t taken;
	char list[256];

	CPU_ZERO(&taken);
	error = place_wanted(allowed, wanted, count, &taken);
	if (error)
		return error;

	for (unsigned i = 0; i < count; i++) {
		if (wanted[i].cpu != -1) {
			cpus[i] = wanted[i].cpu;
			continue;
		}
		while (next >= 0 && (!CPU_ISSET(next, allowed) || CPU_ISSET(next, &taken)))
			next--;
		if (next < 0) {
			cpu_list(allowed, list, sizeof(list));
			log_error(
				"%u sidecores need as many CPUs, and only %d are allowed (%s); ask for fewer sidecores",
				count, CPU_COUNT(allowed), list);
			return -EINVAL;
		}
		cpus[i] = next;
		CPU_SET(next, &taken);
	}
	return 0;
}
