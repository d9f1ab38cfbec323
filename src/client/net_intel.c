/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intel's Gigabit cards for an endpoint: 82576 (igb), 82574 (e1000e), 82540EM (e1000); one pair of queues.
 *
 * Theory of operation
 * -------------------
 * Registers are written in the order that Linux's drivers have, with one queue: reset, link, address, queues, receiver
 * and transmitter. After that a frame costs its descriptors and the batch's tail.
 *
 * Descriptors: 82576: advanced, with one buffer for each; 82574: extended for receive; all others legacy; TCP
 * segmentation by a context descriptor of the variant in front of the data, whose pieces are as large as the drivers
 * make them.
 *
 * Interrupts, as the drivers re-arm them (the whole of the difference between the three):
 *
 *	igb	MSI-X vector 1 for both rings, masked when it fires (EIAM) and cleared (EIAC): a store to EIMS
 *	e1000e	MSI-X vector 0 for receive, 1 for transmit, masked and cleared likewise: a store to IMS for each
 *		that fired
 *	e1000	the pin: read ICR, unmask at the VMM, write IMC, flush; at the end write IMS, flush
 *
 * Context: one thread owns a card.
 */
#include "client/intel_ring.h"
#include "client/net_driver.h"
#include "client/net_endpoint.h"
#include "client/net_intel_registers.h"

#include <endian.h>
#include <errno.h>
#include <linux/vfio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HEADERS	   54u /* Ethernet, IPv4, TCP: what an endpoint's segments have */
#define LINK_TRIES 2000

struct variant {
	uint32_t piece; /* bytes of one descriptor at most */
	uint8_t rx_done_shift, rx_length_shift;
	unsigned int irq_index, vectors;
	int rx_event, tx_event; /* vectors */
	int (*configure)(struct vfio_user_client *client);
	void (*prepare)(struct intel_descriptor *descriptors, uint64_t address, uint32_t size, uint32_t piece,
			bool gso);
};

struct net_intel {
	struct net_driver driver;
	const struct variant *variant;
	struct vfio_user_client client;
	struct intel_ring rx;
	struct intel_ring tx;
	struct vfio_user_register rearm;
	uint32_t fired; /* what the next re-arm writes */
};

struct setting {
	uint32_t offset, value;
};

static struct net_intel *intel_of(struct net_driver *driver)
{
	return (struct net_intel *)((char *)driver - offsetof(struct net_intel, driver));
}

static int write_settings(struct vfio_user_client *client, const struct setting *settings, unsigned int count)
{
	int error = 0;

	for (unsigned int i = 0; !error && i < count; i++)
		error = vfio_user_client_write32(client, settings[i].offset, settings[i].value);

	return error;
}

/* ---- descriptors ---- */

/* The pieces of @size bytes at @address; @bits in all, end of packet and report in the last. */
static void prepare_pieces(struct intel_descriptor *descriptors, uint64_t address, uint32_t size, uint32_t piece,
			   uint64_t bits)
{
	for (uint32_t done = 0; done < size; descriptors++) {
		uint32_t length = size - done < piece ? size - done : piece;

		descriptors->low = htole64(address + done);
		done += length;
		descriptors->high = htole64(bits | length | (done == size ? CMD_EOP | CMD_RS : 0));
	}
}

/* 82576 7.2.2: context and data descriptors; PAYLEN is without headers where the card segments. */
static void prepare_advanced(struct intel_descriptor *descriptors, uint64_t address, uint32_t size, uint32_t piece,
			     bool gso)
{
	const uint64_t data = 3ULL << 20 | CMD_IFCS | CMD_DEXT;

	if (!gso) {
		prepare_pieces(descriptors, address, size, piece, data | (uint64_t)size << 46);
		return;
	}
	descriptors->low = htole64(14u << 9 | 20u);
	descriptors->high = htole64(2ULL << 20 | CMD_DEXT | 1ULL << 10 | 1ULL << 11 |
				    (uint64_t)NET_ENDPOINT_SEGMENT << 48 | 20ULL << 40);
	prepare_pieces(descriptors + 1, address, size, piece,
		       data | 1ULL << 31 | 3ULL << 40 | (uint64_t)(size - HEADERS) << 46);
}

