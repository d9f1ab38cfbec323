/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the engine's tests share: an engine with threads, waiting for completions, and channels.
 *
 * A channel is what a virtqueue is to the engine: the peer raises @available and kicks if @wants_kick says so; the
 * poller works the difference off. Event suppression is "write mine, then read yours" on both sides, all accesses
 * seq_cst.
 */
#ifndef TESTS_UNIT_ENGINE_CHANNEL_H
#define TESTS_UNIT_ENGINE_CHANNEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/counter.h"
#include "engine/engine.h"
#include "engine/sidecore.h"

/** Nothing in these tests takes that long, not even under a sanitizer on a busy machine: then it hangs. */
#define HANG_NS (60 * NANOSECONDS_PER_SECOND)

/** As many sidecores as the machine lets us pin, at most 3, and one CPU is left to the test itself. */
static inline unsigned test_sidecore_count(void)
{
	cpu_set_t set;
	int count;

	assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
	count = CPU_COUNT(&set) - 1;
	return count < 1 ? 1 : count > 3 ? 3 : (unsigned)count;
}

static inline struct engine *start_engine(unsigned sidecores, uint64_t busy_poll_ns)
{
	struct engine_config config = { .sidecore_count = sidecores, .busy_poll_ns = busy_poll_ns };
	struct engine *engine;

	for (unsigned i = 0; i < sidecores; i++)
		config.sidecores[i].cpu = -1;
	assert_int_equal(engine_create(&config, &engine), 0);
	assert_int_equal(engine_start(engine), 0);
	return engine;
}

static inline void stop_engine(struct engine *engine)
{
	engine_stop(engine);
	engine_destroy(engine);
}

/** wait_for_completions() - as the control thread's event loop does. */
static inline void wait_for_completions(struct engine *engine)
{
	struct pollfd pollfd = { .fd = engine_completion_fd(engine), .events = POLLIN };

	if (poll(&pollfd, 1, (int)(HANG_NS / NANOSECONDS_PER_MILLISECOND)) != 1)
		fail_msg("no completion has come back");
	engine_run_completions(engine);
}

struct flagged {
	struct engine_completion completion;
	bool done;
};

static inline void flagged_done(struct engine_completion *completion)
{
	container_of(completion, struct flagged, completion)->done = true;
}

static inline void flagged_init(struct flagged *flagged)
{
	*flagged = (struct flagged){ .completion.done = flagged_done };
}

static inline void wait_for(struct engine *engine, struct flagged *flagged)
{
	while (!flagged->done)
		wait_for_completions(engine);
}

static inline void barrier_and_wait(struct engine *engine)
{
	struct flagged flagged;

	flagged_init(&flagged);
	engine_barrier(engine, &flagged.completion);
	wait_for(engine, &flagged);
}

static inline void detach_and_wait(struct engine *engine, struct poller *poller)
{
	struct flagged flagged;

	flagged_init(&flagged);
	engine_detach(engine, poller, &flagged.completion);
	wait_for(engine, &flagged);
}

struct channel {
	struct poller poller;
	atomic_uint available; /* peer's */
	atomic_uint consumed;  /* sidecore's; read by the peer to see progress */
	atomic_bool wants_kick;
	bool blind_arm;		       /* arm does not look for work itself: only the engine's last look can find it */
	atomic_bool hold;	       /* holds work back: pending */
	_Atomic(uint64_t) consumed_at; /* clock of the last poll with work */
	unsigned kicks;		       /* peer's */
	unsigned largest_turn;	       /* sidecore's */
	atomic_uint disarms;
};

static inline unsigned channel_poll(struct poller *poller, const struct turn *turn)
{
	struct channel *channel = container_of(poller, struct channel, poller);
	unsigned consumed = atomic_load_explicit(&channel->consumed, memory_order_relaxed);
	unsigned work = min(atomic_load(&channel->available) - consumed, turn->requests);

	poller->pending = false;
	if (!work)
		return 0;
	if (atomic_load_explicit(&channel->hold, memory_order_relaxed)) {
		poller->pending = true;
		return 0;
	}
	channel->largest_turn = max(channel->largest_turn, work);
	atomic_store_explicit(&channel->consumed_at, clock_nanoseconds(), memory_order_relaxed);
	atomic_store_explicit(&channel->consumed, consumed + work, memory_order_release);
	return work;
}

static inline bool channel_arm(struct poller *poller)
{
	struct channel *channel = container_of(poller, struct channel, poller);

	atomic_store(&channel->wants_kick, true);
	if (channel->blind_arm)
		return false;
	return atomic_load(&channel->available) != atomic_load_explicit(&channel->consumed, memory_order_relaxed);
}

static inline void channel_disarm(struct poller *poller)
{
	struct channel *channel = container_of(poller, struct channel, poller);

	channel->disarms++;
	atomic_store_explicit(&channel->wants_kick, false, memory_order_relaxed);
}

static const struct poller_ops channel_ops = {
	.kind = "channel",
	.poll = channel_poll,
	.arm = channel_arm,
	.disarm = channel_disarm,
};

static inline void channel_init(struct channel *channel)
{
	*channel = (struct channel){ .poller.ops = &channel_ops };
	channel->poller.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(channel->poller.wake_fd >= 0);
}

static inline void channel_fini(struct channel *channel)
{
	close(channel->poller.wake_fd);
}

static inline void channel_kick(struct channel *channel)
{
	static const uint64_t one = 1;

	channel->kicks++;
	assert_int_equal(write(channel->poller.wake_fd, &one, sizeof(one)), sizeof(one));
}

/** channel_offer() - the peer makes @count units available, and kicks if it is asked to. */
static inline void channel_offer(struct channel *channel, unsigned count)
{
	atomic_fetch_add(&channel->available, count);
	if (!channel->poller.silent && atomic_load(&channel->wants_kick))
		channel_kick(channel);
}

/** wait_until_consumed() - spins with short naps, and says what state all is in when nothing moves for HANG_NS. */
static inline void wait_until_consumed(struct channel *channel, unsigned consumed)
{
	uint64_t start = clock_nanoseconds();
	unsigned spins = 0;

	while (atomic_load_explicit(&channel->consumed, memory_order_acquire) != consumed) {
		if (++spins % 1024) {
			cpu_relax();
			continue;
		}
		sched_yield();
		if (clock_nanoseconds() - start > HANG_NS) {
			struct sidecore *sidecore = channel->poller.sidecore;

			fail_msg("hang: available %u, consumed %u, wants_kick %d, kicks %u, sidecore %s, asleep flag "
				 "%d, "
				 "wakes of the poller %lu",
				 atomic_load(&channel->available), atomic_load(&channel->consumed),
				 atomic_load(&channel->wants_kick), channel->kicks,
				 counter_read(&sidecore->asleep_since) ? "in epoll" : "polling",
				 atomic_load(&sidecore->asleep), counter_read(&channel->poller.counters.wakes));
		}
	}
}

#endif
