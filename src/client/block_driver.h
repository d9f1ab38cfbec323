/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a block load asks of a disk's driver, whatever the disk is: virtio-blk over vhost-user or NVMe over vfio-user. The
 * functions are chosen once and move batches, so that they cost nothing for a request.
 */
#ifndef CLIENT_BLOCK_DRIVER_H
#define CLIENT_BLOCK_DRIVER_H

#include "client/block_load.h"
#include "client/client_memory.h"
#include "client/driver_buffer.h"

#define BLOCK_SECTOR 512u

/**
 * struct block_request - one request; what it is to do is the load's, the rest the driver's.
 * @data:	its data, block_load_options.block_size bytes
 * @offset:	where on the disk, bytes
 * @submitted:	when, cycles
 * @writes:	direction
 * @failed:	status of the last completion
 */
struct block_request {
	uint8_t *data;
	uint64_t offset;
	uint64_t submitted;
	bool writes;
	bool failed;
};

struct block_driver;

/**
 * struct block_driver_ops - a kind of disk.
 * @attach:	connect; size, read-only and the number of queues are known after that
 * @start_queue: make queue @index, whose requests are @requests, which have their data by then
 * @ready:	all queues are started
 * @submit:	send requests, by id, at once
 * @take:	collect what is completed. Return: how many; a negative errno
 * @arm:	ask to be told by an eventfd. Return: true if something is there already
 * @disarm:	it was; go on by polling
 * @detach:	what attach has seen, and free the driver
 */
struct block_driver_ops {
	int (*attach)(struct block_driver *driver);
	int (*start_queue)(struct block_driver *driver, unsigned int index, struct block_request *requests);
	int (*ready)(struct block_driver *driver);
	int (*submit)(struct block_driver *driver, unsigned int index, const struct driver_buffer *buffers,
		      unsigned int count);
	int (*take)(struct block_driver *driver, unsigned int index, struct driver_buffer *buffers, unsigned int count);
	bool (*arm)(struct block_driver *driver, unsigned int index);
	void (*disarm)(struct block_driver *driver, unsigned int index);
	void (*detach)(struct block_driver *driver);
};

/**
 * struct block_driver - a disk and its driver.
 * @ops:	its kind
 * @options:	of the load
 * @memory:	guest memory, after attach
 * @bytes:	of the disk, after attach
 * @read_only:	after attach
 * @queues_max:	after attach
 * @events:	by queue, after start_queue: signalled when armed
 * @kicks:	notifications that were messages or system calls
 * @error:	the reason of a negative return, never NULL
 */
struct block_driver {
	const struct block_driver_ops *ops;
	const struct block_load_options *options;
	struct client_memory *memory;
	uint64_t bytes;
	bool read_only;
	unsigned int queues_max;
	int events[BLOCK_LOAD_QUEUES_MAX];
	uint64_t kicks;
	const char *error;
};

struct block_driver *block_virtio_create(const struct block_load_options *options);
struct block_driver *block_nvme_create(const struct block_load_options *options);

#endif
