/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The language of the control socket:
 *
 *	{"command": "status"}
 *	{"command": "addresses", "network": "lan"}
 *	{"command": "resize", "disk": "web", "size": "2G"}	size left out: look at the file again
 *	{"command": "announce", "interface": "web-net"}		tell the network where the interface is
 *	{"command": "link", "interface": "web-net", "state": "down"}	pull the cable of an emulated card, or plug it: "up"
 *	{"command": "restart"}	become the program and the configuration that are on disk now; guests stay
 *	{"error": "...", "remedy": "..."}			the answer to anything that failed
 */
#ifndef CONTROL_CONTROL_COMMAND_H
#define CONTROL_CONTROL_COMMAND_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONTROL_LINE_MAX (64U << 10)

struct server;

enum control_command {
	CONTROL_STATUS,
	CONTROL_ADDRESSES,
	CONTROL_RESIZE,
	CONTROL_ANNOUNCE,
	CONTROL_LINK,
	CONTROL_RESTART,
	CONTROL_COMMANDS,
};

/** struct control_request - a parsed line; the strings live in @root. */
struct control_request {
	json_t *root;
	enum control_command command;
	const char *network, *disk, *interface; /* NULL: not given */
	uint64_t size;				/* 0: not given */
	bool up;				/* the state */
};

/**
 * control_parse() - take a line apart.
 * @line:	without the newline; not terminated
 * @answer:	out, on failure: the object to answer with
 *
 * Return: 0, with @request to be given to control_request_release(); -EINVAL with @answer.
 */
int control_parse(const char *line, size_t length, struct control_request *request, json_t **answer);
void control_request_release(struct control_request *request);

/** control_execute() - parse and do what the line says. Return: the answer; NULL: out of memory. */
json_t *control_execute(struct server *server, const char *line, size_t length);

/** control_error() - {"error": sentence, "remedy": @remedy}. */
json_t *control_error(const char *remedy, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
