/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine with real threads: life of a poller, messages, barriers, timers, turns, sleep and wake. Pollers here are
 * *channels*, which behave as a virtqueue with event suppression does: a counter of work made available by the peer,
 * and a flag by which the poller asks for kicks through an eventfd.
 *
 * The stress of wake-ups is in engine_wake_test.c.
 */
#include "engine_channel.h"

#include <fcntl.h>
#include <stdlib.h>

#include "engine/cpu.h"

/* --- CPU placement --- */

#define NO_CPU (-2) /* ends a list */

static const struct {
	int allowed[8], wanted[8], placed[8]; /* placed[0] NO_CPU: refused */
	const char *list;
} places[] = {
	/* 0 */ { { 0, 1, 2, 3, NO_CPU }, { -1, NO_CPU }, { 3 }, "0-3" },
	/* 1 */ { { 0, 1, 2, 3, NO_CPU }, { -1, -1, NO_CPU }, { 3, 2 }, "0-3" },
	/* 2 */ { { 0, 1, 2, 3, NO_CPU }, { -1, 3, -1, NO_CPU }, { 2, 3, 1 }, "0-3" },
	/* 3 */ { { 0, 2, 3, 7, NO_CPU }, { -1, -1, -1, -1, NO_CPU }, { 7, 3, 2, 0 }, "0,2-3,7" },
	/* 4 */ { { 0, 1, NO_CPU }, { 1, 1, NO_CPU }, { NO_CPU }, "0-1" },
	/* 5 */ { { 0, 1, NO_CPU }, { 2, NO_CPU }, { NO_CPU }, "0-1" },
	/* 6 */ { { 0, 1, NO_CPU }, { -1, -1, -1, NO_CPU }, { NO_CPU }, "0-1" },
	/* 7 */ { { 5, NO_CPU }, { -1, NO_CPU }, { 5 }, "5" },
	/* 8 */ { { 5, NO_CPU }, { -7, NO_CPU }, { NO_CPU }, "5" },
	/* 9 */ { { 0, NO_CPU }, { 100000, NO_CPU }, { NO_CPU }, "0" },
};

static void test_cpu_placement(void **state)
{
	for (size_t i = 0; i < array_size(places); i++) {
		struct sidecore_config wanted[8];
		bool refused = places[i].placed[0] == NO_CPU;
		cpu_set_t allowed;
		unsigned count = 0;
		char list[64];
		int cpus[8];

		CPU_ZERO(&allowed);
		for (int j = 0; places[i].allowed[j] != NO_CPU; j++)
			CPU_SET(places[i].allowed[j], &allowed);
		for (; places[i].wanted[count] != NO_CPU; count++)
			wanted[count].cpu = places[i].wanted[count];

		cpu_list(&allowed, list, sizeof(list));
		assert_string_equal(list, places[i].list);
		if (cpu_place(&allowed, wanted, count, cpus) != (refused ? -EINVAL : 0))
			fail_msg("case %zu", i);
		for (unsigned j = 0; j < count && !refused; j++) {
			if (cpus[j] != places[i].placed[j])
				fail_msg("case %zu: sidecore %u on CPU %d", i, j, cpus[j]);
		}
	}
}

static void test_create_refuses(void **state)
{
	struct engine_config config = { .sidecore_count = 0 };
	struct engine *engine = NULL;

	assert_int_equal(engine_create(&config, &engine), -EINVAL);
	config.sidecore_count = SIDECORES_MAX + 1;
	assert_int_equal(engine_create(&config, &engine), -EINVAL);
	config.sidecore_count = 1;
	config.sidecores[0].cpu = CPU_SETSIZE - 1;
	assert_int_equal(engine_create(&config, &engine), -EINVAL);
	config.sidecores[0].cpu = -1;
	config.scheduler = "lottery";
	assert_int_equal(engine_create(&config, &engine), -EINVAL);
	assert_null(engine);
}

