/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A parcel: sections of bytes, and open files, that one process leaves to the next in a single file descriptor.
 *
 * Theory of operation: base/parcel.c. Who makes a parcel and who opens it agree on the order of sections and files.
 *
 * Context: one thread at a time.
 */
#ifndef BASE_PARCEL_H
#define BASE_PARCEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disposal;

#define PARCEL_NAME_SIZE 64U
#define PARCEL_KIND_SIZE 16U

/** The most that a parcel holds; what is larger is refused by both ends. */
#define PARCEL_BYTES_MAX (4U << 20)
#define PARCEL_FILES_MAX 4096U

/**
 * struct parcel - zeroed, then filled or opened.
 * @kind, @name:	what it is for, so that it can be found without being understood
 * @failed:		something did not fit, or was not there: everything after it does nothing. The first reason stays
 */
struct parcel {
	char kind[PARCEL_KIND_SIZE], name[PARCEL_NAME_SIZE];
	uint8_t *bytes;
	size_t length, capacity, position;
	int *files;
	unsigned file_count, file_position;
	bool failed;
	const char *reason;
};

/** parcel_fail() - note why it cannot be used. Return: -EBADMSG. */
int parcel_fail(struct parcel *parcel, const char *reason);

/** parcel_put() - add a section. parcel_put_file(): add a file, which stays the caller's. Errors are told by seal. */
void parcel_put(struct parcel *parcel, uint32_t tag, const void *bytes, size_t length);
void parcel_put_file(struct parcel *parcel, int fd);

/**
 * parcel_seal() - put it all behind one descriptor, which keeps the files open by itself.
 * Return: the descriptor; -EBADMSG, -EMFILE, errno of memfd_create(), socketpair(), sendmsg().
 */
int parcel_seal(const struct parcel *parcel);

/**
 * parcel_open() - take out what parcel_seal() of this program or of another version put in. @fd stays the caller's, and
 * has nothing in it afterwards.
 * Return: 0; -EBADMSG with a reason: it is no parcel, or not of this version; errno. To be released in any case.
 */
int parcel_open(struct parcel *parcel, int fd);

/** parcel_get() - the next section, which must have this tag and length. Return: 0 or -EBADMSG. */
int parcel_get(struct parcel *parcel, uint32_t tag, void *bytes, size_t length);

/**
 * parcel_get_array() - the next section, of whole entries.
 * @max:	room in @entries
 * Return: how many; 0, and parcel->failed, when it is no such section or too large.
 */
size_t parcel_get_array(struct parcel *parcel, uint32_t tag, void *entries, size_t entry, size_t max);

/** parcel_get_file() - the next file, now the caller's. Return: -1, and parcel->failed, when there is none. */
int parcel_get_file(struct parcel *parcel);

/** parcel_release() - free it, and close the files that nobody has taken. @disposal: NULL while it is being filled. */
void parcel_release(struct parcel *parcel, struct disposal *disposal);

/**
 * parcel_move_file() - @fd, a parcel or another file for the next daemon, goes out of the way of numbers below @above.
 * Return: 0; the negative errno of fcntl(), and it is where it was.
 */
int parcel_move_file(int *fd, int above);

#endif
