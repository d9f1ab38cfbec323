/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bytes and file descriptors in and out of a stream socket, never waiting: what the framing of both protocols needs.
 *
 * Context: control thread.
 */
#ifndef TRANSPORT_STREAM_H
#define TRANSPORT_STREAM_H

#include <stddef.h>
#include <sys/types.h>

struct disposal;

/**
 * struct stream_files - descriptors that came with bytes, owned.
 * @fds:	array of @max
 * @count:	how many there are
 * @max:	those beyond it are closed
 */
struct stream_files {
	int *fds;
	unsigned *count;
	unsigned max;
};

/**
 * struct stream_message - what is to be sent, in one piece or in as many as the socket takes.
 * @header:	its bytes
 * @header_size: how many
 * @payload:	its bytes
 * @payload_size: how many
 * @sent:	bytes of both that are on their way
 * @fd:		a file to go with the first byte; -1 when there is none, and once it went. Stays the caller's.
 */
struct stream_message {
	const void *header;
	size_t header_size;
	const void *payload;
	size_t payload_size;
	size_t *sent;
	int fd;
};

/**
 * stream_receive() - read up to @length bytes, and own what came with them.
 * @fd:		socket
 * @to:		gets the bytes
 * @length:	room there
 * @files:	get the descriptors, behind those that are there
 * @disposal:	closes those for which there is no room
 *
 * Return: bytes; 0 at the end of the connection; -EMFILE if there were too many descriptors; -EAGAIN and other errors.
 */
ssize_t stream_receive(int fd, void *to, size_t length, struct stream_files files, struct disposal *disposal);

/**
 * stream_send() - send what is not sent yet.
 * @fd:		socket
 * @message:	what it is; says how far it got
 *
 * Return: 0 when all is sent; -EAGAIN and other errors.
 */
int stream_send(int fd, struct stream_message *message);

#endif