/* 8254x 3.3: a legacy descriptor, or TCP/IP context and data. */
static void prepare_legacy(struct intel_descriptor *descriptors, uint64_t address, uint32_t size, uint32_t piece,
			   bool gso)
{
	if (!gso) {
		prepare_pieces(descriptors, address, size, piece, CMD_IFCS);
		return;
	}
	/* IPCSS, IPCSO, IPCSE, TUCSS, TUCSO, TUCSE; PAYLEN, TUCMD (TCP, IP, TSE), HDRLEN, MSS */
	descriptors->low = htole64(14ULL | 24ULL << 8 | 33ULL << 16 | 34ULL << 32 | 50ULL << 40);
	descriptors->high = htole64((uint64_t)(size - HEADERS) | 7ULL << 24 | CMD_DEXT | (uint64_t)HEADERS << 40 |
				    (uint64_t)NET_ENDPOINT_SEGMENT << 48);
	prepare_pieces(descriptors + 1, address, size, piece,
		       1ULL << 20 | CMD_IFCS | CMD_DEXT | 1ULL << 26 | 3ULL << 40);
}

/* ---- registers ---- */

static int configure_igb(struct vfio_user_client *client)
{
	/* Vector 1 for queue 0's receive and transmit, 0 for the rest. */
	const struct setting settings[] = {
		{ CTRL_EXT, CTRL_EXT_LOADED },
		{ EIMC, UINT32_MAX },
		{ GPIE, GPIE_SETTING },
		{ IVAR0, (IVAR_VALID | 1u) << 8 | IVAR_VALID | 1u },
		{ IVAR_MISC, IVAR_VALID << 8 },
		{ EITR1, EITR_SETTING },
		{ EIAC, 3 },
		{ EIAM, 3 },
		{ SRRCTL, SRRCTL_SETTING },
	};

	return write_settings(client, settings, sizeof(settings) / sizeof(settings[0]));
}

static int configure_e1000e(struct vfio_user_client *client)
{
	const struct setting settings[] = {
		{ RFCTL, RFCTL_EXTENDED },	     { IVAR_82574, IVAR_82574_SETTING },
		{ EIAC_82574, IMS_RXQ0 | IMS_TXQ0 }, { CTRL_EXT, CTRL_EXT_PBA_CLR | CTRL_EXT_EIAME | CTRL_EXT_LOADED },
		{ IAM, IMS_RXQ0 | IMS_TXQ0 },
	};

	return write_settings(client, settings, sizeof(settings) / sizeof(settings[0]));
}

static int configure_e1000(struct vfio_user_client *client)
{
	return 0;
}

static const struct variant variants[] = {
	[NET_ENDPOINT_IGB] = {
		.piece = 32768, .rx_done_shift = 0, .rx_length_shift = 32,
		.irq_index = VFIO_PCI_MSIX_IRQ_INDEX, .vectors = 2, .rx_event = 1, .tx_event = -1,
		.configure = configure_igb, .prepare = prepare_advanced,
	},
	[NET_ENDPOINT_E1000E] = {
		.piece = 8192, .rx_done_shift = 0, .rx_length_shift = 32,
		.irq_index = VFIO_PCI_MSIX_IRQ_INDEX, .vectors = 3, .rx_event = 0, .tx_event = 1,
		.configure = configure_e1000e, .prepare = prepare_legacy,
	},
	[NET_ENDPOINT_E1000] = {
		.piece = 4096, .rx_done_shift = 32, .rx_length_shift = 0,
		.irq_index = VFIO_PCI_INTX_IRQ_INDEX, .vectors = 1, .rx_event = 0, .tx_event = -1,
		.configure = configure_e1000, .prepare = prepare_legacy,
	},
};

static int reset(struct net_intel *intel)
{
	struct vfio_user_client *client = &intel->client;
	struct timespec pause = { .tv_nsec = 1000000 };
	uint32_t value;
	int error = vfio_user_client_write32(client, IMC, UINT32_MAX);

	if (!error)
		error = vfio_user_client_write32(client, CTRL, CTRL_RST);
	if (!error)
		error = vfio_user_client_write32(client, IMC, UINT32_MAX);
	if (!error)
		error = vfio_user_client_read32(client, ICR, &value);
	if (!error)
		error = vfio_user_client_write32(client, CTRL, CTRL_SLU);

	for (unsigned int tries = 0; !error; tries++) {
		error = vfio_user_client_read32(client, STATUS, &value);
		if (!error && value & STATUS_LU)
			break;
		if (!error && tries == LINK_TRIES)
			error = client_connection_fail(&client->connection, -ENETDOWN, "no link: STATUS 0x%x", value);
		nanosleep(&pause, NULL);
	}

	return error;
}

static int configure_ring(struct net_intel *intel, struct intel_ring *ring, uint32_t base)
{
	uint64_t address = client_memory_address(&intel->client.memory, ring->ring);
	const struct setting settings[] = {
		{ base + (RXDCTL - RDBAL), 0 },
		{ base, (uint32_t)address },
		{ base + (RDBAH - RDBAL), (uint32_t)(address >> 32) },
		{ base + (RDLEN - RDBAL), ring->size * (uint32_t)sizeof(struct intel_descriptor) },
		{ base + (RDH - RDBAL), 0 },
		{ base + (RDT - RDBAL), 0 },
		{ base + (RXDCTL - RDBAL), DCTL_ENABLE },
	};

	ring->tail = vfio_user_client_register(&intel->client, base + (RDT - RDBAL));

	return write_settings(&intel->client, settings, sizeof(settings) / sizeof(settings[0]));
}

