/* SPDX-License-Identifier: BSD-3-Clause */
#include "cli/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One line a subcommand. */
static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary;
} commands[] = {
	{ "bench", cli_bench, "measure a vhost-user server: frames, requests, latency" },
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void print_usage(FILE *stream)
{
	fprintf(stream, "Usage: sidecore COMMAND [OPTION]...\n\n");
	for (size_t i = 0; i < COMMAND_COUNT; i++)
		fprintf(stream, "  %-8s %s\n", commands[i].name, commands[i].summary);
	fprintf(stream, "\n'sidecore COMMAND --help' lists its options; 'sidecore --version' prints the version.\n");
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	for (size_t i = 0; i < COMMAND_COUNT; i++) {
		if (strcmp(name, commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	}

	if (strcmp(name, "--version") == 0) {
		puts("sidecore " SIDECORE_VERSION);
		return EXIT_SUCCESS;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "help") == 0) {
		print_usage(stdout);
		return EXIT_SUCCESS;
	}
	if (*name)
		fprintf(stderr, "sidecore: no command '%s'\n\n", name);
	print_usage(stderr);

	return EXIT_FAILURE;
}
