/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A sidecore: the loop that serves all pollers of one CPU.
 *
 * Theory of operation
 * -------------------
 * A round is: read the clock, run messages, run timers that are due, give turns to pollers as the scheduler says.
 * Awake, the engine itself makes no system call (the clock is read through the vDSO).
 *
 * Rounds without work go on for spin_ns after the last work; then the sidecore goes to sleep. How, why no wake-up is ever
 * lost, and for how long it spins: engine/sidecore_sleep.c.
 *
 * Accounting
 * ----------
 * One reading of the cycle counter a turn: the end of one is the start of the next. Cycles of turns with work, messages
 * and timers are busy, all others empty; the time inside epoll_pwait2() is neither.
 *
 * Context: everything here runs on the sidecore's thread, except the accessors, and set-up and end,
 * when there is no thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/notifier.h"
#include "engine/round.h"

/* Timers run between two rounds; one that rearms itself in the past must not hold up the pollers. */
#define TIMERS_PER_ROUND 64

/* --- messages and timers --- */

bool sidecore_run_messages(struct sidecore *sidecore)
{
	struct mailbox_node *node = mailbox_take(&sidecore->mailbox);
	bool any = node;

	while (node) {
		/* run() may free or repost the message. */
		struct mailbox_node *next = node->next;
		struct sidecore_message *message = (struct sidecore_message *)node;

		message->run(sidecore, message);
		node = next;
	}
	return any;
}

static bool run_timers(struct sidecore *sidecore)
{
	unsigned count;

	for (count = 0; count < TIMERS_PER_ROUND; count++) {
		struct engine_timer *timer = sidecore->timers.root;

		if (!timer || timer->deadline > sidecore->now)
			break;
		timer_heap_remove(&sidecore->timers, timer);
		timer->expire(sidecore, timer);
	}
	return count;
}

void sidecore_timer_set(struct sidecore *sidecore, struct engine_timer *timer, uint64_t deadline)
{
	sidecore_timer_cancel(sidecore, timer);
	timer->deadline = deadline;
	timer_heap_insert(&sidecore->timers, timer);
}

void sidecore_timer_cancel(struct sidecore *sidecore, struct engine_timer *timer)
{
	if (timer->position != ENGINE_TIMER_IDLE)
		timer_heap_remove(&sidecore->timers, timer);
}

/* --- turns --- */

static void run_turns(struct sidecore *sidecore, struct round *round)
{
	const struct scheduler_ops *ops = sidecore->scheduler_ops;
	struct turn turn = { .sidecore = sidecore, .now = sidecore->now };
	struct poller *poller;

	while ((poller = ops->next(sidecore->scheduler, &turn))) {
		uint64_t cycles;
		unsigned work = run_turn(poller, &turn, round, &cycles);

		if (ops->account)
			ops->account(sidecore->scheduler, poller, work, cycles);
	}
}

static void publish_round(struct sidecore *sidecore, const struct round *round)
{
	counter_add(&sidecore->counters.rounds, 1);
	if (round->busy)
		counter_add(&sidecore->counters.busy_cycles, round->busy);
	if (!round->worked)
		counter_add(&sidecore->counters.empty_rounds, 1);
	counter_add(&sidecore->counters.empty_cycles, round->empty);
}

/* --- the loop --- */

static void run_round(struct sidecore *sidecore, struct round *round)
{
	uint64_t start = round->cycles;

	if (sidecore_run_messages(sidecore) | run_timers(sidecore)) {
		round->cycles = clock_cycles();
		round->busy += round->cycles - start;
	}
	run_turns(sidecore, round);

	if (round->worked || sidecore->stopping)
		return;
	if (!round->pending && sidecore->now - sidecore->idle_since >= sidecore->spin_ns)
		sidecore_sleep(sidecore, round);
	else
		cpu_relax();
}

static void start_thread(struct sidecore *sidecore)
{
	char name[16];

	snprintf(name, sizeof(name), "sidecore/%u", sidecore->index);
	pthread_setname_np(pthread_self(), name);
	/* Deadlines to the nanosecond rather than to the 50 us by which Linux may be late for ordinary threads. */
	prctl(PR_SET_TIMERSLACK, 1UL);
	sidecore->now = clock_nanoseconds();
	sidecore->idle_since = sidecore->now;
	counter_set(&sidecore->counters.since_ns, sidecore->now);
}

void *sidecore_main(void *argument)
{
	struct sidecore *sidecore = argument;
	struct round round = { 0 };

	start_thread(sidecore);
	while (!sidecore->stopping) {
		sidecore->now = clock_nanoseconds();
		/* The round's own work took time, too: idleness begins at its end, which is the start of the next one.
		 */
		if (round.worked)
			sidecore->idle_since = sidecore->now;
		round = (struct round){ .cycles = clock_cycles() };
		run_round(sidecore, &round);
		if (round.worked) {
			counter_set(&sidecore->nap_ns, NAP_MIN_NS);
			if (sidecore->slept)
				sidecore_learn_spin(sidecore);
		}
		publish_round(sidecore, &round);
	}
	return NULL;
}

/* --- attach and detach --- */

