/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The header in front of each frame of a tap with IFF_VNET_HDR: struct virtio_net_hdr in the host's byte order, 10
 * bytes. Pure functions on local copies.
 */
#ifndef NET_TAP_HEADER_H
#define NET_TAP_HEADER_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/virtio_net.h>

#include "net/frame.h"

/**
 * tap_header_parse() - offload state of a frame that the kernel sends us.
 * @header:	as read
 * @length:	of the frame, without the header
 * @offload:	out
 *
 * Return: false when a field does not fit the frame or the others.
 */
bool tap_header_parse(const struct virtio_net_hdr *header, uint32_t length, struct frame_offload *offload);

/** tap_header_build() - the header of @frame for the kernel. */
void tap_header_build(const struct frame *frame, struct virtio_net_hdr *header);

#endif
