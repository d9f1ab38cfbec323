/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control thread's side of the engine: threads, attach and detach, barriers, completions.
 *
 * Theory of operation
 * -------------------
 * All that concerns a sidecore's pollers is done by the sidecore itself, in messages that it runs between two rounds;
 * this file only makes the messages and takes the answers. Answers (struct engine_completion) come through one mailbox
 * of the engine's, whose eventfd the control thread's event loop watches.
 *
 * A poller goes through: free -> attached (engine_attach) -> detaching (engine_detach) -> free (its completion has
 * run). struct attachment lives as long, and belongs to the control thread but for the members that say otherwise.
 *
 * A barrier is one message to each sidecore and a countdown; the last one completes it. The messages are part of the
 * sidecores, so one barrier is on its way at a time, and those asked for meanwhile share the next one: a barrier must
 * *start* after it was asked for.
 *
 * While there are no threads (before engine_start(), after engine_stop()) the control thread stands in for them:
 * messages run at once. pthread_create() and pthread_join() order both.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/notifier.h"
#include "engine/cpu.h"
#include "engine/sidecore.h"

struct engine {
	unsigned count;
	int completion_fd; /* eventfd */
	struct notifier *notifier;
	struct attachment *attachments;

	struct engine_completion *barrier_now, *barrier_next; /* lists: told by the one on its way, by the next */
	bool barrier_active;
	atomic_uint barrier_left; /* sidecores that have not passed yet */
	struct engine_completion barrier_done;

	struct mailbox completions;
	struct sidecore sidecores[];
};

/* --- completions --- */

void engine_complete(struct engine *engine, struct engine_completion *completion)
{
	_Static_assert(offsetof(struct engine_completion, next) == 0, "a completion is a mailbox node");
	static const uint64_t one = 1;

	/*
	 * Who finds others there leaves the telling to the one who came first: the control thread takes all at once,
	 * after it has read the eventfd, so whatever is there when that write arrives is taken.
	 */
	if (mailbox_post(&engine->completions, (struct mailbox_node *)completion)) {
		ssize_t written = write(engine->completion_fd, &one, sizeof(one));

		(void)written; /* cannot fail: the counter never comes near its end */
	}
}

int engine_completion_fd(const struct engine *engine)
{
	return engine->completion_fd;
}

void engine_run_completions(struct engine *engine)
{
	struct mailbox_node *node;
	uint64_t count;
	ssize_t got;

	/* First the eventfd, then the mailbox: a completion that comes in between has its own write, and is taken now
	 * or at the next call. The fd is non-blocking; nothing to read means that nobody has posted. */
	got = read(engine->completion_fd, &count, sizeof(count));
	(void)got;
	node = mailbox_take(&engine->completions);
	while (node) {
		/* done() may free or reuse the completion. */
		struct mailbox_node *next = node->next;
		struct engine_completion *completion = (struct engine_completion *)node;

		completion->done(completion);
		node = next;
	}
}

/* --- messages --- */

static void post(struct sidecore *sidecore, struct sidecore_message *message)
{
	sidecore_post(sidecore, message);
	if (!sidecore->running)
		sidecore_run_messages(sidecore);
}

static void run_stop(struct sidecore *sidecore, struct sidecore_message *message)
{
	sidecore->stopping = true;
}

/* --- barrier --- */

static void run_barrier(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct engine *engine = sidecore->engine;

	/*
	 * Release: what this sidecore did before, it did before the barrier. Acquire: the last one sees that of all the
	 * others and hands it on with the completion.
	 */
	if (atomic_fetch_sub_explicit(&engine->barrier_left, 1, memory_order_acq_rel) == 1)
		engine_complete(engine, &engine->barrier_done);
}

static void barrier_start(struct engine *engine)
{
	engine->barrier_active = true;
	engine->barrier_now = engine->barrier_next;
	engine->barrier_next = NULL;
	atomic_store_explicit(&engine->barrier_left, engine->count, memory_order_relaxed);
	for (unsigned i = 0; i < engine->count; i++)
		post(&engine->sidecores[i], &engine->sidecores[i].barrier_message);
}

static void barrier_finish(struct engine_completion *completion)
{
	struct engine *engine = container_of(completion, struct engine, barrier_done);
	struct engine_completion *told = engine->barrier_now;

	engine->barrier_now = NULL;
	engine->barrier_active = false;
	if (engine->barrier_next)
		barrier_start(engine);
	while (told) {
		struct engine_completion *next = told->next;

		told->done(told);
		told = next;
	}
}

