/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A sidecore: the loop that serves all pollers of one CPU.
 *
 * Theory of operation
 * -------------------
 * A round is: read the clock, run messages, run timers that are due, give turns to pollers as the scheduler says.
 * Awake, the engine itself makes no system call (the clock is read through the vDSO).
 *
 * Rounds without work go on for spin_ns after the last work; then the sidecore goes to sleep:
 *
 *	1. asleep = true		posters of messages must now write message_fd
 *	2. arm each poller		peers must now make wake_fd readable
 *	3. full barrier
 *	4. look once more: mailbox, and a turn for each poller
 *	5. anything found? back to work (an "aborted sleep")
 *	6. epoll_pwait2() until an event, or the next timer's deadline, or the end of a nap: see "Naps"
 *	7. asleep = false, disarm each poller, next round
 *
 * A wake-up costs one round; when that round finds nothing (a late kick, a hostile peer that kicks in vain), the
 * sidecore goes straight back to sleep, because only work restarts the spinning, not wake-ups.
 *
 * Why no wake-up is ever lost
 * ---------------------------
 * Pollers. Say a peer makes work available at some moment, that is, it stores the work (avail index, bytes of a socket)
 * and then looks whether it must notify, with a full barrier of its own in between (virtio 1.3 2.7.13.4.1; the kernel
 * does the same for sockets). Both sides write, then read what the other wrote; with a full barrier on each side at
 * least one reads the new value: a. the look of step 4 (or that inside arm) comes after the work's store: it is found,
 * and the sleep is aborted; b. otherwise the peer's look comes after step 2, and it notifies: it writes wake_fd. In case
 * b the write happens at any time from step 2 on. wake_fd is in the epoll set from its attach to its detach,
 * edge-triggered: a write puts it on the set's ready list *whether or not* somebody is in epoll_pwait2(), and it stays
 * there until epoll_pwait2() has returned it. So an edge between steps 2 and 6 makes step 6 return at once. An edge that
 * was left over from earlier does so too: a needless round, never a lost one. An edge is lost only with the fd itself,
 * which stays open until the detach is complete. The eventfds are never read, as that would be a system call for each
 * wake-up: each further write is an edge of its own for epoll, whatever the counter holds, and a counter that is never
 * read takes 2^64 - 2 writes before they block the writer. Pollers that hold work back (pending) would be told by nobody
 * when they may go on: with one of them step 5 says no.
 *
 * Messages. The same argument, with accesses in place of fences: poster: CAS on the mailbox, then load asleep;
 * sidecore: store asleep, then load the mailbox; all seq_cst (engine/mailbox.h). message_fd is in the epoll set for
 * ever, edge-triggered. A poster that saw asleep just before step 7 writes in vain: a needless wake-up later.
 *
 * Timers belong to the sidecore's own thread: none can appear between step 4 and step 6 but by a turn or message, and
 * then the deadline is read after those.
 *
 * Naps
 * ----
 * A peer that only writes to memory which it shares with us (a doorbell page that a guest has mapped) cannot notify: its
 * poller is *silent*. While one is attached, step 6 waits for nap_ns at most. A nap that runs its length without an event or
 * a due timer is followed by step 4, with everything armed as it is, and then, when nothing is found, by the next nap, which
 * is a NAP_SHAREth of the time since the last work, between NAP_MIN_NS and NAP_MAX_NS. So
 *
 *  - nothing of the argument above changes for the others: they stay armed from step 2 to step 7, and each nap is a step 6
 *    that was preceded by a step 4;
 *  - what a silent peer does is seen by the next look, NAP_MAX_NS later at worst (and what the look takes). No ordering
 *    between its stores and our naps is needed, because no nap waits for it;
 *  - the delay is in proportion: who rings after a pause of t waits for t / NAP_SHARE, or for NAP_MIN_NS, at most. A guest
 *    that asks and waits for the answer is not made much slower by naps, however fast it is;
 *  - idleness costs at most one look every NAP_MAX_NS: no spinning, no rounds, no arming in between. Only work brings
 *    nap_ns back to its start, and only work restarts the spinning. Kicks in vain cut a nap short, and do not make the next
 *    one longer: each of them is followed by a look itself.
 *
 * How long to spin
 * ----------------
 * With a configured busy_poll_ns, that long. Otherwise the sidecore learns: when work came within SPIN_MAX_NS of the
 * last work although it had gone to sleep, spinning longer would have caught it, and spin_ns doubles, up to
 * SPIN_MAX_NS; when the gap was longer, spinning was in vain, and spin_ns halves, down to SPIN_MIN_NS.
 *
 * Accounting
 * ----------
 * One reading of the cycle counter a turn: the end of one is the start of the next. Cycles of turns with work, messages
 * and timers are busy, all others empty; the time inside epoll_pwait2() is neither.
 *
 * Context: everything here runs on the sidecore's thread, except sidecore_post(), the accessors, and set-up and end,
 * when there is no thread.
 */
