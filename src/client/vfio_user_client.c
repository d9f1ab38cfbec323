/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vfio-user client: what QEMU's vfio-user-pci is to a server, without a machine around it.
 *
 * Theory of operation
 * -------------------
 * Order of attaching, as QEMU does it: VERSION, DMA_MAP of guest memory, DEVICE_GET_INFO, DEVICE_GET_REGION_INFO of each
 * region (asked again with more room where it has capabilities), DEVICE_RESET, and bus mastering enabled in the
 * configuration space. Guest memory is one memfd and one mapping.
 *
 * The areas that a region offers for mapping are mapped one by one, at the file's offset of the region plus the
 * area's. Accesses there are loads and stores; all others are messages. If nothing is mapped writes are posted: they want no
 * reply, and the order of the socket is what keeps them in order. With any mapping that order says nothing about
 * stores, so each write waits for its answer, as in QEMU.
 *
 * Messages that the server sends of its own (DMA_READ, DMA_WRITE) are for servers that cannot map memory: an error here.
 * Context: one thread for each client.
 */
#include "client/vfio_user_client.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT 5000
#define PAYLOAD_MAX	512
#define REGION_DATA_MAX (PAYLOAD_MAX - sizeof(struct region_access))

/* vfio-user "Command Specification" */
enum {
	VERSION = 1,
	DMA_MAP = 2,
	DEVICE_GET_INFO = 4,
	DEVICE_GET_REGION_INFO = 5,
	DEVICE_SET_IRQS = 8,
	REGION_READ = 9,
	REGION_WRITE = 10,
	DEVICE_RESET = 13,
};

/* vfio-user "Message Format": type in bits 0-3 */
#define FLAGS_REPLY	1u
#define FLAGS_TYPE_MASK 0xfu
#define FLAGS_NO_REPLY	(1u << 4)
#define FLAGS_ERROR	(1u << 5)

struct header {
	uint16_t id;
	uint16_t command;
	uint32_t size;
	uint32_t flags;
	uint32_t error;
};

struct message {
	struct header header;
	uint8_t payload[PAYLOAD_MAX];
};

struct version {
	uint16_t major, minor;
	char capabilities[128];
};

struct dma_map {
	uint32_t argsz, flags;
	uint64_t offset, address, size;
};

struct region_access {
	uint64_t offset;
	uint32_t region, count;
};

__attribute__((format(printf, 3, 4))) static int fail(struct vfio_user_client *client, int error, const char *format,
						      ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(client->error, sizeof(client->error), format, arguments);
	va_end(arguments);

	return error;
}

static const char *command_name(uint16_t command)
{
	static const char *const names[] = {
		[VERSION] = "VERSION",
		[DMA_MAP] = "DMA_MAP",
		[DEVICE_GET_INFO] = "DEVICE_GET_INFO",
		[DEVICE_GET_REGION_INFO] = "DEVICE_GET_REGION_INFO",
		[DEVICE_SET_IRQS] = "DEVICE_SET_IRQS",
		[REGION_READ] = "REGION_READ",
		[REGION_WRITE] = "REGION_WRITE",
		[DEVICE_RESET] = "DEVICE_RESET",
	};

	return command < sizeof(names) / sizeof(names[0]) && names[command] ? names[command] : "message";
}

/* ---- the socket ---- */

