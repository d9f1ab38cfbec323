/* SPDX-License-Identifier: BSD-3-Clause */
/* Lines of the control socket taken apart: a table of commands, and which fields each must and may have. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "control/config.h"
#include "control/control_command.h"
#include "control/suggest.h"

/* A client's own words are repeated in answers up to this length. */
#define QUOTE_MAX 60

enum field {
	FIELD_COMMAND = 1 << 0,
	FIELD_NETWORK = 1 << 1,
	FIELD_DISK = 1 << 2,
	FIELD_INTERFACE = 1 << 3,
	FIELD_SIZE = 1 << 4,
	FIELD_STATE = 1 << 5,
};

static const char *const field_names[] = { "command", "network", "disk", "interface", "size", "state" };

static const struct {
	const char *name;
	unsigned required, optional;
} commands[] = {
	[CONTROL_STATUS] = { "status", FIELD_COMMAND, 0 },
	[CONTROL_ADDRESSES] = { "addresses", FIELD_COMMAND | FIELD_NETWORK, 0 },
	[CONTROL_RESIZE] = { "resize", FIELD_COMMAND | FIELD_DISK, FIELD_SIZE },
	[CONTROL_ANNOUNCE] = { "announce", FIELD_COMMAND | FIELD_INTERFACE, 0 },
	[CONTROL_LINK] = { "link", FIELD_COMMAND | FIELD_INTERFACE | FIELD_STATE, 0 },
	[CONTROL_RESTART] = { "restart", FIELD_COMMAND, 0 },
};
_Static_assert(array_size(commands) == CONTROL_COMMANDS, "each command has a line");

json_t *control_error(const char *remedy, const char *format, ...)
{
	char sentence[512];
	va_list arguments;
	json_t *text;

	va_start(arguments, format);
	vsnprintf(sentence, sizeof(sentence), format, arguments);
	va_end(arguments);
	text = json_string(sentence);
	if (!text) {
		/* A quotation was cut in the middle of a character, and JSON is UTF-8. */
		for (char *byte = sentence; *byte; byte++)
			*byte = (char)(*byte & 0x80 ? '?' : *byte);
		text = json_string(sentence);
	}
	return json_pack("{s:o, s:s}", "error", text, "remedy", remedy);
}

static int find_command(const char *name, struct control_request *request, json_t **answer)
{
	const char *names[array_size(commands)], *meant;
	char remedy[128];

	for (unsigned i = 0; i < array_size(commands); i++) {
		names[i] = commands[i].name;
		if (!strcmp(names[i], name)) {
			request->command = i;
			return 0;
		}
	}
	meant = suggest(name, names, array_size(names));
	if (meant)
		snprintf(remedy, sizeof(remedy), "did you mean \"%s\"?", meant);
	else
		snprintf(remedy, sizeof(remedy),
			 "the commands are status, addresses, resize, announce, link and restart");
	*answer = control_error(remedy, "unknown command \"%.*s\"", QUOTE_MAX, name);
	return -EINVAL;
}

static int take_size(const json_t *value, uint64_t *size)
{
	if (json_is_integer(value) && json_integer_value(value) > 0) {
		*size = (uint64_t)json_integer_value(value);
		return 0;
	}
	if (json_is_string(value) && !config_parse_size(json_string_value(value), size) && *size && *size <= INT64_MAX)
		return 0;
	return -EINVAL;
}

static int take_field(unsigned field, const json_t *value, struct control_request *request, json_t **answer)
{
	const char *text = json_string_value(value);

	if (field == FIELD_SIZE) {
		if (!take_size(value, &request->size))
			return 0;
		*answer =
			control_error("write bytes, or a string with K, M, G or T: \"10G\"", "\"size\" is not a size");
		return -EINVAL;
	}
	if (!text) {
		*answer = control_error("put it into quotes", "\"%s\" is not a string",
					field_names[__builtin_ctz(field)]);
		return -EINVAL;
	}
	if (field == FIELD_STATE) {
		request->up = !strcmp(text, "up");
		if (!request->up && strcmp(text, "down")) {
			*answer = control_error("write \"up\" or \"down\"", "\"%.*s\" is no state of a link", QUOTE_MAX, text);
			return -EINVAL;
		}
	}
	if (field == FIELD_NETWORK)
		request->network = text;
	else if (field == FIELD_DISK)
		request->disk = text;
	else if (field == FIELD_INTERFACE)
		request->interface = text;
	return 0;
}

static int take_fields(struct control_request *request, json_t **answer)
{
	unsigned known = commands[request->command].required | commands[request->command].optional, seen = 0, missing;
	const char *key;
	json_t *value;

	json_object_foreach(request->root, key, value) {
		unsigned field = 0;

		for (unsigned i = 0; i < array_size(field_names); i++) {
			if (!strcmp(field_names[i], key))
				field = 1U << i;
		}
		if (!(field & known)) {
			*answer = control_error("remove it", "\"%s\" has no field \"%.*s\"",
						commands[request->command].name, QUOTE_MAX, key);
			return -EINVAL;
		}
		if (take_field(field, value, request, answer))
			return -EINVAL;
		seen |= field;
	}
	missing = commands[request->command].required & ~seen;
	if (missing) {
		*answer = control_error("add it", "\"%s\" needs the field \"%s\"", commands[request->command].name,
					field_names[__builtin_ctz(missing)]);
		return -EINVAL;
	}
	return 0;
}

int control_parse(const char *line, size_t length, struct control_request *request, json_t **answer)
{
	json_error_t where;
	const char *name;
	int result;

	memset(request, 0, sizeof(*request));
	request->root = json_loadb(line, length, JSON_REJECT_DUPLICATES, &where);
	if (!request->root) {
		*answer = control_error("write one JSON object a line, such as {\"command\": \"status\"}",
					"not JSON: %s at column %d", where.text, where.column);
		return -EINVAL;
	}
	name = json_string_value(json_object_get(request->root, "command"));
	if (name) {
		result = find_command(name, request, answer);
	} else {
		*answer = control_error("write one JSON object a line, such as {\"command\": \"status\"}",
					"there is no \"command\"");
		result = -EINVAL;
	}
	if (!result)
		result = take_fields(request, answer);
	if (result)
		control_request_release(request);
	return result;
}

void control_request_release(struct control_request *request)
{
	json_decref(request->root);
	request->root = NULL;
}
