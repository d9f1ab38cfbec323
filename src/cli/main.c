/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "cli/commands.h"
#include "control/suggest.h"

static const struct {
	const char *name;
	int (*function)(int argc, char **argv);
	const char *summary;
} commands[] = {
	{ "run", cli_run, "start a daemon and guests on it, and show them at work" },
	{ "serve", cli_serve, "serve the network cards and disks of a configuration to guests" },
	{ "restart", cli_restart, "restart a running daemon without ending its guests" },
	{ "bench", cli_bench, "measure a server as a guest's driver does: frames, requests, latency" },
	{ "status", cli_status, "show what a running daemon serves: rates, drops, busy shares" },
};

static void print_help(FILE *stream)
{
	fputs("sidecore serves the network cards and disks of many virtual machines from a few polling cores.\n"
	      "\n"
	      "Usage: sidecore COMMAND [OPTION]...\n"
	      "\n"
	      "Commands:\n",
	      stream);
	for (size_t i = 0; i < array_size(commands); i++)
		fprintf(stream, "  %-8s  %s\n", commands[i].name, commands[i].summary);
	fputs("\n"
	      "  sidecore COMMAND --help   options of a command\n"
	      "  sidecore --version        version\n"
	      "  man sidecore              everything else\n",
	      stream);
}

static int unknown_command(const char *name)
{
	const char *names[array_size(commands)], *meant;

	for (size_t i = 0; i < array_size(commands); i++)
		names[i] = commands[i].name;
	meant = suggest(name, names, array_size(names));
	if (meant)
		fprintf(stderr, "sidecore: unknown command \"%s\"; did you mean \"%s\"?\n", name, meant);
	else
		fprintf(stderr, "sidecore: unknown command \"%s\"; sidecore --help lists them\n", name);
	return EXIT_USAGE;
}

/* Its name as people typed it is also what getopt_long() puts before its complaints. */
static int call(size_t command, int argc, char **argv)
{
	char name[32];

	snprintf(name, sizeof(name), "sidecore %s", commands[command].name);
	argv[0] = name;
	return commands[command].function(argc, argv);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("sidecore " SIDECORE_VERSION);
		return 0;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_help(stdout);
		return 0;
	}
	for (size_t i = 0; i < array_size(commands); i++) {
		if (!strcmp(argv[1], commands[i].name))
			return call(i, argc - 1, argv + 1);
	}
	return unknown_command(argv[1]);
}
