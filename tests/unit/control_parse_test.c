/* SPDX-License-Identifier: BSD-3-Clause */
/* Lines for the control socket, good and bad, and the exact answer to the bad ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "control/control_command.h"

#define WRITE_JSON "write one JSON object a line, such as {\\\"command\\\": \\\"status\\\"}"

static const struct {
	const char *line, *answer;
} bad[] = {
	{ "", "{\"error\":\"not JSON: '[' or '{' expected near end of file at column 0\",\"remedy\":\"" WRITE_JSON "\"}" },
	{ "status", "{\"error\":\"not JSON: '[' or '{' expected near 'status' at column 6\",\"remedy\":\"" WRITE_JSON "\"}" },
	{ "{\"command\":\"status\"", "{\"error\":\"not JSON: '}' expected near end of file at column 19\",\"remedy\":\"" WRITE_JSON
				     "\"}" },
	{ "{\"command\":\"status\"} x",
	  "{\"error\":\"not JSON: end of file expected near 'x' at column 22\",\"remedy\":\"" WRITE_JSON "\"}" },
	{ "{\"command\":\"status\",\"command\":\"resize\"}",
	  "{\"error\":\"not JSON: duplicate object key near '\\\"command\\\"' at column 29\",\"remedy\":\"" WRITE_JSON "\"}" },
	{ "[1]", "{\"error\":\"there is no \\\"command\\\"\",\"remedy\":\"" WRITE_JSON "\"}" },
	{ "{}", "{\"error\":\"there is no \\\"command\\\"\",\"remedy\":\"" WRITE_JSON "\"}" },
	{ "{\"command\":3}", "{\"error\":\"there is no \\\"command\\\"\",\"remedy\":\"" WRITE_JSON "\"}" },
	{ "{\"command\":\"statsu\"}",
	  "{\"error\":\"unknown command \\\"statsu\\\"\",\"remedy\":\"did you mean \\\"status\\\"?\"}" },
	{ "{\"command\":\"frobnicate\"}",
	  "{\"error\":\"unknown command \\\"frobnicate\\\"\",\"remedy\":\"the commands are status, addresses, resize, "
	  "announce, link and restart\"}" },
	{ "{\"command\":\"status\",\"disk\":\"d\"}",
	  "{\"error\":\"\\\"status\\\" has no field \\\"disk\\\"\",\"remedy\":\"remove it\"}" },
	{ "{\"command\":\"resize\",\"size\":\"1G\"}",
	  "{\"error\":\"\\\"resize\\\" needs the field \\\"disk\\\"\",\"remedy\":\"add it\"}" },
	{ "{\"command\":\"resize\",\"disk\":1}",
	  "{\"error\":\"\\\"disk\\\" is not a string\",\"remedy\":\"put it into quotes\"}" },
	{ "{\"command\":\"resize\",\"disk\":\"d\",\"size\":\"big\"}",
	  "{\"error\":\"\\\"size\\\" is not a size\",\"remedy\":\"write bytes, or a string with K, M, G or T: \\\"10G\\\"\"}" },
	{ "{\"command\":\"resize\",\"disk\":\"d\",\"size\":-1}",
	  "{\"error\":\"\\\"size\\\" is not a size\",\"remedy\":\"write bytes, or a string with K, M, G or T: \\\"10G\\\"\"}" },
	{ "{\"command\":\"resize\",\"disk\":\"d\",\"size\":1.5}",
	  "{\"error\":\"\\\"size\\\" is not a size\",\"remedy\":\"write bytes, or a string with K, M, G or T: \\\"10G\\\"\"}" },
	{ "{\"command\":\"announce\"}",
	  "{\"error\":\"\\\"announce\\\" needs the field \\\"interface\\\"\",\"remedy\":\"add it\"}" },
	{ "{\"command\":\"link\",\"interface\":\"a\"}",
	  "{\"error\":\"\\\"link\\\" needs the field \\\"state\\\"\",\"remedy\":\"add it\"}" },
	{ "{\"command\":\"link\",\"interface\":\"a\",\"state\":\"UP\"}",
	  "{\"error\":\"\\\"UP\\\" is no state of a link\",\"remedy\":\"write \\\"up\\\" or \\\"down\\\"\"}" },
	{ "{\"command\":\"link\",\"interface\":\"a\",\"state\":true}",
	  "{\"error\":\"\\\"state\\\" is not a string\",\"remedy\":\"put it into quotes\"}" },
	{ "{\"command\":\"announce\",\"interface\":\"a\",\"state\":\"up\"}",
	  "{\"error\":\"\\\"announce\\\" has no field \\\"state\\\"\",\"remedy\":\"remove it\"}" },
	{ "{\"command\":\"addresses\",\"network\":null}",
	  "{\"error\":\"\\\"network\\\" is not a string\",\"remedy\":\"put it into quotes\"}" },
};

static void test_bad(void **state)
{
	for (size_t i = 0; i < array_size(bad); i++) {
		struct control_request request;
		json_t *answer = NULL;
		char *text;

		if (control_parse(bad[i].line, strlen(bad[i].line), &request, &answer) != -EINVAL)
			fail_msg("case %zu was taken: %s", i, bad[i].line);
		assert_non_null(answer);
		text = json_dumps(answer, JSON_COMPACT);
		if (strcmp(text, bad[i].answer))
			fail_msg("case %zu:\n  got:      %s\n  expected: %s", i, text, bad[i].answer);
		free(text);
		json_decref(answer);
	}
}

static void test_good(void **state)
{
	static const struct {
		const char *line;
		enum control_command command;
		const char *network, *disk, *interface;
		uint64_t size;
	} good[] = {
		{ "{\"command\":\"status\"}", CONTROL_STATUS, NULL, NULL, NULL, 0 },
		{ " { \"command\" : \"status\" } \r", CONTROL_STATUS, NULL, NULL, NULL, 0 },
		{ "{\"command\":\"addresses\",\"network\":\"lan\"}", CONTROL_ADDRESSES, "lan", NULL, NULL, 0 },
		{ "{\"disk\":\"d\",\"command\":\"resize\",\"size\":\"2G\"}", CONTROL_RESIZE, NULL, "d", NULL, 2ULL << 30 },
		{ "{\"command\":\"resize\",\"disk\":\"d\",\"size\":4096}", CONTROL_RESIZE, NULL, "d", NULL, 4096 },
		{ "{\"command\":\"resize\",\"disk\":\"d\"}", CONTROL_RESIZE, NULL, "d", NULL, 0 },
		{ "{\"command\":\"announce\",\"interface\":\"a\"}", CONTROL_ANNOUNCE, NULL, NULL, "a", 0 },
		{ "{\"command\":\"restart\"}", CONTROL_RESTART, NULL, NULL, NULL, 0 },
	};

	for (size_t i = 0; i < array_size(good); i++) {
		struct control_request request;
		json_t *answer = NULL;

		if (control_parse(good[i].line, strlen(good[i].line), &request, &answer))
			fail_msg("case %zu was refused", i);
		assert_int_equal(request.command, good[i].command);
		assert_string_equal(request.network ? request.network : "", good[i].network ? good[i].network : "");
		assert_string_equal(request.disk ? request.disk : "", good[i].disk ? good[i].disk : "");
		assert_string_equal(request.interface ? request.interface : "", good[i].interface ? good[i].interface : "");
		assert_int_equal(request.size, good[i].size);
		control_request_release(&request);
	}
}

/* Length counts, not a terminator; brackets without end are refused and not recursed into for ever. */
static void test_hostile(void **state)
{
	static const char cut[] = "{\"command\":\"status\"}garbage";
	struct control_request request;
	json_t *answer = NULL;
	char *deep = malloc(CONTROL_LINE_MAX);

	assert_int_equal(control_parse(cut, strlen("{\"command\":\"status\"}"), &request, &answer), 0);
	control_request_release(&request);

	assert_non_null(deep);
	memset(deep, '[', CONTROL_LINE_MAX);
	assert_int_equal(control_parse(deep, CONTROL_LINE_MAX, &request, &answer), -EINVAL);
	json_decref(answer);

	/* Names longer than a sentence are cut, in bytes that may not be whole characters. */
	memset(deep, 'x', CONTROL_LINE_MAX);
	memcpy(deep, "{\"command\":\"", 12);
	for (size_t i = 13; i + 2 < 1000; i += 2) /* an odd start: byte 60 is half a character */
		memcpy(deep + i, "\303\244", 2);
	memcpy(deep + 1000, "\"}", 2);
	answer = NULL;
	assert_int_equal(control_parse(deep, 1002, &request, &answer), -EINVAL);
	assert_non_null(answer);
	json_decref(answer);
	free(deep);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
