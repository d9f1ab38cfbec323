/* SPDX-License-Identifier: BSD-3-Clause */
/* virtio-blk device model (virtio 1.3 5.2). Theory of operation: device/virtio_blk.c. */
#ifndef DEVICE_VIRTIO_BLK_H
#define DEVICE_VIRTIO_BLK_H

#include "block/block.h"
#include "device/virtio_device.h"

#define VIRTIO_BLK_QUEUES_MAX 16U

struct virtio_blk_options {
	const char *name;
	uint16_t queues;	 /* 1 to VIRTIO_BLK_QUEUES_MAX; 0: 1 */
	uint16_t queue_size_max; /* 0: 1024 */
	uint64_t features_off;	 /* feature bits not to offer, to compare and to test */
	int sidecore;		 /* -1: any; else the index of the sidecore that has all its queues */
};

struct virtio_blk_counters {
	uint64_t reads, read_bytes, writes, write_bytes, flushes, discards, write_zeroes; /* completed well */
	uint64_t errors;      /* requests that ended with VIRTIO_BLK_S_IOERR */
	uint64_t unsupported; /* with VIRTIO_BLK_S_UNSUPP */
	uint64_t starved;     /* turns cut short because no memory for segments was free */
};

/** virtio_blk_create() - make a device on @disk, which must outlive it. Return: 0, -EINVAL (options), -ENOMEM. */
int virtio_blk_create(const struct virtio_blk_options *options, struct engine *engine, struct disk *disk,
		      struct virtio_device **device);

/** virtio_blk_destroy() - all queues are stopped. @completion (may be NULL) runs when the device is gone. */
void virtio_blk_destroy(struct virtio_device *device, struct engine_completion *completion);

/** virtio_blk_resized() - the disk has another size: show it to the guest. Control thread. */
void virtio_blk_resized(struct virtio_device *device);

/** virtio_blk_read_counters() - any thread. */
void virtio_blk_read_counters(const struct virtio_device *device, struct virtio_blk_counters *counters);

#endif
