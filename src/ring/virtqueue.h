/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Virtqueues: split and packed rings behind one interface.
 *
 * Theory of operation
 * -------------------
 * The device side of a virtqueue takes *chains* (buffers that the driver made available) in batches, uses them, and
 * gives them back:
 *
 *	pop     take up to n chains; each is walked once, its descriptors copied to locals, checked and translated into
 *	        guest segments. Nothing about a chain is read from the ring again after that.
 *	push    note a chain as used, with the number of bytes written; the driver does not see it yet.
 *	unpop   give the chain popped last back unused (it will be popped again).
 *	publish make all pushed chains visible at once; says whether the driver wants an interrupt.
 *	settle	the second look of a publish that did not wait for its own stores.
 *
 * Split and packed (virtio 1.3 2.7, 2.8) differ in where descriptors lie and how progress is told; both yield the same
 * struct chain. One walker (ring/chain_walk.h) does direct and indirect, split and packed chains; the layout is an inlined
 * constant.
 *
 * Invariants
 * - A chain has at most as many direct descriptors as the queue, and at most CHAIN_SEGMENTS_MAX segments, or the queue
 *   breaks.
 * - Readable segments come before writable ones (virtio 1.3 2.7.4.2), or the queue breaks.
 * - The driver can never make popped-but-unused chains exceed @size.
 * - After virtqueue_break() nothing is popped and nothing published until the next virtqueue_start(): a bad guest breaks
 *   only itself. The reason is kept, named and counted.
 *
 * Context: a virtqueue belongs to one sidecore at a time (receive queues of a network port: to whoever holds the port's
 * claim). The control thread touches it only while it is stopped.
 */
#ifndef RING_VIRTQUEUE_H
#define RING_VIRTQUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/checked.h"
#include "memory/dirty_log.h"
#include "memory/guest_memory.h"

#define VIRTQUEUE_SIZE_MAX 32768U

/** The most segments of one chain. QEMU's own limit is 1024 descriptors (VIRTQUEUE_MAX_SIZE). */
#define CHAIN_SEGMENTS_MAX 1024U

/** Why a queue stopped serving its guest. Names for people: virtqueue_break_reason_name(). */
enum virtqueue_break_reason {
	VIRTQUEUE_INTACT,
	VIRTQUEUE_BAD_AVAIL_INDEX,	/* avail index ran more than the queue size ahead */
	VIRTQUEUE_BAD_HEAD,		/* chain head or buffer id out of range */
	VIRTQUEUE_BAD_NEXT,		/* next field out of range */
	VIRTQUEUE_CHAIN_TOO_LONG,	/* loops, or more descriptors than the queue holds */
	VIRTQUEUE_TOO_MANY_SEGMENTS,
	VIRTQUEUE_BAD_ADDRESS,		/* outside guest memory */
	VIRTQUEUE_ZERO_LENGTH,		/* descriptor of no bytes */
	VIRTQUEUE_LENGTH_OVERFLOW,	/* a chain of 4 GiB and more */
	VIRTQUEUE_READABLE_AFTER_WRITABLE,
	VIRTQUEUE_INDIRECT_NOT_NEGOTIATED,
	VIRTQUEUE_INDIRECT_NESTED,	/* indirect inside an indirect table, or together with NEXT */
	VIRTQUEUE_INDIRECT_BAD_TABLE,	/* table length not a multiple of 16, empty, too long, not contiguous */
	VIRTQUEUE_EMPTY_CHAIN,
	VIRTQUEUE_MEMORY_DAMAGED,	/* the file behind guest memory shrank */
	/* what device models find */
	VIRTQUEUE_HEADER_TOO_SHORT,	/* chain shorter than the device's fixed header */
	VIRTQUEUE_NO_STATUS_BYTE,	/* virtio-blk: nowhere to write the status */
	VIRTQUEUE_BAD_DIRECTION,	/* readable where writable is due, or the reverse */
	VIRTQUEUE_BREAK_REASONS,
};

const char *virtqueue_break_reason_name(enum virtqueue_break_reason reason);

/**
 * struct chain - one buffer from the driver, walked, checked and translated.
 * @segments:		first @readable_count readable, then @writable_count writable; live until the pool is reset
 * @id:			split: head index; packed: buffer id. Below the queue's size in both cases
 * @slots:		packed: ring positions that the chain occupies; split: 1
 * @lengths, @counts:	the fields beside them as words, which are written and compared at once
 */
struct chain {
	struct guest_segment *segments;
	union {
		struct {
			uint32_t readable_length, writable_length;
		};
		uint64_t lengths;
	};
	union {
		struct {
			uint16_t readable_count, writable_count;
			uint16_t id;
			uint16_t slots;
		};
		uint64_t counts;
	};
};

/** The low half of @counts of a chain of one segment. */
#define CHAIN_ONE_READABLE 1U
#define CHAIN_ONE_WRITABLE (1U << 16)

/** Of @counts: where id and slots begin. */
#define CHAIN_ID_SHIFT	  32
#define CHAIN_SLOTS_SHIFT 48

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first field of a word is its low part");

