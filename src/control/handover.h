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
struct listeners;
struct parcel;

/**
 * handover_create() - an empty one, to be filled.
 * @in_place:	this process goes on as the next daemon; else one that the service manager starts does
 * Return: NULL: out of memory.
 */
struct handover *handover_create(bool in_place);

/** handover_release() - what was not taken over, or not passed on, ends: its clients are disconnected. */
void handover_release(struct handover *handover);

/**
 * handover_receive() - what the daemon before has left to this process: by the environment (LISTEN_FDS and its like),
 * which is cleared of it, so that no child finds it. Nothing is taken out yet: it can be passed on as it is.
 * Return: 0; -ENOMEM.
 */
int handover_receive(struct handover **handover);

/** handover_waiting() - how many clients are in it, that have not been taken out. */
unsigned handover_waiting(const struct handover *handover);

/** handover_take_listeners() - add the sockets to @listeners on which the daemon before has listened. */
void handover_take_listeners(struct handover *handover, struct listeners *listeners);

/** handover_drop_listeners() - nobody is going to listen for some time: who connects is to be refused. */
void handover_drop_listeners(struct handover *handover);

/**
 * handover_open() - take all clients out, to be found. From here on they are this daemon's or nobody's: to be called
 * when nothing can fail any more. Those that cannot be taken out are logged, and disconnected.
 */
void handover_open(struct handover *handover);

/** handover_find() - the client of a device, to be taken over; it stays the handover's. Return: NULL: there is none. */
struct parcel *handover_find(struct handover *handover, const char *kind, const char *name);

/**
 * handover_disregarded() - tell the operator of clients whose devices are not in the configuration any more, and the
 * service manager that it need not keep any of them.
 */
void handover_disregarded(struct handover *handover);

/**
 * handover_add() - one more to be left: @fd is the handover's. Where the service manager keeps files it is given this
 * one at once: whatever becomes of us from now on, the next daemon gets it.
 */
void handover_add(struct handover *handover, int fd);

/** handover_add_listeners() - and sockets to listen on, in place only: @listeners is the handover's. */
void handover_add_listeners(struct handover *handover, struct listeners *listeners);

/** handover_in_place() - is it for this process? */
bool handover_in_place(const struct handover *handover);

/** handover_store_offered() - does the service manager keep files for our successor? */
bool handover_store_offered(void);

/** handover_store() - leave what was received and not taken out with the service manager, if it keeps files. */
void handover_store(struct handover *handover);

/** handover_await_store() - until the service manager has all that it was given. */
void handover_await_store(const struct handover *handover);

/**
 * handover_execute() - become the program at @path, with all that is to be left. Everything else has been stopped.
 * @arguments:	NULL terminated
 * Return: only after a failure: a negative errno; may be repeated, but files of this process are then in disorder, and
 * nobody listens any more.
 */
int handover_execute(struct handover *handover, const char *path, const char *const arguments[]);

#endif
