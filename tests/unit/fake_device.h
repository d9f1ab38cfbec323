/* SPDX-License-Identifier: BSD-3-Clause */
/* A virtio device that does nothing but remember what it was asked. Runs on the fake engine. */
#ifndef TESTS_FAKE_DEVICE_H
#define TESTS_FAKE_DEVICE_H

#include "device/virtio_device.h"

#define FAKE_DEVICE_QUEUES 4U
#define FAKE_DEVICE_CONFIG 24U

struct fake_device {
	struct virtio_device device;
	struct virtio_device_ops ops;
	uint8_t config[FAKE_DEVICE_CONFIG]; /* the last 8 bytes can be written */
	unsigned started, running, unpublished, stopped, polls, resets, acks;
	int start_error;
	bool unpolled; /* odd queues are not polled */
	uint16_t mtu;
	uint8_t announced[6];
	/* at the last queue_start */
	const struct guest_memory *memory;
};

/** fake_device_init() - @device_id: VIRTIO_ID_NET (with set_mtu and announce) or VIRTIO_ID_BLOCK */
void fake_device_init(struct fake_device *fake, uint16_t device_id);
void fake_device_release(struct fake_device *fake);

#endif