/* 82574 and 82540EM begin with RCTL.EN and TCTL.EN, 82576 with each queue's enable bit: queues and then those. */
static int configure(struct net_intel *intel)
{
	const uint8_t *mac = intel->driver.options->source;
	const struct setting first[] = {
		{ RAL0, mac[0] | mac[1] << 8 | mac[2] << 16 | (uint32_t)mac[3] << 24 },
		{ RAH0, mac[4] | mac[5] << 8 | RAH_VALID },
		{ TIPG, TIPG_SETTING },
	};
	const struct setting last[] = { { TCTL, TCTL_SETTING }, { RCTL, RCTL_SETTING } };
	bool queue_enable = intel->variant == &variants[NET_ENDPOINT_IGB];
	int error = reset(intel);

	if (!error)
		error = write_settings(&intel->client, first, sizeof(first) / sizeof(first[0]));
	if (!error)
		error = intel->variant->configure(&intel->client);
	/* Segments have the MTU's length, or come several together: then it is asked how much a buffer may get. */
	if (!error && queue_enable && intel->driver.options->gso)
		error = vfio_user_client_write32(&intel->client, RLPML, RLPML_SETTING);
	if (!error && queue_enable)
		error = write_settings(&intel->client, last, sizeof(last) / sizeof(last[0]));
	if (!error)
		error = configure_ring(intel, &intel->tx, TDBAL);
	if (!error)
		error = configure_ring(intel, &intel->rx, RDBAL);
	if (!error && !queue_enable)
		error = write_settings(&intel->client, last, sizeof(last) / sizeof(last[0]));

	return error;
}

/* ---- the endpoint's interface ---- */

static uint16_t tx_step(const struct net_intel *intel)
{
	const struct net_endpoint_options *options = intel->driver.options;

	return (uint16_t)((options->frame_size + intel->variant->piece - 1) / intel->variant->piece + options->gso);
}

static int intel_attach(struct net_driver *driver)
{
	const struct net_endpoint_options *options = driver->options;
	struct net_intel *intel = intel_of(driver);
	const struct vfio_user_client_options connection = {
		.socket_path = options->socket_path,
		.trapped = options->trapped,
		.huge_pages = options->huge_pages,
		.memory_size = options->ring_size * ((size_t)options->frame_size + RX_BUFFER + 256) + (1 << 20),
	};
	uint16_t size = (uint16_t)((options->ring_size + 7) & ~7);
	int error;

	intel->variant = &variants[options->device];
	error = vfio_user_client_attach(&intel->client, &connection);
	if (!error)
		error = intel_ring_init(&intel->rx, size, 1, &intel->client.memory);
	if (!error)
		error = intel_ring_init(&intel->tx, size, tx_step(intel), &intel->client.memory);
	intel->rx.done_shift = intel->variant->rx_done_shift;
	intel->rx.length_shift = intel->variant->rx_length_shift;
	driver->tx_count = intel->tx.buffers;
	driver->rx_count = intel->rx.buffers;
	driver->rx_size = RX_BUFFER;

	return error;
}

static int enable_interrupts(struct net_intel *intel)
{
	const struct variant *variant = intel->variant;
	struct vfio_user_client *client = &intel->client;
	int error = vfio_user_client_enable_interrupts(client, variant->irq_index, variant->vectors);

	intel->driver.events[0] = error ? -1 : client->events[variant->rx_event];
	intel->driver.events[1] = error || variant->tx_event < 0 ? -1 : client->events[variant->tx_event];

	return error;
}

static int intel_start(struct net_driver *driver, const struct net_buffers *buffers)
{
	struct net_intel *intel = intel_of(driver);
	const struct variant *variant = intel->variant;
	const struct client_memory *memory = &intel->client.memory;
	bool igb = variant == &variants[NET_ENDPOINT_IGB];
	int error = 0;

	for (unsigned int i = 0; i < driver->tx_count; i++)
		variant->prepare(&intel->tx.prepared[i * intel->tx.step],
				 client_memory_address(memory, buffers->tx + (size_t)i * buffers->tx_stride),
				 buffers->tx_size, variant->piece, driver->options->gso);
	for (unsigned int i = 0; i < driver->rx_count; i++)
		intel->rx.prepared[i].low =
			htole64(client_memory_address(memory, buffers->rx + (size_t)i * buffers->rx_stride));

	if (driver->options->interrupts)
		error = enable_interrupts(intel);
	if (!error)
		error = configure(intel);
	intel->rearm = vfio_user_client_register(&intel->client, igb ? EIMS : IMS);
	/* As if all had fired: the first re-arm enables them. */
	intel->fired = igb ? 1u << 1 : variant == &variants[NET_ENDPOINT_E1000] ? IMS_PIN : IMS_RXQ0 | IMS_TXQ0;
	for (unsigned int i = 0; !error && driver->options->receive && i < driver->rx_count; i++) {
		struct driver_buffer buffer = { .id = i };

		error = intel_ring_give(&intel->rx, &buffer, 1);
	}

	return error;
}

