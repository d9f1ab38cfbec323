/* SPDX-License-Identifier: BSD-3-Clause */
/* The other end of the control socket, for subcommands: blocking, one question and its answer. */
#ifndef CONTROL_CONTROL_CLIENT_H
#define CONTROL_CONTROL_CLIENT_H

#include <jansson.h>

/**
 * control_ask() - connect to the daemon, ask, and take the answer.
 * @path:	of the control socket
 * @request:	a JSON object on one line
 * @answer:	out: the object, also when it is an error; to be released
 * @error:	out, on failure: a sentence with the remedy, to be freed
 *
 * Return: 0; a negative errno with @error when there is no answer, or when the answer is an error.
 */
int control_ask(const char *path, const char *request, json_t **answer, char **error);

#endif