static void test_sidecores_are_pinned(void **state)
{
	struct engine *engine = start_engine(test_sidecore_count(), 0);

	for (unsigned i = 0; i < engine_sidecore_count(engine); i++) {
		struct sidecore *sidecore = engine_sidecore(engine, i);
		cpu_set_t set;

		assert_int_equal(pthread_getaffinity_np(sidecore->thread, sizeof(set), &set), 0);
		assert_int_equal(CPU_COUNT(&set), 1);
		assert_true(CPU_ISSET(sidecore_cpu(sidecore), &set));
		assert_int_equal(sidecore_index(sidecore), i);
		assert_ptr_equal(sidecore_engine(sidecore), engine);
	}
	stop_engine(engine);
}

/* --- attach, detach, barrier, completions --- */

static void test_life_of_a_poller(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct sidecore *sidecore = engine_sidecore(engine, 0);
	struct sidecore_counters counters;
	struct channel channel;
	struct flagged attached;

	channel_init(&channel);
	flagged_init(&attached);
	assert_int_equal(engine_attach(engine, sidecore, &channel.poller, &attached.completion), 0);
	assert_ptr_equal(channel.poller.sidecore, sidecore);
	assert_int_equal(engine_attach(engine, sidecore, &channel.poller, NULL), -EBUSY);
	wait_for(engine, &attached);
	assert_true(channel.disarms >= 1);
	sidecore_read_counters(sidecore, &counters);
	assert_int_equal(counters.pollers, 1);
	assert_int_equal(counters.cpu, sidecore_cpu(sidecore));

	channel_offer(&channel, 5);
	wait_until_consumed(&channel, 5);
	detach_and_wait(engine, &channel.poller);
	assert_null(channel.poller.sidecore);
	assert_int_equal(counter_read(&channel.poller.counters.work), 5);
	assert_int_equal(counter_read(&channel.poller.counters.turns),
			 counter_read(&channel.poller.counters.empty_turns) + 1);
	sidecore_read_counters(sidecore, &counters);
	assert_int_equal(counters.pollers, 0);

	/* Not polled any more. */
	channel_offer(&channel, 1);
	usleep(2000);
	assert_int_equal(atomic_load(&channel.consumed), 5);

	/* And again: what was offered meanwhile is found, though no kick was asked for. */
	assert_int_equal(engine_attach(engine, sidecore, &channel.poller, NULL), 0);
	wait_until_consumed(&channel, 6);
	detach_and_wait(engine, &channel.poller);
	channel_fini(&channel);
	stop_engine(engine);
}

static void test_attach_refuses_unwatchable_fd(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct channel channel;
	int eventfd = -1;

	channel_init(&channel);
	eventfd = channel.poller.wake_fd;
	channel.poller.wake_fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	assert_true(channel.poller.wake_fd >= 0);
	assert_int_equal(engine_attach(engine, engine_sidecore(engine, 0), &channel.poller, NULL), -EPERM);
	assert_null(channel.poller.sidecore);
	close(channel.poller.wake_fd);
	channel.poller.wake_fd = eventfd;
	channel_fini(&channel);
	stop_engine(engine);
}

static void test_without_threads(void **state)
{
	struct engine_config config = { .sidecore_count = 1, .sidecores[0].cpu = -1 };
	struct flagged attached, barrier;
	struct channel channel;
	struct engine *engine;

	/* Attached before the start: polled once the thread runs. */
	assert_int_equal(engine_create(&config, &engine), 0);
	channel_init(&channel);
	flagged_init(&attached);
	flagged_init(&barrier);
	channel_offer(&channel, 3);
	assert_int_equal(engine_attach(engine, engine_sidecore(engine, 0), &channel.poller, &attached.completion), 0);
	engine_barrier(engine, &barrier.completion);
	engine_run_completions(engine);
	assert_true(attached.done && barrier.done);
	assert_int_equal(engine_start(engine), 0);
	wait_until_consumed(&channel, 3);

	/* Stopped with the poller still there: let go, loudly; its memory is ours. */
	engine_stop(engine);
	assert_null(channel.poller.sidecore);
	flagged_init(&barrier);
	engine_detach(engine, &channel.poller, &barrier.completion);
	engine_run_completions(engine);
	assert_true(barrier.done);
	engine_destroy(engine);
	channel_fini(&channel);
}

