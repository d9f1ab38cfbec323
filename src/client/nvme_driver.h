/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_NVME_DRIVER_H
#define CLIENT_NVME_DRIVER_H

#include "client/driver_buffer.h"
#include "client/vfio_user_client.h"

#include <stdbool.h>
#include <stdint.h>

#define NVME_DRIVER_PAIRS_MAX 64

/* NVM command set opcodes that are used here */
#define NVME_DRIVER_WRITE 1u
#define NVME_DRIVER_READ  2u

/**
 * struct nvme_command - a submission queue entry, little-endian (NVMe base 2.0 3.3.3.1, NVM command set 3.2.4).
 * @opcode:	command
 * @flags:	fused, and PRP or SGL
 * @id:		command identifier
 * @nsid:	namespace
 * @prp1:	first page of the data
 * @prp2:	second page, or the list of all but the first
 * @cdw10:	of the command: starting LBA in two words, then blocks minus one
 */
struct nvme_command {
	uint8_t opcode;
	uint8_t flags;
	uint16_t id;
	uint32_t nsid;
	uint32_t reserved[2];
	uint64_t metadata;
	uint64_t prp1;
	uint64_t prp2;
	uint32_t cdw10[6];
};

/**
 * struct nvme_completion - a completion queue entry (3.3.3.2).
 * @result:	of the command
 * @sq_head:	how far the controller has read the submission queue
 * @sq_id:	which
 * @id:		command identifier
 * @status:	phase in bit 0, status in the others
 */
struct nvme_completion {
	uint32_t result;
	uint32_t reserved;
	uint16_t sq_head;
	uint16_t sq_id;
	uint16_t id;
	uint16_t status;
};

/**
 * struct nvme_pair - a submission queue and its own completion queue.
 * @sq:		submission entries, shared
 * @cq:		completion entries, shared
 * @prepared:	by command identifier: what is copied into the submission queue; ours alone
 * @sq_doorbell: submission queue tail
 * @cq_doorbell: completion queue head
 * @entries:	of each queue; one less can be in flight
 * @sq_tail:	next entry to write
 * @cq_head:	next entry to look at
 * @phase:	of a new completion there
 * @in_flight:	commands that the controller has
 * @outstanding: by command identifier: the controller has it
 * @index:	0: admin; I/O queues from 1
 */
struct nvme_pair {
	struct nvme_command *sq;
	struct nvme_completion *cq;
	struct nvme_command *prepared;
	struct vfio_user_register sq_doorbell;
	struct vfio_user_register cq_doorbell;
	uint16_t entries;
	uint16_t sq_tail;
	uint16_t cq_head;
	uint16_t phase;
	uint16_t in_flight;
	bool *outstanding;
	uint16_t index;
};

/**
 * struct nvme_driver - a controller and its first namespace.
 * @client:	its connection and memory
 * @pairs:	queues; the first is the admin queue
 * @pair_count:	how many there are
 * @pairs_max:	I/O queues that the controller grants
 * @stride:	bytes between doorbells
 * @entries_max: of a queue
 * @timeout_ms:	how long the controller may take to become ready
 * @blocks:	of the namespace
 * @block_size:	bytes of one
 * @page:	a page for answers of admin commands
 */
struct nvme_driver {
	struct vfio_user_client client;
	struct nvme_pair pairs[NVME_DRIVER_PAIRS_MAX + 1];
	unsigned int pair_count;
	unsigned int pairs_max;
	uint32_t stride;
	uint32_t entries_max;
	int timeout_ms;
	uint64_t blocks;
	uint32_t block_size;
	uint8_t *page;
};

size_t nvme_driver_memory_size(unsigned int pairs, unsigned int entries);
int nvme_driver_attach(struct nvme_driver *driver, const struct vfio_user_client_options *options, bool interrupts);
void nvme_driver_detach(struct nvme_driver *driver);
int nvme_driver_create_pair(struct nvme_driver *driver, uint16_t entries);
int nvme_driver_admin(struct nvme_driver *driver, const struct nvme_command *command, uint32_t *result);

int nvme_pair_init(struct nvme_pair *pair, uint16_t index, uint16_t entries, struct client_memory *memory);
void nvme_pair_release(struct nvme_pair *pair);
int nvme_pair_submit(struct nvme_pair *pair, const struct driver_buffer *buffers, unsigned int count);
int nvme_pair_take(struct nvme_pair *pair, struct driver_buffer *buffers, unsigned int count);
bool nvme_pair_is_ready(const struct nvme_pair *pair);

#endif
