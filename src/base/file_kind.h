/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What kind of file a front-end gave us, found out without asking the file.
 *
 * A file descriptor from a socket can be anything that its sender can open, and whoever stands behind it may never
 * answer: fstat(), fstatfs(), a page fault, a look at an epoll set, even close() of a file in a FUSE file system or of
 * a TCP socket with SO_LINGER wait for as long as it pleases. So before anything else is done with such a file it must
 * be of a kind that is the kernel's own and never waits for anybody. These questions are answered by the kernel from
 * its own tables.
 *
 * Context: any thread.
 */
#ifndef BASE_FILE_KIND_H
#define BASE_FILE_KIND_H

#include <stdbool.h>

/**
 * file_is_memory() - memory as a file: memfd, tmpfs, hugetlbfs. No file system of somebody else's, no disk, no network
 * stands behind it, and a page fault costs no more than memory does.
 */
bool file_is_memory(int fd);

/**
 * file_is_eventfd() - an eventfd, and no other of the kernel's files without a name. An epoll set, say, can be waited for
 * as well, but to look at it takes its owner's lock.
 */
bool file_is_eventfd(int fd);

/** file_is_unix_socket() - a local stream socket. Its close() may wait nevertheless, for files that are in its queue. */
bool file_is_unix_socket(int fd);

#endif