struct ordered {
	struct engine_completion completion;
	unsigned *next, seen;
};

static void ordered_done(struct engine_completion *completion)
{
	struct ordered *ordered = container_of(completion, struct ordered, completion);

	ordered->seen = ++*ordered->next;
}

static void test_barriers_in_order(void **state)
{
	struct engine *engine = start_engine(test_sidecore_count(), 0);
	struct ordered barriers[20];
	unsigned next = 0;

	for (unsigned i = 0; i < array_size(barriers); i++) {
		barriers[i] = (struct ordered){ .completion.done = ordered_done, .next = &next };
		engine_barrier(engine, &barriers[i].completion);
	}
	while (next < array_size(barriers))
		wait_for_completions(engine);
	for (unsigned i = 0; i < array_size(barriers); i++)
		assert_int_equal(barriers[i].seen, i + 1);
	stop_engine(engine);
}

/* A barrier is a quiescent state: what was unpublished before it is not used after it. */
struct publisher {
	struct poller poller;
	_Atomic(atomic_uint *) shared;
};

static unsigned publisher_poll(struct poller *poller, const struct turn *turn)
{
	struct publisher *publisher = container_of(poller, struct publisher, poller);
	atomic_uint *shared = atomic_load_explicit(&publisher->shared, memory_order_acquire);

	if (shared)
		atomic_fetch_add_explicit(shared, 1, memory_order_relaxed);
	return 1;
}

static const struct poller_ops publisher_ops = { .kind = "publisher", .poll = publisher_poll };

static void test_barrier_is_quiescent(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct publisher publisher = { .poller = { .ops = &publisher_ops, .wake_fd = -1 } };

	assert_int_equal(engine_attach(engine, engine_sidecore(engine, 0), &publisher.poller, NULL), 0);
	for (int i = 0; i < 200; i++) {
		atomic_uint *shared = calloc(1, sizeof(*shared));

		atomic_store(&publisher.shared, shared);
		while (!atomic_load_explicit(shared, memory_order_relaxed))
			sched_yield();
		atomic_store(&publisher.shared, NULL);
		barrier_and_wait(engine);
		free(shared); /* AddressSanitizer and ThreadSanitizer watch */
	}
	detach_and_wait(engine, &publisher.poller);
	stop_engine(engine);
}

static void count_visit(struct poller *poller, void *context)
{
	++*(unsigned *)context;
}

static void test_pick_and_visit(void **state)
{
	unsigned sidecores = test_sidecore_count(), visited = 0;
	struct engine *engine = start_engine(sidecores, 0);
	struct channel channels[6];

	for (unsigned i = 0; i < array_size(channels); i++) {
		channel_init(&channels[i]);
		assert_int_equal(engine_attach(engine, engine_pick_sidecore(engine), &channels[i].poller, NULL), 0);
		assert_int_equal(sidecore_index(channels[i].poller.sidecore), i % sidecores);
	}
	engine_for_each_poller(engine, count_visit, &visited);
	assert_int_equal(visited, array_size(channels));
	detach_and_wait(engine, &channels[0].poller);
	assert_ptr_equal(engine_pick_sidecore(engine), engine_sidecore(engine, 0));
	for (unsigned i = 1; i < array_size(channels); i++)
		detach_and_wait(engine, &channels[i].poller);
	for (unsigned i = 0; i < array_size(channels); i++)
		channel_fini(&channels[i]);
	stop_engine(engine);
}

/* --- messages --- */

struct numbered_message {
	struct sidecore_message message;
	unsigned number;
	pthread_t thread;
	struct numbered_log *log;
};

struct numbered_log {
	unsigned count, order[64];
};

static void numbered_run(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct numbered_message *numbered = container_of(message, struct numbered_message, message);

	numbered->thread = pthread_self();
	numbered->log->order[numbered->log->count++] = numbered->number;
}

