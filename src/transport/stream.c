/* SPDX-License-Identifier: BSD-3-Clause */
#include "transport/stream.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "base/disposal.h"

/* Return: false when there were too many. */
static bool take_files(struct msghdr *header, struct stream_files files, struct disposal *disposal)
{
	bool fit = !(header->msg_flags & MSG_CTRUNC); /* we have no room for descriptors: the kernel closed some */
	struct cmsghdr *control;

	for (control = CMSG_FIRSTHDR(header); control; control = CMSG_NXTHDR(header, control)) {
		size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(fd));
			if (*files.count < files.max) {
				files.fds[(*files.count)++] = fd;
			} else {
				disposal_close(disposal, fd);
				fit = false;
			}
		}
	}

	return fit;
}

ssize_t stream_receive(int fd, void *to, size_t length, struct stream_files files, struct disposal *disposal)
{
	/* Room for all that can come: those beyond it the kernel would close for us, and wait for them. */
	union {
		char bytes[CMSG_SPACE(sizeof(int) * RIGHTS_MAX)];
		struct cmsghdr alignment;
	} control;
	struct iovec part = { .iov_base = to, .iov_len = length };
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	ssize_t got;

	do {
		got = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;

	return take_files(&header, files, disposal) ? got : -EMFILE;
}

int stream_send(int fd, struct stream_message *message)
{
	size_t total = message->header_size + message->payload_size;
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr alignment;
	} control = { 0 };

	while (*message->sent < total) {
		bool in_header = *message->sent < message->header_size;
		size_t into_payload = in_header ? 0 : *message->sent - message->header_size;
		struct iovec parts[2] = {
			{ (char *)message->header + *message->sent,
			  in_header ? message->header_size - *message->sent : 0 },
			{ (char *)message->payload + into_payload, message->payload_size - into_payload },
		};
		struct msghdr header = { .msg_iov = in_header ? parts : parts + 1, .msg_iovlen = in_header ? 2 : 1 };
		ssize_t sent;

		if (message->fd >= 0) {
			header.msg_control = &control;
			header.msg_controllen = sizeof(control);
			control.alignment.cmsg_level = SOL_SOCKET;
			control.alignment.cmsg_type = SCM_RIGHTS;
			control.alignment.cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(&control.alignment), &message->fd, sizeof(int));
		}
		sent = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -errno;
		*message->sent += (size_t)sent;
		message->fd = -1;
	}

	return 0;
}
