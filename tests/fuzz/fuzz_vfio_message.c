/* SPDX-License-Identifier: BSD-3-Clause */
#include "fuzz_vfio_message.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "fake_pci_device.h"
#include "fuzz_guest.h"

/* One byte stands for a number that matters. */
uint64_t fuzz_vfio_word(struct fuzz_input *input)
{
	static const uint64_t values[] = {
		GUEST_LOW,
		GUEST_SEAM,
		GUEST_APART,
		GUEST_LOW_SIZE,
		GUEST_HIGH_SIZE,
		GUEST_APART_SIZE,
		GUEST_FILE_SIZE,
		GUEST_LOW_SIZE + GUEST_HIGH_SIZE,
		4096,
		8192,
		4095,
		4097,
		FAKE_PCI_WINDOW,
		FAKE_PCI_WINDOW - 4,
		FAKE_PCI_BAR - 4,
		FAKE_PCI_DEFER,
		FAKE_PCI_RAISE,
		FAKE_PCI_PIN,
		UINT64_MAX,
		UINT64_MAX - 4095,
		INT64_MAX,
		UINT32_MAX,
		1ULL << 32,
		0xffff,
		1U << 20,
		VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK,
		VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
		VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_ACTION_TRIGGER,
		VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
		0x460001, /* NVMe: enable */
		0x78,	  /* device control, where function level resets are asked for */
	};
	uint8_t form = fuzz_u8(input);

	if (form < 0x80)
		return form % 72U;
	if (form < 0xe0)
		return values[(form - 0x80U) % array_size(values)];
	return form < 0xf0 ? fuzz_u16(input) : fuzz_u64(input);
}

/* Words in the order and of the widths that the message has. Return: the size that goes with them. */
uint32_t fuzz_vfio_payload(uint16_t command, union vfio_user_payload *payload, const struct vfio_user_memory *memory,
			   struct fuzz_input *input)
{
	uint32_t count;

	switch (command) {
	case VFIO_USER_VERSION:
		payload->version.major = (uint16_t)(fuzz_u8(input) / 255U);
		payload->version.minor = fuzz_u8(input);
		count = fuzz_u8(input);
		fuzz_bytes(input, payload->version.data, count);
		return 4 + count;
	case VFIO_USER_DMA_MAP:
		payload->map.argsz = 32;
		payload->map.flags = fuzz_u8(input) & 0x83 ? 3 : (uint32_t)fuzz_vfio_word(input);
		payload->map.offset = fuzz_vfio_word(input);
		payload->map.address = fuzz_vfio_word(input) << (fuzz_u8(input) & 1 ? 0 : 12);
		payload->map.size = fuzz_vfio_word(input);
		return 32;
	case VFIO_USER_DMA_UNMAP:
		payload->unmap.argsz = 24;
		payload->unmap.flags = fuzz_u8(input) & 0x8f ? 0 : (uint32_t)fuzz_vfio_word(input);
		payload->unmap.address = fuzz_vfio_word(input);
		payload->unmap.size = fuzz_vfio_word(input);
		count = fuzz_u8(input); /* mostly one that is there */
		if (count & 3 && memory->map_count) {
			const struct vfio_user_map *map = &memory->maps[count % memory->map_count];

			payload->unmap.address = map->address;
			payload->unmap.size = map->size;
		}
		return 24;
	case VFIO_USER_DEVICE_SET_IRQS:
		payload->irqs.argsz = 20;
		payload->irqs.flags = (uint32_t)fuzz_vfio_word(input);
		payload->irqs.index = (uint32_t)fuzz_vfio_word(input);
		payload->irqs.start = (uint32_t)fuzz_vfio_word(input);
		payload->irqs.count = (uint32_t)fuzz_vfio_word(input);
		count = payload->irqs.flags & VFIO_IRQ_SET_DATA_BOOL ? min(payload->irqs.count, 64U) : 0;
		fuzz_bytes(input, payload->irqs.booleans, count);
		return 20 + count;
	case VFIO_USER_REGION_READ:
	case VFIO_USER_REGION_WRITE:
		payload->access.offset = fuzz_vfio_word(input);
		payload->access.region = (uint32_t)fuzz_vfio_word(input);
		payload->access.count = (uint32_t)fuzz_vfio_word(input);
		if (command == VFIO_USER_REGION_READ)
			return 16;
		count = min(payload->access.count, VFIO_USER_TRANSFER_MAX);
		fuzz_bytes(input, payload->access.data, min(count, 16U));
		return 16 + count;
	case VFIO_USER_REGION_WRITE_MULTI:
		count = fuzz_u8(input) % 12U;
		payload->multi.count = count;
		for (unsigned i = 0; i < count; i++) {
			payload->multi.writes[i].offset = fuzz_vfio_word(input);
			payload->multi.writes[i].region = (uint32_t)fuzz_vfio_word(input) % 10U;
			payload->multi.writes[i].count = fuzz_u8(input) % 10U;
			fuzz_bytes(input, payload->multi.writes[i].data, 8);
		}
		return 8 + 24 * count;
	case VFIO_USER_DEVICE_RESET:
		return 0;
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		payload->region.info.argsz = (uint32_t)fuzz_vfio_word(input);
		payload->region.info.index = (uint32_t)fuzz_vfio_word(input);
		return 32;
	default:
		payload->device.argsz = (uint32_t)fuzz_vfio_word(input);
		payload->device.num_regions = (uint32_t)fuzz_vfio_word(input); /* the index of others */
		return 16;
	}
}

/* A reply as it comes: in pieces, when the socket was full. */
static struct {
	struct vfio_user_header header;
	uint8_t payload[VFIO_USER_PAYLOAD_MAX];
} reply;
static size_t reply_have;

/* One file at most, with the first byte. */
static void close_reply_fd(struct msghdr *header)
{
	struct cmsghdr *message = CMSG_FIRSTHDR(header);
	int fd;

	if (!message || message->cmsg_type != SCM_RIGHTS)
		return;
	fuzz_require(!reply_have && message->cmsg_len == CMSG_LEN(sizeof(int)));
	memcpy(&fd, CMSG_DATA(message), sizeof(fd));
	close(fd);
}

static void check_reply(void)
{
	fuzz_require((reply.header.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_TYPE_REPLY);
	fuzz_require(!(reply.header.flags & ~(VFIO_USER_TYPE_MASK | VFIO_USER_ERROR)));
	fuzz_require(!!(reply.header.flags & VFIO_USER_ERROR) == !!reply.header.error);
	fuzz_require(reply.header.size >= sizeof(reply.header) && reply.header.size <= sizeof(reply));
	fuzz_require(reply.header.size == sizeof(reply.header) || !reply.header.error);
}

void fuzz_vfio_take_replies(int client)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * 8)];
		struct cmsghdr alignment;
	} control;

	for (;;) {
		bool in_header = reply_have < sizeof(reply.header);
		struct iovec part = { (uint8_t *)&reply + reply_have,
				      (in_header ? sizeof(reply.header) : reply.header.size) - reply_have };
		struct msghdr header = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
		};
		ssize_t got = recvmsg(client, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (got <= 0)
			return;
		close_reply_fd(&header);
		reply_have += (size_t)got;
		if (reply_have < sizeof(reply.header))
			continue;
		check_reply();
		if (reply_have == reply.header.size)
			reply_have = 0;
	}
}

void fuzz_vfio_forget_replies(void)
{
	reply_have = 0;
}
