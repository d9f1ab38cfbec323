/* SPDX-License-Identifier: BSD-3-Clause */
/* sidecore status: what the daemon tells of itself, as tables for people or as JSON for programs. */
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "cli/commands.h"
#include "cli/table.h"
#include "control/config.h"
#include "control/control_client.h"

static const char usage[] =
	"Usage: sidecore status [OPTION]...\n"
	"\n"
	"Shows what a running daemon serves: how busy its sidecores are, which interfaces and disks are connected,\n"
	"what passes through them in each second, and what was lost for which reason.\n"
	"\n"
	"Columns: of their time, how much sidecores were BUSY with work, POLLING in vain, and ASLEEP in the last\n"
	"second; how often they slept, and were woken by KICKS of guests, MESSAGES, TIMERS, or took NAPS between\n"
	"looks at mapped doorbells. For networks, frames from (IN) and to (OUT) the uplink since the start; for\n"
	"interfaces, frames and bits in each second that the guest SENDS and RECEIVES. For emulated devices, since the\n"
	"start: INTERRUPTS sent, and BY what; MESSAGES of the virtual machine monitor; READS and WRITES of registers\n"
	"among them; RESETS; and FAULTS of the guest's driver. What can be spared is left out where the terminal is\n"
	"narrow.\n"
	"\n"
	"  -c, --control SOCKET  control socket of the daemon (default: /run/sidecore/control.sock if it is there,\n"
	"                        else $XDG_RUNTIME_DIR/sidecore.sock)\n"
	"  -j, --json            print all that the daemon tells, as one JSON object on one line\n"
	"  -w, --watch           again every second, until interrupted\n"
	"  -h, --help            this text\n";

static double number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static uint64_t count(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "-";
}

static void cell_number(struct table *table, double value)
{
	char words[FORMAT_NUMBER_SIZE];

	table_cell(table, value > 0 ? TABLE_PLAIN : TABLE_DIM, "%s", format_number(value, words));
}

static void cell_size(struct table *table, uint64_t bytes)
{
	char words[FORMAT_NUMBER_SIZE];

	table_cell(table, TABLE_PLAIN, "%s", format_size(bytes, words));
}

static void cell_connected(struct table *table, const json_t *object)
{
	bool connected = json_is_true(json_object_get(object, "connected"));

	table_cell(table, connected ? TABLE_GOOD : TABLE_DIM, "%s", connected ? "connected" : "waiting");
}

static void cell_drops(struct table *table, json_t *drops)
{
	char list[256] = "-";
	size_t used = 0;
	const char *reason;
	json_t *value;

	json_object_foreach(drops, reason, value) {
		char words[FORMAT_NUMBER_SIZE];

		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s %s", used ? ", " : "", reason,
						 format_number((double)json_integer_value(value), words));
	}
	table_cell(table, used ? TABLE_BAD : TABLE_DIM, "%s", list);
}

static void print_sidecores(const json_t *list, bool colours)
{
	static const char *const heads[] = { "SIDECORE", ">CPU",   ">BUSY",	">POLLING", ">ASLEEP", ">POLLERS",
					     ">SLEEPS",	 ">KICKS", ">MESSAGES", ">TIMERS",  ">?NAPS",   NULL };
	struct table *table = table_create(heads);
	const json_t *sidecore;
	size_t index;

	json_array_foreach(list, index, sidecore) {
		const json_t *second = json_object_get(sidecore, "second"), *wakes = json_object_get(sidecore, "wakes");
		double busy = number(second, "busy");

		table_cell(table, TABLE_PLAIN, "%zu", index);
		table_cell(table, TABLE_PLAIN, "%llu", (unsigned long long)count(sidecore, "cpu"));
		table_cell(table, busy > 0.95 ? TABLE_BAD : TABLE_PLAIN, "%.1f%%", busy * 100);
		table_cell(table, TABLE_PLAIN, "%.1f%%", number(second, "polling") * 100);
		table_cell(table, TABLE_PLAIN, "%.1f%%", number(second, "asleep") * 100);
		table_cell(table, TABLE_PLAIN, "%llu", (unsigned long long)count(sidecore, "pollers"));
		cell_number(table, (double)count(sidecore, "sleeps"));
		cell_number(table, (double)count(wakes, "kick"));
		cell_number(table, (double)count(wakes, "message"));
		cell_number(table, (double)count(wakes, "timer"));
		cell_number(table, (double)count(wakes, "nap"));
	}
	table_print(table, stdout, colours);
}

