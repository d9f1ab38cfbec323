/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A start that has failed while clients wait for it.
 *
 * Theory of operation
 * -------------------
 * The daemon before has left its clients of emulated devices, and this one cannot serve them: an image has gone, a tap
 * is somebody else's, a CPU is not there, the configuration was changed once more. If it ended now those devices would
 * be dead for ever, since no virtual machine monitor connects again; as long as somebody has their connections, each of
 * them merely waits. There is no time after which letting them go would be better than waiting for the operator. So the
 * start is repeated until it succeeds, and what is wrong is in the log each time; a signal ends it.
 *
 * Each attempt executes the program from the beginning, because it may be the program or the configuration that is
 * mended. It is not the program before: that may have been removed, its configuration is no more, and what is wrong is
 * mostly wrong for it, too. Nor is one device left out: the configuration would be served in part without anybody's
 * having said that this is better than not at all.
 *
 * Below a service manager that keeps files nothing else is done: it has the same clients in its store, and its patience
 * (TimeoutStartSec=) may end the process, after which it starts another one. To end by ourselves instead would soon
 * bring us to its limit of starts, where it gives up and empties the store.
 *
 * Guests with virtio devices are refused meanwhile, and connect again: nobody listens.
 */
#include "cli/serve_again.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "cli/serve_restart.h"
#include "control/handover.h"
#include "control/notify.h"

#define PAUSE_SECONDS 1

/* Wait for the next attempt, which SIGUSR2 brings at once. Return: it is not wanted. */
static bool ended(void)
{
	const struct timespec pause = { .tv_sec = PAUSE_SECONDS };
	sigset_t set;
	int number;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR2);
	do
		number = sigtimedwait(&set, NULL, &pause);
	while (number < 0 && errno == EINTR);
	return number == SIGTERM || number == SIGINT;
}

static void tell(unsigned count)
{
	char status[128];

	log_warning("%u client%s of emulated devices wait%s: starting again in %u s%s", count, count == 1 ? "" : "s",
		    count == 1 ? "s" : "", PAUSE_SECONDS, handover_store_offered() ? "" : "; SIGTERM lets them go");
	snprintf(status, sizeof(status), "STATUS=cannot start, see the log; trying again for %u client%s", count,
		 count == 1 ? "" : "s");
	notify_service_manager(status);
}

void serve_again(struct handover *waiting, const struct successor *successor)
{
	unsigned count = handover_waiting(waiting);

	handover_drop_listeners(waiting);
	while (count && successor->path[0]) {
		int error;

		tell(count);
		if (ended())
			break;
		error = handover_execute(waiting, successor->path, successor->arguments);
		log_error("%s: %s", successor->path, strerror(-error));
	}
	handover_store(waiting);
	handover_await_store(waiting);
}
