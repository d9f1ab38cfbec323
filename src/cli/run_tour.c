/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The tour: what a newcomer sees work, step by step, and what the tests check.
 *
 * Theory of operation
 * -------------------
 * A step runs commands inside guests through their agents and compares what they print. Around each step the daemon's
 * counters (control socket) and CPU time (/proc) are read, so that the report can tell throughput as the guest saw it,
 * and kicks, interrupts and CPU as the host saw them, for the same interval.
 *
 * A step that fails leaves its reason in its row; later steps go on where that makes sense. When the user asks us to
 * stop, the step under way ends as "interrupted", and those that follow come to nothing: their commands are refused at
 * once, and what they would say is not printed.
 */
#include "cli/run_tour.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static double clock_seconds(void)
{
	return (double)clock_nanoseconds() / 1e9;
}

/* utime and stime are the 14th and 15th field of /proc/PID/stat; the 2nd may contain anything but ends at the last ')'.
 */
static double process_cpu_seconds(pid_t pid)
{
	unsigned long user = 0, system = 0;
	char path[64], line[1024];
	const char *rest;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "r");
	if (!file)
		return 0;
	if (fgets(line, sizeof(line), file) && (rest = strrchr(line, ')')))
		sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
	fclose(file);
	return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double field(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static void add_calls(const json_t *device, double units, struct tour_calls *calls)
{
	const json_t *pci = json_object_get(device, "pci");
	json_t *queue;
	size_t index;

	json_array_foreach(json_object_get(device, "queues"), index, queue) {
		calls->kicks += field(queue, "kicks");
		calls->interrupts += field(queue, "notifications");
	}
	if (pci) {
		calls->messages += field(device, "messages");
		calls->interrupts += field(pci, "interrupts");
		calls->emulated_units += units;
	} else {
		calls->virtio_units += units;
	}
}

static void take_sample(const struct run *run, struct tour_sample *sample)
{
	json_t *status = run_status(run), *device;
	const char *name;

	*sample = (struct tour_sample){ .clock = clock_seconds(), .cpu = process_cpu_seconds(run->daemon.pid) };
	json_object_foreach(json_object_get(status, "interfaces"), name, device) {
		double packets = field(device, "in_frames") + field(device, "out_frames");

		sample->packets += packets;
		sample->bytes += field(device, "in_bytes") + field(device, "out_bytes");
		sample->sent_frames += field(device, "in_frames");
		sample->sent_bytes += field(device, "in_bytes");
		add_calls(device, packets, &sample->net);
	}
	json_object_foreach(json_object_get(status, "disks"), name, device) {
		double requests = field(device, "reads") + field(device, "writes") + field(device, "flushes") +
				  field(device, "discards") + field(device, "write_zeroes");

		sample->requests += requests;
		add_calls(device, requests, &sample->disk);
	}
	json_decref(status);
}

void tour_step(struct tour *tour, const char *format, ...)
{
	struct report_row *row = run_stopped() ? &tour->none : &tour->report.rows[tour->report.count];
	va_list values;

	if (row != &tour->none && tour->report.count + 1 < REPORT_ROWS_MAX)
		tour->report.count++;
	*row = (struct report_row){ .section = tour->section,
				    .result = STEP_FAILED,
				    .throughput = -1,
				    .p50_us = -1,
				    .p99_us = -1,
				    .sidecore_cpu = -1,
				    .kicks = -1,
				    .messages = -1,
				    .interrupts = -1 };
	va_start(values, format);
	vsnprintf(row->name, sizeof(row->name), format, values);
	va_end(values);
	tour->row = row;
	if (row == &tour->none)
		return;
	printf("  %-46s", row->name);
	fflush(stdout);
	take_sample(tour->run, &tour->start);
}

static void end_step(struct tour *tour, const char *word)
{
	tour->row->seconds = clock_seconds() - tour->start.clock;
	if (tour->row == &tour->none)
		return;
	if (run_stopped())
		printf("interrupted\n");
	else
		printf("%s (%.1f s)%s%s\n", word, tour->row->seconds, tour->row->detail[0] ? ": " : "",
		       tour->row->detail);
	fflush(stdout);
}

bool tour_pass(struct tour *tour)
{
	tour->row->result = STEP_PASSED;
	end_step(tour, "ok");
	return true;
}

/* The first reason counts: what fails afterwards is its consequence. */
bool tour_fail(struct tour *tour, const char *format, ...)
{
	va_list values;

	if (tour->row->seconds > 0)
		return false;
	va_start(values, format);
	vsnprintf(tour->row->detail, sizeof(tour->row->detail), format, values);
	va_end(values);
	for (char *text = tour->row->detail; *text; text++) {
		if (*text == '\n')
			*text = ' ';
	}
	tour->row->result = STEP_FAILED;
	end_step(tour, "FAILED");
	return false;
}

void tour_skip(struct tour *tour, const char *reason)
{
	snprintf(tour->row->detail, sizeof(tour->row->detail), "%s", reason);
	tour->row->result = STEP_SKIPPED;
	end_step(tour, "skipped");
}

static struct tour_calls calls_since(const struct tour_calls *now, const struct tour_calls *start)
{
	return (struct tour_calls){
		.kicks = now->kicks - start->kicks,
		.virtio_units = now->virtio_units - start->virtio_units,
		.messages = now->messages - start->messages,
		.emulated_units = now->emulated_units - start->emulated_units,
		.interrupts = now->interrupts - start->interrupts,
	};
}

void tour_measure(struct tour *tour, bool disk, struct tour_sample *difference)
{
	const struct tour_sample *start = &tour->start;
	struct tour_sample now, *d = difference;
	const struct tour_calls *calls;
	double units;

	take_sample(tour->run, &now);
	*d = (struct tour_sample){
		.clock = now.clock - start->clock,
		.cpu = now.cpu - start->cpu,
		.packets = now.packets - start->packets,
		.bytes = now.bytes - start->bytes,
		.sent_frames = now.sent_frames - start->sent_frames,
		.sent_bytes = now.sent_bytes - start->sent_bytes,
		.requests = now.requests - start->requests,
		.net = calls_since(&now.net, &start->net),
		.disk = calls_since(&now.disk, &start->disk),
	};
	tour->row->sidecore_cpu = d->clock > 0 ? d->cpu / d->clock : -1;
	calls = disk ? &d->disk : &d->net;
	units = calls->virtio_units + calls->emulated_units;
	/* A guest that took no part heard a broadcast or two, by which nothing can be divided. */
	if (calls->virtio_units > units / 100)
		tour->row->kicks = calls->kicks / calls->virtio_units;
	if (calls->emulated_units > units / 100)
		tour->row->messages = calls->messages / calls->emulated_units;
	if (units > 0)
		tour->row->interrupts = calls->interrupts / units;
}

char *tour_guest(struct tour *tour, unsigned index, unsigned timeout_s, const char *format, ...)
{
	struct agent_result result;
	char command[2048];
	va_list values;
	int error;

	va_start(values, format);
	vsnprintf(command, sizeof(command), format, values);
	va_end(values);
	error = agent_run(&tour->run->guests[index].agent, command, timeout_s * 1000, &result);
	if (!error && !result.status)
		return result.output;
	if (error)
		tour_fail(tour, "%s: no answer from the agent: %s", tour->run->guests[index].name, strerror(-error));
	else
		tour_fail(tour, "%s: '%.60s' %s %d: %.80s", tour->run->guests[index].name, command, result.kind,
			  result.status, result.output);
	free(result.output);
	return NULL;
}

json_t *tour_guest_json(struct tour *tour, unsigned index, unsigned timeout_s, const char *command)
{
	char *output = tour_guest(tour, index, timeout_s, "%s", command), *start;
	json_error_t error;
	json_t *json;

	if (!output)
		return NULL;
	start = strchr(output, '{');
	json = json_loads(start ? start : "", JSON_DISABLE_EOF_CHECK, &error);
	if (!json)
		tour_fail(tour, "'%.60s' printed no JSON: %.80s", command, output);
	free(output);
	return json;
}

double tour_number(const json_t *json, const char *path)
{
	char key[64];

	while (json && *path) {
		size_t length = strcspn(path, "/");

		snprintf(key, sizeof(key), "%.*s", (int)length, path);
		json = json_is_array(json) ? json_array_get(json, (size_t)atoi(key)) : json_object_get(json, key);
		path += length + (path[length] == '/');
	}
	return json_is_number(json) ? json_number_value(json) : -1;
}

/* With nothing to do, a sidecore sleeps. */
static void idle_step(struct tour *tour)
{
	struct tour_sample difference;

	tour->section = SECTION_IDLE;
	sleep(1);
	tour_step(tour, "idle guests: the sidecore sleeps");
	sleep(2);
	tour_measure(tour, false, &difference);
	tour->row->kicks = tour->row->messages = tour->row->interrupts = -1;
	if (tour->row->sidecore_cpu > 0.05)
		tour_fail(tour, "%.1f %% of a CPU with nothing to do", 100 * tour->row->sidecore_cpu);
	else
		tour_pass(tour);
}

static bool write_json(const struct tour *tour, const char *path)
{
	json_t *rows = report_json(&tour->report);
	int error = json_dump_file(rows, path, JSON_INDENT(1));

	json_decref(rows);
	if (error)
		fprintf(stderr, "sidecore run: cannot write %s\n", path);
	return !error;
}

bool run_tour(struct run *run)
{
	struct tour tour = { .run = run };
	double start = clock_seconds();
	bool passed;

	if (tour_network(&tour) && !run_stopped())
		tour_disks(&tour);
	if (!run_stopped())
		idle_step(&tour);
	if (run_stopped())
		return false;
	report_print(&tour.report, run, clock_seconds() - start);

	passed = tour.report.count > 0 && !run->daemon_deaths;
	if (run->daemon_deaths)
		printf("FAILED: the daemon died on the way, %u time%s\n", run->daemon_deaths,
		       run->daemon_deaths == 1 ? "" : "s");
	for (unsigned i = 0; i < tour.report.count; i++)
		passed = passed && tour.report.rows[i].result != STEP_FAILED;
	if (run->options.json && !write_json(&tour, run->options.json))
		passed = false;
	return passed;
}