static int send_message(struct vfio_user_client *client, const struct message *message, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iovec = { .iov_base = (void *)(uintptr_t)message, .iov_len = message->header.size };
	struct msghdr header = { .msg_iov = &iovec, .msg_iovlen = 1 };
	const char *name = command_name(message->header.command);
	ssize_t sent;

	if (fd >= 0) {
		header.msg_control = control.space;
		header.msg_controllen = sizeof(control.space);
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
	}
	do {
		sent = sendmsg(client->socket, &header, MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);

	if (sent < 0)
		return fail(client, -errno, "%s: send: %s", name, strerror(errno));
	if (sent != (ssize_t)message->header.size)
		return fail(client, -EIO, "%s: sent %zd of %u bytes", name, sent, message->header.size);
	client->messages++;

	return 0;
}

/* @fd (may be NULL) receives a descriptor that came along. */
static int receive_exactly(struct vfio_user_client *client, void *data, size_t size, const char *name, int *fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	size_t done = 0;

	while (done < size) {
		struct pollfd pollfd = { .fd = client->socket, .events = POLLIN };
		struct iovec iovec = { .iov_base = (uint8_t *)data + done, .iov_len = size - done };
		struct msghdr header = { .msg_iov = &iovec,
					 .msg_iovlen = 1,
					 .msg_control = control.space,
					 .msg_controllen = sizeof(control.space) };
		struct cmsghdr *extra;
		ssize_t received;
		int ready = poll(&pollfd, 1, client->timeout_ms);

		if (ready < 0 && errno == EINTR)
			continue;
		if (ready == 0)
			return fail(client, -ETIMEDOUT, "%s: no answer in %d ms", name, client->timeout_ms);
		received = recvmsg(client->socket, &header, MSG_CMSG_CLOEXEC);
		if (received < 0 && errno == EINTR)
			continue;
		if (received < 0)
			return fail(client, -errno, "%s: receive: %s", name, strerror(errno));
		if (received == 0)
			return fail(client, -ECONNRESET, "%s: the server closed the connection", name);
		done += (size_t)received;

		extra = CMSG_FIRSTHDR(&header);
		if (extra && extra->cmsg_type == SCM_RIGHTS) {
			int got;

			memcpy(&got, CMSG_DATA(extra), sizeof(got));
			if (fd && *fd < 0)
				*fd = got;
			else
				close(got);
		}
	}

	return 0;
}

static int receive_reply(struct vfio_user_client *client, struct message *message, int *fd)
{
	uint16_t id = message->header.id, command = message->header.command;
	const char *name = command_name(command);
	int error = receive_exactly(client, &message->header, sizeof(message->header), name, fd);

	if (error)
		return error;
	if (message->header.id != id || message->header.command != command ||
	    (message->header.flags & FLAGS_TYPE_MASK) != FLAGS_REPLY)
		return fail(client, -EPROTO, "%s: answered by message %u, command %u, flags 0x%x", name,
			    message->header.id, message->header.command, message->header.flags);
	if (message->header.size < sizeof(message->header) || message->header.size > sizeof(*message))
		return fail(client, -EPROTO, "%s: reply of %u bytes", name, message->header.size);

	error = receive_exactly(client, message->payload, message->header.size - sizeof(message->header), name, fd);
	if (!error && message->header.flags & FLAGS_ERROR)
		return fail(client, -EREMOTEIO, "%s: refused: %s", name, strerror((int)message->header.error));

	return error;
}

static void begin(struct vfio_user_client *client, struct message *message, uint16_t command, const void *payload,
		  size_t size)
{
	message->header = (struct header){ .id = client->next_id++,
					   .command = command,
					   .size = (uint32_t)(sizeof(message->header) + size) };
	if (size)
		memcpy(message->payload, payload, size);
}

/*
 * Sends @payload and waits for the answer, which has @answer_size bytes at least and is left in @message.
 * @fd: sent along, unless -1; @got (may be NULL): receives a descriptor of the answer, -1: none came.
 */
static int ask(struct vfio_user_client *client, struct message *message, uint16_t command, const void *payload,
	       size_t size, int fd, size_t answer_size, int *got)
{
	int error;

	if (got)
		*got = -1;
	begin(client, message, command, payload, size);
	error = send_message(client, message, fd);
	if (!error)
		error = receive_reply(client, message, got);
	if (!error && message->header.size < sizeof(message->header) + answer_size)
		error = fail(client, -EPROTO, "%s: reply of %u bytes", command_name(command), message->header.size);
	if (error && got && *got >= 0) {
		close(*got);
		*got = -1;
	}

	return error;
}

static int open_socket(struct vfio_user_client *client, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timespec pause = { .tv_nsec = 20000000 };
	int tries = client->timeout_ms / 20 + 1;

	if (strlen(path) >= sizeof(address.sun_path))
		return fail(client, -ENAMETOOLONG, "socket path longer than %zu bytes", sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path));
	client->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->socket < 0)
		return fail(client, -errno, "socket: %s", strerror(errno));

	/* A server that is just starting has no socket yet, or has bound it and does not listen. */
	while (connect(client->socket, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		if ((errno != ENOENT && errno != ECONNREFUSED) || --tries <= 0)
			return fail(client, -errno, "connect to %s: %s", path, strerror(errno));
		nanosleep(&pause, NULL);
	}

	return 0;
}

/* ---- attach and detach ---- */

static int negotiate(struct vfio_user_client *client)
{
	struct version version = { .major = 0,
				   .minor = 0,
				   .capabilities =
					   "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576,"
					   "\"pgsizes\":4096}}" };
	size_t size = offsetof(struct version, capabilities) + strlen(version.capabilities) + 1;
	struct message message;
	int error = ask(client, &message, VERSION, &version, size, -1, offsetof(struct version, capabilities), NULL);

	if (error)
		return error;
	memcpy(&version, message.payload, offsetof(struct version, capabilities));
	if (version.major != 0)
		return fail(client, -EPROTO, "the server speaks version %u.%u", version.major, version.minor);

	return 0;
}