#include "engine/sidecore.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/barrier.h"
#include "base/clock.h"
#include "base/counter.h"
#include "base/log.h"
#include "base/notifier.h"

#define SPIN_START_NS (50 * NANOSECONDS_PER_MICROSECOND)
#define SPIN_MIN_NS   (10 * NANOSECONDS_PER_MICROSECOND)
#define SPIN_MAX_NS   (200 * NANOSECONDS_PER_MICROSECOND)

#define NAP_MIN_NS (20 * NANOSECONDS_PER_MICROSECOND)
#define NAP_MAX_NS NANOSECONDS_PER_MILLISECOND
#define NAP_SHARE  8

/* The size of the last look before a sleep, which is not the scheduler's: it must reach every poller. */
#define LOOK_REQUESTS 64
#define LOOK_BYTES    (512U << 10)

/* Events taken by one wake-up; more stay on epoll's ready list. */
#define EVENTS_MAX 64

/* Timers run between two rounds; one that rearms itself in the past must not hold up the pollers. */
#define TIMERS_PER_ROUND 64

/** struct round - what happened in one round, or in the look before a sleep. */
struct round {
	uint64_t cycles; /* clock_cycles() at the end of what was accounted last */
	uint64_t busy, empty;
	bool worked;
	bool pending;
};

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

static unsigned run_turn(struct poller *poller, const struct turn *turn, struct round *round, uint64_t *cycles)
{
	unsigned work = poller->ops->poll(poller, turn);
	uint64_t end = clock_cycles();

	*cycles = end - round->cycles;
	round->cycles = end;
	round->pending |= poller->pending;
	counter_add(&poller->counters.turns, 1);
	if (work) {
		round->worked = true;
		round->busy += *cycles;
		counter_add(&poller->counters.work, work);
		counter_add(&poller->counters.cycles, *cycles);
	} else {
		round->empty += *cycles;
		counter_add(&poller->counters.empty_turns, 1);
	}
	return work;
}

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

/* --- sleep --- */

static bool arm_all(struct sidecore *sidecore)
{
	bool work = false;

	for (struct attachment *a = sidecore->attachments; a; a = a->next) {
		if (a->poller->ops->arm)
			work |= a->poller->ops->arm(a->poller);
	}
	return work;
}

static void disarm_all(struct sidecore *sidecore)
{
	for (struct attachment *a = sidecore->attachments; a; a = a->next) {
		if (a->poller->ops->disarm)
			a->poller->ops->disarm(a->poller);
	}
}

/* Step 4: is there work after all? A turn for each poller, whatever the scheduler would have said. */
static bool look_again(struct sidecore *sidecore, struct round *round)
{
	struct turn turn = {
		.sidecore = sidecore,
		.now = clock_nanoseconds(),
		.requests = LOOK_REQUESTS,
		.bytes = LOOK_BYTES,
	};
	uint64_t cycles;

	for (struct attachment *a = sidecore->attachments; a; a = a->next)
		run_turn(a->poller, &turn, round, &cycles);

	return round->worked || round->pending || !mailbox_empty(&sidecore->mailbox);
}

static void count_events(struct sidecore *sidecore, const struct epoll_event *events, int count)
{
	bool kick = false, message = false;

	for (int i = 0; i < count; i++) {
		struct poller *poller = events[i].data.ptr;

		if (poller) {
			counter_add(&poller->counters.wakes, 1);
			kick = true;
		} else {
			message = true;
		}
	}
	counter_add(&sidecore->counters.wakes_kick, kick);
	counter_add(&sidecore->counters.wakes_message, message);
}

