/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The tour's result, for people and as JSON.
 *
 * For people: one table, at most 120 columns wide, a section for each thing that was looked at. The head of a section
 * says what kicks and interrupts are counted by; every other figure carries its unit, so that a line can be read, or
 * quoted, alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "cli/run.h"

#define NAME_WIDTH 46
#define TEXT_SIZE  24
#define FIGURES	   7

static const struct {
	const char *title, *unit;
} sections[] = {
	[SECTION_UPLINK] = { "Guest to host, through the user-mode NAT", "per packet" },
	[SECTION_GUESTS] = { "Guest to guest, through the switch", "per packet" },
	[SECTION_DISKS] = { "Disks", "per request" },
	[SECTION_IDLE] = { "Nothing to do", "" },
};

struct report_scale {
	double unit;
	const char *name;
};

/* "42.7 Mbit/s": three digits. Scales from the largest to the smallest, which ends the table. */
static void format_scaled(char text[TEXT_SIZE], double value, const struct report_scale *scale)
{
	while (value < scale->unit && scale[1].name)
		scale++;
	value /= scale->unit;
	snprintf(text, TEXT_SIZE, "%.*f %s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, scale->name);
}

static void format_rate(char text[TEXT_SIZE], const struct report_row *row)
{
	static const struct report_scale scales[][5] = {
		[UNIT_BITS] = { { 1e9, "Gbit/s" }, { 1e6, "Mbit/s" }, { 1e3, "kbit/s" }, { 1, "bit/s" } },
		[UNIT_BYTES] = { { 1e9, "GB/s" }, { 1e6, "MB/s" }, { 1e3, "kB/s" }, { 1, "B/s" } },
		[UNIT_REQUESTS] = { { 1e6, "M req/s" }, { 1e3, "k req/s" }, { 1, "req/s" } },
	};

	text[0] = '\0';
	if (row->throughput >= 0)
		format_scaled(text, row->unit == UNIT_BITS ? 8 * row->throughput : row->throughput, scales[row->unit]);
}

static void format_time(char text[TEXT_SIZE], double microseconds)
{
	static const struct report_scale scales[] = { { 1e6, "s" }, { 1e3, "ms" }, { 1, "us" }, { 0 } };

	text[0] = '\0';
	if (microseconds >= 0)
		format_scaled(text, microseconds, scales);
}

static void format_figure(char text[TEXT_SIZE], double value, const char *format)
{
	text[0] = '\0';
	if (value >= 0)
		snprintf(text, TEXT_SIZE, format, value);
}

static void print_line(const char *name, const char *colour, const char *result, char figures[FIGURES][TEXT_SIZE])
{
	char line[256];
	size_t length;

	snprintf(line, sizeof(line), " %12s %8s %8s %8s %6s %8s %6s", figures[0], figures[1], figures[2], figures[3],
		 figures[4], figures[5], figures[6]);
	for (length = strlen(line); length && line[length - 1] == ' '; length--)
		line[length - 1] = '\0';
	printf("  %-*s %s%s%s%*s%s\n", NAME_WIDTH, name, colour, result, *colour ? "\033[0m" : "",
	       *line ? (int)(7 - strlen(result)) : 0, "", line);
}

static void print_row(const struct report_row *row, bool colour)
{
	static const char *const words[] = { "ok", "FAILED", "skipped" };
	static const char *const colours[] = { "\033[32m", "\033[31;1m", "\033[33m" };
	char figures[FIGURES][TEXT_SIZE], name[sizeof(row->name) + 2];

	format_rate(figures[0], row);
	format_time(figures[1], row->p50_us);
	format_time(figures[2], row->p99_us);
	format_figure(figures[3], row->sidecore_cpu < 0 ? -1 : 100 * row->sidecore_cpu, "%.1f %%");
	format_figure(figures[4], row->kicks, "%.3f");
	format_figure(figures[5], row->messages, "%.3f");
	format_figure(figures[6], row->interrupts, "%.3f");
	snprintf(name, sizeof(name), "  %s", row->name);
	print_line(name, colour ? colours[row->result] : "", words[row->result], figures);
	if (row->result != STEP_PASSED)
		printf("      %s\n", row->detail);
}

static void print_section(enum report_section section, const char *bold, const char *plain)
{
	if (*sections[section].unit)
		printf("\n%s  %-*s %47s %22s%s\n", bold, NAME_WIDTH, sections[section].title, "CPU",
		       sections[section].unit, plain);
	else
		printf("\n%s  %s%s\n", bold, sections[section].title, plain);
}

static void print_table(const struct report *report, bool colour)
{
	const char *bold = colour ? "\033[1m" : "", *plain = colour ? "\033[0m" : "";

	printf("\n%s  %-*s %-7s %12s %8s %8s %8s %6s %8s %6s%s\n", bold, NAME_WIDTH, "", "result", "throughput", "p50",
	       "p99", "sidecore", "kicks", "messages", "irqs", plain);
	for (unsigned i = 0; i < report->count; i++) {
		const struct report_row *row = &report->rows[i];

		if (!i || row->section != row[-1].section)
			print_section(row->section, bold, plain);
		print_row(row, colour);
	}
}

static void print_models(const struct run *run)
{
	for (unsigned i = 0; i < run->options.guests; i++)
		printf("%s%s: %s and %s", i ? ", " : "  ", run->guests[i].name, config_nic_model_name(run->guests[i].nic),
		       config_disk_model_name(run->guests[i].disk));
	putchar('\n');
}

void report_print(const struct report *report, const struct run *run, double seconds)
{
	bool colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR"), kvm = !strcmp(run->accelerator, "kvm");
	unsigned counts[3] = { 0 };

	print_table(report, colour);
	for (unsigned i = 0; i < report->count; i++)
		counts[report->rows[i].result]++;

	printf("\n  %u guest%s with %s in QEMU %s under %s (%s)\n", run->options.guests,
	       run->options.guests == 1 ? "" : "s", run->kernel, run->qemu_version, kvm ? "KVM" : "TCG",
	       run->accelerator_reason);
	print_models(run);
	printf("  %u sidecore%s, %u queue%s a virtio device, %s rings; %.0f s\n", run->options.sidecores,
	       run->options.sidecores == 1 ? "" : "s", run->options.queues, run->options.queues == 1 ? "" : "s",
	       run->options.packed ? "packed" : "split", seconds);
	printf("\n  sidecore CPU   used by the whole daemon while the step ran; 100 %% is one CPU\n"
	       "  kicks          the guest notified the sidecore, which costs the guest an exit: virtio devices\n"
	       "  messages       QEMU asked for the guest, who may wait for the answer: emulated devices. Drivers of network\n"
	       "                 cards read statistics every two seconds: some 60 messages, whatever the traffic\n"
	       "  irqs           interrupts: the sidecore notified the guest\n"
	       "  per packet     sent or received by a guest: one that goes from guest to guest counts twice\n");
	if (!kvm)
		printf("  An emulated guest CPU is the limit here: times show that it works, not how fast it is.\n");
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
	static const char *const names[] = { "uplink", "guests", "disks", "idle" };
	json_t *rows = json_array();

	for (unsigned i = 0; i < report->count; i++) {
		const struct report_row *row = &report->rows[i];
		json_t *object = json_object();

		json_object_set_new(object, "section", json_string(names[row->section]));
		json_object_set_new(object, "step", json_string(row->name));
		json_object_set_new(object, "result", json_string(words[row->result]));
		if (row->detail[0])
			json_object_set_new(object, "detail", json_string(row->detail));
		set_figure(object, row->unit == UNIT_REQUESTS ? "requests_per_second" : "bytes_per_second",
			   row->throughput);
		set_figure(object, "p50_us", row->p50_us);
		set_figure(object, "p99_us", row->p99_us);
		set_figure(object, "sidecore_cpu", row->sidecore_cpu);
		set_figure(object, "kicks_per_unit", row->kicks);
		set_figure(object, "messages_per_unit", row->messages);
		set_figure(object, "interrupts_per_unit", row->interrupts);
		set_figure(object, "seconds", row->seconds);
		json_array_append_new(rows, object);
	}
	return rows;
}
