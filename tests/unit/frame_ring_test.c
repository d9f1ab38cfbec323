/* SPDX-License-Identifier: BSD-3-Clause */
/* Frame rings: order, contents, bounds, and two threads that sleep and wake each other without ever missing one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/frame_ring.h"

static void put(struct frame_ring *ring, uint32_t number)
{
	void *slot = frame_ring_reserve(ring);

	assert_non_null(slot);
	memcpy(slot, &number, sizeof(number));
	frame_ring_commit(ring, sizeof(number) + number % 100);
}

static void expect(struct frame_ring *ring, uint32_t index, uint32_t number)
{
	uint32_t length, got;
	const void *bytes = frame_ring_peek(ring, index, &length);

	memcpy(&got, bytes, sizeof(got));
	assert_int_equal(got, number);
	assert_int_equal(length, sizeof(number) + number % 100);
}

static void test_order_and_bounds(void **state)
{
	struct frame_ring ring;
	uint32_t in = 0, out = 0;

	assert_int_equal(frame_ring_init(&ring, 8), 0);
	assert_int_equal(frame_ring_room(&ring), 8);
	/* Many times around, also past the wrap of the 32-bit counters. */
	atomic_store(&ring.head, UINT32_MAX - 20);
	atomic_store(&ring.tail, UINT32_MAX - 20);
	ring.filled = ring.head_seen = UINT32_MAX - 20;
	srandom(1);
	for (int step = 0; step < 10000; step++) {
		uint32_t count = (uint32_t)random() % 9, room = frame_ring_room(&ring);

		assert_int_equal(room, 8 - (in - out));
		for (uint32_t i = 0; i < min(count, room); i++)
			put(&ring, in++);
		if (count >= room)
			assert_null(frame_ring_reserve(&ring));
		/* What is not published is not seen. */
		assert_int_equal(frame_ring_available(&ring) + frame_ring_unpublished(&ring), in - out);
		assert_int_equal(frame_ring_unpublished(&ring), min(count, room));
		assert_false(frame_ring_publish(&ring));
		assert_int_equal(frame_ring_available(&ring), in - out);
		for (uint32_t i = 0; i < in - out; i++)
			expect(&ring, i, out + i);
		count = (uint32_t)random() % (in - out + 1);
		assert_false(frame_ring_release(&ring, count));
		out += count;
	}
	frame_ring_fini(&ring);
}

static void test_who_is_woken(void **state)
{
	struct frame_ring ring;

	assert_int_equal(frame_ring_init(&ring, 8), 0);
	/* The consumer waits: the next publish says so, once. */
	assert_false(frame_ring_wait_for_frames(&ring));
	put(&ring, 0);
	assert_true(frame_ring_publish(&ring));
	put(&ring, 1);
	assert_false(frame_ring_publish(&ring));
	/* It does not wait with frames there, nor after it stopped. */
	assert_true(frame_ring_wait_for_frames(&ring));
	assert_false(frame_ring_release(&ring, 2));
	assert_false(frame_ring_wait_for_frames(&ring));
	frame_ring_stop_waiting(&ring);
	for (uint32_t i = 2; i < 10; i++)
		put(&ring, i);
	assert_false(frame_ring_publish(&ring));
	/* The producer waits for half of the ring. */
	assert_null(frame_ring_reserve(&ring));
	assert_false(frame_ring_wait_for_room(&ring));
	assert_false(frame_ring_release(&ring, 3));
	assert_true(frame_ring_release(&ring, 1));
	assert_false(frame_ring_release(&ring, 1));
	assert_true(frame_ring_wait_for_room(&ring));
	frame_ring_fini(&ring);
}

/* --- two threads --- */

#define FRAMES 400000U

struct pair {
	struct frame_ring ring;
	int frames_fd, room_fd;
	unsigned producer_sleeps, consumer_sleeps;
	const char *hang; /* who waited for ever */
};

static void sleep_on(struct pair *pair, int fd, const char *who)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	uint64_t count;

	if (poll(&pollfd, 1, 10000) != 1)
		pair->hang = who;
	else if (read(fd, &count, sizeof(count)) != sizeof(count))
		pair->hang = "read";
}

static void wake(int fd)
{
	static const uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) != sizeof(one))
		abort();
}

static void *produce(void *argument)
{
	struct pair *pair = argument;
	unsigned seed = 1;

	for (uint32_t number = 0; number < FRAMES && !pair->hang;) {
		uint32_t burst = (uint32_t)rand_r(&seed) % 40;

		for (; burst && number < FRAMES; burst--) {
			uint32_t *slot = frame_ring_reserve(&pair->ring);

			if (!slot)
				break;
			slot[0] = number;
			slot[FRAME_RING_FRAME_MAX / 4 - 1] = ~number;
			frame_ring_commit(&pair->ring, 60 + number % 1400);
			number++;
		}
		if (frame_ring_publish(&pair->ring))
			wake(pair->frames_fd);
		if (burst && !frame_ring_wait_for_room(&pair->ring)) {
			pair->producer_sleeps++;
			sleep_on(pair, pair->room_fd, "the producer");
		}
		if (rand_r(&seed) % 1000 == 0)
			usleep(50);
	}
	return NULL;
}

