/* SPDX-License-Identifier: BSD-3-Clause */
/* Virtqueues: what both layouts share. Theory of operation: ring/virtqueue.h. */
#include "ring/virtqueue.h"

#include <errno.h>

#include "base/barrier.h"
#include "base/counter.h"
#include "base/notifier.h"
#include "ring/layout.h"

#define POSITION_WRAP (1U << 15)

static const char *const break_reason_names[VIRTQUEUE_BREAK_REASONS] = {
	[VIRTQUEUE_INTACT] = "intact",
	[VIRTQUEUE_BAD_AVAIL_INDEX] = "bad-avail-index",
	[VIRTQUEUE_BAD_HEAD] = "bad-head",
	[VIRTQUEUE_BAD_NEXT] = "bad-next",
	[VIRTQUEUE_CHAIN_TOO_LONG] = "chain-too-long",
	[VIRTQUEUE_TOO_MANY_SEGMENTS] = "too-many-segments",
	[VIRTQUEUE_BAD_ADDRESS] = "bad-address",
	[VIRTQUEUE_ZERO_LENGTH] = "zero-length",
	[VIRTQUEUE_LENGTH_OVERFLOW] = "length-overflow",
	[VIRTQUEUE_READABLE_AFTER_WRITABLE] = "readable-after-writable",
	[VIRTQUEUE_INDIRECT_NOT_NEGOTIATED] = "indirect-not-negotiated",
	[VIRTQUEUE_INDIRECT_NESTED] = "indirect-nested",
	[VIRTQUEUE_INDIRECT_BAD_TABLE] = "indirect-bad-table",
	[VIRTQUEUE_EMPTY_CHAIN] = "empty-chain",
	[VIRTQUEUE_MEMORY_DAMAGED] = "memory-damaged",
	[VIRTQUEUE_HEADER_TOO_SHORT] = "header-too-short",
	[VIRTQUEUE_NO_STATUS_BYTE] = "no-status-byte",
	[VIRTQUEUE_BAD_DIRECTION] = "bad-direction",
};

const char *virtqueue_break_reason_name(enum virtqueue_break_reason reason)
{
	return (unsigned)reason < VIRTQUEUE_BREAK_REASONS ? break_reason_names[reason] : "unknown";
}

static bool config_possible(const struct virtqueue_config *config)
{
	uintptr_t descriptors = (uintptr_t)config->descriptors, driver = (uintptr_t)config->driver_area;
	uintptr_t device = (uintptr_t)config->device_area;

	if (!config->size || config->size > VIRTQUEUE_SIZE_MAX)
		return false;
	/* Alignments of virtio 1.3 2.7 and 2.8: natural, so that single loads and stores are single accesses. */
	if (!descriptors || descriptors % 16 || !driver || driver % 2 || !device || device % 4)
		return false;
	if (config->packed)
		return !(driver % 4) && (config->avail_base & ~POSITION_WRAP) < config->size &&
		       (config->used_base & ~POSITION_WRAP) < config->size;
	return !(config->size & (config->size - 1U));
}

int virtqueue_start(struct virtqueue *queue, const struct virtqueue_config *config)
{
	struct virtqueue_counters counters = queue->counters;
	uint16_t position = config->packed ? (uint16_t)~POSITION_WRAP : UINT16_MAX;

	if (!config_possible(config))
		return -EINVAL;
	*queue = (struct virtqueue){
		.config = *config,
		.counters = counters,
		.avail_next = config->avail_base & position,
		.avail_cached = config->avail_base & position,
		.avail_wrap = !!(config->avail_base & POSITION_WRAP),
		.used_next = config->used_base & position,
		.used_published = config->used_base & position,
		.used_settled = config->used_base & position,
		.used_wrap = !!(config->used_base & POSITION_WRAP),
		.started = true,
	};
	return 0;
}

uint32_t virtqueue_stop(struct virtqueue *queue)
{
	queue->started = false;
	if (!queue->config.packed)
		return queue->avail_next;
	return (uint32_t)(queue->avail_next | (queue->avail_wrap ? POSITION_WRAP : 0U)) |
	       (uint32_t)(queue->used_next | (queue->used_wrap ? POSITION_WRAP : 0U)) << 16;
}

