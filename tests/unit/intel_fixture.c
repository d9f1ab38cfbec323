/* SPDX-License-Identifier: BSD-3-Clause */
#include "intel_fixture.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/sidecore.h"

struct intel_fixture intel;
struct intel_nic_options intel_fixture_options;

const uint8_t intel_mac[6] = { 2, 0, 0, 0, 0, 1 }, intel_peer_mac[6] = { 2, 0, 0, 0, 0, 9 };

#define require(condition)                                                                                             \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                \
			abort();                                                                                       \
		}                                                                                                      \
	} while (0)

/* ---- the engine ---- */

static void settle(void)
{
	struct sidecore *sidecore = intel.net.turn.sidecore;

	for (unsigned quiet = 0; quiet < 8;) {
		bool work = sidecore_run_messages(sidecore);

		engine_run_completions(intel.net.engine);
		quiet = work || !mailbox_empty(&sidecore->mailbox) ? 0 : quiet + 1;
	}
}

unsigned intel_round(void)
{
	struct sidecore *sidecore = intel.net.turn.sidecore;
	unsigned work = 0;

	settle();
	for (struct attachment *a = sidecore->attachments; a; a = a->next)
		work += a->poller->ops->poll(a->poller, &intel.net.turn);
	settle();
	return work;
}

void intel_advance(uint64_t nanoseconds)
{
	struct sidecore *sidecore = intel.net.turn.sidecore;
	struct engine_timer *timer;

	intel.net.turn.now += nanoseconds;
	while ((timer = sidecore->timers.root) != NULL && timer->deadline <= intel.net.turn.now) {
		timer_heap_remove(&sidecore->timers, timer);
		timer->expire(sidecore, timer);
	}
}

/* ---- the card ---- */

static void note_done(struct pci_device *device)
{
	intel.done = true;
}

static const struct pci_device_host host = { .done = note_done };

static void wait_done(enum pci_result result)
{
	if (result == PCI_DONE)
		return;
	settle();
	require(intel.done);
}

static void access_register(uint32_t offset, uint32_t *value, bool write)
{
	struct pci_access access = { .write = write, .offset = offset, .length = 4, .data = (uint8_t *)value };
	enum pci_result result;

	do {
		intel.done = false;
		result = pci_device_access(intel.device, &access);
		wait_done(result);
	} while (result == PCI_DEFERRED);
}

uint32_t intel_read(uint32_t offset)
{
	uint32_t value = 0;

	access_register(offset, &value, false);
	return value;
}

void intel_write(uint32_t offset, uint32_t value)
{
	access_register(offset, &value, true);
}

void intel_store_mapped(uint32_t offset, uint32_t value)
{
	pci_window_store(&intel.device->bars[0], offset, value);
}

uint32_t intel_load_mapped(uint32_t offset)
{
	return pci_window_load(&intel.device->bars[0], offset);
}

static struct guest_memory *make_memory(void)
{
	struct guest_memory *memory = guest_memory_create(), *next;
	struct guest_region *region;

	intel.memory_fd = memfd_create("guest", MFD_CLOEXEC);
	require(intel.memory_fd >= 0 && !ftruncate(intel.memory_fd, INTEL_MEMORY));
	intel.memory = mmap(NULL, INTEL_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, intel.memory_fd, 0);
	require(intel.memory != MAP_FAILED);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t at = i * (INTEL_MEMORY / 2);

		require(!guest_region_map(intel.memory_fd, at, at, INTEL_MEMORY / 2, at, &region));
		require(!guest_memory_with(memory, region, &next));
		guest_region_put(region);
		guest_memory_free(memory);
		memory = next;
	}
	return memory;
}

