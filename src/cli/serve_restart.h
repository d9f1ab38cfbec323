/* SPDX-License-Identifier: BSD-3-Clause */
/* sidecore serve: which program takes our place in a restart, and whether it can. Context: control thread. */
#ifndef CLI_SERVE_RESTART_H
#define CLI_SERVE_RESTART_H

#include <limits.h>
#include <sys/types.h>

#define SERVE_ARGUMENTS_MAX 16

/** struct successor - the program that this process was started as, and will be started as again. */
struct successor {
	char path[PATH_MAX];			    /* empty: it is not known */
	const char *arguments[SERVE_ARGUMENTS_MAX]; /* NULL terminated */
	pid_t stuck;				    /* was asked, and cannot be ended; 0: nobody */
};

/** successor_note() - at the start: before an upgrade puts another file in the place of this one. @argv: of "serve". */
void successor_note(struct successor *successor, int argc, char **argv);

/**
 * successor_check() - can it start, and does it take the configuration? Waits for its answer, a few seconds at most.
 * Return: 0; negative errno with a sentence in @reason.
 */
int successor_check(struct successor *successor, const char **reason);

#endif