void engine_barrier(struct engine *engine, struct engine_completion *completion)
{
	struct engine_completion **end = &engine->barrier_next;

	while (*end) /* in the order of asking */
		end = &(*end)->next;
	completion->next = NULL;
	*end = completion;
	if (!engine->barrier_active)
		barrier_start(engine);
}

/* --- attach and detach --- */

static void attachment_free(struct attachment *attachment)
{
	struct poller *poller = attachment->poller;

	*attachment->engine_link = attachment->engine_next;
	if (attachment->engine_next)
		attachment->engine_next->engine_link = attachment->engine_link;
	poller->sidecore = NULL;
	poller->attachment = NULL;
	free(attachment);
}

static void detach_finish(struct engine_completion *completion)
{
	struct attachment *attachment = container_of(completion, struct attachment, detached);
	struct engine_completion *done = attachment->detach_done;

	attachment_free(attachment);
	/* From here on the poller may be gone. */
	if (done)
		done->done(done);
}

int engine_attach(struct engine *engine, struct sidecore *sidecore, struct poller *poller,
		  struct engine_completion *completion)
{
	/* Silent, and nobody's, until the sidecore knows the poller. */
	struct epoll_event event = { .events = EPOLLET, .data.ptr = NULL };
	struct attachment *attachment;

	if (poller->attachment)
		return -EBUSY;
	attachment = calloc(1, sizeof(*attachment));
	if (!attachment)
		return -ENOMEM;
	if (poller->wake_fd >= 0 && epoll_ctl(sidecore->epoll_fd, EPOLL_CTL_ADD, poller->wake_fd, &event)) {
		int error = -errno;

		free(attachment);
		return error;
	}

	attachment->engine = engine;
	attachment->sidecore = sidecore;
	attachment->poller = poller;
	attachment->attach.run = sidecore_attach;
	attachment->attached = completion;
	attachment->detach.run = sidecore_detach;
	attachment->detached.done = detach_finish;
	attachment->engine_next = engine->attachments;
	attachment->engine_link = &engine->attachments;
	if (attachment->engine_next)
		attachment->engine_next->engine_link = &attachment->engine_next;
	engine->attachments = attachment;

	poller->sidecore = sidecore;
	poller->attachment = attachment;
	sidecore->poller_count++;
	post(sidecore, &attachment->attach);
	return 0;
}

void engine_detach(struct engine *engine, struct poller *poller, struct engine_completion *completion)
{
	struct attachment *attachment = poller->attachment;

	if (!attachment || attachment->detaching) {
		/* Messages to a sidecore are run in order, so a barrier passes after a detach that is on its way. */
		if (completion)
			engine_barrier(engine, completion);
		return;
	}
	attachment->detaching = true;
	attachment->detach_done = completion;
	attachment->sidecore->poller_count--;
	post(attachment->sidecore, &attachment->detach);
}

void engine_for_each_poller(struct engine *engine, void (*visit)(struct poller *poller, void *context), void *context)
{
	struct attachment *next;

	for (struct attachment *a = engine->attachments; a; a = next) {
		next = a->engine_next;
		if (!a->detaching)
			visit(a->poller, context);
	}
}

/* --- sidecores --- */

struct notifier *engine_notifier(const struct engine *engine)
{
	return engine->notifier;
}

unsigned engine_sidecore_count(const struct engine *engine)
{
	return engine->count;
}

struct sidecore *engine_sidecore(struct engine *engine, unsigned index)
{
	return &engine->sidecores[index];
}

struct sidecore *engine_pick_sidecore(struct engine *engine)
{
	struct sidecore *best = &engine->sidecores[0];

	for (unsigned i = 1; i < engine->count; i++) {
		if (engine->sidecores[i].poller_count < best->poller_count)
			best = &engine->sidecores[i];
	}
	return best;
}

/* --- create, start, stop, destroy --- */

