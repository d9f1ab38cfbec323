/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sleep and wake: that an idle sidecore really sleeps, that nothing wakes it in vain for long, and that no wake-up is
 * ever lost, under stress. Each wait has a hang detector that names the state; a lost wake-up fails the test there.
 */
#include "engine_channel.h"

#include <stdlib.h>
#include <time.h>

static uint64_t cpu_time(struct sidecore *sidecore)
{
	struct timespec time;
	clockid_t clock;

	assert_int_equal(pthread_getcpuclockid(sidecore->thread, &clock), 0);
	assert_int_equal(clock_gettime(clock, &time), 0);
	return (uint64_t)time.tv_sec * NANOSECONDS_PER_SECOND + (uint64_t)time.tv_nsec;
}

static void attach(struct engine *engine, unsigned sidecore, struct channel *channel)
{
	assert_int_equal(engine_attach(engine, engine_sidecore(engine, sidecore), &channel->poller, NULL), 0);
}

/* On a busy machine it takes a while until an idle sidecore has had its last turns. */
static void wait_until_asleep(const struct sidecore *sidecore)
{
	for (unsigned naps = 0; naps < 10000 && !counter_read(&sidecore->asleep_since); naps++)
		usleep(1000);
	assert_true(counter_read(&sidecore->asleep_since));
}

static void test_idle_sidecore_sleeps(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct sidecore *sidecore = engine_sidecore(engine, 0);
	struct sidecore_counters before, after;
	struct channel channels[32];
	uint64_t used;

	for (unsigned i = 0; i < array_size(channels); i++) {
		channel_init(&channels[i]);
		attach(engine, 0, &channels[i]);
	}
	barrier_and_wait(engine); /* it knows all of them */
	usleep(50000);
	wait_until_asleep(sidecore);
	sidecore_read_counters(sidecore, &before);
	used = cpu_time(sidecore);
	usleep(200000);
	used = cpu_time(sidecore) - used;
	sidecore_read_counters(sidecore, &after);
	print_message("CPU time in 200 ms of sleep: %lu us\n", used / 1000);
	assert_true(used < NANOSECONDS_PER_MILLISECOND);
	assert_int_equal(after.rounds, before.rounds);
	assert_int_equal(after.sleeps, before.sleeps);
	assert_in_range(after.sleep_ns - before.sleep_ns, 190 * NANOSECONDS_PER_MILLISECOND,
			NANOSECONDS_PER_SECOND * 10);

	/* A kick wakes it and is counted, there and at the poller. */
	channel_offer(&channels[7], 1);
	wait_until_consumed(&channels[7], 1);
	usleep(50000);
	sidecore_read_counters(sidecore, &after);
	assert_int_equal(after.wakes_kick, before.wakes_kick + 1);
	assert_int_equal(counter_read(&channels[7].poller.counters.wakes), 1);
	assert_int_equal(counter_read(&channels[6].poller.counters.wakes), 0);
	assert_int_equal(channels[7].kicks, 1);

	for (unsigned i = 0; i < array_size(channels); i++) {
		detach_and_wait(engine, &channels[i].poller);
		channel_fini(&channels[i]);
	}
	stop_engine(engine);
}

/* A peer that kicks without work costs one round a kick: spinning is for work only. */
static void test_vain_kicks(void **state)
{
	/* Spinning 20 ms after each kick would be seen. */
	struct engine *engine = start_engine(1, 20 * NANOSECONDS_PER_MILLISECOND);
	struct sidecore *sidecore = engine_sidecore(engine, 0);
	struct channel channel;
	uint64_t used, wakes = 0;

	channel_init(&channel);
	attach(engine, 0, &channel);
	usleep(50000);
	used = cpu_time(sidecore);
	/* Each kick is one wake-up; on a busy machine some fall together. */
	for (unsigned i = 0; i < 10000 && wakes < 100; i++) {
		channel_kick(&channel);
		usleep(1000);
		wakes = counter_read(&channel.poller.counters.wakes);
	}
	used = cpu_time(sidecore) - used;
	print_message("CPU time of %lu kicks in vain: %lu us\n", wakes, used / 1000);
	assert_true(wakes >= 100);
	assert_true(used < 40 * NANOSECONDS_PER_MILLISECOND);
	detach_and_wait(engine, &channel.poller);
	channel_fini(&channel);
	stop_engine(engine);
}

