/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of what a sidecore serves, on an engine with threads: stops that wait for requests in flight, and kicks by
 * the control thread, of which none may be lost. */
#include "engine_channel.h"

#include <pthread.h>

#include "device/device_queue.h"

struct served {
	struct device_queue queue;
	atomic_uint offered, done;
	bool hold; /* requests stay in flight until the release message */
	struct sidecore_message release;
	bool stopped;
	pthread_t control_thread;
	unsigned rests; /* calls of served_rests() */
};

static unsigned served_poll(struct poller *poller, const struct turn *turn)
{
	struct served *served = container_of(poller, struct served, queue.poller);
	unsigned done = atomic_load_explicit(&served->done, memory_order_relaxed);
	unsigned work = atomic_load_explicit(&served->offered, memory_order_relaxed) - done;

	if (!work)
		return 0;
	if (served->hold)
		served->queue.in_flight += work;
	atomic_store_explicit(&served->done, done + work, memory_order_release);
	return work;
}

/* Blind: only the engine's look finds work. */
static bool served_arm(struct poller *poller)
{
	device_queue_arm(&container_of(poller, struct served, queue.poller)->queue);
	return false;
}

static void served_disarm(struct poller *poller)
{
	device_queue_disarm(&container_of(poller, struct served, queue.poller)->queue);
}

static const struct poller_ops served_ops = {
	.kind = "served",
	.poll = served_poll,
	.arm = served_arm,
	.disarm = served_disarm,
};

static void served_release(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct served *served = container_of(message, struct served, release);

	served->queue.in_flight = 0;
	if (served->queue.draining)
		device_queue_drained(&served->queue);
}

/* On the sidecore, after the last request and before anybody is told. */
static void served_rests(struct device_queue *queue)
{
	struct served *served = container_of(queue, struct served, queue);

	assert_false(pthread_equal(pthread_self(), served->control_thread));
	assert_int_equal(queue->in_flight, 0);
	assert_int_equal(queue->state, DEVICE_QUEUE_STOPPING);
	served->rests++;
}

static void served_init(struct served *served, struct engine *engine)
{
	*served = (struct served){ .queue.poller.ops = &served_ops, .release.run = served_release };
	assert_int_equal(device_queue_init(&served->queue, engine, true), 0);
}

static void note_stopped(struct device_queue *queue, void *context)
{
	assert_int_equal(queue->state, DEVICE_QUEUE_STOPPED);
	*(bool *)context = true;
}

static void stop_and_wait(struct engine *engine, struct served *served)
{
	bool stopped = false;

	device_queue_stop(&served->queue, note_stopped, &stopped);
	while (!stopped)
		wait_for_completions(engine);
}

static void wait_until_done(struct served *served, unsigned done)
{
	uint64_t start = clock_nanoseconds();

	for (unsigned spins = 0; atomic_load_explicit(&served->done, memory_order_acquire) != done; spins++) {
		cpu_relax();
		if (spins % 1024)
			continue;
		sched_yield();
		if (clock_nanoseconds() - start > HANG_NS)
			fail_msg("hang: offered %u, done %u, armed %d", atomic_load(&served->offered),
				 atomic_load(&served->done), atomic_load(&served->queue.armed));
	}
}

static void offer(struct served *served)
{
	/* Relaxed: the ordering is device_queue_kick()'s. */
	atomic_fetch_add_explicit(&served->offered, 1, memory_order_relaxed);
	device_queue_kick(&served->queue);
}

