/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_BLOCK_LOAD_H
#define CLIENT_BLOCK_LOAD_H

#include "client/load_clock.h"

#include <stdbool.h>
#include <stdint.h>

#define BLOCK_LOAD_DEPTH_MAX  1024
#define BLOCK_LOAD_QUEUES_MAX 64
#define BLOCK_LOAD_SIZE_MAX   (1u << 20)

/** enum block_load_device - what the disk is: virtio-blk over vhost-user, or NVMe over vfio-user. */
enum block_load_device {
	BLOCK_LOAD_VIRTIO,
	BLOCK_LOAD_NVME,
};

/**
 * struct block_load_options - a load.
 * @device:		what the disk is; what follows about rings is for virtio only
 * @socket_path:	its socket
 * @listen:		bind it and wait for the back-end
 * @packed:		packed rings (required then; split otherwise)
 * @event_index:	take VIRTIO_RING_F_EVENT_IDX if offered
 * @in_order:		take VIRTIO_F_IN_ORDER if offered
 * @indirect:		take VIRTIO_RING_F_INDIRECT_DESC if offered and put each request in a table
 * @trapped:		NVMe: doorbells are messages even where they can be mapped
 * @interrupts:		sleep until the device interrupts when there is nothing to do, instead of polling
 * @huge_pages:		guest memory in 2 MiB pages
 * @verify:		writes carry a pattern; reads of what was written are compared
 * @depth:		requests in flight in each queue
 * @queues:		queues
 * @block_size:		bytes of a request, a multiple of 512
 * @read_percent:	share of reads; the rest are writes
 * @span:		bytes of the disk to use from its start; 0 means all of it
 * @seed:		of the random places
 * @seconds:		measured time
 * @warm_up:		time before that
 */
struct block_load_options {
	enum block_load_device device;
	const char *socket_path;
	bool listen;
	bool packed;
	bool event_index;
	bool in_order;
	bool indirect;
	bool trapped;
	bool interrupts;
	bool huge_pages;
	bool verify;
	uint16_t depth;
	uint16_t queues;
	uint32_t block_size;
	uint32_t read_percent;
	uint64_t span;
	uint64_t seed;
	double seconds;
	double warm_up;
};

/**
 * struct block_load_result - what came of it; of the measured time, except for the last three.
 * @seconds:		measured time
 * @requests:		requests completed
 * @bytes:		their bytes
 * @p50_ns:		median latency
 * @p99_ns:		99th percentile
 * @maximum_ns:		worst
 * @polls:		what our loop did
 * @cycles_per_request:	our own work, cycles
 * @busy_share:		fraction of our turns that found work
 * @kicks:		kicks that the device asked for, and doorbells that were messages
 * @waits:		times that we slept until an interrupt came
 * @errors:		requests with a status other than OK
 * @verified:		reads whose content was compared
 * @mismatches:		of those, reads that were wrong
 * @error:		the reason in words after a negative return
 */
struct block_load_result {
	double seconds;
	uint64_t requests;
	uint64_t bytes;
	uint64_t p50_ns;
	uint64_t p99_ns;
	uint64_t maximum_ns;
	struct load_polls polls;
	double cycles_per_request;
	double busy_share;
	uint64_t kicks;
	uint64_t waits;
	uint64_t errors;
	uint64_t verified;
	uint64_t mismatches;
	char error[192];
};

int block_load_run(const struct block_load_options *options, const struct load_hooks *hooks,
		   struct block_load_result *result);

#endif