/* Work that is held back is told by nobody when it can go on: the sidecore stays awake for it. */
static void test_pending_keeps_awake(void **state)
{
	struct engine *engine = start_engine(1, NANOSECONDS_PER_MICROSECOND);
	struct sidecore_counters before, after;
	struct channel channel;

	channel_init(&channel);
	attach(engine, 0, &channel);
	usleep(10000);
	atomic_store(&channel.hold, true);
	channel_offer(&channel, 1);
	usleep(10000);
	sidecore_read_counters(engine_sidecore(engine, 0), &before);
	/* Rounds go on, however slowly on a busy machine, and none of them ends in sleep. */
	for (unsigned naps = 0; naps < 1000; naps++) {
		usleep(20000);
		sidecore_read_counters(engine_sidecore(engine, 0), &after);
		if (after.rounds > before.rounds + 100)
			break;
	}
	assert_int_equal(after.sleeps, before.sleeps);
	assert_true(after.rounds > before.rounds + 100);
	atomic_store(&channel.hold, false); /* no kick */
	wait_until_consumed(&channel, 1);
	detach_and_wait(engine, &channel.poller);
	channel_fini(&channel);
	stop_engine(engine);
}

/* --- naps --- */

static void silent_channel_init(struct channel *channel)
{
	channel_init(channel);
	close(channel->poller.wake_fd);
	channel->poller.wake_fd = -1;
	channel->poller.silent = true;
	channel->blind_arm = true; /* only a look can find anything */
}

/* Work that nobody tells of is found by the next look, which a longer idleness makes rarer, within bounds. */
static void test_silent_poller_naps(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct sidecore *sidecore = engine_sidecore(engine, 0);
	struct sidecore_counters before, after;
	struct channel channel;
	uint64_t used, start, elapsed, longest = 0;

	silent_channel_init(&channel);
	attach(engine, 0, &channel);
	usleep(50000);
	assert_int_equal(counter_read(&sidecore->nap_ns), NANOSECONDS_PER_MILLISECOND);
	sidecore_read_counters(sidecore, &before);
	used = cpu_time(sidecore);
	start = clock_nanoseconds();
	sleep(1);
	used = cpu_time(sidecore) - used;
	elapsed = clock_nanoseconds() - start;
	sidecore_read_counters(sidecore, &after);
	print_message("idle with a silent poller: %.2f %% of a core, %lu naps in %lu ms\n",
		      100.0 * (double)used / (double)elapsed, after.wakes_nap - before.wakes_nap, elapsed / 1000000);
#ifndef __SANITIZE_THREAD__
	assert_true(used < elapsed / 10); /* with room for a busy machine, and for sanitizers */
#endif
	/* Each nap ran its length; and it did nap. */
	assert_in_range(after.wakes_nap - before.wakes_nap, 100, elapsed / NANOSECONDS_PER_MILLISECOND + 1);
	assert_int_equal(after.rounds, before.rounds);
	assert_int_equal(after.wakes_timer, before.wakes_timer);
	assert_true(after.empty_cycles > before.empty_cycles);
	assert_true(after.sleep_ns - before.sleep_ns > elapsed / 2);

	for (unsigned i = 1; i <= 50; i++) {
		usleep(3000);
		start = clock_nanoseconds();
		channel_offer(&channel, 1);
		wait_until_consumed(&channel, i);
		longest = max(longest, clock_nanoseconds() - start);
	}
	print_message("longest wait for a look: %lu us\n", longest / 1000);
	assert_int_equal(channel.kicks, 0);

	/* Without it, sleep is sleep. */
	detach_and_wait(engine, &channel.poller);
	usleep(20000);
	sidecore_read_counters(sidecore, &before);
	usleep(50000);
	sidecore_read_counters(sidecore, &after);
	assert_int_equal(after.wakes_nap, before.wakes_nap);
	assert_int_equal(after.sleeps, before.sleeps);
	stop_engine(engine);
}

