/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Listening sockets that outlive their daemon: those that the one before has left, or that are kept for the next one.
 * Theory of operation: transport/listeners.c.
 *
 * Context: control thread.
 */
#ifndef TRANSPORT_LISTENERS_H
#define TRANSPORT_LISTENERS_H

#include <stdbool.h>

#include "transport/listener.h"

struct parcel;

/**
 * listeners_create() - an empty collection.
 * @group:	to whom the socket files are given, -1: to nobody; others are not taken over
 * Return: NULL: out of memory.
 */
struct listeners *listeners_create(int group);

/** listeners_release() - close those that nobody has taken, or that nobody has been given, and remove their files. */
void listeners_release(struct listeners *listeners);

/** listeners_load() - what the daemon before has put into @parcel. Return: 0; -ENOMEM; -EBADMSG with a reason. */
int listeners_load(struct listeners *listeners, struct parcel *parcel);

/** listeners_save() - put all into @parcel, whose descriptors they stay. */
void listeners_save(const struct listeners *listeners, struct parcel *parcel);

/** listeners_settle() - those that were not taken until now are not wanted: close them, and remove their files. */
void listeners_settle(struct listeners *listeners);

/** listeners_begin_keeping() - from now on listener_close() leaves them here, and nobody takes any. */
void listeners_begin_keeping(struct listeners *listeners);

/** listeners_move_away() - to numbers from @above on. Return: 0; the negative errno of fcntl(), and some have moved. */
int listeners_move_away(struct listeners *listeners, int above);

/** listeners_count() - how many are here. */
unsigned listeners_count(const struct listeners *listeners);

/** listeners_take() - for listener_open(): is one of this address here, and its file there? Then it is @listener's. */
bool listeners_take(struct listeners *listeners, struct listener *listener);

/** listeners_keep() - for listener_close(). Return: false: it is not wanted here, and stays the caller's. */
bool listeners_keep(struct listeners *listeners, struct listener *listener);

#endif