static void test_life(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct sidecore *home = device_queue_place(engine, 0);
	struct served served;
	bool stopped = false;

	assert_ptr_equal(home, engine_sidecore(engine, 0));
	assert_ptr_equal(device_queue_place(engine, 7), home); /* none of that number */
	assert_ptr_equal(device_queue_place(engine, -1), home);

	served_init(&served, engine);
	device_queue_stop(&served.queue, note_stopped, &stopped); /* stopped already: at once */
	assert_true(stopped);
	assert_int_equal(device_queue_start(&served.queue, home), 0);
	assert_int_equal(device_queue_start(&served.queue, home), -EBUSY);
	offer(&served);
	wait_until_done(&served, 1);
	stop_and_wait(engine, &served);
	offer(&served);
	usleep(10000);
	assert_int_equal(atomic_load(&served.done), 1);
	/* And again: what was offered meanwhile is found. */
	assert_int_equal(device_queue_start(&served.queue, home), 0);
	wait_until_done(&served, 2);
	stop_and_wait(engine, &served);
	device_queue_release(&served.queue);
	stop_engine(engine);
}

static void test_drain(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct sidecore *home = engine_sidecore(engine, 0);
	struct served served;
	bool stopped = false;

	served_init(&served, engine);
	served.hold = true;
	served.control_thread = pthread_self();
	served.queue.resting = served_rests;
	assert_int_equal(device_queue_start(&served.queue, home), 0);
	offer(&served);
	wait_until_done(&served, 1);
	device_queue_stop(&served.queue, note_stopped, &stopped);
	for (unsigned i = 0; i < 20; i++) {
		engine_run_completions(engine);
		usleep(1000);
	}
	assert_false(stopped);
	assert_int_equal(served.rests, 0);
	assert_int_equal(served.queue.state, DEVICE_QUEUE_STOPPING);
	sidecore_post(home, &served.release);
	while (!stopped)
		wait_for_completions(engine);
	assert_int_equal(served.rests, 1);
	/* Back before the stop: nothing to wait for. */
	assert_int_equal(device_queue_start(&served.queue, home), 0);
	offer(&served);
	wait_until_done(&served, 2);
	sidecore_post(home, &served.release);
	stop_and_wait(engine, &served);
	assert_int_equal(served.rests, 2);
	device_queue_release(&served.queue);
	stop_engine(engine);
}

/* A receive side: nobody polls it, its stop is a barrier. */
static void test_without_a_home(void **state)
{
	struct engine *engine = start_engine(test_sidecore_count(), 0);
	struct served served;

	served_init(&served, engine);
	assert_int_equal(device_queue_start(&served.queue, NULL), 0);
	assert_int_equal(served.queue.state, DEVICE_QUEUE_RUNNING);
	offer(&served);
	usleep(10000);
	assert_int_equal(atomic_load(&served.done), 0);
	stop_and_wait(engine, &served);
	device_queue_release(&served.queue);
	stop_engine(engine);
}

#ifdef __SANITIZE_THREAD__
#define KICKS 10000U
#else
#define KICKS 100000U
#endif

/* Each offer is waited for, around the moment at which the sidecore falls asleep: one lost kick hangs. */
static void test_no_lost_kick(void **state)
{
	struct engine *engine = start_engine(1, NANOSECONDS_PER_MICROSECOND);
	struct sidecore_counters counters;
	struct served served;

	served_init(&served, engine);
	assert_int_equal(device_queue_start(&served.queue, engine_sidecore(engine, 0)), 0);
	for (unsigned i = 1; i <= KICKS; i++) {
		uint64_t end = clock_nanoseconds() + i * 37 % 4000;

		while (clock_nanoseconds() < end)
			cpu_relax();
		offer(&served);
		wait_until_done(&served, i);
	}
	sidecore_read_counters(engine_sidecore(engine, 0), &counters);
	print_message("%u kicks: %lu sleeps, %lu aborted, %lu wakes by a kick\n", KICKS, counters.sleeps,
		      counters.aborted_sleeps, counters.wakes_kick);
	assert_true(counters.wakes_kick > KICKS / 100);
	stop_and_wait(engine, &served);
	device_queue_release(&served.queue);
	stop_engine(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_drain),
		cmocka_unit_test(test_without_a_home),
		cmocka_unit_test(test_no_lost_kick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