/* Work brings naps back to their start; who kicks in vain beside a silent poller changes nothing. */
static void test_naps_begin_anew(void **state)
{
	struct engine *engine = start_engine(1, NANOSECONDS_PER_MICROSECOND);
	struct sidecore *sidecore = engine_sidecore(engine, 0);
	struct sidecore_counters before, after;
	struct channel silent, kicked;
	unsigned offered = 0;

	silent_channel_init(&silent);
	channel_init(&kicked);
	attach(engine, 0, &silent);
	attach(engine, 0, &kicked);
	usleep(50000);
	sidecore_read_counters(sidecore, &before);
	/* Until a nap is 625 us long, an eighth of 5 ms, there are dozens of shorter ones; 5 of them on the busiest machine. */
	for (unsigned i = 0; i < 20; i++) {
		channel_offer(&silent, 1);
		wait_until_consumed(&silent, ++offered);
		usleep(5000);
	}
	sidecore_read_counters(sidecore, &after);
	print_message("20 units of work, 5 ms apart: %lu naps\n", after.wakes_nap - before.wakes_nap);
	assert_true(after.wakes_nap - before.wakes_nap >= 20 * 5);
	assert_int_equal(after.wakes_kick, before.wakes_kick);

	usleep(50000);
	sidecore_read_counters(sidecore, &before);
	for (unsigned i = 0; i < 100; i++) {
		channel_kick(&kicked);
		usleep(300);
	}
	assert_int_equal(counter_read(&sidecore->nap_ns), NANOSECONDS_PER_MILLISECOND);
	channel_offer(&kicked, 1);
	wait_until_consumed(&kicked, 1);
	sidecore_read_counters(sidecore, &after);
	assert_true(after.wakes_kick > before.wakes_kick);

	detach_and_wait(engine, &silent.poller);
	detach_and_wait(engine, &kicked.poller);
	channel_fini(&kicked);
	stop_engine(engine);
}

struct nap_timer {
	struct engine_timer timer;
	struct sidecore_message message;
	atomic_bool expired;
	uint64_t late;
};

static void nap_timer_expire(struct sidecore *sidecore, struct engine_timer *timer)
{
	struct nap_timer *nap_timer = container_of(timer, struct nap_timer, timer);

	nap_timer->late = clock_nanoseconds() - timer->deadline;
	atomic_store(&nap_timer->expired, true);
}

static void nap_timer_set(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct nap_timer *nap_timer = container_of(message, struct nap_timer, message);

	sidecore_timer_set(sidecore, &nap_timer->timer, clock_nanoseconds() + 300 * NANOSECONDS_PER_MICROSECOND);
}

/* Messages and deadlines cut a nap short. */
static void test_timers_between_naps(void **state)
{
	struct engine *engine = start_engine(1, NANOSECONDS_PER_MICROSECOND);
	struct sidecore *sidecore = engine_sidecore(engine, 0);
	struct sidecore_counters before, after;
	uint64_t earliest = UINT64_MAX;
	struct channel channel;

	silent_channel_init(&channel);
	attach(engine, 0, &channel);
	usleep(50000);
	sidecore_read_counters(sidecore, &before);
	for (unsigned i = 0; i < 20; i++) {
		struct nap_timer timer = { .timer.expire = nap_timer_expire, .message.run = nap_timer_set };

		sidecore_post(sidecore, &timer.message);
		for (unsigned wait = 0; wait < 60000 && !atomic_load(&timer.expired); wait++)
			usleep(1000);
		assert_true(atomic_load(&timer.expired));
		earliest = min(earliest, timer.late);
	}
	sidecore_read_counters(sidecore, &after);
	print_message("a timer of 300 us beside naps of 1 ms: at best %lu us late\n", earliest / 1000);
	assert_true(earliest < 300 * NANOSECONDS_PER_MICROSECOND);
	assert_in_range(after.wakes_timer - before.wakes_timer, 1, 20);
	detach_and_wait(engine, &channel.poller);
	stop_engine(engine);
}

/* --- stress --- */

/* A random pause: often none, often about as long as it takes to go to sleep, at times much longer. */
static void pause_at_random(unsigned *seed, unsigned spin_ns)
{
	unsigned dice = (unsigned)rand_r(seed);
	uint64_t end;

	if (dice % 4 == 0)
		return;
	if (dice % 1024 == 1) {
		usleep(200);
		return;
	}
	end = clock_nanoseconds() + (unsigned)rand_r(seed) % (2 * spin_ns + 6000);
	while (clock_nanoseconds() < end)
		cpu_relax();
}

