/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * sidecore restart: has a running daemon become the program and the configuration that are on disk now, and waits until
 * that one serves. It is the same process, so what tells the two apart is how long they have been up.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cli/commands.h"
#include "control/config.h"
#include "control/control_client.h"

#define PATIENCE_SECONDS 60
#define LOOK_NANOSECONDS 20000000L

static const char usage[] =
	"Usage: sidecore restart [OPTION]...\n"
	"\n"
	"Restarts a running daemon in place, as after an upgrade or a change of its configuration, and waits until it\n"
	"serves again. Guests keep running: emulated devices are handed over; those of vhost-user connect again by\n"
	"themselves (QEMU: reconnect). Refused when the program does not start, answer or take the configuration, and\n"
	"while a guest uses a disk of type ram, whose content would be lost, or one that does not answer, or a file\n"
	"that a client gave is not let go of.\n"
	"\n"
	"  -c, --control SOCKET  control socket of the daemon (default: /run/sidecore/control.sock if it is there,\n"
	"                        else $XDG_RUNTIME_DIR/sidecore.sock)\n"
	"  -h, --help            this text\n";

static double seconds_since(uint64_t then)
{
	return (double)(clock_nanoseconds() - then) / (double)NANOSECONDS_PER_SECOND;
}

/* How long the daemon has been up, and how many clients it has taken over. Return: negative when it does not answer. */
static double ask_uptime(const char *socket, unsigned *taken_over, char **error)
{
	json_t *answer = NULL;
	double uptime = -1;

	if (!control_ask(socket, "{\"command\": \"status\"}", &answer, error)) {
		uptime = json_number_value(json_object_get(answer, "uptime_seconds"));
		*taken_over = (unsigned)json_integer_value(json_object_get(answer, "taken_over"));
	}
	json_decref(answer);
	return uptime;
}

static int fail(char *error)
{
	fprintf(stderr, "sidecore restart: %s\n", error ? error : "out of memory");
	free(error);
	return EXIT_FAILURE;
}

static int restart(const char *socket)
{
	const struct timespec pause = { .tv_nsec = LOOK_NANOSECONDS };
	uint64_t began = clock_nanoseconds();
	unsigned taken_over = 0;
	json_t *answer = NULL;
	char *error = NULL;
	int result;

	if (ask_uptime(socket, &taken_over, &error) < 0)
		return fail(error);
	result = control_ask(socket, "{\"command\": \"restart\"}", &answer, &error);
	json_decref(answer);
	if (result)
		return fail(error);
	while (seconds_since(began) < PATIENCE_SECONDS) {
		double asked = seconds_since(began), uptime;

		nanosleep(&pause, NULL);
		uptime = ask_uptime(socket, &taken_over, &error);
		free(error);
		error = NULL;
		/* Up for less time than we have been waiting: the new one. */
		if (uptime < 0 || uptime > asked)
			continue;
		printf("restarted in %.2f s; %u client%s of emulated devices taken over\n", seconds_since(began),
		       taken_over, taken_over == 1 ? "" : "s");
		return EXIT_SUCCESS;
	}
	fprintf(stderr, "sidecore restart: no daemon serves at %s after %d s; its log says why\n",
		socket, PATIENCE_SECONDS);
	return EXIT_FAILURE;
}

int cli_restart(int argc, char **argv)
{
	static const struct option options[] = {
		{ "control", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	char *socket = NULL;
	int option, status;

	while ((option = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			free(socket);
			socket = strdup(optarg);
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs("sidecore restart --help lists the options\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "sidecore restart: unexpected \"%s\"; sidecore restart --help lists the options\n",
			argv[optind]);
		return EXIT_USAGE;
	}
	if (!socket && config_default_control_path(true, &socket)) {
		fputs("sidecore restart: no daemon's control socket is at one of the usual places; name it with "
		      "--control\n",
		      stderr);
		return EXIT_FAILURE;
	}
	status = restart(socket);
	free(socket);
	return status;
}
