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
 * What the device has, and how it is reached: client/vfio_user_client_regions.c.
 *
 * Messages that the server sends of its own (DMA_READ, DMA_WRITE) are for servers that cannot map memory: an error here.
 * Context: one thread for each client.
 */
#include "client/vfio_user_client_internal.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct version {
	uint16_t major, minor;
	char capabilities[128];
};

struct dma_map {
	uint32_t argsz, flags;
	uint64_t offset, address, size;
};

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

/* ---- messages ---- */

int vfio_user_client_send(struct vfio_user_client *client, const struct vfio_user_client_message *message, int fd)
{
	int error = client_connection_send(&client->connection, message, message->header.size, fd,
					   command_name(message->header.command));

	if (!error)
		client->messages++;

	return error;
}

int vfio_user_client_receive(struct vfio_user_client *client, struct vfio_user_client_message *message, int *fd)
{
	uint16_t id = message->header.id, command = message->header.command;
	const char *name = command_name(command);
	int error = client_connection_receive(&client->connection, &message->header, sizeof(message->header), name, fd);

	if (error)
		return error;
	if (message->header.id != id || message->header.command != command ||
	    (message->header.flags & FLAGS_TYPE_MASK) != FLAGS_REPLY)
		return client_connection_fail(&client->connection, -EPROTO,
					      "%s: answered by message %u, command %u, flags 0x%x", name,
					      message->header.id, message->header.command, message->header.flags);
	if (message->header.size < sizeof(message->header) || message->header.size > sizeof(*message))
		return client_connection_fail(&client->connection, -EPROTO, "%s: reply of %u bytes", name,
					      message->header.size);

	error = client_connection_receive(&client->connection, message->payload,
					  message->header.size - sizeof(message->header), name, fd);
	if (!error && message->header.flags & FLAGS_ERROR)
		return client_connection_fail(&client->connection, -EREMOTEIO, "%s: refused: %s", name,
					      strerror((int)message->header.error));

	return error;
}

void vfio_user_client_begin(struct vfio_user_client *client, struct vfio_user_client_message *message, uint16_t command,
			    const void *payload, size_t size)
{
	message->header = (struct vfio_user_client_header){ .id = client->next_id++,
							    .command = command,
							    .size = (uint32_t)(sizeof(message->header) + size) };
	if (size)
		memcpy(message->payload, payload, size);
}

int vfio_user_client_ask(struct vfio_user_client *client, struct vfio_user_client_message *message, uint16_t command,
			 const void *payload, size_t size, int fd, size_t answer_size, int *got)
{
	int error;

	if (got)
		*got = -1;
	vfio_user_client_begin(client, message, command, payload, size);
	error = vfio_user_client_send(client, message, fd);
	if (!error)
		error = vfio_user_client_receive(client, message, got);
	if (!error && message->header.size < sizeof(message->header) + answer_size)
		error = client_connection_fail(&client->connection, -EPROTO, "%s: reply of %u bytes",
					       command_name(command), message->header.size);
	if (error && got && *got >= 0) {
		close(*got);
		*got = -1;
	}

	return error;
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
	struct vfio_user_client_message message;
	int error = vfio_user_client_ask(client, &message, VERSION, &version, size, -1,
					 offsetof(struct version, capabilities), NULL);

	if (error)
		return error;
	memcpy(&version, message.payload, offsetof(struct version, capabilities));
	if (version.major != 0)
		return client_connection_fail(&client->connection, -EPROTO, "the server speaks version %u.%u",
					      version.major, version.minor);

	return 0;
}

static int share_memory(struct vfio_user_client *client)
{
	struct dma_map map = { .argsz = sizeof(map),
			       .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
			       .address = CLIENT_MEMORY_BASE,
			       .size = client->memory.size };
	struct vfio_user_client_message message;

	return vfio_user_client_ask(client, &message, DMA_MAP, &map, sizeof(map), client->memory.fd, 0, NULL);
}

/**
 * vfio_user_client_reset() - DEVICE_RESET, then memory and bus mastering enabled.
 * @client:	attached client
 *
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vfio_user_client_reset(struct vfio_user_client *client)
{
	const uint16_t command = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	struct vfio_user_client_message message;
	int error = vfio_user_client_ask(client, &message, DEVICE_RESET, NULL, 0, -1, 0, NULL);

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
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vfio_user_client_attach(struct vfio_user_client *client, const struct vfio_user_client_options *options)
{
	const struct client_endpoint endpoint = { .path = options->socket_path, .timeout_ms = options->timeout_ms };
	int error;

	*client = (struct vfio_user_client){ .connection.socket = -1, .memory.fd = -1, .posted = true };

	error = client_memory_create(&client->memory, options->memory_size, options->huge_pages,
				     client->connection.error, sizeof(client->connection.error));
	if (!error)
		error = client_connection_open(&client->connection, &endpoint);
	if (!error)
		error = negotiate(client);
	if (!error)
		error = share_memory(client);
	if (!error)
		error = vfio_user_client_learn_regions(client, options->trapped);
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
	client_connection_close(&client->connection);
	vfio_user_client_unmap_regions(client);
	while (client->event_count > 0)
		close(client->events[--client->event_count]);
	client_memory_release(&client->memory);
}

/* ---- interrupts ---- */

static int set_irqs(struct vfio_user_client *client, uint32_t flags, unsigned int index, unsigned int vector, int fd)
{
	const struct vfio_irq_set set = {
		.argsz = sizeof(set), .flags = flags, .index = index, .start = vector, .count = 1
	};
	struct vfio_user_client_message message;

	return vfio_user_client_ask(client, &message, DEVICE_SET_IRQS, &set, sizeof(set), fd, 0, NULL);
}

/**
 * vfio_user_client_enable_interrupts() - give the device an eventfd for each vector, one message each as QEMU does.
 * @client:	attached client
 * @index:	VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX or VFIO_PCI_MSIX_IRQ_INDEX
 * @count:	vectors, from 0
 *
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vfio_user_client_enable_interrupts(struct vfio_user_client *client, unsigned int index, unsigned int count)
{
	if (count > VFIO_USER_CLIENT_EVENTS || client->event_count)
		return client_connection_fail(&client->connection, -EINVAL, "%u vectors", count);

	for (unsigned int i = 0; i < count; i++) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		int error;

		if (fd < 0)
			return client_connection_fail(&client->connection, -errno, "eventfd: %s", strerror(errno));
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
 * Return: 0, or a negative errno with the reason in @client->connection.error.
 */
int vfio_user_client_unmask_pin(struct vfio_user_client *client)
{
	return set_irqs(client, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX, 0, -1);
}