/* ThreadSanitizer makes each of them many times as long. */
#ifdef __SANITIZE_THREAD__
#define HAND_OVERS 10000U
#else
#define HAND_OVERS 100000U
#endif

/* One producer, one consumer, each hand-over waited for: a single lost wake-up hangs. */
static void hand_over(bool blind_arm, unsigned spin_ns)
{
	struct engine *engine = start_engine(1, spin_ns);
	struct sidecore_counters counters;
	struct channel channel, idle;
	unsigned seed = 1;

	channel_init(&channel);
	channel_init(&idle); /* makes the way from arm to sleep longer */
	channel.blind_arm = idle.blind_arm = blind_arm;
	attach(engine, 0, &channel);
	attach(engine, 0, &idle);
	for (unsigned i = 1; i <= HAND_OVERS; i++) {
		channel_offer(&channel, 1);
		wait_until_consumed(&channel, i);
		pause_at_random(&seed, spin_ns);
	}
	sidecore_read_counters(engine_sidecore(engine, 0), &counters);
	/* On a busy machine the window is met rarely: go on until it is. */
	for (unsigned i = HAND_OVERS + 1; i <= 3 * HAND_OVERS && !counters.aborted_sleeps; i++) {
		channel_offer(&channel, 1);
		wait_until_consumed(&channel, i);
		pause_at_random(&seed, spin_ns);
		sidecore_read_counters(engine_sidecore(engine, 0), &counters);
	}
	print_message("%u hand-overs: %u kicks, %lu sleeps, %lu aborted, %lu wakes by a kick\n",
		      atomic_load(&channel.consumed), channel.kicks, counters.sleeps, counters.aborted_sleeps,
		      counters.wakes_kick);
	/* The stress must reach the window that it is about. */
	assert_true(counters.sleeps > HAND_OVERS / 100);
#ifndef __SANITIZE_THREAD__
	assert_true(counters.aborted_sleeps > 0);
#endif
	assert_true(channel.kicks > HAND_OVERS / 100);
	detach_and_wait(engine, &channel.poller);
	detach_and_wait(engine, &idle.poller);
	channel_fini(&channel);
	channel_fini(&idle);
	stop_engine(engine);
}

static void test_no_lost_wake(void **state)
{
	hand_over(false, 1000);
}

static void test_no_lost_wake_blind_arm(void **state)
{
	hand_over(true, 1000);
}

/* The mailbox has its own way to sleep and wake. */
struct echo {
	struct sidecore_message message;
	struct engine_completion completion;
	struct engine *engine;
	bool back;
};

static void echo_done(struct engine_completion *completion)
{
	container_of(completion, struct echo, completion)->back = true;
}

static void echo_run(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct echo *echo = container_of(message, struct echo, message);

	engine_complete(echo->engine, &echo->completion);
}

static void test_no_lost_message(void **state)
{
	struct engine *engine = start_engine(1, NANOSECONDS_PER_MICROSECOND);
	struct echo echo = { .message.run = echo_run, .completion.done = echo_done, .engine = engine };
	struct sidecore_counters counters;
	unsigned seed = 1;

	for (unsigned i = 0; i < 30000; i++) {
		echo.back = false;
		sidecore_post(engine_sidecore(engine, 0), &echo.message);
		while (!echo.back)
			wait_for_completions(engine);
		pause_at_random(&seed, 1000);
	}
	sidecore_read_counters(engine_sidecore(engine, 0), &counters);
	assert_true(counters.wakes_message > 100);
	stop_engine(engine);
}

/* Many posters at once, none lost, each one's in order. */
#define POSTERS		   4U
#define MESSAGES_OF_POSTER 20000U

struct posted {
	struct sidecore_message message;
	struct poster *poster;
	unsigned number;
};

struct poster {
	pthread_t thread;
	struct sidecore *sidecore;
	struct posted *messages;
	unsigned seen; /* sidecore's */
	bool disorder;
};

static void posted_run(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct posted *posted = container_of(message, struct posted, message);

	if (posted->number != posted->poster->seen++)
		posted->poster->disorder = true;
}