static int share_memory(struct vfio_user_client *client)
{
	struct dma_map map = { .argsz = sizeof(map),
			       .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
			       .address = CLIENT_MEMORY_BASE,
			       .size = client->memory.size };
	struct message message;

	return ask(client, &message, DMA_MAP, &map, sizeof(map), client->memory.fd, 0, NULL);
}

static int map_area(struct vfio_user_client *client, struct vfio_user_client_region *region, uint64_t file_offset,
		    uint64_t offset, uint64_t size, int fd)
{
	struct vfio_user_client_area *area = &region->areas[region->area_count];
	void *base;

	if (region->area_count == VFIO_USER_CLIENT_AREAS || offset > region->size || size > region->size - offset)
		return fail(client, -EPROTO, "a region of %llu bytes with an area at 0x%llx of 0x%llx",
			    (unsigned long long)region->size, (unsigned long long)offset, (unsigned long long)size);
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)(file_offset + offset));
	if (base == MAP_FAILED)
		return fail(client, -errno, "map 0x%llx of a region: %s", (unsigned long long)offset, strerror(errno));
	*area = (struct vfio_user_client_area){ .offset = offset, .size = size, .base = base };
	region->area_count++;

	return 0;
}

/* The capability that lists areas; without one all of the region can be mapped. @payload: @size bytes of the answer. */
static int map_areas(struct vfio_user_client *client, struct vfio_user_client_region *region, const uint8_t *payload,
		     size_t size, int fd)
{
	struct vfio_region_info info;
	uint32_t at;

	memcpy(&info, payload, sizeof(info));
	at = info.flags & VFIO_REGION_INFO_FLAG_CAPS ? info.cap_offset : 0;
	for (unsigned int hops = 0; at && hops < 8; hops++) {
		struct vfio_region_info_cap_sparse_mmap sparse;

		if (at > size || size - at < sizeof(sparse.header))
			return fail(client, -EPROTO, "region capability at %u of %zu bytes", at, size);
		memcpy(&sparse.header, payload + at, sizeof(sparse.header));
		if (sparse.header.id != VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
			at = sparse.header.next;
			continue;
		}
		if (size - at < sizeof(sparse))
			return fail(client, -EPROTO, "region capability at %u of %zu bytes", at, size);
		memcpy(&sparse, payload + at, sizeof(sparse));
		at += (uint32_t)sizeof(sparse);
		for (uint32_t i = 0; i < sparse.nr_areas;
		     i++, at += (uint32_t)sizeof(struct vfio_region_sparse_mmap_area)) {
			struct vfio_region_sparse_mmap_area area;
			int error;

			if (size - at < sizeof(area))
				return fail(client, -EPROTO, "%u areas in %zu bytes", sparse.nr_areas, size);
			memcpy(&area, payload + at, sizeof(area));
			error = map_area(client, region, info.offset, area.offset, area.size, fd);
			if (error)
				return error;
		}
		return 0;
	}

	return map_area(client, region, info.offset, 0, info.size, fd);
}

static int read_region(struct vfio_user_client *client, unsigned int index, bool trapped)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = index };
	struct vfio_user_client_region *region = &client->regions[index];
	struct message message;
	int error, fd;

	error = ask(client, &message, DEVICE_GET_REGION_INFO, &info, sizeof(info), -1, sizeof(info), &fd);
	if (error)
		return error;
	memcpy(&info, message.payload, sizeof(info));
	if (info.argsz > sizeof(info) && info.argsz <= PAYLOAD_MAX) {
		struct vfio_region_info again = { .argsz = info.argsz, .index = index };

		if (fd >= 0)
			close(fd);
		error = ask(client, &message, DEVICE_GET_REGION_INFO, &again, sizeof(again), -1, sizeof(info), &fd);
		if (error)
			return error;
		memcpy(&info, message.payload, sizeof(info));
	}
	region->size = info.size;
	region->flags = info.flags;
	if (!trapped && info.flags & VFIO_REGION_INFO_FLAG_MMAP && fd >= 0)
		error = map_areas(client, region, message.payload, message.header.size - sizeof(message.header), fd);
	if (region->area_count)
		client->posted = false;
	if (fd >= 0)
		close(fd);

	return error;
}

