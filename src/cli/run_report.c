/* SPDX-License-Identifier: BSD-3-Clause */
/* The tour's result, for people and as JSON. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "cli/run.h"

static void print_rate(const struct report_row *row)
{
	static const struct {
		double unit;
		const char *names[3];
	} scales[] = { { 1e9, { "Gbit/s", "GB/s", "G/s" } },
		       { 1e6, { "Mbit/s", "MB/s", "M/s" } },
		       { 1e3, { "kbit/s", "kB/s", "k/s" } },
		       { 1, { "bit/s", "B/s", "/s" } } };
	double value = row->unit == UNIT_BITS ? 8 * row->throughput : row->throughput;
	size_t scale = 0;

	if (row->throughput < 0) {
		printf(" %14s", "");
		return;
	}
	while (value < scales[scale].unit && scale + 1 < array_size(scales))
		scale++;
	printf(" %7.2f %-6s", value / scales[scale].unit, scales[scale].names[row->unit]);
}

static void print_figure(double value, const char *format, int width)
{
	char text[32] = "";

	if (value >= 0)
		snprintf(text, sizeof(text), format, value);
	printf(" %*s", width, text);
}

static void print_row(const struct report_row *row, bool colour)
{
	static const char *const words[] = { "ok", "FAILED", "skipped" };
	static const char *const colours[] = { "\033[32m", "\033[31;1m", "\033[33m" };

	printf("  %-44s %s%-7s%s", row->name, colour ? colours[row->result] : "", words[row->result],
	       colour ? "\033[0m" : "");
	print_rate(row);
	print_figure(row->p50_us, "%.0f", 9);
	print_figure(row->p99_us, "%.0f", 9);
	print_figure(row->sidecore_cpu < 0 ? -1 : 100 * row->sidecore_cpu, "%.1f %%", 9);
	print_figure(row->kicks, "%.3f", 8);
	print_figure(row->interrupts, "%.3f", 8);
	if (row->result != STEP_PASSED)
		printf("  %s", row->detail);
	printf("\n");
}

void report_print(const struct report *report, const struct run *run, double seconds)
{
	bool colour = isatty(STDOUT_FILENO);
	unsigned counts[3] = { 0 };

	printf("\n  %-44s %-7s %14s %9s %9s %9s %8s %8s\n", "step", "result", "throughput", "p50 us", "p99 us", "sidecore",
	       "kicks", "interr.");
	printf("  %-44s %-7s %14s %9s %9s %9s %8s %8s\n", "", "", "", "", "", "CPU", "/packet", "/packet");
	for (unsigned i = 0; i < report->count; i++) {
		print_row(&report->rows[i], colour);
		counts[report->rows[i].result]++;
	}
	printf("\n  %u guests under %s (%s), %u sidecore%s; %.0f s\n", run->options.guests,
	       strcmp(run->accelerator, "kvm") ? "TCG" : "KVM", run->accelerator_reason, run->options.sidecores,
	       run->options.sidecores == 1 ? "" : "s", seconds);
	if (strcmp(run->accelerator, "kvm"))
		printf("  An emulated guest CPU is the limit here: times show that it works, not how fast it is.\n");
	printf("  kicks and interrupts are per packet or disk request, in both directions of the step.\n");
	printf("\n  %u steps passed, %u failed, %u skipped\n", counts[STEP_PASSED], counts[STEP_FAILED],
	       counts[STEP_SKIPPED]);
}

static void set_figure(json_t *object, const char *key, double value)
{
	if (value >= 0)
		json_object_set_new(object, key, json_real(value));
}

json_t *report_json(const struct report *report)
{
	static const char *const words[] = { "passed", "failed", "skipped" };
	json_t *rows = json_array();

	for (unsigned i = 0; i < report->count; i++) {
		const struct report_row *row = &report->rows[i];
		json_t *object = json_object();

		json_object_set_new(object, "step", json_string(row->name));
		json_object_set_new(object, "result", json_string(words[row->result]));
		if (row->detail[0])
			json_object_set_new(object, "detail", json_string(row->detail));
		set_figure(object, row->unit == UNIT_REQUESTS ? "requests_per_second" : "bytes_per_second", row->throughput);
		set_figure(object, "p50_us", row->p50_us);
		set_figure(object, "p99_us", row->p99_us);
		set_figure(object, "sidecore_cpu", row->sidecore_cpu);
		set_figure(object, "kicks_per_unit", row->kicks);
		set_figure(object, "interrupts_per_unit", row->interrupts);
		set_figure(object, "seconds", row->seconds);
		json_array_append_new(rows, object);
	}
	return rows;
}