void intel_fixture_start(enum intel_nic_model model, bool posted, enum pci_interrupt_kind kind)
{
	struct intel_nic_options options = intel_fixture_options;
	const uint16_t master = 6; /* memory, bus master */
	unsigned count;

	memset(&intel, 0, sizeof(intel));
	options.name = "nic";
	options.model = model;
	options.posted = posted || model == INTEL_NIC_E1000; /* as the daemon has it unless it is told otherwise */
	options.sidecore = -1;
	memcpy(options.mac, intel_mac, 6);
	net_fixture_start(&intel.net, 1, &(struct network_config){ .name = "test" });
	require(!intel_nic_create(&options, intel.net.engine, intel.net.network, &intel.device));
	intel.nic = container_of(intel.device, struct intel_nic, device);
	fake_port_init(&intel.peer, "peer");
	net_fixture_add(&intel.net, &intel.peer);
	intel.device->host = &host;
	intel.device->memory = make_memory();
	intel.device->ops->resume(intel.device);
	pci_device_config_write(intel.device, 4, &master, 2);
	intel.kind = kind;
	count = intel.device->interrupts.counts[kind];
	for (unsigned i = 0; i < count; i++) {
		intel.vectors[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		require(!pci_interrupts_set(&intel.device->interrupts, kind, i, intel.vectors[i]));
	}
}

static void note_gone(struct engine_completion *completion)
{
	intel.done = true;
}

void intel_fixture_stop(void)
{
	struct engine_completion gone = { .done = note_gone };

	intel.done = false;
	wait_done(intel.device->ops->pause(intel.device));
	guest_memory_free(intel.device->memory);
	intel.device->memory = NULL;
	intel.device->host = NULL;
	for (unsigned i = 0; i < intel.device->interrupts.counts[intel.kind]; i++)
		close(intel.vectors[i]);
	fake_port_clear(&intel.peer);
	network_remove_port(intel.net.network, &intel.peer.port);
	intel.done = false;
	intel_nic_destroy(intel.device, &gone);
	settle();
	require(intel.done);
	net_fixture_stop(&intel.net);
	munmap(intel.memory, INTEL_MEMORY);
	close(intel.memory_fd);
}

/* ---- rings ---- */

static uint32_t ring_registers(bool receive, unsigned queue)
{
	return intel_ring_registers(intel.nic, receive, queue);
}

static void set_ring(bool receive, unsigned queue, uint32_t base)
{
	uint32_t at = ring_registers(receive, queue);

	intel_write(at + RING_CONTROL, 0);
	intel_write(at + RING_BASE_LOW, base);
	intel_write(at + RING_BASE_HIGH, 0);
	intel_write(at + RING_LENGTH, INTEL_RING_SIZE * 16);
	intel_write(at + RING_HEAD, 0);
	intel_write(at + RING_TAIL, 0);
	if (receive && intel.nic->variant->generation == INTEL_82576)
		intel_write(at + RING_SRRCTL, 1U << 25 | 2);
	intel_write(at + RING_CONTROL, RING_CONTROL_ENABLE);
}

void intel_rings(unsigned queue)
{
	set_ring(false, queue, INTEL_TX_RING(queue));
	set_ring(true, queue, INTEL_RX_RING(queue));
	intel_write(TCTL, TCTL_EN | 8);
	intel_write(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC);
	intel_round();
}

void intel_post(unsigned queue, uint64_t address, uint32_t command, uint32_t status)
{
	struct intel_descriptor descriptor = { address, command, status };

	memcpy(intel.memory + INTEL_TX_RING(queue) + 16 * intel.transmit_tails[queue], &descriptor, sizeof(descriptor));
	intel.transmit_tails[queue] = (intel.transmit_tails[queue] + 1) % INTEL_RING_SIZE;
}

void intel_ring_tail(unsigned queue)
{
	intel_write(ring_registers(false, queue) + RING_TAIL, intel.transmit_tails[queue]);
}

void intel_offer(unsigned queue, unsigned count)
{
	for (; count; count--) {
		uint32_t tail = intel.receive_tails[queue];
		uint64_t words[2] = { INTEL_RX_BUFFER(queue, tail), 0 };

		memcpy(intel.memory + INTEL_RX_RING(queue) + 16 * tail, words, sizeof(words));
		intel.receive_tails[queue] = (tail + 1) % INTEL_RING_SIZE;
	}
	intel_write(ring_registers(true, queue) + RING_TAIL, intel.receive_tails[queue]);
}

bool intel_received(unsigned queue, uint64_t words[2])
{
	uint32_t head = intel.receive_heads[queue];
	uint32_t shift = intel.nic->receive[queue].form == INTEL_RECEIVE_LEGACY ? 32 : 0;

	memcpy(words, intel.memory + INTEL_RX_RING(queue) + 16 * head, 16);
	if (head == intel.receive_tails[queue] || !(words[1] >> shift & RXD_DD))
		return false;
	intel.receive_heads[queue] = (head + 1) % INTEL_RING_SIZE;
	return true;
}

/* ---- the other end ---- */

unsigned intel_send(const uint8_t *bytes, uint32_t length, const struct frame_offload *offload)
{
	static struct test_frame frame;

	memcpy(frame.bytes, bytes, length);
	frame.length = length;
	test_frame_build(&frame, 0);
	if (offload)
		frame.frame.offload = *offload;
	return network_forward(&intel.peer.port, &frame.frame, 1, &intel.net.turn);
}

unsigned intel_interrupts(unsigned vector)
{
	struct pollfd pollfd = { .fd = intel.vectors[vector], .events = POLLIN };
	uint64_t count;

	if (poll(&pollfd, 1, 0) != 1 || read(intel.vectors[vector], &count, sizeof(count)) != sizeof(count))
		return 0;
	return (unsigned)count;
}

uint32_t intel_frame(uint8_t *to, const uint8_t destination[6], uint8_t protocol, uint32_t payload)
{
	uint32_t l4 = protocol == 6 ? 20 : 8, length = 20 + l4 + payload, sum;
	uint8_t *ip = to + 14;

	memset(to, 0, 14 + length);
	memcpy(to, destination, 6);
	memcpy(to + 6, destination == intel_mac ? intel_peer_mac : intel_mac, 6);
	to[12] = 8;
	ip[0] = 0x45;
	ip[2] = (uint8_t)(length >> 8);
	ip[3] = (uint8_t)length;
	ip[8] = 64;
	ip[9] = protocol;
	memcpy(ip + 12, "\x0a\0\0\1\x0a\0\0\2", 8);
	sum = naive_fold(naive_sum(ip, 20, 0));
	ip[10] = (uint8_t)(~sum >> 8);
	ip[11] = (uint8_t)~sum;
	memcpy(ip + 20, "\x12\x34\x56\x78", 4);
	if (protocol == 6)
		ip[20 + 12] = 0x50;
	else
		ip[25] = (uint8_t)(l4 + payload), ip[24] = (uint8_t)((l4 + payload) >> 8);
	for (uint32_t i = 0; i < payload; i++)
		ip[20 + l4 + i] = (uint8_t)(i * 7);
	sum = naive_sum(ip + 12, 8, 0) + protocol + l4 + payload;
	sum = naive_fold(naive_sum(ip + 20, l4 + payload, naive_fold(sum)));
	ip[20 + (protocol == 6 ? 16 : 6)] = (uint8_t)(~sum >> 8);
	ip[20 + (protocol == 6 ? 17 : 7)] = (uint8_t)~sum;
	return 14 + length;
}