static void test_messages_in_order(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct numbered_message messages[64];
	struct numbered_log log = { 0 };

	for (unsigned i = 0; i < array_size(messages); i++) {
		messages[i] = (struct numbered_message){ .message.run = numbered_run, .number = i, .log = &log };
		sidecore_post(engine_sidecore(engine, 0), &messages[i].message);
		if (i % 7 == 0)
			usleep(400); /* some are found asleep, some awake */
	}
	barrier_and_wait(engine);
	assert_int_equal(log.count, array_size(messages));
	for (unsigned i = 0; i < array_size(messages); i++) {
		assert_int_equal(log.order[i], i);
		assert_true(pthread_equal(messages[i].thread, engine_sidecore(engine, 0)->thread));
	}
	stop_engine(engine);
}

/* --- timers --- */

struct timed {
	struct engine_timer timer;
	struct sidecore_message message;
	uint64_t delay, deadline, expired_at;
	atomic_uint expired;
	unsigned order;
	bool again_in_the_past;
	unsigned *next;
};

static void timed_expire(struct sidecore *sidecore, struct engine_timer *timer)
{
	struct timed *timed = container_of(timer, struct timed, timer);

	timed->expired++;
	timed->expired_at = clock_nanoseconds();
	if (timed->next)
		timed->order = ++*timed->next;
	if (timed->again_in_the_past)
		sidecore_timer_set(sidecore, timer, 1);
}

static void timed_set(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct timed *timed = container_of(message, struct timed, message);

	timed->deadline = clock_nanoseconds() + timed->delay;
	timed->timer.expire = timed_expire;
	sidecore_timer_set(sidecore, &timed->timer, timed->deadline);
}

static void timed_cancel(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct timed *timed = container_of(message, struct timed, message);

	timed->again_in_the_past = false;
	sidecore_timer_cancel(sidecore, &timed->timer);
	sidecore_timer_cancel(sidecore, &timed->timer); /* harmless when idle */
}

static void timed_post(struct engine *engine, struct timed *timed,
		       void (*run)(struct sidecore *, struct sidecore_message *))
{
	timed->message.run = run;
	sidecore_post(engine_sidecore(engine, 0), &timed->message);
	barrier_and_wait(engine);
}

/* Several timers set at one moment: one message each would let a busy machine choose their order. */
struct timed_group {
	struct sidecore_message message;
	struct timed *timers;
	unsigned count;
};

static void timed_set_group(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct timed_group *group = container_of(message, struct timed_group, message);
	uint64_t now = clock_nanoseconds();

	for (unsigned i = 0; i < group->count; i++) {
		struct timed *timed = &group->timers[i];

		timed->deadline = now + timed->delay;
		timed->timer.expire = timed_expire;
		sidecore_timer_set(sidecore, &timed->timer, timed->deadline);
	}
}

static void test_timers(void **state)
{
	/* ms */
	static const unsigned delays[] = { 30, 10, 20, 5, 40, 15 }, orders[] = { 5, 2, 4, 1, 6, 3 };
	struct engine *engine = start_engine(1, 0);
	struct timed timers[array_size(delays)] = { 0 }, cancelled = { .delay = 70 * NANOSECONDS_PER_MILLISECOND };
	struct timed_group group = { .message.run = timed_set_group, .timers = timers, .count = array_size(delays) };
	struct sidecore_counters counters;
	unsigned next = 0;

	for (unsigned i = 0; i < array_size(delays); i++) {
		timers[i].delay = delays[i] * NANOSECONDS_PER_MILLISECOND;
		timers[i].next = &next;
	}
	sidecore_post(engine_sidecore(engine, 0), &group.message);
	barrier_and_wait(engine);
	timed_post(engine, &cancelled, timed_set);
	timed_post(engine, &cancelled, timed_cancel);
	usleep(80000);
	barrier_and_wait(engine);
	barrier_and_wait(engine); /* timers run after messages: the round of the first one has ended */
	for (unsigned i = 0; i < array_size(delays); i++) {
		assert_int_equal(timers[i].expired, 1);
		assert_int_equal(timers[i].order, orders[i]);
		assert_true(timers[i].expired_at >= timers[i].deadline);
	}
	assert_int_equal(cancelled.expired, 0);
	sidecore_read_counters(engine_sidecore(engine, 0), &counters);
	assert_in_range(counters.wakes_timer, 1, array_size(delays) + 2);
	stop_engine(engine);
}

