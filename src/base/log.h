/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Log lines for the operator: to standard error, one line each, with a level that systemd understands when standard
 * error is the journal. Never called per packet or per request: the data path counts, and the control thread tells.
 *
 * What a guest or client can cause repeatedly is logged through a limit that its owner holds, so that one guest cannot
 * flood the log nor silence its neighbours.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/** struct log_limit - a bucket of log lines, refilled at one line a second, for one device or connection. Zero is full. */
struct log_limit {
	uint64_t second;     /* clock second in which @used counts */
	uint32_t used;	     /* lines spent of this second's burst */
	uint32_t suppressed; /* lines not written since the last one that was */
};

/** log_set_level() - lines above @level are not written. Called once at start, before threads. */
void log_set_level(enum log_level level);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/**
 * log_limited() - as log_line(), at most 4 lines a second for each @limit; the next line tells how many were left out.
 * @limit:	held by whoever could cause the flood; used by one thread
 */
void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(...)	 log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)	 log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	 log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
