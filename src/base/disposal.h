/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disposal: closes files that others gave us, without waiting for them. Theory of operation: base/disposal.c.
 *
 * Context: one thread, the control thread; the waiting is done by a thread of the disposal's own.
 */
#ifndef BASE_DISPOSAL_H
#define BASE_DISPOSAL_H

#include <stdbool.h>

struct disposal;

/** The most descriptors that the kernel lets one sendmsg() carry (SCM_MAX_FD). */
#define RIGHTS_MAX 253U

/** disposal_create() - Return: NULL when there is no memory. */
struct disposal *disposal_create(void);

/** disposal_destroy() - what has been handed over is closed nevertheless. NULL is allowed. */
void disposal_destroy(struct disposal *disposal);

/** disposal_close() - @fd is closed, now or when its file lets go of it; not the caller's any more. -1 is allowed. */
void disposal_close(struct disposal *disposal, int fd);

/**
 * disposal_waiting() - files that have not let go yet. Whoever can be made to hand over more must see to it that they
 * do not pile up: no new peer while there is one.
 */
unsigned disposal_waiting(const struct disposal *disposal);

/** disposal_would_wait() - how many of @count files (-1: none) could not be closed at once, perhaps? */
unsigned disposal_would_wait(const int *files, unsigned count);

#endif
