/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The regions of a device, as its vfio-user client learns, maps and uses them.
 *
 * Theory of operation
 * -------------------
 * The areas that a region offers for mapping are mapped one by one, at the file's offset of the region plus the
 * area's. Accesses there are loads and stores; all others are messages. If nothing is mapped writes are posted: they want no
 * reply, and the order of the socket is what keeps them in order. With any mapping that order says nothing about
 * stores, so each write waits for its answer, as in QEMU.
 *
 * Context: one thread for each client.
 */
#include "client/vfio_user_client_internal.h"

#include <errno.h>
#include <linux/vfio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define REGION_DATA_MAX (PAYLOAD_MAX - sizeof(struct region_access))

struct region_access {
	uint64_t offset;
	uint32_t region, count;
};

/* ---- what there is ---- */

static int map_area(struct vfio_user_client *client, struct vfio_user_client_region *region, uint64_t file_offset,
		    uint64_t offset, uint64_t size, int fd)
{
	struct vfio_user_client_area *area = &region->areas[region->area_count];
	void *base;

	if (region->area_count == VFIO_USER_CLIENT_AREAS || offset > region->size || size > region->size - offset)
		return client_connection_fail(
			&client->connection, -EPROTO, "a region of %llu bytes with an area at 0x%llx of 0x%llx",
			(unsigned long long)region->size, (unsigned long long)offset, (unsigned long long)size);
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)(file_offset + offset));
	if (base == MAP_FAILED)
		return client_connection_fail(&client->connection, -errno, "map 0x%llx of a region: %s",
					      (unsigned long long)offset, strerror(errno));
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
			return client_connection_fail(&client->connection, -EPROTO,
						      "region capability at %u of %zu bytes", at, size);
		memcpy(&sparse.header, payload + at, sizeof(sparse.header));
		if (sparse.header.id != VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
			at = sparse.header.next;
			continue;
		}
		if (size - at < sizeof(sparse))
			return client_connection_fail(&client->connection, -EPROTO,
						      "region capability at %u of %zu bytes", at, size);
		memcpy(&sparse, payload + at, sizeof(sparse));
		at += (uint32_t)sizeof(sparse);
		for (uint32_t i = 0; i < sparse.nr_areas;
		     i++, at += (uint32_t)sizeof(struct vfio_region_sparse_mmap_area)) {
			struct vfio_region_sparse_mmap_area area;
			int error;

			if (size - at < sizeof(area))
				return client_connection_fail(&client->connection, -EPROTO, "%u areas in %zu bytes",
							      sparse.nr_areas, size);
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
	struct vfio_user_client_message message;
	int error, fd;

	error = vfio_user_client_ask(client, &message, DEVICE_GET_REGION_INFO, &info, sizeof(info), -1, sizeof(info),
				     &fd);
	if (error)
		return error;
	memcpy(&info, message.payload, sizeof(info));
	if (info.argsz > sizeof(info) && info.argsz <= PAYLOAD_MAX) {
		struct vfio_region_info again = { .argsz = info.argsz, .index = index };

		if (fd >= 0)
			close(fd);
		error = vfio_user_client_ask(client, &message, DEVICE_GET_REGION_INFO, &again, sizeof(again), -1,
					     sizeof(info), &fd);
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

int vfio_user_client_learn_regions(struct vfio_user_client *client, bool trapped)
{
	struct vfio_device_info info = { .argsz = offsetof(struct vfio_device_info, cap_offset) };
	struct vfio_user_client_message message;
	int error = vfio_user_client_ask(client, &message, DEVICE_GET_INFO, &info, info.argsz, -1, info.argsz, NULL);

	if (error)
		return error;
	memcpy(&info, message.payload, offsetof(struct vfio_device_info, cap_offset));
	if (!(info.flags & VFIO_DEVICE_FLAGS_PCI) || info.num_regions < VFIO_PCI_CONFIG_REGION_INDEX + 1)
		return client_connection_fail(&client->connection, -ENODEV, "not a PCI device: flags 0x%x, %u regions",
					      info.flags, info.num_regions);

	for (unsigned int i = 0; !error && i < info.num_regions && i < VFIO_USER_CLIENT_REGIONS; i++)
		error = read_region(client, i, trapped);

	return error;
}

void vfio_user_client_unmap_regions(struct vfio_user_client *client)
{
	for (unsigned int i = 0; i < VFIO_USER_CLIENT_REGIONS; i++) {
		struct vfio_user_client_region *region = &client->regions[i];

		while (region->area_count > 0) {
			region->area_count--;
			munmap(region->areas[region->area_count].base, region->areas[region->area_count].size);
		}
	}
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
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vfio_user_client_read(struct vfio_user_client *client, unsigned int region, uint64_t offset, void *data,
			  uint32_t size)
{
	struct region_access access = { .offset = offset, .region = region, .count = size };
	struct vfio_user_client_message message;
	int error;

	if (size > REGION_DATA_MAX)
		return client_connection_fail(&client->connection, -EINVAL, "REGION_READ of %u bytes", size);
	error = vfio_user_client_ask(client, &message, REGION_READ, &access, sizeof(access), -1, sizeof(access) + size,
				     NULL);
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
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vfio_user_client_write(struct vfio_user_client *client, unsigned int region, uint64_t offset, const void *data,
			   uint32_t size)
{
	struct region_access access = { .offset = offset, .region = region, .count = size };
	bool posted = client->posted && region < VFIO_PCI_CONFIG_REGION_INDEX;
	struct vfio_user_client_message message;
	int error;

	if (size > REGION_DATA_MAX)
		return client_connection_fail(&client->connection, -EINVAL, "REGION_WRITE of %u bytes", size);
	vfio_user_client_begin(client, &message, REGION_WRITE, &access, sizeof(access));
	memcpy(message.payload + sizeof(access), data, size);
	message.header.size += size;
	if (posted)
		message.header.flags |= FLAGS_NO_REPLY;
	error = vfio_user_client_send(client, &message, -1);
	if (!error && !posted)
		error = vfio_user_client_receive(client, &message, NULL);

	return error;
}

/**
 * vfio_user_client_read32() - read a register of BAR 0, from its mapping if it has one.
 * @client:	attached client
 * @offset:	of the register
 * @value:	receives it
 *
 * Return: 0, or a negative errno with the reason in @client->connection.error.
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
 * Return: 0, or a negative errno with the reason in @client->connection.error.
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