static void test_two_threads(void **state)
{
	static struct pair pair;
	pthread_t thread;
	unsigned seed = 2;

	assert_int_equal(frame_ring_init(&pair.ring, 64), 0);
	pair.frames_fd = eventfd(0, EFD_CLOEXEC);
	pair.room_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(pthread_create(&thread, NULL, produce, &pair), 0);
	for (uint32_t number = 0; number < FRAMES;) {
		uint32_t available = frame_ring_available(&pair.ring), length;

		if (!available) {
			if (!frame_ring_wait_for_frames(&pair.ring)) {
				pair.consumer_sleeps++;
				sleep_on(&pair, pair.frames_fd, "the consumer");
				if (pair.hang)
					fail_msg("hang of %s: head %u tail %u waits %d %d", pair.hang,
						 atomic_load(&pair.ring.head), atomic_load(&pair.ring.tail),
						 atomic_load(&pair.ring.consumer_waits),
						 atomic_load(&pair.ring.producer_waits));
			}
			frame_ring_stop_waiting(&pair.ring);
			continue;
		}
		available = 1 + (uint32_t)rand_r(&seed) % available;
		for (uint32_t i = 0; i < available; i++, number++) {
			const uint32_t *slot = frame_ring_peek(&pair.ring, i, &length);

			if (slot[0] != number || slot[FRAME_RING_FRAME_MAX / 4 - 1] != ~number ||
			    length != 60 + number % 1400)
				fail_msg("frame %u: got %u, length %u", number, slot[0], length);
		}
		if (frame_ring_release(&pair.ring, available))
			wake(pair.room_fd);
		if (rand_r(&seed) % 1000 == 0)
			usleep(50);
	}
	pthread_join(thread, NULL);
	print_message("%u frames; the producer slept %u times, the consumer %u times\n", FRAMES, pair.producer_sleeps,
		      pair.consumer_sleeps);
	assert_null(pair.hang);
	assert_true(pair.producer_sleeps > 10 && pair.consumer_sleeps > 10);
	close(pair.frames_fd);
	close(pair.room_fd);
	frame_ring_fini(&pair.ring);
}

/*
 * The same with sleep played by spinning, so that the two meet at the narrow place (one stores its flag while the other
 * stores its index) a million times: without the full order of those accesses this hangs. Where something else wants
 * the CPUs, too, a meeting takes until the scheduler has gone around: then as many have to do as there is time for.
 */
#define HAND_OVERS     2000000U
#define HAND_OVER_TIME (15 * NANOSECONDS_PER_SECOND)

struct spin_pair {
	struct frame_ring ring;
	atomic_bool frames_wake, room_wake;
	atomic_bool hang;
	atomic_uint end; /* how many; lowered by the producer before it publishes the last one */
};

static void spin_on(struct spin_pair *pair, atomic_bool *woken)
{
	uint64_t start = 0;

	for (unsigned spins = 0; !atomic_exchange_explicit(woken, false, memory_order_acquire); spins++) {
		if (spins % 4096 != 4095) {
			cpu_relax();
			continue;
		}
		sched_yield();
		start = start ? start : clock_nanoseconds();
		if (clock_nanoseconds() - start > 10 * NANOSECONDS_PER_SECOND || atomic_load(&pair->hang)) {
			atomic_store(&pair->hang, true);
			return;
		}
	}
}

static void *spin_produce(void *argument)
{
	uint64_t start = clock_nanoseconds();
	struct spin_pair *pair = argument;
	uint32_t end = HAND_OVERS;
	unsigned seed = 1;

	for (uint32_t number = 0; number < end && !atomic_load_explicit(&pair->hang, memory_order_relaxed);) {
		if (number % 256 == 0 && end == HAND_OVERS && clock_nanoseconds() - start > HAND_OVER_TIME) {
			end = number + 1;
			atomic_store(&pair->end, end);
		}
		if (!frame_ring_reserve(&pair->ring)) {
			if (!frame_ring_wait_for_room(&pair->ring))
				spin_on(pair, &pair->room_wake);
			continue;
		}
		frame_ring_commit(&pair->ring, 60);
		number++;
		if (frame_ring_publish(&pair->ring))
			atomic_store_explicit(&pair->frames_wake, true, memory_order_release);
		for (int delay = rand_r(&seed) % 64; delay; delay--)
			__asm__ volatile("");
	}
	return NULL;
}

static void test_no_lost_wake(void **state)
{
	static struct spin_pair pair;
	unsigned seed = 2, sleeps = 0;
	pthread_t thread;

	assert_int_equal(frame_ring_init(&pair.ring, 4), 0);
	atomic_store(&pair.end, HAND_OVERS);
	assert_int_equal(pthread_create(&thread, NULL, spin_produce, &pair), 0);
	for (uint32_t number = 0; number < atomic_load_explicit(&pair.end, memory_order_relaxed) &&
				  !atomic_load_explicit(&pair.hang, memory_order_relaxed);) {
		uint32_t available = frame_ring_available(&pair.ring);

		if (!available) {
			if (!frame_ring_wait_for_frames(&pair.ring)) {
				sleeps++;
				spin_on(&pair, &pair.frames_wake);
			}
			frame_ring_stop_waiting(&pair.ring);
			continue;
		}
		number += available;
		if (frame_ring_release(&pair.ring, available))
			atomic_store_explicit(&pair.room_wake, true, memory_order_release);
		for (int delay = rand_r(&seed) % 64; delay; delay--)
			__asm__ volatile("");
	}
	pthread_join(thread, NULL);
	print_message("%u hand-overs, the consumer waited %u times\n", atomic_load(&pair.end), sleeps);
	if (atomic_load(&pair.hang))
		fail_msg("hang: head %u tail %u, consumer waits %d, producer waits %d", atomic_load(&pair.ring.head),
			 atomic_load(&pair.ring.tail), atomic_load(&pair.ring.consumer_waits),
			 atomic_load(&pair.ring.producer_waits));
	assert_true(sleeps > atomic_load(&pair.end) / 1000);
	frame_ring_fini(&pair.ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_and_bounds),
		cmocka_unit_test(test_who_is_woken),
		cmocka_unit_test(test_two_threads),
		cmocka_unit_test(test_no_lost_wake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