/** chain_writable() - first of chain->writable_count writable segments. */
static inline struct guest_segment *chain_writable(const struct chain *chain)
{
	return chain->segments + chain->readable_count;
}

/** Segments that come with what a chain moves, and what each one more costs: as much as to copy so many bytes. */
#define CHAIN_SEGMENTS_FREE 4U
#define CHAIN_SEGMENT_COST  128U

/**
 * chain_cost() - what a chain costs of its turn, in bytes. Not only what it moves: a thousand buffers of one byte are a
 * thousand descriptors to read, check and translate.
 */
static inline uint64_t chain_cost(const struct chain *chain)
{
	unsigned segments = (unsigned)chain->readable_count + chain->writable_count;
	uint64_t bytes = (uint64_t)chain->readable_length + chain->writable_length;

	if (likely(segments <= CHAIN_SEGMENTS_FREE))
		return bytes;
	return bytes + (uint64_t)(segments - CHAIN_SEGMENTS_FREE) * CHAIN_SEGMENT_COST;
}

/**
 * struct segment_pool - where pop puts segments; owned by the caller, reset by it when the chains are done with.
 *
 * A pool of VIRTQUEUE_POOL_SEGMENTS always holds at least one chain, whatever the driver does; pop stops early, without
 * harm, when the next chain does not fit.
 *
 * @readable_bytes, @writable_bytes:	of all chains popped since the owner last set them; nothing is taken off for
 * those that are unpopped
 */
struct segment_pool {
	struct guest_segment *segments;
	uint32_t capacity; /* at least CHAIN_SEGMENTS_MAX */
	uint32_t used;
	uint64_t readable_bytes, writable_bytes;
};

struct notifier;	   /* base/notifier.h */
struct virtqueue_inflight; /* ring/inflight.h */

/** Where a packed ring begins: position 0, and a wrap counter of 1 in bit 15 (virtio 1.3 2.8.1). */
#define VIRTQUEUE_PACKED_BASE_NEW 0x8000U

/** struct virtqueue_config - all that a transport knows of a queue when it starts it. Addresses are host addresses. */
struct virtqueue_config {
	const struct guest_memory *memory;
	struct dirty_log *log;	    /* NULL when not logging */
	bool log_used;		    /* writes to the ring itself are logged, too (VHOST_VRING_F_LOG) */
	guest_byte *descriptors;    /* split: table; packed: ring. 16-byte aligned, size * 16 bytes */
	guest_byte *driver_area;    /* split: avail ring; packed: driver event suppression (4 bytes) */
	guest_byte *device_area;    /* split: used ring; packed: device event suppression (4 bytes) */
	uint16_t size;		    /* split: power of two; at most VIRTQUEUE_SIZE_MAX */
	uint16_t avail_base;	    /* split: next avail index; packed: bit 15 wrap counter, bits 0-14 position */
	uint16_t used_base;	    /* the same for used; split: taken from the used ring by the transport */
	bool packed, indirect, event_index, in_order;
	int call_fd; /* eventfd of the driver's interrupt, -1: none. Stays the transport's */
	struct virtqueue_inflight *inflight; /* NULL: not tracked */
};

struct virtqueue_counters {
	uint64_t chains;	/* popped for good (pops minus unpops) */
	uint64_t bytes;		/* readable plus written bytes, added by the device model */
	uint64_t notifications; /* interrupts sent to the driver */
	uint64_t suppressed;	/* publishes for which the driver wanted none */
	uint64_t kicks;		/* wake-ups by the driver's kick */
	uint64_t breaks;	/* times that the queue broke */
};

struct virtqueue {
	/* Written by the sidecore for each batch. */
	uint16_t avail_next;	/* split: next avail index to read; packed: ring position */
	uint16_t used_next;	/* split: next used index to write; packed: ring position */
	uint16_t avail_cached;	/* split: avail index as last read */
	uint16_t used_published; /* used_next as of the last publish */
	uint16_t used_settled;	/* up to here it is settled whether the driver wants an interrupt */
	bool unsettled;		/* for used_settled to used_published it is not: see virtqueue_publish_early() */
	bool avail_wrap, used_wrap; /* packed: wrap counters (virtio 1.3 2.8.1) */
	bool first_valid;	    /* packed: a held-back first used descriptor exists */
	uint16_t popped;	    /* packed: chains of the last pop that found any */
	uint16_t first_position, first_flags; /* packed: its place, and the flags that make the batch visible */
	uint32_t outstanding;	/* popped and not yet pushed or unpopped, in slots */
	uint8_t broken;		/* enum virtqueue_break_reason */
	bool started;
	bool single, writable; /* the last chain was of one buffer, was writable: the next one will be the same */
	const struct guest_region *hint; /* translator's cache */

	struct virtqueue_config config;
	struct virtqueue_counters counters;
};

/**
 * virtqueue_start() - take a queue into use. Control thread, queue stopped.
 *
 * Return: 0; -EINVAL when size, alignment or base are impossible.
 */
int virtqueue_start(struct virtqueue *queue, const struct virtqueue_config *config);