static void print_networks(json_t *networks, bool colours)
{
	static const char *const heads[] = { "NETWORK",	  "UPLINK", "STATE",	  ">ADDRESSES", ">IN",
					     ">BYTES IN", ">OUT",   ">BYTES OUT", "DROPS",	NULL };
	struct table *table = table_create(heads);
	const char *name;
	json_t *network;

	json_object_foreach(networks, name, network) {
		json_t *uplink = json_object_get(network, "uplink");

		table_cell(table, TABLE_PLAIN, "%s", name);
		table_cell(table, TABLE_PLAIN, "%s", json_is_object(uplink) ? text(uplink, "type") : "none");
		table_cell(table, TABLE_PLAIN, "%s", text(uplink, "state"));
		table_cell(table, TABLE_PLAIN, "%llu", (unsigned long long)count(network, "addresses"));
		cell_number(table, (double)count(uplink, "in_frames"));
		cell_size(table, count(uplink, "in_bytes"));
		cell_number(table, (double)count(uplink, "out_frames"));
		cell_size(table, count(uplink, "out_bytes"));
		cell_drops(table, json_object_get(uplink, "drops"));
	}
	table_print(table, stdout, colours);
}

static void print_interfaces(json_t *interfaces, bool colours)
{
	static const char *const heads[] = { "INTERFACE", "STATE", "?MODEL",	"?NETWORK", "?MAC",  ">SENDS/S",
					     ">BIT/S",	  ">RECEIVES/S", ">BIT/S",   "DROPS", NULL };
	struct table *table = table_create(heads);
	const char *name;
	json_t *interface;

	json_object_foreach(interfaces, name, interface) {
		const json_t *rates = json_object_get(interface, "rates");

		table_cell(table, TABLE_PLAIN, "%s", name);
		cell_connected(table, interface);
		table_cell(table, TABLE_PLAIN, "%s", text(interface, "model"));
		table_cell(table, TABLE_PLAIN, "%s", text(interface, "network"));
		table_cell(table, TABLE_PLAIN, "%s", text(interface, "mac"));
		cell_number(table, number(rates, "in_frames"));
		cell_number(table, number(rates, "in_bytes") * 8);
		cell_number(table, number(rates, "out_frames"));
		cell_number(table, number(rates, "out_bytes") * 8);
		cell_drops(table, json_object_get(interface, "drops"));
	}
	table_print(table, stdout, colours);
}

static void print_disks(json_t *disks, bool colours)
{
	static const char *const heads[] = { "DISK",	"STATE",     "?MODEL", "?KIND",	"BACKEND", ">?SIZE", ">READS/S",
					     ">BYTE/S", ">WRITES/S", ">BYTE/S", ">ERRORS", NULL };
	struct table *table = table_create(heads);
	const char *name;
	json_t *disk;

	json_object_foreach(disks, name, disk) {
		const json_t *rates = json_object_get(disk, "rates");
		uint64_t errors = count(disk, "errors");

		table_cell(table, TABLE_PLAIN, "%s", name);
		if (json_is_string(json_object_get(disk, "controller")))
			table_cell(table, TABLE_PLAIN, "of %s", text(disk, "controller"));
		else
			cell_connected(table, disk);
		table_cell(table, TABLE_PLAIN, "%s", text(disk, "model"));
		table_cell(table, TABLE_PLAIN, "%s%s", text(disk, "kind"),
			   json_is_true(json_object_get(disk, "read_only")) ? ", read-only" : "");
		table_cell(table, TABLE_PLAIN, "%s", text(disk, "state"));
		cell_size(table, count(disk, "size"));
		cell_number(table, number(rates, "reads"));
		cell_size(table, (uint64_t)number(rates, "read_bytes"));
		cell_number(table, number(rates, "writes"));
		cell_size(table, (uint64_t)number(rates, "write_bytes"));
		table_cell(table, errors ? TABLE_BAD : TABLE_DIM, "%llu", (unsigned long long)errors);
	}
	table_print(table, stdout, colours);
}

static void add_emulated(struct table *table, json_t *devices)
{
	const char *name;
	json_t *device;

	json_object_foreach(devices, name, device) {
		const json_t *pci = json_object_get(device, "pci");

		if (!pci)
			continue;
		table_cell(table, TABLE_PLAIN, "%s", name);
		table_cell(table, TABLE_PLAIN, "%s", text(device, "model"));
		table_cell(table, TABLE_PLAIN, "%s", text(pci, "interrupt"));
		cell_number(table, (double)count(pci, "interrupts"));
		cell_number(table, (double)count(device, "messages"));
		cell_number(table, (double)count(pci, "trapped_reads"));
		cell_number(table, (double)count(pci, "trapped_writes"));
		cell_number(table, (double)count(pci, "resets"));
		cell_number(table, (double)count(pci, "faults"));
	}
}

static bool any_emulated(json_t *devices)
{
	const char *name;
	json_t *device;

	json_object_foreach(devices, name, device) {
		if (json_object_get(device, "pci"))
			return true;
	}
	return false;
}