/* A timer that is always due again holds up neither messages nor pollers. */
static void test_timer_in_the_past(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct timed always = { .again_in_the_past = true };
	struct channel channel;

	channel_init(&channel);
	assert_int_equal(engine_attach(engine, engine_sidecore(engine, 0), &channel.poller, NULL), 0);
	timed_post(engine, &always, timed_set);
	channel_offer(&channel, 1);
	wait_until_consumed(&channel, 1);
	while (atomic_load(&always.expired) < 1000)
		barrier_and_wait(engine);
	timed_post(engine, &always, timed_cancel);
	detach_and_wait(engine, &channel.poller);
	channel_fini(&channel);
	stop_engine(engine);
}

static void test_timer_heap(void **state)
{
	static struct engine_timer timers[500];
	struct timer_heap heap = { 0 };
	unsigned armed = 0;

	srandom(1);
	for (int step = 0; step < 200000; step++) {
		struct engine_timer *timer = &timers[(unsigned)random() % array_size(timers)];

		if (timer->position != ENGINE_TIMER_IDLE) {
			timer_heap_remove(&heap, timer);
			armed--;
		} else {
			timer->deadline = (uint64_t)random() % 1000;
			timer_heap_insert(&heap, timer);
			armed++;
		}
		if (step % 100 == 0) {
			uint64_t soonest = UINT64_MAX;

			for (size_t i = 0; i < array_size(timers); i++) {
				if (timers[i].position != ENGINE_TIMER_IDLE)
					soonest = min(soonest, timers[i].deadline);
			}
			assert_int_equal(timer_heap_deadline(&heap), soonest);
		}
	}
	for (uint64_t last = 0; armed; armed--) {
		struct engine_timer *timer = heap.root;

		assert_true(timer->deadline >= last);
		last = timer->deadline;
		timer_heap_remove(&heap, timer);
	}
	assert_null(heap.root);
}

/* --- turns and fairness --- */

static void test_round_robin(void **state)
{
	const struct scheduler_ops *ops = scheduler_find(NULL);
	struct scheduler *scheduler = ops->create();
	struct poller pollers[4] = { 0 };
	unsigned first[4] = { 0 };
	struct turn turn = { 0 };

	assert_ptr_equal(ops, scheduler_find("round-robin"));
	assert_null(ops->next(scheduler, &turn));
	for (unsigned i = 0; i < 4; i++)
		ops->attach(scheduler, &pollers[i]);
	for (unsigned round = 0; round < 40; round++) {
		unsigned turns[4] = { 0 }, place = 0;
		struct poller *poller;

		while ((poller = ops->next(scheduler, &turn))) {
			if (!place++)
				first[poller - pollers]++;
			turns[poller - pollers]++;
			assert_int_equal(turn.requests, 64);
			assert_int_equal(turn.bytes, 512 * 1024);
		}
		for (unsigned i = 0; i < 4; i++)
			assert_int_equal(turns[i], 1);
	}
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(first[i], 10); /* nobody is always first */

	/* Detached in any order; a round visits exactly those that are left. */
	for (unsigned left = 4; left; left--) {
		static const unsigned leaves[] = { 3, 1, 0, 2 };
		unsigned visited = 0;

		while (ops->next(scheduler, &turn))
			visited++;
		assert_int_equal(visited, left);
		ops->detach(scheduler, &pollers[leaves[4 - left]]);
	}
	assert_null(ops->next(scheduler, &turn));
	ops->destroy(scheduler);
}

struct unequal_start {
	struct sidecore_message message;
	struct channel *channels;
};

/* Between two rounds, so that all start in the same one. */
static void unequal_start(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct unequal_start *start = container_of(message, struct unequal_start, message);

	atomic_store(&start->channels[0].available, 3000000000U);
	atomic_store(&start->channels[1].available, 1000000000U);
	atomic_store(&start->channels[2].available, 1000000000U);
}

