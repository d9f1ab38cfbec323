/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver of a virtio-net device for fuzz targets: what it does is made of the input, and is what a driver should do unless
 * the input says otherwise.
 */
#ifndef TESTS_FUZZ_NIC_H
#define TESTS_FUZZ_NIC_H

#include "device/virtio_device.h"
#include "fuzz_guard.h"
#include "fuzz_guest.h"

#define FUZZ_NICS    2U
#define FUZZ_VLAN    10U
#define FUZZ_IPV4(n) ((uint8_t[4]){ 10, 0, 0, (uint8_t)(1 + (n)) })

enum { FUZZ_RECEIVE, FUZZ_TRANSMIT, FUZZ_CONTROL, FUZZ_QUEUES };

/** fuzz_macs - the devices' addresses, broadcast, a stranger's. */
extern const uint8_t fuzz_macs[4][6];

struct fuzz_nic {
	struct guest guest;
	struct virtio_device *device;
	struct guest_queue drivers[FUZZ_QUEUES];
	unsigned number;
	const struct fuzz_nic *other;
	uint8_t form;
	bool bound;    /* to its IPv4 address */
	bool tame;     /* its driver keeps the rules, and @guard watches what the device writes */
	uint32_t sent; /* length of the last frame */
	struct write_guard guard;
};

/** fuzz_nic_send_frame() - in one piece or in uneven ones, @times times. */
void fuzz_nic_send_frame(struct fuzz_nic *nic, struct fuzz_input *input, unsigned times);

/** fuzz_nic_offer_room() - buffers to receive into, far from what is sent. */
void fuzz_nic_offer_room(struct fuzz_nic *nic, struct fuzz_input *input);

/** fuzz_nic_offer_guarded_room() - buffers that hold the other one's frames just so, or not quite. */
void fuzz_nic_offer_guarded_room(struct fuzz_nic *nic, struct fuzz_input *input);

/** fuzz_nic_send_command() - into the control queue. */
void fuzz_nic_send_command(struct fuzz_nic *nic, struct fuzz_input *input);

#endif
