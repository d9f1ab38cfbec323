/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A driver of Intel's network cards for unit tests: registers by way of pci_device_access(), rings in memory of its
 * own, eventfds for interrupts. The test is control thread and sidecore in turn. On the other end of the network is a
 * port that keeps what it gets.
 */
#ifndef TESTS_INTEL_FIXTURE_H
#define TESTS_INTEL_FIXTURE_H

#include "device/intel/intel_internal.h"
#include "net_fixture.h"

#define INTEL_MEMORY	  0x400000U /* bytes, at guest address 0: two regions that touch at the half */
#define INTEL_TX_RING(q)  (0x10000U + 0x2000U * (q))
#define INTEL_RX_RING(q)  (0x40000U + 0x2000U * (q))
#define INTEL_TX_BUFFERS  0x100000U
#define INTEL_RX_BUFFERS  0x280000U
#define INTEL_BUFFER_SIZE 0x800U
#define INTEL_RX_BUFFER(q, index)                                                                                      \
	(INTEL_RX_BUFFERS + ((q) ? 0x40000U + 0x8000U * ((q)-1) : 0) + INTEL_BUFFER_SIZE * (index))
#define INTEL_RING_SIZE 128U /* descriptors */

struct intel_fixture {
	struct net_fixture net;
	struct fake_port peer;
	struct pci_device *device;
	struct intel_nic *nic;
	int memory_fd;
	uint8_t *memory;
	int vectors[INTEL_VECTORS_MAX];
	enum pci_interrupt_kind kind;
	uint32_t transmit_tails[INTEL_QUEUES_MAX], receive_tails[INTEL_QUEUES_MAX], receive_heads[INTEL_QUEUES_MAX];
	bool done;
};

extern struct intel_fixture intel;

/** intel_fixture_options - of the next card, in addition to what intel_fixture_start() is told. */
extern struct intel_nic_options intel_fixture_options;

/** intel_fixture_start() - a card that the guest has given memory and bus mastering to, with interrupts of @kind. */
void intel_fixture_start(enum intel_nic_model model, bool posted, enum pci_interrupt_kind kind);
void intel_fixture_stop(void);

/** intel_read(), intel_write() - a trapped access, or one by message; returns when it is done. */
uint32_t intel_read(uint32_t offset);
void intel_write(uint32_t offset, uint32_t value);

/** intel_store_mapped(), intel_load_mapped() - as a guest does that has mapped the window: nobody is told. */
void intel_store_mapped(uint32_t offset, uint32_t value);
uint32_t intel_load_mapped(uint32_t offset);

/** intel_round() - one round of the sidecore. Return: work done. */
unsigned intel_round(void);

/** intel_advance() - move the clock by @nanoseconds, and run timers that are due. */
void intel_advance(uint64_t nanoseconds);

/** intel_rings() - set up rings, enable queue @queue and both directions. */
void intel_rings(unsigned queue);

/** intel_post() - a transmit descriptor; intel_ring_tail(): tell of all of them. */
void intel_post(unsigned queue, uint64_t address, uint32_t command, uint32_t status);
void intel_ring_tail(unsigned queue);

/** intel_offer() - @count receive buffers. */
void intel_offer(unsigned queue, unsigned count);

/** intel_received() - the next receive descriptor that was written back. Return: false: none. */
bool intel_received(unsigned queue, uint64_t words[2]);

/** intel_send() - a frame from the peer. Return: frames that the network is done with. */
unsigned intel_send(const uint8_t *bytes, uint32_t length, const struct frame_offload *offload);

/** intel_interrupts() - of a vector since the last call. */
unsigned intel_interrupts(unsigned vector);

/** intel_frame() - Ethernet, IPv4 and UDP or TCP headers and @payload bytes behind them, checksums right. Return:
 * length. */
uint32_t intel_frame(uint8_t *to, const uint8_t destination[6], uint8_t protocol, uint32_t payload);

extern const uint8_t intel_mac[6], intel_peer_mac[6];

#endif