static int read_device(struct vfio_user_client *client, bool trapped)
{
	struct vfio_device_info info = { .argsz = offsetof(struct vfio_device_info, cap_offset) };
	struct message message;
	int error = ask(client, &message, DEVICE_GET_INFO, &info, info.argsz, -1, info.argsz, NULL);

	if (error)
		return error;
	memcpy(&info, message.payload, offsetof(struct vfio_device_info, cap_offset));
	if (!(info.flags & VFIO_DEVICE_FLAGS_PCI) || info.num_regions < VFIO_PCI_CONFIG_REGION_INDEX + 1)
		return fail(client, -ENODEV, "not a PCI device: flags 0x%x, %u regions", info.flags, info.num_regions);

	for (unsigned int i = 0; !error && i < info.num_regions && i < VFIO_USER_CLIENT_REGIONS; i++)
		error = read_region(client, i, trapped);

	return error;
}

/**
 * vfio_user_client_reset() - DEVICE_RESET, then memory and bus mastering enabled.
 * @client:	attached client
 *
 * Return: 0, or a negative errno with the reason in @client->error.
 */
int vfio_user_client_reset(struct vfio_user_client *client)
{
	const uint16_t command = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	struct message message;
	int error = ask(client, &message, DEVICE_RESET, NULL, 0, -1, 0, NULL);

	if (!error)
		error = vfio_user_client_write(client, VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, &command,
					       sizeof(command));

	return error;
}

/**
 * vfio_user_client_attach() - connect, negotiate, share memory, learn what the device has, reset it.
 * @client:	written from scratch; detach it whatever this returns
 * @options:	how
 *
 * Return: 0, or a negative errno with the reason in @client->error.
 */
int vfio_user_client_attach(struct vfio_user_client *client, const struct vfio_user_client_options *options)
{
	int error;

	*client = (struct vfio_user_client){ .socket = -1, .memory.fd = -1, .posted = true };
	client->timeout_ms = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT;

	error = client_memory_create(&client->memory, options->memory_size, options->huge_pages, client->error,
				     sizeof(client->error));
	if (!error)
		error = open_socket(client, options->socket_path);
	if (!error)
		error = negotiate(client);
	if (!error)
		error = share_memory(client);
	if (!error)
		error = read_device(client, options->trapped);
	if (!error)
		error = vfio_user_client_reset(client);

	return error;
}

/**
 * vfio_user_client_detach() - close the connection and give everything back.
 * @client:	attached, or half attached by a failed vfio_user_client_attach()
 */
void vfio_user_client_detach(struct vfio_user_client *client)
{
	if (client->socket >= 0)
		close(client->socket);
	client->socket = -1;
	for (unsigned int i = 0; i < VFIO_USER_CLIENT_REGIONS; i++) {
		struct vfio_user_client_region *region = &client->regions[i];

		while (region->area_count > 0) {
			region->area_count--;
			munmap(region->areas[region->area_count].base, region->areas[region->area_count].size);
		}
	}
	while (client->event_count > 0)
		close(client->events[--client->event_count]);
	client_memory_release(&client->memory);
}

/* ---- registers ---- */

static uint8_t *mapped_at(const struct vfio_user_client_region *region, uint64_t offset, uint32_t size)
{
	for (unsigned int i = 0; i < region->area_count; i++) {
		const struct vfio_user_client_area *area = &region->areas[i];

		if (offset >= area->offset && size <= area->size && offset - area->offset <= area->size - size)
			return area->base + (offset - area->offset);
	}

	return NULL;
}

/**
 * vfio_user_client_read() - read from a region by message, mapped or not.
 * @client:	attached client
 * @region:	index
 * @offset:	first byte
 * @data:	receives the bytes
 * @size:	how many
 *
 * Return: 0, or a negative errno with the reason in @client->error.
 */
int vfio_user_client_read(struct vfio_user_client *client, unsigned int region, uint64_t offset, void *data,
			  uint32_t size)
{
	struct region_access access = { .offset = offset, .region = region, .count = size };
	struct message message;
	int error;

	if (size > REGION_DATA_MAX)
		return fail(client, -EINVAL, "REGION_READ of %u bytes", size);
	error = ask(client, &message, REGION_READ, &access, sizeof(access), -1, sizeof(access) + size, NULL);
	if (!error)
		memcpy(data, message.payload + sizeof(access), size);

	return error;
}

/**
 * vfio_user_client_write() - write to a region by message, mapped or not.
 * @client:	attached client
 * @region:	index
 * @offset:	first byte
 * @data:	bytes
 * @size:	how many
 *
 * Configuration space and ports are never posted, as in QEMU.
 *
 * Return: 0, or a negative errno with the reason in @client->error.
 */
