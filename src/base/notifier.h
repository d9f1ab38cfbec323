/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Notifier: signals eventfds that others hold as well, without ever waiting. Theory of operation: base/notifier.c.
 *
 * Context: one thread each: a sidecore, or the control thread.
 */
#ifndef BASE_NOTIFIER_H
#define BASE_NOTIFIER_H

struct notifier;

/**
 * notifier_create() - Return: 0; -ENOMEM; the negative errno of io_setup() (-ENOSYS: a kernel without asynchronous I/O,
 * -EAGAIN: fs.aio-max-nr is used up) or of open().
 */
int notifier_create(struct notifier **notifier);

/** notifier_destroy() - NULL is allowed. */
void notifier_destroy(struct notifier *notifier);

/**
 * notifier_signal() - add one to the counter of eventfd @fd, as a write would; one system call.
 *
 * A full counter stays full: whoever waits for it is awake.
 *
 * Return: 0 or a negative errno (-EINVAL: not an eventfd); nothing was signalled then.
 */
int notifier_signal(struct notifier *notifier, int fd);

#endif
