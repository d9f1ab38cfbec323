/* SPDX-License-Identifier: BSD-3-Clause */
/* sidecore serve: a start that has failed while clients wait for it. Context: control thread; all else has ended. */
#ifndef CLI_SERVE_AGAIN_H
#define CLI_SERVE_AGAIN_H

struct handover;
struct successor;

/**
 * serve_again() - execute the program again and again until it serves, for as long as @waiting has clients. SIGTERM,
 * SIGINT and SIGUSR2 are blocked.
 *
 * Return: a signal has ended the attempts, or there is nobody to wait for: @waiting, of which the service manager has a
 * copy if it keeps files, is to be released.
 */
void serve_again(struct handover *waiting, const struct successor *successor);

#endif