static void print_emulated(json_t *interfaces, json_t *disks, bool colours)
{
	static const char *const heads[] = { "EMULATED", "MODEL",   "BY",	">INTERRUPTS", ">MESSAGES",
					     ">READS",	 ">WRITES", ">?RESETS", ">FAULTS",     NULL };
	struct table *table;

	if (!any_emulated(interfaces) && !any_emulated(disks))
		return;
	putchar('\n');
	table = table_create(heads);
	add_emulated(table, interfaces);
	add_emulated(table, disks);
	table_print(table, stdout, colours);
}

/* What needs somebody's attention, in sentences: broken queues, faults and refused connections. */
static void print_trouble(json_t *devices, const char *what, bool colours)
{
	const char *name, *start = colours ? "\033[31m" : "", *end = colours ? "\033[0m" : "";
	const json_t *device, *queue;
	size_t index;
	void *next;

	for (next = json_object_iter(devices); next; next = json_object_iter_next(devices, next)) {
		name = json_object_iter_key(next);
		device = json_object_iter_value(next);
		json_array_foreach(json_object_get(device, "queues"), index, queue) {
			if (json_is_string(json_object_get(queue, "broken")))
				printf("%s%s %s: queue %zu (%s) is broken: %s; its driver must reset the device%s\n",
				       start, what, name, index, text(queue, "kind"), text(queue, "broken"), end);
		}
		if (json_is_string(json_object_get(json_object_get(device, "pci"), "fault")))
			printf("%s%s %s: stopped because of what its guest did: %s; its driver must reset it%s\n", start, what,
			       name, text(json_object_get(device, "pci"), "fault"), end);
		if (count(device, "refused"))
			printf("%s%s %s: %llu connections refused, the last one for: %s%s\n", start, what, name,
			       (unsigned long long)count(device, "refused"), text(device, "last_error"), end);
	}
}

static void print_status(const json_t *status, bool colours)
{
	uint64_t up = (uint64_t)number(status, "uptime_seconds");
	json_t *networks = json_object_get(status, "networks"), *disks = json_object_get(status, "disks");
	json_t *interfaces = json_object_get(status, "interfaces");

	printf("sidecore %s, process %llu, up %llud %02llu:%02llu:%02llu\n\n", text(status, "version"),
	       (unsigned long long)count(status, "pid"), (unsigned long long)up / 86400,
	       (unsigned long long)up / 3600 % 24, (unsigned long long)up / 60 % 60, (unsigned long long)up % 60);
	print_sidecores(json_object_get(status, "sidecores"), colours);
	if (json_object_size(networks))
		putchar('\n');
	print_networks(networks, colours);
	if (json_object_size(interfaces))
		putchar('\n');
	print_interfaces(interfaces, colours);
	if (json_object_size(disks))
		putchar('\n');
	print_disks(disks, colours);
	print_emulated(interfaces, disks, colours);
	print_trouble(interfaces, "interface", colours);
	print_trouble(disks, "disk", colours);
}

static int show(const char *path, bool json, bool clear)
{
	json_t *answer;
	char *error;
	int result = control_ask(path, "{\"command\":\"status\"}", &answer, &error);

	if (result) {
		fprintf(stderr, "sidecore status: %s\n", error ? error : strerror(-result));
	} else if (json) {
		json_dumpf(answer, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
		putchar('\n');
	} else {
		if (clear)
			fputs("\033[H\033[2J", stdout);
		print_status(answer, isatty(STDOUT_FILENO) && !getenv("NO_COLOR"));
	}
	free(error);
	json_decref(answer);
	if (!result && fflush(stdout))
		result = -1; /* nobody reads any more */
	return result;
}

int cli_status(int argc, char **argv)
{
	static const struct option options[] = {
		{ "control", required_argument, NULL, 'c' },
		{ "json", no_argument, NULL, 'j' },
		{ "watch", no_argument, NULL, 'w' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	bool json = false, watch = false;
	char *path = NULL;
	int option, result;

	while ((option = getopt_long(argc, argv, "c:jwh", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			free(path);
			path = strdup(optarg);
			break;
		case 'j':
			json = true;
			break;
		case 'w':
			watch = true;
			break;
		case 'h':
			fputs(usage, stdout);
			free(path);
			return 0;
		default:
			fputs("sidecore status --help lists the options\n", stderr);
			free(path);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "sidecore status: \"%s\" is one word too many; --help lists the options\n",
			argv[optind]);
		free(path);
		return EXIT_USAGE;
	}
	if (!path && config_default_control_path(true, &path)) {
		fputs("sidecore status: out of memory\n", stderr);
		return EXIT_FAILURE;
	}
	result = show(path, json, watch && isatty(STDOUT_FILENO));
	while (watch && !result) {
		sleep(1);
		result = show(path, json, isatty(STDOUT_FILENO));
	}
	free(path);
	return result ? EXIT_FAILURE : EXIT_SUCCESS;
}
