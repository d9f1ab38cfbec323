/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of a queue: order of the steps of start and stop, drains, breaks that are told once. */
#include "test.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_device.h"
#include "fake_engine.h"
#include "ring_fixture.h"

struct fixture {
	struct fake_device fake;
	struct ring_fixture ring;
	unsigned stops;
	uint32_t base;
	unsigned broken;
};

static struct fixture fixture;

static void note_stopped(struct virtio_queue *queue, uint32_t base, void *context)
{
	assert_int_equal(queue->state, VIRTIO_QUEUE_STOPPED);
	fixture.stops++;
	fixture.base = base;
}

static void note_broken(struct virtio_queue *queue)
{
	fixture.broken++;
}

static int set_up(void **state)
{
	fixture = (struct fixture){ 0 };
	fake_engine_reset();
	fake_device_init(&fixture.fake, VIRTIO_ID_BLOCK);
	fixture.fake.device.queue_broken = note_broken;
	ring_fixture_start(&fixture.ring, false, false, false);
	return 0;
}

static int tear_down(void **state)
{
	fake_device_release(&fixture.fake);
	ring_fixture_stop(&fixture.ring);
	return 0;
}

static struct virtio_queue *queue_of(unsigned index)
{
	return &fixture.fake.device.queues[index];
}

static unsigned poll_once(struct virtio_queue *queue)
{
	static const struct turn turn = { .requests = 32, .bytes = 65536 };

	return queue->life.poller.ops->poll(&queue->life.poller, &turn);
}

static void test_start_and_stop(void **state)
{
	struct virtio_queue *queue = queue_of(0);

	fixture.ring.config.avail_base = fixture.ring.config.used_base = 7;
	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, 42), 0);
	assert_int_equal(queue->state, VIRTIO_QUEUE_RUNNING);
	assert_int_equal(fake_engine.attached, 1);
	assert_int_equal(fixture.fake.started, 1);
	assert_int_equal(fixture.fake.running, 1);
	assert_int_equal(queue->life.poller.wake_fd, 42);
	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, 42), -EBUSY);

	virtio_queue_stop(queue, note_stopped, NULL);
	assert_int_equal(fixture.fake.unpublished, 1);
	assert_int_equal(fake_engine.detaches, 1);
	assert_int_equal(fake_engine.barriers, 0);
	assert_int_equal(queue->state, VIRTIO_QUEUE_STOPPING);
	assert_true(fake_engine_step()); /* detached: barrier */
	assert_int_equal(fake_engine.barriers, 1);
	assert_int_equal(fake_engine.messages, 0);
	assert_true(fake_engine_step()); /* barrier passed: ask for the drain */
	assert_int_equal(fake_engine.messages, 1);
	assert_int_equal(fixture.fake.stopped, 0);
	fake_engine_run();
	assert_int_equal(fixture.stops, 1);
	assert_int_equal(fixture.base, 7);
	assert_int_equal(fixture.fake.stopped, 1);

	/* Stopped already: told at once. */
	virtio_queue_stop(queue, note_stopped, NULL);
	assert_int_equal(fixture.stops, 2);
	assert_int_equal(fake_engine.waiting, 0);
}

static void test_failures_leave_it_stopped(void **state)
{
	struct virtio_queue *queue = queue_of(0);
	struct virtqueue_config bad = fixture.ring.config;

	bad.size = 3;
	assert_int_equal(virtio_queue_start(queue, &bad, -1), -EINVAL);
	assert_int_equal(fixture.fake.started, 0);
	fixture.fake.start_error = -ENOMEM;
	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), -ENOMEM);
	fake_engine.attach_error = -ENOMEM;
	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), -ENOMEM);
	assert_int_equal(fixture.fake.started, 1);
	assert_int_equal(fixture.fake.stopped, 1);
	assert_int_equal(fixture.fake.running, 0);
	assert_int_equal(queue->state, VIRTIO_QUEUE_STOPPED);
	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	virtio_queue_stop(queue, note_stopped, NULL);
	fake_engine_run();
	assert_int_equal(fixture.stops, 1);
}

/* Requests in flight hold the stop up; the last one ends it, once. */
static void test_drain(void **state)
{
	struct virtio_queue *queue = queue_of(0);

	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	queue->life.in_flight = 2;
	virtio_queue_stop(queue, note_stopped, NULL);
	fake_engine_run();
	assert_int_equal(fixture.stops, 0);
	assert_true(queue->life.draining);
	assert_int_equal(fixture.fake.stopped, 0);
	queue->life.in_flight = 0;
	device_queue_drained(&queue->life);
	fake_engine_run();
	assert_int_equal(fixture.stops, 1);
	assert_int_equal(fixture.fake.stopped, 1);
}