static void *poster_main(void *argument)
{
	struct poster *poster = argument;
	unsigned seed = (unsigned)(uintptr_t)poster;

	for (unsigned i = 0; i < MESSAGES_OF_POSTER; i++) {
		poster->messages[i] = (struct posted){ .message.run = posted_run, .poster = poster, .number = i };
		sidecore_post(poster->sidecore, &poster->messages[i].message);
		if (rand_r(&seed) % 256 == 0)
			usleep(20);
	}
	return NULL;
}

static void test_many_posters(void **state)
{
	struct engine *engine = start_engine(1, NANOSECONDS_PER_MICROSECOND);
	struct poster posters[POSTERS] = { 0 };

	for (unsigned i = 0; i < POSTERS; i++) {
		posters[i].sidecore = engine_sidecore(engine, 0);
		posters[i].messages = calloc(MESSAGES_OF_POSTER, sizeof(posters[i].messages[0]));
		assert_int_equal(pthread_create(&posters[i].thread, NULL, poster_main, &posters[i]), 0);
	}
	for (unsigned i = 0; i < POSTERS; i++)
		pthread_join(posters[i].thread, NULL);
	barrier_and_wait(engine);
	for (unsigned i = 0; i < POSTERS; i++) {
		assert_int_equal(posters[i].seen, MESSAGES_OF_POSTER);
		assert_false(posters[i].disorder);
		free(posters[i].messages);
	}
	stop_engine(engine);
}

/* --- moves --- */

struct producer {
	pthread_t thread;
	struct channel *channel;
	atomic_bool stop;
};

static void *producer_main(void *argument)
{
	struct producer *producer = argument;
	unsigned seed = 3;

	while (!atomic_load(&producer->stop)) {
		channel_offer(producer->channel, 1 + (unsigned)rand_r(&seed) % 100);
		pause_at_random(&seed, 1000);
	}
	return NULL;
}

/* A poller goes from sidecore to sidecore (or off and on the only one) while its peer keeps on offering work. */
static void test_move_under_load(void **state)
{
	unsigned sidecores = test_sidecore_count();
	struct engine *engine = start_engine(sidecores, NANOSECONDS_PER_MICROSECOND);
	struct channel channel;
	struct producer producer = { .channel = &channel };
	unsigned offered;

	channel_init(&channel);
	attach(engine, 0, &channel);
	assert_int_equal(pthread_create(&producer.thread, NULL, producer_main, &producer), 0);
	for (unsigned i = 0; i < 1000; i++) {
		unsigned before = atomic_load(&channel.consumed);

		detach_and_wait(engine, &channel.poller);
		attach(engine, (i + 1) % sidecores, &channel);
		/* Every tenth place must be seen to serve before the poller moves on. */
		for (uint64_t start = clock_nanoseconds(); i % 10 == 0 && atomic_load(&channel.consumed) == before;) {
			if (clock_nanoseconds() - start > HANG_NS)
				fail_msg("move %u: nothing was done on sidecore %u", i, (i + 1) % sidecores);
			usleep(10);
		}
	}
	atomic_store(&producer.stop, true);
	pthread_join(producer.thread, NULL);
	offered = atomic_load(&channel.available);
	wait_until_consumed(&channel, offered);
	detach_and_wait(engine, &channel.poller);
	assert_int_equal(counter_read(&channel.poller.counters.work), offered);
	channel_fini(&channel);
	stop_engine(engine);
}

/* --- figures --- */

/* ThreadSanitizer sees to it that it takes several times as long. */
#ifdef __SANITIZE_THREAD__
#define ROUND_TIMES 10U
#else
#define ROUND_TIMES 1U
#endif

/*
 * Bounds are far from the figures: they are to find an accident (a system call in each round), not a slow machine. So it is
 * the sidecore's own CPU time, which does not run while something else has its CPU.
 */
