/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pairing heap. Each timer has its children in a list (first child, siblings); @previous is the left sibling, or the
 * parent of a first child, or NULL at the root. A timer's deadline is never later than its children's.
 */
#include "engine/timer_heap.h"

#include <stddef.h>

#define ARMED 1U

/* Merge two heaps, either of which may be NULL; both roots have neither sibling nor previous. */
static struct engine_timer *merge(struct engine_timer *a, struct engine_timer *b)
{
	struct engine_timer *sooner, *later;

	if (!a || !b)
		return a ? a : b;

	sooner = b->deadline < a->deadline ? b : a;
	later = sooner == a ? b : a;
	later->sibling = sooner->child;
	later->previous = sooner;
	if (sooner->child)
		sooner->child->previous = later;
	sooner->child = later;
	return sooner;
}

/* Make one heap of a list of siblings: merge them two by two, then the results from last to first. That order is what
 * makes removal logarithmic (amortised). */
static struct engine_timer *merge_siblings(struct engine_timer *first)
{
	struct engine_timer *pairs = NULL, *heap = NULL;

	while (first) {
		struct engine_timer *a = first, *b = first->sibling, *pair;

		first = b ? b->sibling : NULL;
		a->sibling = a->previous = NULL;
		if (b)
			b->sibling = b->previous = NULL;
		pair = merge(a, b);
		pair->sibling = pairs; /* as a stack: borrowed until the second pass */
		pairs = pair;
	}
	while (pairs) {
		struct engine_timer *pair = pairs;

		pairs = pair->sibling;
		pair->sibling = NULL;
		heap = merge(heap, pair);
	}
	return heap;
}

void timer_heap_insert(struct timer_heap *heap, struct engine_timer *timer)
{
	timer->child = timer->sibling = timer->previous = NULL;
	timer->position = ARMED;
	heap->root = merge(heap->root, timer);
}

void timer_heap_remove(struct timer_heap *heap, struct engine_timer *timer)
{
	struct engine_timer *orphans = merge_siblings(timer->child);

	if (timer == heap->root) {
		heap->root = orphans;
	} else {
		if (timer->previous->child == timer)
			timer->previous->child = timer->sibling;
		else
			timer->previous->sibling = timer->sibling;
		if (timer->sibling)
			timer->sibling->previous = timer->previous;
		heap->root = merge(heap->root, orphans);
	}
	timer->child = timer->sibling = timer->previous = NULL;
	timer->position = ENGINE_TIMER_IDLE;
}
