/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CONTROL_NOTIFY_H
#define CONTROL_NOTIFY_H

/**
 * notify_service_manager() - tell systemd how we are (sd_notify(3)), if it asked by setting NOTIFY_SOCKET.
 * @state:	lines such as "READY=1\nSTATUS=serving"
 *
 * One datagram; nothing depends on it arriving. Return: 1 sent, 0 nobody asked, negative errno.
 */
int notify_service_manager(const char *state);

/** notify_service_manager_file() - the same, with a file, which stays ours as well. Waits until the datagram is taken. */
int notify_service_manager_file(const char *state, int file);

#endif