/* Nothing is read from or written to a queue that is broken or stopped. */
static inline bool usable(const struct virtqueue *queue)
{
	return likely(queue->started && !queue->broken);
}

unsigned virtqueue_pop(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool)
{
	unsigned popped;

	if (!usable(queue))
		return 0;
	popped = queue->config.packed ? packed_pop(queue, chains, count, pool) : split_pop(queue, chains, count, pool);
	if (popped)
		counter_add(&queue->counters.chains, popped);
	return popped;
}

void virtqueue_unpop(struct virtqueue *queue, const struct chain *chain)
{
	if (queue->config.packed)
		packed_unpop(queue, chain);
	else
		split_unpop(queue, chain);
	counter_add(&queue->counters.chains, (uint64_t)-1);
}

bool virtqueue_pending(struct virtqueue *queue)
{
	if (!usable(queue))
		return false;
	return queue->config.packed ? packed_pending(queue) : split_pending(queue);
}

void virtqueue_push_chains(struct virtqueue *queue, const struct chain *chains, const uint32_t *written, unsigned count)
{
	if (!usable(queue))
		return;
	if (queue->config.packed)
		packed_push(queue, chains, written, count);
	else
		split_push(queue, chains, written, count);
}

void virtqueue_push(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t written)
{
	const struct chain chain = { .id = id, .slots = slots };

	virtqueue_push_chains(queue, &chain, &written, 1);
}

static inline bool interrupt_wanted(const struct virtqueue *queue)
{
	return queue->config.packed ? packed_interrupt_wanted(queue) : split_interrupt_wanted(queue);
}

static bool settle(struct virtqueue *queue, bool wanted)
{
	queue->used_settled = queue->used_published;
	queue->unsettled = false;
	if (!wanted)
		counter_add(&queue->counters.suppressed, 1);
	return wanted;
}

/* Return: false: there is nothing to publish. */
static inline bool publish(struct virtqueue *queue)
{
	if (!usable(queue))
		return false;
	if (queue->used_published == queue->used_next && !queue->first_valid)
		return false;
	if (queue->config.packed)
		packed_publish(queue);
	else
		split_publish(queue);
	return true;
}

bool virtqueue_publish(struct virtqueue *queue)
{
	if (!publish(queue))
		return false;
	/* Between our store and our look at the driver's wish: see "Barriers" in split.c. */
	memory_barrier();
	return settle(queue, interrupt_wanted(queue));
}

bool virtqueue_publish_early(struct virtqueue *queue)
{
	if (!publish(queue))
		return false;
	if (interrupt_wanted(queue))
		return settle(queue, true);
	queue->unsettled = true;
	return false;
}

bool virtqueue_settle(struct virtqueue *queue)
{
	if (!queue->unsettled)
		return false;
	/* The barrier of virtqueue_publish(), only later, when our store is long out and the barrier costs little. */
	memory_barrier();
	return settle(queue, interrupt_wanted(queue));
}

void virtqueue_notify(struct virtqueue *queue, struct notifier *notifier)
{
	if (queue->config.call_fd >= 0 && !notifier_signal(notifier, queue->config.call_fd))
		counter_add(&queue->counters.notifications, 1);
}

bool virtqueue_arm(struct virtqueue *queue)
{
	if (!usable(queue))
		return false;
	if (queue->config.packed)
		packed_arm(queue);
	else
		split_arm(queue);
	/*
	 * Full fence: the wish above is visible before we look. Either the driver made its chain available before our
	 * look, and we see it; or after, and then its own look at our wish (after its fence) sees it, and it kicks.
	 */
	memory_barrier();
	return virtqueue_pending(queue);
}

void virtqueue_disarm(struct virtqueue *queue)
{
	if (!usable(queue))
		return;
	if (queue->config.packed)
		packed_disarm(queue);
	else
		split_disarm(queue);
}

void virtqueue_break(struct virtqueue *queue, enum virtqueue_break_reason reason)
{
	if (queue->broken)
		return;
	/* Memory whose file shrank reads as zeroes: what looks malformed then is its consequence. Name the cause. */
	if (queue->config.memory && guest_memory_damaged(queue->config.memory))
		reason = VIRTQUEUE_MEMORY_DAMAGED;
	__atomic_store_n(&queue->broken, (uint8_t)reason, __ATOMIC_RELAXED);
	counter_add(&queue->counters.breaks, 1);
}