void sidecore_attach(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct attachment *attachment = container_of(message, struct attachment, attach);
	struct poller *poller = attachment->poller;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = poller };

	attachment->next = sidecore->attachments;
	attachment->link = &sidecore->attachments;
	if (attachment->next)
		attachment->next->link = &attachment->next;
	sidecore->attachments = attachment;

	/* engine_attach() has registered the fd, silent; to change that needs no memory and cannot fail. */
	if (poller->wake_fd >= 0)
		epoll_ctl(sidecore->epoll_fd, EPOLL_CTL_MOD, poller->wake_fd, &event);
	if (poller->ops->disarm)
		poller->ops->disarm(poller);
	sidecore->scheduler_ops->attach(sidecore->scheduler, poller);
	sidecore->silent += poller->silent;
	__atomic_store_n(&sidecore->counters.pollers, sidecore->counters.pollers + 1, __ATOMIC_RELAXED);
	if (attachment->attached)
		engine_complete(attachment->engine, attachment->attached);
}

void sidecore_detach(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct attachment *attachment = container_of(message, struct attachment, detach);
	struct poller *poller = attachment->poller;

	sidecore->scheduler_ops->detach(sidecore->scheduler, poller);
	/* Events are looked at only right after epoll_pwait2(): none of this fd is left behind after it is removed. */
	if (poller->wake_fd >= 0)
		epoll_ctl(sidecore->epoll_fd, EPOLL_CTL_DEL, poller->wake_fd, NULL);
	sidecore->silent -= poller->silent;
	__atomic_store_n(&sidecore->counters.pollers, sidecore->counters.pollers - 1, __ATOMIC_RELAXED);
	*attachment->link = attachment->next;
	if (attachment->next)
		attachment->next->link = attachment->link;
	engine_complete(attachment->engine, &attachment->detached);
}

/* --- set-up, end, accessors --- */

static int sidecore_open_fds(struct sidecore *sidecore)
{
	static const struct timespec no_time = { 0 };
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = NULL };

	sidecore->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (sidecore->epoll_fd < 0)
		return -errno;
	sidecore->message_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sidecore->message_fd < 0)
		return -errno;
	if (epoll_ctl(sidecore->epoll_fd, EPOLL_CTL_ADD, sidecore->message_fd, &event))
		return -errno;
	if (epoll_pwait2(sidecore->epoll_fd, &event, 1, &no_time, NULL) < 0) {
		log_error("epoll_pwait2: %s; Linux 5.11 or newer is needed", strerror(errno));
		return -errno;
	}
	return 0;
}

int sidecore_init(struct sidecore *sidecore, struct engine *engine, unsigned index, int cpu,
		  const struct scheduler_ops *scheduler_ops, uint64_t busy_poll_ns)
{
	int error;

	sidecore->engine = engine;
	sidecore->index = index;
	sidecore->cpu = cpu;
	sidecore->epoll_fd = sidecore->message_fd = -1;
	sidecore_sleep_init(sidecore, busy_poll_ns);
	sidecore->counters.cpu = cpu;
	sidecore->scheduler_ops = scheduler_ops;
	sidecore->scheduler = scheduler_ops->create();
	error = sidecore->scheduler ? sidecore_open_fds(sidecore) : -ENOMEM;
	if (!error)
		error = notifier_create(&sidecore->notifier);
	if (error)
		sidecore_fini(sidecore);
	return error;
}

void sidecore_fini(struct sidecore *sidecore)
{
	if (sidecore->message_fd >= 0)
		close(sidecore->message_fd);
	if (sidecore->epoll_fd >= 0)
		close(sidecore->epoll_fd);
	notifier_destroy(sidecore->notifier);
	if (sidecore->scheduler)
		sidecore->scheduler_ops->destroy(sidecore->scheduler);
	sidecore->message_fd = sidecore->epoll_fd = -1;
	sidecore->scheduler = NULL;
	sidecore->notifier = NULL;
}

struct notifier *sidecore_notifier(const struct sidecore *sidecore)
{
	return sidecore->notifier;
}

unsigned sidecore_index(const struct sidecore *sidecore)
{
	return sidecore->index;
}

int sidecore_cpu(const struct sidecore *sidecore)
{
	return sidecore->cpu;
}

struct engine *sidecore_engine(const struct sidecore *sidecore)
{
	return sidecore->engine;
}

void sidecore_set_slot(struct sidecore *sidecore, enum sidecore_slot slot, void *value)
{
	sidecore->slots[slot] = value;
}

void *sidecore_slot(const struct sidecore *sidecore, enum sidecore_slot slot)
{
	return sidecore->slots[slot];
}

void sidecore_read_counters(const struct sidecore *sidecore, struct sidecore_counters *counters)
{
	const struct sidecore_counters *own = &sidecore->counters;
	uint64_t asleep_since = counter_read(&sidecore->asleep_since), now = clock_nanoseconds();

	*counters = (struct sidecore_counters){
		.cpu = own->cpu,
		.pollers = __atomic_load_n(&own->pollers, __ATOMIC_RELAXED),
		.rounds = counter_read(&own->rounds),
		.empty_rounds = counter_read(&own->empty_rounds),
		.busy_cycles = counter_read(&own->busy_cycles),
		.empty_cycles = counter_read(&own->empty_cycles),
		.sleep_ns = counter_read(&own->sleep_ns),
		.sleeps = counter_read(&own->sleeps),
		.wakes_kick = counter_read(&own->wakes_kick),
		.wakes_message = counter_read(&own->wakes_message),
		.wakes_timer = counter_read(&own->wakes_timer),
		.wakes_nap = counter_read(&own->wakes_nap),
		.aborted_sleeps = counter_read(&own->aborted_sleeps),
		.since_ns = counter_read(&own->since_ns),
	};
	/* The sleep that is going on counts, or an idle sidecore would seem never to have slept. */
	if (asleep_since && now > asleep_since)
		counters->sleep_ns += now - asleep_since;
}