static void test_unpolled_queue(void **state)
{
	struct virtio_queue *queue = queue_of(1);

	fixture.fake.unpolled = true;
	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	assert_int_equal(fake_engine.attached, 0);
	virtio_queue_stop(queue, note_stopped, NULL);
	assert_int_equal(fixture.fake.unpublished, 1);
	assert_int_equal(fixture.stops, 0);
	fake_engine_run();
	assert_int_equal(fake_engine.detaches, 0);
	assert_int_equal(fake_engine.messages, 0);
	assert_int_equal(fake_engine.barriers, 1);
	assert_int_equal(fixture.stops, 1);
}

static void test_break_is_told_once(void **state)
{
	struct virtio_queue *queue = queue_of(0);

	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	poll_once(queue);
	assert_int_equal(fake_engine.waiting, 0);
	virtqueue_break(&queue->ring, VIRTQUEUE_BAD_HEAD);
	poll_once(queue);
	poll_once(queue);
	assert_int_equal(fake_engine.waiting, 1);
	fake_engine_run();
	poll_once(queue);
	assert_int_equal(fake_engine.waiting, 0);
	assert_int_equal(fixture.broken, 1);

	/* Started anew, it can be told of again. */
	virtio_queue_stop(queue, note_stopped, NULL);
	fake_engine_run();
	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	virtqueue_break(&queue->ring, VIRTQUEUE_BAD_HEAD);
	poll_once(queue);
	fake_engine_run();
	assert_int_equal(fixture.broken, 2);
	virtio_queue_stop(queue, note_stopped, NULL);
	fake_engine_run();
}

/* The report is a member of the queue: the stop waits for it, wherever it stands in the list of completions. */
static void test_stop_waits_for_report(void **state)
{
	struct virtio_queue *queue = queue_of(1);

	fixture.fake.unpolled = true;
	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	virtio_queue_stop(queue, note_stopped, NULL);
	virtqueue_break(&queue->ring, VIRTQUEUE_BAD_HEAD);
	virtio_queue_report_break(queue);
	virtio_queue_report_break(queue);
	assert_true(fake_engine_step()); /* the barrier, before the report */
	assert_int_equal(fixture.stops, 0);
	assert_int_equal(fixture.fake.stopped, 0);
	assert_true(fake_engine_step());
	assert_int_equal(fixture.broken, 1);
	assert_int_equal(fixture.stops, 1);
	assert_false(fake_engine_step());
}

static void test_polling_without_kick(void **state)
{
	struct virtio_queue *queue = queue_of(0);

	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	assert_true(queue->life.poller.ops->arm(&queue->life.poller)); /* nobody will wake us: never sleep */
	virtqueue_break(&queue->ring, VIRTQUEUE_BAD_HEAD);
	assert_false(queue->life.poller.ops->arm(&queue->life.poller)); /* nothing will ever come */
	virtio_queue_stop(queue, note_stopped, NULL);
	fake_engine_run();

	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, 42), 0);
	assert_false(queue->life.poller.ops->arm(&queue->life.poller));
	ring_fixture_offer(&fixture.ring, 0, &(struct fixture_buffer){ fixture_address(FIXTURE_DATA), 8, false }, 1, 0);
	assert_true(queue->life.poller.ops->arm(&queue->life.poller));
	queue->life.poller.counters.wakes = 3;
	queue->life.poller.ops->disarm(&queue->life.poller);
	assert_int_equal(queue->ring.counters.kicks, 3);
	virtio_queue_stop(queue, note_stopped, NULL);
	fake_engine_run();
}

static void test_damaged_memory(void **state)
{
	struct virtio_queue *queue = queue_of(0);

	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	poll_once(queue);
	atomic_store(&fixture.ring.memory->regions[1]->mapping->damaged, true);
	for (unsigned i = 0; i < 64; i++)
		poll_once(queue);
	assert_int_equal(queue->ring.broken, VIRTQUEUE_MEMORY_DAMAGED);
	virtio_queue_stop(queue, note_stopped, NULL);
	fake_engine_run();
	assert_int_equal(fixture.broken, 1);
	assert_int_equal(fixture.stops, 1);
}

/* The memory of a file that shrank reads as zeroes, which looks like an index that went back. */
static void test_damage_is_named_as_the_cause(void **state)
{
	struct virtio_queue *queue = queue_of(0);

	assert_int_equal(virtio_queue_start(queue, &fixture.ring.config, -1), 0);
	atomic_store(&fixture.ring.memory->regions[0]->mapping->damaged, true);
	virtqueue_break(&queue->ring, VIRTQUEUE_BAD_AVAIL_INDEX);
	assert_int_equal(queue->ring.broken, VIRTQUEUE_MEMORY_DAMAGED);
	virtio_queue_stop(queue, note_stopped, NULL);
	fake_engine_run();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_start_and_stop, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_failures_leave_it_stopped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_drain, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_unpolled_queue, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_break_is_told_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_stop_waits_for_report, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_polling_without_kick, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_damaged_memory, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_damage_is_named_as_the_cause, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
