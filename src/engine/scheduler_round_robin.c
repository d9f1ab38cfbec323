/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Round robin: in each round every poller has one turn of at most TURN_REQUESTS and TURN_BYTES.
 *
 * Pollers form a ring, linked through poller->schedule, so that the walk touches no memory but the pollers' own. A
 * round goes once around; the next one starts one poller later, so that nobody is always first.
 *
 * A turn bounds how long a poller waits for its next one: with n pollers that all have more work than they may do, at
 * most n - 1 turns. 64 requests are enough to pay for a turn's fixed cost; 512 KiB are eight GSO segments, some 50 us
 * of copying.
 *
 * Context: one object a sidecore, used between and within its rounds only.
 */
#include "engine/scheduler_round_robin.h"

#include <stdlib.h>

#define TURN_REQUESTS 64U
#define TURN_BYTES    (512U << 10)

struct scheduler {
	struct poller *first; /* of the next round; NULL: no pollers */
	struct poller *next;  /* in this round */
	unsigned count;	      /* pollers */
	unsigned left;	      /* turns left in this round */
	bool in_round;
};

static struct scheduler *round_robin_create(void)
{
	return calloc(1, sizeof(struct scheduler));
}

static void round_robin_destroy(struct scheduler *scheduler)
{
	free(scheduler);
}

/* The new poller comes last in the next round. */
static void round_robin_attach(struct scheduler *scheduler, struct poller *poller)
{
	struct poller *last = scheduler->first;

	if (!last) {
		poller->schedule = poller;
		scheduler->first = poller;
	} else {
		while (last->schedule != scheduler->first)
			last = last->schedule;
		poller->schedule = scheduler->first;
		last->schedule = poller;
	}
	scheduler->count++;
}

static void round_robin_detach(struct scheduler *scheduler, struct poller *poller)
{
	struct poller *before = poller;

	while (before->schedule != poller)
		before = before->schedule;
	before->schedule = poller->schedule;
	if (scheduler->first == poller)
		scheduler->first = before == poller ? NULL : poller->schedule;
	poller->schedule = NULL;
	scheduler->count--;
}

static struct poller *round_robin_next(struct scheduler *scheduler, struct turn *turn)
{
	struct poller *poller;

	if (!scheduler->in_round) {
		if (!scheduler->first)
			return NULL;
		scheduler->in_round = true;
		scheduler->left = scheduler->count;
		scheduler->next = scheduler->first;
		scheduler->first = scheduler->first->schedule;
	}
	if (!scheduler->left) {
		scheduler->in_round = false;
		return NULL;
	}
	poller = scheduler->next;
	scheduler->next = poller->schedule;
	scheduler->left--;
	turn->requests = TURN_REQUESTS;
	turn->bytes = TURN_BYTES;
	return poller;
}

const struct scheduler_ops scheduler_round_robin = {
	.name = "round-robin",
	.create = round_robin_create,
	.destroy = round_robin_destroy,
	.attach = round_robin_attach,
	.detach = round_robin_detach,
	.next = round_robin_next,
	.account = NULL, /* every poller has the same share of turns */
};
