/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Theory of operation
 * -------------------
 * A card does what is in a ring in its order, so buffers come back in the order in which they were given: the oldest
 * one's last descriptor is the only one to look at. Each buffer's last descriptor asks for a report (RS), as Linux's
 * drivers have it. A write-back changes the descriptor, so all of it is written again each time; that also clears the
 * done bit.
 *
 * The tail is stored with release order after the descriptors. The done bit is loaded with acquire order before the
 * rest of the write-back and before the frame. Context: one thread.
 */
#include "client/intel_ring.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>

/**
 * intel_ring_init() - an empty ring, whose tail register, shifts and prepared descriptors the caller fills in.
 * @ring:	written from scratch; release it whatever this returns
 * @size:	descriptors, a multiple of 8
 * @step:	descriptors of each buffer
 * @memory:	where it goes
 *
 * Return: 0, -EINVAL or -ENOMEM.
 */
int intel_ring_init(struct intel_ring *ring, uint16_t size, uint16_t step, struct client_memory *memory)
{
	*ring = (struct intel_ring){ .size = size, .step = step, .done_shift = 32 };
	if (size == 0 || size % 8 || step == 0 || step >= size)
		return -EINVAL;
	ring->buffers = (uint16_t)((size - 1) / step);
	ring->ring = client_memory_allocate(memory, size * sizeof(*ring->ring), 4096);
	ring->prepared = calloc((size_t)ring->buffers * step, sizeof(*ring->prepared));
	ring->ids = calloc(size, sizeof(*ring->ids));

	return ring->ring && ring->prepared && ring->ids ? 0 : -ENOMEM;
}

/**
 * intel_ring_release() - give back the private memory.
 * @ring:	what intel_ring_init() has seen
 */
void intel_ring_release(struct intel_ring *ring)
{
	free(ring->prepared);
	free(ring->ids);
	ring->prepared = NULL;
	ring->ids = NULL;
}

static inline uint16_t advance(const struct intel_ring *ring, uint16_t at, uint16_t by)
{
	uint32_t next = (uint32_t)at + by;

	return (uint16_t)(next >= ring->size ? next - ring->size : next);
}

/**
 * intel_ring_give() - give buffers to the card, with one store to its tail.
 * @ring:	ring
 * @buffers:	which; none of them in flight
 * @count:	how many
 *
 * Return: 0, or a negative errno of the register's message.
 */
int intel_ring_give(struct intel_ring *ring, const struct driver_buffer *buffers, unsigned int count)
{
	uint16_t next = ring->next;

	for (unsigned int i = 0; i < count; i++) {
		const struct intel_descriptor *prepared = &ring->prepared[buffers[i].id * ring->step];

		ring->ids[next] = (uint16_t)buffers[i].id;
		for (unsigned int n = 0; n < ring->step; n++) {
			ring->ring[next] = prepared[n];
			if (++next == ring->size)
				next = 0;
		}
	}
	ring->next = next;
	ring->in_flight = (uint16_t)(ring->in_flight + count);

	return vfio_user_register_store(&ring->tail, next);
}

static inline uint64_t load_high(const struct intel_ring *ring, uint16_t at)
{
	return le64toh(__atomic_load_n(&ring->ring[at].high, __ATOMIC_ACQUIRE));
}

/**
 * intel_ring_is_ready() - is the oldest buffer done?
 * @ring:	ring
 *
 * Return: true if intel_ring_reap() or intel_ring_receive() will find it.
 */
bool intel_ring_is_ready(const struct intel_ring *ring)
{
	return ring->in_flight &&
	       load_high(ring, advance(ring, ring->oldest, (uint16_t)(ring->step - 1))) >> ring->done_shift & 1;
}

/**
 * intel_ring_reap() - collect buffers that were sent.
 * @ring:	transmit ring
 * @buffers:	receives them
 * @count:	how many at most
 *
 * Return: how many.
 */
int intel_ring_reap(struct intel_ring *ring, struct driver_buffer *buffers, unsigned int count)
{
	unsigned int taken = 0;

	while (taken < count && intel_ring_is_ready(ring)) {
		buffers[taken++] = (struct driver_buffer){ .id = ring->ids[ring->oldest] };
		ring->oldest = advance(ring, ring->oldest, ring->step);
		ring->in_flight--;
	}

	return (int)taken;
}

/**
 * intel_ring_receive() - collect buffers that were received.
 * @ring:	receive ring
 * @buffers:	receives them, with their lengths; DRIVER_BUFFER_MORE where the packet does not end
 * @count:	how many at most
 *
 * Return: how many.
 */
int intel_ring_receive(struct intel_ring *ring, struct driver_buffer *buffers, unsigned int count)
{
	uint16_t oldest = ring->oldest;
	unsigned int taken = 0;

	if (count > ring->in_flight)
		count = ring->in_flight;
	while (taken < count) {
		uint64_t high = load_high(ring, oldest);
		uint32_t length = (uint16_t)(high >> ring->length_shift);

		if (!(high >> ring->done_shift & 1))
			break;
		if (!(high >> ring->done_shift & 2))
			length |= DRIVER_BUFFER_MORE;
		buffers[taken++] = (struct driver_buffer){ .id = ring->ids[oldest], .length = length };
		if (++oldest == ring->size)
			oldest = 0;
	}
	ring->oldest = oldest;
	ring->in_flight = (uint16_t)(ring->in_flight - taken);

	return (int)taken;
}
