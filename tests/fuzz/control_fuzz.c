/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: lines of the control socket. Each is taken apart, or answered with an object that has an error and a
 * remedy and can be printed.
 */
#include "control/control_command.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct control_request request;
	json_t *answer = NULL;
	uint8_t *line;
	char *text;

	/* On the heap and of its exact size: a line is not terminated. */
	line = malloc(size ? size : 1);
	fuzz_require(line);
	memcpy(line, data, size);
	if (!control_parse((const char *)line, size, &request, &answer)) {
		fuzz_require(!answer && request.command < CONTROL_COMMANDS);
		fuzz_require(request.command != CONTROL_ADDRESSES || request.network);
		fuzz_require(request.command != CONTROL_RESIZE || request.disk);
		fuzz_require(request.command != CONTROL_ANNOUNCE || request.interface);
		control_request_release(&request);
	} else {
		fuzz_require(json_is_string(json_object_get(answer, "error")));
		fuzz_require(json_is_string(json_object_get(answer, "remedy")));
		text = json_dumps(answer, JSON_COMPACT);
		fuzz_require(text);
		free(text);
		json_decref(answer);
	}
	free(line);
	return 0;
}