/**
 * virtqueue_stop() - no more pops. Control thread, after the sidecore has let go of the queue.
 *
 * Return: the base that SET_VRING_BASE would continue from (vhost-user GET_VRING_BASE): avail index, or for packed
 * queues avail in bits 0-15 and used in bits 16-31, each with its wrap counter in the top bit.
 */
uint32_t virtqueue_stop(struct virtqueue *queue);

/**
 * virtqueue_pop() - take up to @count chains.
 * @queue:	started queue
 * @chains:	out: the chains
 * @count:	room in @chains
 * @pool:	where their segments go; appended to
 *
 * A malformed chain breaks the queue; chains before it in the batch are returned and stay valid.
 *
 * Return: number of chains; 0 when nothing is available or the queue is broken.
 */
unsigned virtqueue_pop(struct virtqueue *queue, struct chain *chains, unsigned count, struct segment_pool *pool);

/** virtqueue_unpop() - give back the chain that was popped last; call in reverse order of the pops. */
void virtqueue_unpop(struct virtqueue *queue, const struct chain *chain);

/**
 * packed_resume() - where the device stands in a packed ring whose position nobody has kept (ring/packed_resume.c).
 * @ring:	the descriptor ring; a batch that was not quite published is
 * @size:	its descriptors, not 0
 *
 * For rings of single descriptors that are used in order. Return: position, and wrap counter in bit 15.
 */
uint16_t packed_resume(guest_byte *ring, uint16_t size);

/**
 * packed_base_is_stale() - does a packed ring contradict the position that its owner believes it to have?
 * @base:	as packed_resume() returns it
 *
 * For rings that are used in order. A position is right when everything from there to what the driver writes next is
 * available: what the device has used lies before it. Chains of several descriptors contradict nothing.
 */
bool packed_base_is_stale(guest_byte *ring, uint16_t size, uint16_t base);

/** virtqueue_pending() - is there at least one chain to pop? One load of the ring. */
bool virtqueue_pending(struct virtqueue *queue);

/**
 * virtqueue_push() - hand @chain back as used; not visible before virtqueue_publish().
 * @id, @slots:	of the chain
 * @written:	bytes written to its writable segments, from their start
 */
void virtqueue_push(struct virtqueue *queue, uint16_t id, uint16_t slots, uint32_t written);

/**
 * virtqueue_push_chains() - the same for @count chains, in order.
 * @chains:	of which id and slots are looked at
 * @written:	of each; NULL: nothing was written, and with VIRTIO_F_IN_ORDER one used entry then tells of them all
 */
void virtqueue_push_chains(struct virtqueue *queue, const struct chain *chains, const uint32_t *written,
			   unsigned count);

/**
 * virtqueue_publish() - make all that was pushed visible to the driver, at once.
 *
 * Return: true when the driver asked to be interrupted for it: call virtqueue_notify().
 */
bool virtqueue_publish(struct virtqueue *queue);

/**
 * virtqueue_publish_early() - the same without waiting until the other side can see it, which takes as long as all stores
 * before need to reach memory, those into guest buffers among them.
 *
 * "Yes" is as good as from virtqueue_publish(). "No" may have missed a wish that the driver expressed just now: it has to
 * be looked at again, by virtqueue_settle(), before the queue's next publish and before its sidecore sleeps. So a queue
 * that is published so must be polled.
 *
 * Return: true when the driver asked to be interrupted for it: call virtqueue_notify().
 */
bool virtqueue_publish_early(struct virtqueue *queue);

/**
 * virtqueue_settle() - after virtqueue_publish_early(), a little later: does the driver want an interrupt after all?
 *
 * Return: true: call virtqueue_notify().
 */
bool virtqueue_settle(struct virtqueue *queue);

/** virtqueue_unsettled() - is there something to settle? */
static inline bool virtqueue_unsettled(const struct virtqueue *queue)
{
	return queue->unsettled;
}

/**
 * virtqueue_notify() - interrupt the driver. The only system call of the data path; never waits, whatever the front-end
 * did to its eventfd.
 * @notifier:	of the calling thread
 */
void virtqueue_notify(struct virtqueue *queue, struct notifier *notifier);

/**
 * virtqueue_arm() - ask the driver to kick from now on (before a sidecore sleeps).
 *
 * Return: true when chains are already there: the kick for them may never come, so do not sleep.
 */
bool virtqueue_arm(struct virtqueue *queue);

/** virtqueue_disarm() - kicks are not needed: somebody polls. A hint; a late kick is harmless. */
void virtqueue_disarm(struct virtqueue *queue);

/** virtqueue_break() - stop serving this queue, sticky, first reason wins. */
void virtqueue_break(struct virtqueue *queue, enum virtqueue_break_reason reason);

/**
 * virtqueue_log_write() - the device wrote [@host, +@length) of guest memory (data or status): mark it dirty when
 * a migration is on. Call before the push of the chain.
 */
static inline void virtqueue_log_write(struct virtqueue *queue, const guest_byte *host, uint64_t length)
{
	if (unlikely(queue->config.log))
		dirty_log_mark_host(queue->config.log, queue->config.memory, host, length);
}

#endif
