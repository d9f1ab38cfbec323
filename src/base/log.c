/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"

#define LINES_PER_SECOND 4

/* The one piece of process-wide state: the level is a property of standard error, not of an object. */
static enum log_level log_threshold = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	log_threshold = level;
}

static void log_write(enum log_level level, const char *format, va_list arguments)
{
	/* sd-daemon(3): "<N>" is the syslog priority when the journal reads our standard error. */
	static const char *const priorities[] = { "<3>", "<4>", "<6>", "<7>" };
	static const char *const names[] = { "error: ", "warning: ", "", "debug: " };
	char text[1024];
	bool journal = getenv("JOURNAL_STREAM");

	if (level > log_threshold)
		return;
	vsnprintf(text, sizeof(text), format, arguments);
	/* One call, so that lines of two threads do not mix. */
	dprintf(STDERR_FILENO, "%ssidecore: %s%s\n", journal ? priorities[level] : "", journal ? "" : names[level], text);
}

void log_line(enum log_level level, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	log_write(level, format, arguments);
	va_end(arguments);
}

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
	uint64_t second = clock_nanoseconds() / NANOSECONDS_PER_SECOND;
	va_list arguments;

	if (second != limit->second) {
		limit->second = second;
		limit->used = 0;
	}
	if (limit->used >= LINES_PER_SECOND) {
		limit->suppressed++;
		return;
	}
	limit->used++;
	if (limit->suppressed) {
		log_line(level, "(%u similar lines left out)", limit->suppressed);
		limit->suppressed = 0;
	}
	va_start(arguments, format);
	log_write(level, format, arguments);
	va_end(arguments);
}