static int intel_send(struct net_driver *driver, const struct driver_buffer *buffers, unsigned int count)
{
	struct net_intel *intel = intel_of(driver);

	driver->kicks += !intel->tx.tail.mapped;

	return intel_ring_give(&intel->tx, buffers, count);
}

static int intel_reap(struct net_driver *driver, struct driver_buffer *buffers, unsigned int count)
{
	return intel_ring_reap(&intel_of(driver)->tx, buffers, count);
}

static int intel_receive(struct net_driver *driver, struct driver_buffer *buffers, unsigned int count)
{
	return intel_ring_receive(&intel_of(driver)->rx, buffers, count);
}

static int intel_refill(struct net_driver *driver, const struct driver_buffer *buffers, unsigned int count)
{
	struct net_intel *intel = intel_of(driver);

	driver->kicks += !intel->rx.tail.mapped;

	return intel_ring_give(&intel->rx, buffers, count);
}

static int intel_arm(struct net_driver *driver)
{
	struct net_intel *intel = intel_of(driver);
	uint32_t status;
	int error = 0;

	if (intel->fired) {
		error = vfio_user_register_store(&intel->rearm, intel->fired);
		if (!error && intel->variant->irq_index == VFIO_PCI_INTX_IRQ_INDEX)
			error = vfio_user_client_read32(&intel->client, STATUS, &status);
		intel->fired = 0;
	}

	return error ? error : intel_ring_is_ready(&intel->rx) || intel_ring_is_ready(&intel->tx);
}

/* What the interrupt's handler does. @signalled: bit 0 receive or all, bit 1 transmit. */
static int intel_disarm(struct net_driver *driver, uint64_t signalled)
{
	struct net_intel *intel = intel_of(driver);
	uint32_t value;
	int error;

	if (!signalled)
		return 0;
	if (intel->variant == &variants[NET_ENDPOINT_IGB]) {
		intel->fired = 1u << 1;
		return 0;
	}
	if (intel->variant == &variants[NET_ENDPOINT_E1000E]) {
		intel->fired = (signalled & 1 ? IMS_RXQ0 : 0) | (signalled & 2 ? IMS_TXQ0 : 0);
		return 0;
	}

	/* QEMU takes the first access after an interrupt for its end. */
	error = vfio_user_client_read32(&intel->client, ICR, &value);
	if (!error)
		error = vfio_user_client_unmask_pin(&intel->client);
	if (!error)
		error = vfio_user_client_write32(&intel->client, IMC, UINT32_MAX);
	if (!error)
		error = vfio_user_client_read32(&intel->client, STATUS, &value);
	intel->fired = IMS_PIN;

	return error;
}

static void intel_detach(struct net_driver *driver)
{
	struct net_intel *intel = intel_of(driver);

	if (intel->tx.tail.client)
		vfio_user_client_reset(&intel->client);
	vfio_user_client_detach(&intel->client);
	intel_ring_release(&intel->rx);
	intel_ring_release(&intel->tx);
	free(intel);
}

static const struct net_driver_ops intel_ops = {
	.segments = true,
	.attach = intel_attach,
	.start = intel_start,
	.send = intel_send,
	.reap = intel_reap,
	.receive = intel_receive,
	.refill = intel_refill,
	.arm = intel_arm,
	.disarm = intel_disarm,
	.detach = intel_detach,
};

/**
 * net_intel_create() - a driver of one of Intel's cards (options->device), not attached yet.
 * @options:	of the endpoint; outlive it
 *
 * Return: the driver, or NULL without memory.
 */
struct net_driver *net_intel_create(const struct net_endpoint_options *options)
{
	struct net_intel *intel = calloc(1, sizeof(*intel));

	if (!intel)
		return NULL;
	intel->driver = (struct net_driver){ .ops = &intel_ops,
					     .options = options,
					     .memory = &intel->client.memory,
					     .events = { -1, -1 },
					     .error = intel->client.connection.error };
	intel->client.connection.socket = -1;
	intel->client.memory.fd = -1;

	return &intel->driver;
}