/* Step 6. Return: true when it was a nap that ran its length: there was no event, and no timer is due. */
static bool wait_for_events(struct sidecore *sidecore)
{
	uint64_t timer = timer_heap_deadline(&sidecore->timers), start = clock_nanoseconds(), end;
	uint64_t deadline = sidecore->silent ? min(timer, start + sidecore->nap_ns) : timer;
	struct epoll_event events[EVENTS_MAX];
	struct timespec timeout, *limit = NULL;
	int count;

	if (deadline != UINT64_MAX) {
		uint64_t left = deadline > start ? deadline - start : 0;

		timeout.tv_sec = (time_t)(left / NANOSECONDS_PER_SECOND);
		timeout.tv_nsec = (long)(left % NANOSECONDS_PER_SECOND);
		limit = &timeout;
	}

	counter_add(&sidecore->counters.sleeps, 1);
	counter_set(&sidecore->asleep_since, start);
	/* A failure (EINTR: a debugger) is a wake-up like any other. */
	count = epoll_pwait2(sidecore->epoll_fd, events, EVENTS_MAX, limit, NULL);
	end = clock_nanoseconds();
	counter_set(&sidecore->asleep_since, 0);
	counter_add(&sidecore->counters.sleep_ns, end - start);
	count_events(sidecore, events, count);
	sidecore->slept = true;
	sidecore->now = end;
	if (count)
		return false;
	if (!sidecore->silent || timer <= end) {
		counter_add(&sidecore->counters.wakes_timer, 1);
		return false;
	}
	counter_add(&sidecore->counters.wakes_nap, 1);
	counter_set(&sidecore->nap_ns, min(max((end - sidecore->idle_since) / NAP_SHARE, NAP_MIN_NS), NAP_MAX_NS));
	return true;
}

/* Steps 6 and, after naps in vain, 4 and 6 again. */
static void wait_for_work(struct sidecore *sidecore, struct round *round)
{
	bool napped;

	do {
		uint64_t now = clock_cycles();

		/* Accounted now: with silent pollers, this round may last for hours. */
		counter_add(&sidecore->counters.empty_cycles, round->empty + now - round->cycles);
		round->empty = 0;
		napped = wait_for_events(sidecore);
		round->cycles = clock_cycles();
	} while (napped && !look_again(sidecore, round));
}

static void sleep_if_idle(struct sidecore *sidecore, struct round *round)
{
	bool work;

	atomic_store_explicit(&sidecore->asleep, true, memory_order_seq_cst);
	work = arm_all(sidecore);
	memory_barrier();
	if (work || look_again(sidecore, round))
		counter_add(&sidecore->counters.aborted_sleeps, 1);
	else
		wait_for_work(sidecore, round);
	atomic_store_explicit(&sidecore->asleep, false, memory_order_relaxed);
	disarm_all(sidecore);
}

/* Work was found at @sidecore->now: what does that say about how long to spin? */
static void learn_spin(struct sidecore *sidecore)
{
	uint64_t gap = sidecore->now - sidecore->idle_since;

	sidecore->slept = false;
	if (!sidecore->adaptive)
		return;
	if (gap <= SPIN_MAX_NS)
		counter_set(&sidecore->spin_ns, min(sidecore->spin_ns * 2, SPIN_MAX_NS));
	else
		counter_set(&sidecore->spin_ns, max(sidecore->spin_ns / 2, SPIN_MIN_NS));
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
		sleep_if_idle(sidecore, round);
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
				learn_spin(sidecore);
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
	sidecore->adaptive = !busy_poll_ns;
	sidecore->spin_ns = busy_poll_ns ? busy_poll_ns : SPIN_START_NS;
	sidecore->nap_ns = NAP_MIN_NS;
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

void sidecore_post(struct sidecore *sidecore, struct sidecore_message *message)
{
	_Static_assert(offsetof(struct sidecore_message, next) == 0, "a message is a mailbox node");
	static const uint64_t one = 1;

	mailbox_post(&sidecore->mailbox, (struct mailbox_node *)message);
	/* The other half is in sleep_if_idle(); see "Messages" above. */
	if (atomic_load_explicit(&sidecore->asleep, memory_order_seq_cst)) {
		/* Cannot fail: the counter never comes near its end. */
		ssize_t written = write(sidecore->message_fd, &one, sizeof(one));

		(void)written;
	}
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