static void test_turns_are_bounded_and_fair(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct channel channels[3];
	struct unequal_start start = { .message.run = unequal_start, .channels = channels };
	uint64_t work[3];

	for (unsigned i = 0; i < 3; i++) {
		channel_init(&channels[i]);
		assert_int_equal(engine_attach(engine, engine_sidecore(engine, 0), &channels[i].poller, NULL), 0);
	}
	/* One channel has far more to do than the others: no more of it is done in the same time. */
	barrier_and_wait(engine);
	sidecore_post(engine_sidecore(engine, 0), &start.message);
	/* On a busy machine the sidecore may wait for its CPU for longer than any fixed sleep. */
	while (counter_read(&channels[2].poller.counters.work) <= 64 * 100)
		usleep(1000);
	for (unsigned i = 0; i < 3; i++)
		detach_and_wait(engine, &channels[i].poller);
	for (unsigned i = 0; i < 3; i++) {
		work[i] = counter_read(&channels[i].poller.counters.work);
		assert_int_equal(channels[i].largest_turn, 64);
		assert_true(work[i] > 64 * 10);
	}
	/* Channels 1 and 2 stayed a little longer, each in turn. */
	assert_true(work[0] <= work[1] + 64 && work[1] <= work[2] + 64);
	for (unsigned i = 0; i < 3; i++)
		channel_fini(&channels[i]);
	stop_engine(engine);
}

/* --- accounting --- */

static void test_accounting(void **state)
{
	/* Longer than the test takes, however busy the machine is. */
	struct engine *engine = start_engine(1, 60 * NANOSECONDS_PER_SECOND);
	struct sidecore *sidecore = engine_sidecore(engine, 0);
	struct sidecore_counters before, after;
	struct channel busy, idle;

	channel_init(&busy);
	channel_init(&idle);
	assert_int_equal(engine_attach(engine, sidecore, &busy.poller, NULL), 0);
	assert_int_equal(engine_attach(engine, sidecore, &idle.poller, NULL), 0);
	barrier_and_wait(engine);
	sidecore_read_counters(sidecore, &before);
	channel_offer(&busy, 64 * 100);
	wait_until_consumed(&busy, 64 * 100);
	usleep(5000);
	detach_and_wait(engine, &busy.poller);
	detach_and_wait(engine, &idle.poller);
	engine_stop(engine); /* so that all counters are of one moment */
	sidecore_read_counters(sidecore, &after);

	assert_int_equal(counter_read(&busy.poller.counters.work), 64 * 100);
	assert_int_equal(counter_read(&idle.poller.counters.work), 0);
	assert_int_equal(counter_read(&idle.poller.counters.cycles), 0);
	assert_int_equal(counter_read(&idle.poller.counters.turns), counter_read(&idle.poller.counters.empty_turns));
	assert_int_equal(after.rounds - after.empty_rounds, 100);
	assert_true(after.busy_cycles - before.busy_cycles >= counter_read(&busy.poller.counters.cycles));
	assert_true(after.empty_cycles > before.empty_cycles);
	assert_int_equal(after.sleeps, 0); /* it still polled */
	assert_true(after.since_ns && after.since_ns <= clock_nanoseconds());
	channel_fini(&busy);
	channel_fini(&idle);
	engine_destroy(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpu_placement),
		cmocka_unit_test(test_create_refuses),
		cmocka_unit_test(test_sidecores_are_pinned),
		cmocka_unit_test(test_life_of_a_poller),
		cmocka_unit_test(test_attach_refuses_unwatchable_fd),
		cmocka_unit_test(test_without_threads),
		cmocka_unit_test(test_barriers_in_order),
		cmocka_unit_test(test_barrier_is_quiescent),
		cmocka_unit_test(test_pick_and_visit),
		cmocka_unit_test(test_messages_in_order),
		cmocka_unit_test(test_timers),
		cmocka_unit_test(test_timer_in_the_past),
		cmocka_unit_test(test_timer_heap),
		cmocka_unit_test(test_round_robin),
		cmocka_unit_test(test_turns_are_bounded_and_fair),
		cmocka_unit_test(test_accounting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
