/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mailbox: many threads post, one takes; intrusive, lock-free, first in first out for each poster.
 *
 * Theory of operation
 * -------------------
 * A stack that posters push onto with a compare-and-swap, and of which the taker takes *everything* with one exchange
 * and turns the order round. There is no pop of a single node, hence no ABA: a poster's CAS compares the head only to
 * store a new node above it, and it is right to do so whatever happened to the head in between. A post never waits for
 * another poster who was preempted half-way (as in queues whose nodes are linked after the exchange): either the CAS
 * happened and the node is there with all below it, or it has not.
 *
 * Why each order is what it is
 * - post, CAS: release publishes the message's fields and node->next to the taker. It is seq_cst because the callers
 * then read a flag that the taker sets before it looks at the mailbox (sleeping); see mailbox_empty().
 * - take, exchange: acquire pairs with that release. The read-modify-writes of other posters in between continue the
 *   release sequence, so that *all* nodes of the list are published, not only the last one.
 * - mailbox_empty(): seq_cst, the other half of "write mine, then read yours". In the single total order S of seq_cst
 *   operations either the poster's CAS precedes the taker's load, which then sees the node, or the load, and before it
 * the taker's store of the flag, precedes the CAS and the poster's load of the flag, which then sees it set.
 */
#ifndef ENGINE_MAILBOX_H
#define ENGINE_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/** struct mailbox_node - the first member of whatever is posted. */
struct mailbox_node {
	struct mailbox_node *next;
};

struct mailbox {
	_Atomic(struct mailbox_node *) head; /* newest first; NULL: empty */
};

/** mailbox_post() - any thread. Return: true when the mailbox was empty before. */
static inline bool mailbox_post(struct mailbox *mailbox, struct mailbox_node *node)
{
	struct mailbox_node *head = atomic_load_explicit(&mailbox->head, memory_order_relaxed);

	do {
		node->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&mailbox->head, &head, node, memory_order_seq_cst,
							memory_order_relaxed));
	return !head;
}

/** mailbox_empty() - for the taker, before it sleeps. */
static inline bool mailbox_empty(struct mailbox *mailbox)
{
	return !atomic_load_explicit(&mailbox->head, memory_order_seq_cst);
}

/** mailbox_take() - the taker only: all nodes, oldest first, linked by next. Return: NULL when there is none. */
static inline struct mailbox_node *mailbox_take(struct mailbox *mailbox)
{
	struct mailbox_node *newest, *oldest = NULL;

	/* A load first: an idle round must not write to the line that posters share. */
	if (!atomic_load_explicit(&mailbox->head, memory_order_relaxed))
		return NULL;

	newest = atomic_exchange_explicit(&mailbox->head, NULL, memory_order_acquire);
	while (newest) {
		struct mailbox_node *older = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = older;
	}
	return oldest;
}

#endif
