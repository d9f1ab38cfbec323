/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vfio-user messages as they are on the wire (vfio-user Protocol Specification, version 0.9.2; section titles in quotes):
 * little-endian, which this is compiled for only. Which of them are served, and how: transport/vfio_user/messages.c.
 */
#ifndef TRANSPORT_VFIO_USER_MESSAGE_H
#define TRANSPORT_VFIO_USER_MESSAGE_H

#include <linux/vfio.h>
#include <stdint.h>

#include "base/disposal.h"

enum vfio_user_command {
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP = 2,
	VFIO_USER_DMA_UNMAP = 3,
	VFIO_USER_DEVICE_GET_INFO = 4,
	VFIO_USER_DEVICE_GET_REGION_INFO = 5,
	VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6,
	VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
	VFIO_USER_DEVICE_SET_IRQS = 8,
	VFIO_USER_REGION_READ = 9,
	VFIO_USER_REGION_WRITE = 10,
	VFIO_USER_DMA_READ = 11, /* server to client, as the next */
	VFIO_USER_DMA_WRITE = 12,
	VFIO_USER_DEVICE_RESET = 13,
	VFIO_USER_DIRTY_PAGES = 14, /* of drafts; its place was taken by DEVICE_FEATURE */
	VFIO_USER_REGION_WRITE_MULTI = 15,
	VFIO_USER_DEVICE_FEATURE = 16,
	VFIO_USER_MIG_DATA_READ = 17,
	VFIO_USER_MIG_DATA_WRITE = 18,
	VFIO_USER_COMMANDS,
};

struct vfio_user_header {
	uint16_t id;
	uint16_t command;
	uint32_t size; /* with the header */
	uint32_t flags;
	uint32_t error; /* of replies: an errno, positive */
};

#define VFIO_USER_TYPE_MASK    0xfU
#define VFIO_USER_TYPE_COMMAND 0x0U
#define VFIO_USER_TYPE_REPLY   0x1U
#define VFIO_USER_NO_REPLY     (1U << 4)
#define VFIO_USER_ERROR	       (1U << 5)

#define VFIO_USER_MAJOR 0U
#define VFIO_USER_MINOR 1U

/*
 * What we tell the client that we take at a time. QEMU treats more than 16 descriptors as a mistake; other clients do
 * not ask and send as many as a device has vectors, which the kernel bounds (RIGHTS_MAX). 4096 bytes are a
 * configuration space.
 */
#define VFIO_USER_FDS_OFFERED	16U
#define VFIO_USER_FDS_MAX	RIGHTS_MAX
#define VFIO_USER_TRANSFER_MAX	4096U
#define VFIO_USER_PAGE_SIZE	4096U
#define VFIO_USER_VERSION_BYTES 2048U
#define VFIO_USER_WRITES_MAX	200U /* of one REGION_WRITE_MULTI; what QEMU has room for */

struct vfio_user_version {
	uint16_t major;
	uint16_t minor;
	char data[VFIO_USER_VERSION_BYTES]; /* JSON, with the NUL */
};

struct vfio_user_dma_map {
	uint32_t argsz;
	uint32_t flags;
	uint64_t offset;
	uint64_t address;
	uint64_t size;
};

#define VFIO_USER_DMA_READABLE	(1U << 0)
#define VFIO_USER_DMA_WRITEABLE (1U << 1)

struct vfio_user_dma_unmap {
	uint32_t argsz;
	uint32_t flags; /* VFIO_DMA_UNMAP_FLAG_... */
	uint64_t address;
	uint64_t size;
};

/** What follows struct vfio_user_dma_unmap when a bitmap is asked for. */
#define VFIO_USER_BITMAP_SIZE 16U

struct vfio_user_device_info {
	uint32_t argsz;
	uint32_t flags;
	uint32_t num_regions;
	uint32_t num_irqs;
};

/** struct vfio_user_region_info - the reply to DEVICE_GET_REGION_INFO with the one capability that there is. */
struct vfio_user_region_info {
	struct vfio_region_info info;
	struct vfio_info_cap_header capability;
	uint32_t area_count;
	uint32_t reserved;
	struct vfio_region_sparse_mmap_area areas[8];
};

struct vfio_user_region_io_fds {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t count;
};

/** struct vfio_user_irq_set - DEVICE_SET_IRQS; booleans follow when flags say so. */
struct vfio_user_irq_set {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t start;
	uint32_t count;
	uint8_t booleans[];
};

struct vfio_user_region_access {
	uint64_t offset;
	uint32_t region;
	uint32_t count;
	uint8_t data[];
};

struct vfio_user_single_write {
	uint64_t offset;
	uint32_t region;
	uint32_t count;
	uint8_t data[8];
};

struct vfio_user_write_multi {
	uint64_t count;
	struct vfio_user_single_write writes[VFIO_USER_WRITES_MAX];
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire format");
_Static_assert(sizeof(struct vfio_user_header) == 16, "wire format");
_Static_assert(sizeof(struct vfio_user_dma_map) == 32, "wire format");
_Static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "wire format");
_Static_assert(sizeof(struct vfio_user_device_info) == 16, "wire format");
_Static_assert(sizeof(struct vfio_region_info) == 32, "wire format");
_Static_assert(sizeof(struct vfio_user_region_info) == 32 + 16 + 8 * 16, "wire format");
_Static_assert(sizeof(struct vfio_irq_info) == 16, "wire format");
_Static_assert(sizeof(struct vfio_user_irq_set) == 20, "wire format");
_Static_assert(sizeof(struct vfio_user_region_access) == 16, "wire format");
_Static_assert(sizeof(struct vfio_user_write_multi) == 8 + VFIO_USER_WRITES_MAX * 24, "wire format");

/** The largest payloads: data of an access with its description, or many short writes. */
#define VFIO_USER_PAYLOAD_MAX 4808U

union vfio_user_payload {
	struct vfio_user_version version;
	struct vfio_user_dma_map map;
	struct vfio_user_dma_unmap unmap;
	struct vfio_user_device_info device;
	struct vfio_user_region_info region;
	struct vfio_user_region_io_fds region_io_fds;
	struct vfio_irq_info irq;
	struct vfio_user_irq_set irqs;
	struct vfio_user_region_access access;
	struct vfio_user_write_multi multi;
	uint8_t bytes[VFIO_USER_PAYLOAD_MAX];
};

_Static_assert(sizeof(union vfio_user_payload) == VFIO_USER_PAYLOAD_MAX, "room for all of them, and no more");

/** struct vfio_user_message - a message that has been received, checked against its row, or a reply. */
struct vfio_user_message {
	struct vfio_user_header header;
	uint32_t size; /* of the payload */
	union vfio_user_payload payload;
	int fds[VFIO_USER_FDS_MAX]; /* a handler that keeps one puts -1 there; the rest is closed after it */
	unsigned fd_count;
};

#endif