int vfio_user_client_write(struct vfio_user_client *client, unsigned int region, uint64_t offset, const void *data,
			   uint32_t size)
{
	struct region_access access = { .offset = offset, .region = region, .count = size };
	bool posted = client->posted && region < VFIO_PCI_CONFIG_REGION_INDEX;
	struct message message;
	int error;

	if (size > REGION_DATA_MAX)
		return fail(client, -EINVAL, "REGION_WRITE of %u bytes", size);
	begin(client, &message, REGION_WRITE, &access, sizeof(access));
	memcpy(message.payload + sizeof(access), data, size);
	message.header.size += size;
	if (posted)
		message.header.flags |= FLAGS_NO_REPLY;
	error = send_message(client, &message, -1);
	if (!error && !posted)
		error = receive_reply(client, &message, NULL);

	return error;
}

/**
 * vfio_user_client_read32() - read a register of BAR 0, from its mapping if it has one.
 * @client:	attached client
 * @offset:	of the register
 * @value:	receives it
 *
 * Return: 0, or a negative errno with the reason in @client->error.
 */
int vfio_user_client_read32(struct vfio_user_client *client, uint32_t offset, uint32_t *value)
{
	const uint32_t *mapped = (const uint32_t *)mapped_at(&client->regions[0], offset, sizeof(*value));

	if (!mapped)
		return vfio_user_client_read(client, 0, offset, value, sizeof(*value));
	*value = __atomic_load_n(mapped, __ATOMIC_ACQUIRE);

	return 0;
}

/**
 * vfio_user_client_write32() - write a register of BAR 0, in its mapping if it has one.
 * @client:	attached client
 * @offset:	of the register
 * @value:	to be written
 *
 * Return: 0, or a negative errno with the reason in @client->error.
 */
int vfio_user_client_write32(struct vfio_user_client *client, uint32_t offset, uint32_t value)
{
	uint32_t *mapped = (uint32_t *)mapped_at(&client->regions[0], offset, sizeof(value));

	if (!mapped)
		return vfio_user_client_write(client, 0, offset, &value, sizeof(value));
	__atomic_store_n(mapped, value, __ATOMIC_RELEASE);

	return 0;
}

/**
 * vfio_user_client_register() - find a register of BAR 0 once, to write it often.
 * @client:	attached client; outlives what is returned
 * @offset:	of the register
 *
 * Return: for vfio_user_register_store().
 */
struct vfio_user_register vfio_user_client_register(struct vfio_user_client *client, uint32_t offset)
{
	return (struct vfio_user_register){ .mapped = (uint32_t *)mapped_at(&client->regions[0], offset,
									    sizeof(uint32_t)),
					    .client = client,
					    .offset = offset };
}

/* ---- interrupts ---- */

static int set_irqs(struct vfio_user_client *client, uint32_t flags, unsigned int index, unsigned int vector, int fd)
{
	const struct vfio_irq_set set = {
		.argsz = sizeof(set), .flags = flags, .index = index, .start = vector, .count = 1
	};
	struct message message;

	return ask(client, &message, DEVICE_SET_IRQS, &set, sizeof(set), fd, 0, NULL);
}

/**
 * vfio_user_client_enable_interrupts() - give the device an eventfd for each vector, one message each as QEMU does.
 * @client:	attached client
 * @index:	VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX or VFIO_PCI_MSIX_IRQ_INDEX
 * @count:	vectors, from 0
 *
 * Return: 0, or a negative errno with the reason in @client->error.
 */
int vfio_user_client_enable_interrupts(struct vfio_user_client *client, unsigned int index, unsigned int count)
{
	if (count > VFIO_USER_CLIENT_EVENTS || client->event_count)
		return fail(client, -EINVAL, "%u vectors", count);

	for (unsigned int i = 0; i < count; i++) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		int error;

		if (fd < 0)
			return fail(client, -errno, "eventfd: %s", strerror(errno));
		client->events[client->event_count++] = fd;
		error = set_irqs(client, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, index, i, fd);
		if (error)
			return error;
	}

	return 0;
}

/**
 * vfio_user_client_unmask_pin() - end of interrupt: the pin may be signalled again.
 * @client:	attached client
 *
 * Return: 0, or a negative errno with the reason in @client->error.
 */
int vfio_user_client_unmask_pin(struct vfio_user_client *client)
{
	return set_irqs(client, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX, 0, -1);
}
