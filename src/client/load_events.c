/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/load_events.h"

#include <poll.h>
#include <unistd.h>

/**
 * load_events_wait() - sleep until a device interrupts.
 * @events:	eventfds, non-blocking; -1 is passed over
 * @count:	how many; the first 64 count
 * @timeout_ms:	how long
 * @signalled:	receives a bit for each of them that was signalled
 *
 * They are read, so that each signal is seen once.
 *
 * Return: how many interrupts there were: several signals of one eventfd before the wait count as one.
 */
unsigned int load_events_wait(const int *events, unsigned int count, int timeout_ms, uint64_t *signalled)
{
	struct pollfd fds[LOAD_EVENTS_MAX];
	unsigned int interrupts = 0;

	*signalled = 0;
	if (count > LOAD_EVENTS_MAX)
		count = LOAD_EVENTS_MAX;
	for (unsigned int i = 0; i < count; i++)
		fds[i] = (struct pollfd){ .fd = events[i], .events = POLLIN };
	if (poll(fds, count, timeout_ms) <= 0)
		return 0;

	for (unsigned int i = 0; i < count; i++) {
		uint64_t value;

		if (!(fds[i].revents & POLLIN) || read(events[i], &value, sizeof(value)) != sizeof(value))
			continue;
		interrupts++;
		*signalled |= 1ULL << i;
	}

	return interrupts;
}