static void test_cost_of_idle_round(void **state)
{
	static const unsigned counts[] = { 1, 8, 64 };

	for (size_t n = 0; n < array_size(counts); n++) {
		struct engine *engine = start_engine(1, 10 * NANOSECONDS_PER_SECOND);
		struct sidecore *sidecore = engine_sidecore(engine, 0);
		struct sidecore_counters before, after;
		uint64_t best = UINT64_MAX;
		struct channel channels[64];

		for (unsigned i = 0; i < counts[n]; i++) {
			channel_init(&channels[i]);
			attach(engine, 0, &channels[i]);
		}
		barrier_and_wait(engine);
		for (int run = 0; run < 10; run++) {
			uint64_t used = cpu_time(sidecore);

			sidecore_read_counters(sidecore, &before);
			usleep(3000);
			sidecore_read_counters(sidecore, &after);
			used = cpu_time(sidecore) - used;
			if (after.rounds != before.rounds)
				best = min(best, used / (after.rounds - before.rounds));
		}
		print_message("idle round with %u pollers: %lu ns\n", counts[n], best);
		assert_true(best < ROUND_TIMES * (2000 + 200 * counts[n]));
		for (unsigned i = 0; i < counts[n]; i++) {
			detach_and_wait(engine, &channels[i].poller);
			channel_fini(&channels[i]);
		}
		stop_engine(engine);
	}
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void test_latency_of_wake(void **state)
{
	struct engine *engine = start_engine(1, 0);
	static uint64_t latencies[500];
	struct channel channel;

	channel_init(&channel);
	attach(engine, 0, &channel);
	for (unsigned i = 0; i < array_size(latencies); i++) {
		uint64_t start;

		usleep(1000);
		start = clock_nanoseconds();
		channel_offer(&channel, 1);
		wait_until_consumed(&channel, i + 1);
		latencies[i] = atomic_load(&channel.consumed_at) - start;
	}
	assert_in_range(channel.kicks, array_size(latencies) * 9 / 10, array_size(latencies));
	qsort(latencies, array_size(latencies), sizeof(latencies[0]), compare);
	print_message("from kick to poll: median %.1f us, 99th percentile %.1f us\n",
		      (double)latencies[array_size(latencies) / 2] / 1000,
		      (double)latencies[array_size(latencies) * 99 / 100] / 1000);
	assert_true(latencies[array_size(latencies) / 2] < 5 * NANOSECONDS_PER_MILLISECOND);
	detach_and_wait(engine, &channel.poller);
	channel_fini(&channel);
	stop_engine(engine);
}

/* Short gaps teach it to spin longer, long ones to spin less; see "How long to spin" in sidecore_sleep.c. */
static void test_adaptive_spin(void **state)
{
	struct engine *engine = start_engine(1, 0);
	struct sidecore *sidecore = engine_sidecore(engine, 0);
	struct channel channel;
	unsigned offered = 0;
	uint64_t end;

	channel_init(&channel);
	attach(engine, 0, &channel);
	for (int i = 0; i < 20; i++) {
		channel_offer(&channel, 1);
		wait_until_consumed(&channel, ++offered);
		usleep(3000);
	}
	barrier_and_wait(engine);
	assert_int_equal(counter_read(&sidecore->spin_ns), 10 * NANOSECONDS_PER_MICROSECOND);
	for (int i = 0; i < 2000 && counter_read(&sidecore->spin_ns) < 80000; i++) {
		channel_offer(&channel, 1);
		wait_until_consumed(&channel, ++offered);
		for (end = clock_nanoseconds() + 90000; clock_nanoseconds() < end;)
			cpu_relax();
	}
	barrier_and_wait(engine);
	assert_true(counter_read(&sidecore->spin_ns) >= 80000);
	detach_and_wait(engine, &channel.poller);
	channel_fini(&channel);
	stop_engine(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_idle_sidecore_sleeps),   cmocka_unit_test(test_vain_kicks),
		cmocka_unit_test(test_pending_keeps_awake),    cmocka_unit_test(test_no_lost_wake),
		cmocka_unit_test(test_no_lost_wake_blind_arm), cmocka_unit_test(test_no_lost_message),
		cmocka_unit_test(test_many_posters),	       cmocka_unit_test(test_move_under_load),
		cmocka_unit_test(test_cost_of_idle_round),     cmocka_unit_test(test_latency_of_wake),
		cmocka_unit_test(test_adaptive_spin),	       cmocka_unit_test(test_silent_poller_naps),
		cmocka_unit_test(test_naps_begin_anew),	       cmocka_unit_test(test_timers_between_naps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
