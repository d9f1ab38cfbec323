/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Handover: clients of emulated devices that one daemon leaves and the next one takes over. Theory of operation:
 * control/handover.c.
 *
 * Context: control thread.
 */
#ifndef CONTROL_HANDOVER_H
#define CONTROL_HANDOVER_H

#include <stdbool.h>

struct handover;
struct parcel;

/** handover_create() - an empty one, to be filled. Return: NULL: out of memory. */
struct handover *handover_create(void);

/** handover_release() - what was not taken over, or not passed on, ends: its clients are disconnected. */
void handover_release(struct handover *handover);

/**
 * handover_receive() - what the daemon before has left to this process: by the environment (LISTEN_FDS and its like),
 * which is cleared of it, so that no child finds it.
 * Return: 0; -ENOMEM. Parcels that cannot be opened are logged, and their clients disconnected.
 */
int handover_receive(struct handover **handover);

/** handover_find() - the client of a device, to be taken over; it stays the handover's. Return: NULL: there is none. */
struct parcel *handover_find(struct handover *handover, const char *kind, const char *name);

/** handover_disregarded() - tell the operator of clients whose devices are not in the configuration any more. */
void handover_disregarded(struct handover *handover);

/** handover_add() - one more to be left: @fd is the handover's. */
void handover_add(struct handover *handover, int fd);

/** handover_store_offered() - does the service manager keep files for our successor? */
bool handover_store_offered(void);

/** handover_store() - leave it with the service manager, for whatever it starts next. */
void handover_store(struct handover *handover);

/**
 * handover_execute() - become the program at @path, with all that is to be left. Everything else has been stopped.
 * @arguments:	NULL terminated
 * Return: only after a failure: a negative errno; files of this process are then in disorder.
 */
int handover_execute(struct handover *handover, const char *path, const char *const arguments[]);

#endif
