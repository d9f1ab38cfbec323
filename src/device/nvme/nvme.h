/* SPDX-License-Identifier: BSD-3-Clause */
/* NVMe controller (NVM Express 2.0, NVM command set). Theory of operation: device/nvme/nvme.c. */
#ifndef DEVICE_NVME_NVME_H
#define DEVICE_NVME_NVME_H

#include "block/block.h"
#include "device/pci/pci_device.h"

#define NVME_NAMESPACES_MAX 64U

struct nvme_options {
	const char *name;
	const char *serial;			 /* at most 20 bytes; NULL: the name */
	uint16_t queues;			 /* pairs of I/O queues offered, 1 to 64; 0: 16 */
	uint16_t queue_entries;			 /* the most of one queue; 0: 1024 */
	bool posted;				 /* do not offer the doorbells for mapping */
	int sidecore;				 /* -1: any; else the index of the sidecore that has all its queues */
	unsigned disk_count;			 /* namespaces 1 to disk_count */
	struct disk *disks[NVME_NAMESPACES_MAX]; /* outlive the device */
};

struct nvme_counters {
	uint64_t reads, read_bytes, writes, write_bytes, flushes, discards, write_zeroes, compares; /* completed well */
	uint64_t errors;       /* commands that ended with another status */
	uint64_t media_errors; /* of these, what the disk could not do */
	uint64_t admin;	       /* admin commands */
};

/** nvme_create() - a paused controller. Return: 0, -EINVAL (options), -ENOMEM, errors of pci_device_init(). */
int nvme_create(const struct nvme_options *options, struct engine *engine, struct pci_device **device);

/** nvme_destroy() - it is paused, without a transport. @completion (may be NULL) runs when it is gone. */
void nvme_destroy(struct pci_device *device, struct engine_completion *completion);

/** nvme_resized() - disks[@index] has another size: show it to the guest. Control thread. */
void nvme_resized(struct pci_device *device, unsigned index);

/** nvme_read_counters() - any thread: all namespaces together. */
void nvme_read_counters(const struct pci_device *device, struct nvme_counters *counters);

#endif
