/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A driver of an NVMe controller for tests: it reaches the controller by struct pci_device alone, as a transport does, and
 * lays rings, lists and buffers into a guest memory of its own. The engine's sidecore has no thread (fuzz_engine.h): the test
 * decides when it has a turn.
 */
#ifndef TESTS_NVME_DRIVER_H
#define TESTS_NVME_DRIVER_H

#include "../fuzz/fuzz_engine.h"
#include "block/disk.h"
#include "device/nvme/nvme.h"
#include "device/nvme/nvme_internal.h"

/** Guest memory: two regions that follow each other without a gap, each a file offset of its own. */
#define DRIVER_MEMORY	   0x100000ULL
#define DRIVER_MEMORY_SIZE (8U << 20)
#define DRIVER_SEAM	   (DRIVER_MEMORY + DRIVER_MEMORY_SIZE / 2)

/** Where things are: rings of queue n, then lists, then data. */
#define DRIVER_SQ(id)  (DRIVER_MEMORY + 0x8000ULL * (id))
#define DRIVER_CQ(id)  (DRIVER_SQ(id) + 0x4000ULL)
#define DRIVER_LISTS   (DRIVER_MEMORY + 0x100000ULL)
#define DRIVER_DATA    (DRIVER_MEMORY + 0x200000ULL)
#define DRIVER_QUEUES  16U
#define DRIVER_ENTRIES 16U

#define SLOW_SIZE (4U << 20)
#define SLOW_HELD 64U

/** struct slow_disk - memory; completes at once, or keeps requests until the test lets go of them. */
struct slow_disk {
	struct disk disk;
	uint8_t *bytes;
	bool hold;
	int error; /* what requests complete with */
	struct block_request *held[SLOW_HELD];
	unsigned held_count, flushes, discards, zeroes, durables;
	uint64_t largest_piece;
};

struct driver_queue {
	uint32_t sq_size, cq_size, tail, head;
	uint16_t phase, cq;
};

struct nvme_driver {
	struct fuzz_engine engine;
	int memory_fd;
	uint8_t *bytes; /* the guest's view, from DRIVER_MEMORY on */
	struct guest_memory *memory;
	struct slow_disk slow[2];
	struct pci_device *device;
	struct nvme *nvme;
	bool done; /* host->done() was called */
	uint16_t cid;
	bool more; /* the More bit of the completion that was taken last */
	struct driver_queue queues[DRIVER_QUEUES];
};

/** nvme_driver_start() - a controller with the two slow disks, connected and enabled. @options may be NULL. */
void nvme_driver_start(struct nvme_driver *driver, const struct nvme_options *options);
void nvme_driver_stop(struct nvme_driver *driver);

/** nvme_driver_run() - turns and messages until nothing happens. */
void nvme_driver_run(struct nvme_driver *driver);

void *driver_bytes(struct nvme_driver *driver, uint64_t address);

/** Register accesses as messages; a write waits until it is done. */
uint64_t driver_read(struct nvme_driver *driver, uint32_t offset, unsigned size);
void driver_write(struct nvme_driver *driver, uint32_t offset, unsigned size, uint64_t value);

/** driver_enable() - reset, set up the admin queues, enable. Return: CSTS. */
uint32_t driver_enable(struct nvme_driver *driver, uint32_t entries);
void driver_pause(struct nvme_driver *driver);

/** driver_submit() - one command into queue @id, its cid is chosen; the doorbell is rung as a mapped one. Return: cid.
 */
uint16_t driver_submit(struct nvme_driver *driver, unsigned id, const struct nvme_command *command);

/** driver_ring() - store the tail, or (driver_take()) the head. */
void driver_ring_tail(struct nvme_driver *driver, unsigned id, uint32_t value);
void driver_ring_head(struct nvme_driver *driver, unsigned cq, uint32_t value);

/** driver_take() - the next entry of completion queue @cq, without the More bit. Return: false when there is none. */
bool driver_take(struct nvme_driver *driver, unsigned cq, struct nvme_completion *completion);

/** driver_command() - submit, run, take: the one completion. Return: its status without the phase. */
uint16_t driver_command(struct nvme_driver *driver, unsigned id, const struct nvme_command *command, uint32_t *result);

/** Admin commands for queues. Return: status. */
uint16_t driver_create_cq(struct nvme_driver *driver, unsigned id, uint32_t size, uint16_t vector);
uint16_t driver_create_sq(struct nvme_driver *driver, unsigned id, uint32_t size, unsigned cq);

/** driver_queue() - both, with one number. */
void driver_queue(struct nvme_driver *driver, unsigned id, uint32_t size);

/** slow_release() - let @count requests (0: all) go. */
void slow_release(struct nvme_driver *driver, struct slow_disk *slow, unsigned count);

#endif
