/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How a sidecore sleeps, and is woken.
 *
 * Theory of operation
 * -------------------
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
 * Context: everything here runs on the sidecore's thread, except sidecore_post().
 */
#include <sys/epoll.h>
#include <unistd.h>

#include "base/barrier.h"
#include "engine/round.h"

#define SPIN_START_NS (50 * NANOSECONDS_PER_MICROSECOND)
#define SPIN_MIN_NS   (10 * NANOSECONDS_PER_MICROSECOND)
#define SPIN_MAX_NS   (200 * NANOSECONDS_PER_MICROSECOND)

#define NAP_MAX_NS NANOSECONDS_PER_MILLISECOND
#define NAP_SHARE  8

/* The size of the last look before a sleep, which is not the scheduler's: it must reach every poller. */
#define LOOK_REQUESTS 64
#define LOOK_BYTES    (512U << 10)

/* Events taken by one wake-up; more stay on epoll's ready list. */
#define EVENTS_MAX 64

void sidecore_sleep_init(struct sidecore *sidecore, uint64_t busy_poll_ns)
{
	sidecore->adaptive = !busy_poll_ns;
	sidecore->spin_ns = busy_poll_ns ? busy_poll_ns : SPIN_START_NS;
	sidecore->nap_ns = NAP_MIN_NS;
}

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

void sidecore_sleep(struct sidecore *sidecore, struct round *round)
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

void sidecore_learn_spin(struct sidecore *sidecore)
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

void sidecore_post(struct sidecore *sidecore, struct sidecore_message *message)
{
	_Static_assert(offsetof(struct sidecore_message, next) == 0, "a message is a mailbox node");
	static const uint64_t one = 1;

	mailbox_post(&sidecore->mailbox, (struct mailbox_node *)message);
	/* The other half is in sidecore_sleep(); see "Messages" above. */
	if (atomic_load_explicit(&sidecore->asleep, memory_order_seq_cst)) {
		/* Cannot fail: the counter never comes near its end. */
		ssize_t written = write(sidecore->message_fd, &one, sizeof(one));

		(void)written;
	}
}