static int engine_init(struct engine *engine, const struct engine_config *config)
{
	const struct scheduler_ops *scheduler = scheduler_find(config->scheduler);
	int cpus[SIDECORES_MAX], error;
	cpu_set_t allowed;

	if (!scheduler) {
		log_error("there is no scheduler \"%s\"; the one there is: \"%s\"", config->scheduler,
			  scheduler_find(NULL)->name);
		return -EINVAL;
	}
	if (sched_getaffinity(0, sizeof(allowed), &allowed))
		return -errno;
	error = cpu_place(&allowed, config->sidecores, config->sidecore_count, cpus);
	if (error)
		return error;

	engine->barrier_done.done = barrier_finish;
	engine->completion_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (engine->completion_fd < 0)
		return -errno;
	error = notifier_create(&engine->notifier);
	if (error) {
		log_error("asynchronous I/O of the kernel (io_setup): %s; it is needed to signal guests, and limited by "
			  "the sysctl fs.aio-max-nr",
			  strerror(-error));
		return error;
	}
	while (engine->count < config->sidecore_count) {
		struct sidecore *sidecore = &engine->sidecores[engine->count];

		error = sidecore_init(sidecore, engine, engine->count, cpus[engine->count], scheduler,
				      config->busy_poll_ns);
		if (error)
			return error;
		sidecore->stop_message.run = run_stop;
		sidecore->barrier_message.run = run_barrier;
		engine->count++;
	}
	return 0;
}

int engine_create(const struct engine_config *config, struct engine **result)
{
	struct engine *engine;
	int error;
	size_t size;

	if (config->sidecore_count < 1 || config->sidecore_count > SIDECORES_MAX) {
		log_error("%u sidecores: there must be 1 to %u", config->sidecore_count, SIDECORES_MAX);
		return -EINVAL;
	}
	size = sizeof(*engine) + config->sidecore_count * sizeof(engine->sidecores[0]);
	engine = aligned_alloc(CACHE_LINE, (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	if (!engine)
		return -ENOMEM;
	memset(engine, 0, size);
	engine->completion_fd = -1;
	error = engine_init(engine, config);
	if (error) {
		engine_destroy(engine);
		return error;
	}
	*result = engine;
	return 0;
}

static int start_sidecore(struct sidecore *sidecore)
{
	pthread_attr_t attributes;
	cpu_set_t cpus;
	int error;

	CPU_ZERO(&cpus);
	CPU_SET(sidecore->cpu, &cpus);
	error = pthread_attr_init(&attributes);
	if (error)
		return -error;
	/* Pinned before it runs: its first touch of its stack and counters is on the right NUMA node. */
	error = pthread_attr_setaffinity_np(&attributes, sizeof(cpus), &cpus);
	if (!error)
		error = pthread_create(&sidecore->thread, &attributes, sidecore_main, sidecore);
	pthread_attr_destroy(&attributes);
	sidecore->running = !error;
	return -error;
}

int engine_start(struct engine *engine)
{
	sigset_t blocked, before;
	int error = 0;

	/* Signals are the control thread's, except those that the thread itself causes (SIGBUS: a file shrank). */
	sigfillset(&blocked);
	sigdelset(&blocked, SIGBUS);
	sigdelset(&blocked, SIGSEGV);
	sigdelset(&blocked, SIGFPE);
	sigdelset(&blocked, SIGILL);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	for (unsigned i = 0; i < engine->count && !error; i++) {
		error = start_sidecore(&engine->sidecores[i]);
		if (error)
			log_error("sidecore %u on CPU %d: %s", i, engine->sidecores[i].cpu, strerror(-error));
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		engine_stop(engine);
	return error;
}

/* Completions that ask for more (a barrier after a detach) get it: without threads that is done at once. */
static void run_all_completions(struct engine *engine)
{
	while (!mailbox_empty(&engine->completions))
		engine_run_completions(engine);
}

void engine_stop(struct engine *engine)
{
	struct attachment *next;

	for (unsigned i = 0; i < engine->count; i++) {
		if (engine->sidecores[i].running)
			sidecore_post(&engine->sidecores[i], &engine->sidecores[i].stop_message);
	}
	for (unsigned i = 0; i < engine->count; i++) {
		struct sidecore *sidecore = &engine->sidecores[i];

		if (!sidecore->running)
			continue;
		pthread_join(sidecore->thread, NULL);
		sidecore->running = false;
		sidecore->stopping = false;
	}

	/* Whatever was on its way when the threads ended. */
	for (unsigned i = 0; i < engine->count; i++)
		sidecore_run_messages(&engine->sidecores[i]);
	run_all_completions(engine);

	for (struct attachment *a = engine->attachments; a; a = next) {
		next = a->engine_next;
		log_error("sidecore %u was stopped while it served a poller (%s): its owner must detach it first",
			  a->sidecore->index, a->poller->ops->kind);
		engine_detach(engine, a->poller, NULL);
	}
	run_all_completions(engine);
}

void engine_destroy(struct engine *engine)
{
	for (unsigned i = 0; i < engine->count; i++)
		sidecore_fini(&engine->sidecores[i]);
	notifier_destroy(engine->notifier);
	if (engine->completion_fd >= 0)
		close(engine->completion_fd);
	free(engine);
}
