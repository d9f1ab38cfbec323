/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A hostile guest for fuzz targets: memory of two adjacent regions and one apart, and drivers of virtqueues in it that
 * write well-formed chains when the input says so, and anything anywhere when it says otherwise.
 */
#ifndef TESTS_FUZZ_GUEST_H
#define TESTS_FUZZ_GUEST_H

#include "fuzz.h"
#include "memory/guest_memory.h"
#include "ring/virtqueue.h"

/* Guest addresses. The file holds the regions one after the other. */
#define GUEST_LOW	 0x10000ULL
#define GUEST_SEAM	 0x18000ULL /* the second region follows the first without a gap */
#define GUEST_APART	 0x200000ULL
#define GUEST_LOW_SIZE	 0x8000U
#define GUEST_HIGH_SIZE	 0x8000U
#define GUEST_APART_SIZE 0x2000U
#define GUEST_FILE_SIZE	 (GUEST_LOW_SIZE + GUEST_HIGH_SIZE + GUEST_APART_SIZE)

/* Offsets in the low region: rings of up to 6 queues, indirect tables, then data up to the end of the high region. */
#define GUEST_QUEUE(number) ((number)*0x800U)
#define GUEST_DRIVER_AREA   0x400U
#define GUEST_DEVICE_AREA   0x500U
#define GUEST_TABLES	    0x3000U
#define GUEST_DATA	    0x4000U
#define GUEST_DATA_SIZE	    (GUEST_LOW_SIZE + GUEST_HIGH_SIZE - GUEST_DATA)

#define GUEST_QUEUE_SIZE_MAX 64U
#define GUEST_CHAIN_MAX	     32U

struct guest {
	int fd;
	uint8_t *bytes; /* the guest's own view of its memory */
	struct guest_memory *memory;
};

struct guest_buffer {
	uint64_t address;
	uint32_t length;
	bool writable;
};

/** struct guest_queue - the driver's side of one virtqueue. */
struct guest_queue {
	struct guest *guest;
	uint32_t place; /* in the low region */
	uint16_t size;
	bool packed, indirect, event_index;
	uint16_t next;	/* split: next free descriptor; packed: position */
	uint16_t avail; /* split: avail index */
	bool wrap;
};

/** guest_open() - once, at the target's start. guest_clear() - all zeros, for the next input. */
void guest_open(struct guest *guest);
void guest_clear(struct guest *guest);

/** guest_queue_init() - queue @number of @guest; @form: bit 0 packed, 1 indirect, 2 event index, 4-6 size. */
void guest_queue_init(struct guest_queue *queue, struct guest *guest, unsigned number, uint8_t form);
void guest_queue_config(const struct guest_queue *queue, struct virtqueue_config *config);

/** guest_queue_add() - make a chain of @buffers available, as a driver should; @indirect: in a table of its own. */
void guest_queue_add(struct guest_queue *queue, const struct guest_buffer *buffers, unsigned count, bool indirect);

/** guest_queue_offer() - a chain as the input says: any buffers, good or bad, direct or indirect. */
void guest_queue_offer(struct guest_queue *queue, struct fuzz_input *input);

/** guest_scribble() - bytes of the input anywhere in the guest's memory, rings included. */
void guest_scribble(struct guest *guest, struct fuzz_input *input);

/** guest_queue_jump() - the avail index, or flags of a packed descriptor, as the input says. */
void guest_queue_jump(struct guest_queue *queue, struct fuzz_input *input);

/** guest_check_chain() - the oracle of every chain that was popped; touches each segment. */
void guest_check_chain(const struct guest *guest, const struct chain *chain, uint16_t size);

#endif
