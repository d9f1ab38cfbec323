/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block worker: one sidecore's io_uring, shared by all file disks on it, and the poller of its completions.
 *
 * Theory of operation
 * -------------------
 * Queues' turns put requests into the submission ring (block_worker_start()) and hand them to the kernel, several with
 * one io_uring_enter and at the latest at the end of a batch (block_worker_flush()). Completions are read from the
 * completion ring by the worker's own poller, without a system call. The kernel finishes I/O in the context of the
 * submitting thread ("task work"). With DEFER_TASKRUN it does so only when that thread calls for it, all at once, and
 * without interrupting it; a flag in the ring tells that there is some, and the call takes new submissions along.
 * Kernels that cannot defer at least do not interrupt us (COOP_TASKRUN).
 *
 * Prompt submission. A disk that has nothing to do while we prepare a batch has lost that time for good, and when it
 * answers in batches of its own (one interrupt for all that it had, as virtual disks do) then everything goes in step:
 * the disk works, then the guest and we do, in turn, and never at once. With 32 requests in flight that cost a quarter
 * of the rate (docs/performance.md). So the disk is given work as soon as what waits for submission is more than a
 * PROMPT_SHAREth of what it has: the first request of a batch at once when it is idle, then small batches, and ever
 * larger ones the more it has to do; where many requests are in flight, submissions stay few. When a call leaves the
 * kernel with nothing to do (the page cache had it all), there is no disk to wait: the rest of that batch is one call.
 *
 * The ring has a fixed depth. Whatever does not fit waits in a list through the requests themselves, in order; it is
 * bounded by the requests that devices own. The completion ring has room for every request that is out, so it cannot
 * overflow. Bounce buffers are a fixed pool with a waiting list of the same kind. Nothing is allocated after creation.
 *
 * SINGLE_ISSUER spares the kernel locks, but the thread that submits must be the one that *enabled* the ring. So the
 * control thread makes it disabled and registers its eventfd, and a message lets the sidecore enable it. The sidecore
 * also registers the ring with itself, which spares every call the look-up of its descriptor.
 *
 * Sleeping. While we poll, IORING_CQ_EVENTFD_DISABLED keeps the kernel from signalling the eventfd. arm() clears the
 * flag, then a full barrier, then looks at the completion ring; the kernel stores the completion, then (with a full
 * barrier in its own wake-up code) looks at the flag. So either we see the completion or the kernel sees the flag
 * cleared and signals. Task work that is queued after our look does the same with the flag that announces it when it is
 * deferred; else it wakes a thread that sleeps in epoll_wait() (it returns EINTR), runs, posts the completion and
 * signals the eventfd. No wake-up is lost. (The kernel's barrier between announcing deferred work and looking at our
 * flag is its atomic operation, which is one on x86; on other machines it is not promised, and work is not deferred.)
 *
 * What the kernel had at hand (the page cache) is complete when the submitting call returns. block_worker_take_inline()
 * takes that at once, while the queue's turn is still on, rather than a round of polling later. It must not happen from
 * a batch end: a queue that drains could end inside of its own.
 *
 * Work that the kernel cannot do without blocking it gives to threads of its own (io-wq): writes through the page cache
 * of most file systems. They would queue behind a sidecore, which never sleeps while it waits for them, so they are
 * kept off all sidecores' CPUs, as long as there are others.
 *
 * A batch of completions ends with the *batch ends* that device models registered: a used ring is published once for
 * the batch.
 *
 * Context: made and destroyed by the control thread, otherwise the sidecore's.
 */
#include "block/worker.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "block/disk.h"

#define SUBMISSION_ENTRIES 256U
#define DEPTH		   2048U
#define BOUNCE_COUNT	   16U

/** The most completions taken inside a queue's turn. */
#define INLINE_MAX 64U

/* In the middle of a batch the kernel is given what is more than this part of what it is at work on. */
#define PROMPT_SHARE 8U

/* Before a submission returns the kernel may move bytes from its page cache, or pin memory: so much in a turn. */
#define QUEUED_MAX (2ULL << 20)

static unsigned worker_poll(struct poller *poller, const struct turn *turn);
static bool worker_arm(struct poller *poller);
static void worker_disarm(struct poller *poller);

static const struct poller_ops worker_poller_ops = {
	.kind = "block completions",
	.poll = worker_poll,
	.arm = worker_arm,
	.disarm = worker_disarm,
};

static int make_ring(struct block_worker *worker)
{
	static const unsigned flags[] = {
#ifdef __x86_64__
		/* Linux 6.1 */
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_R_DISABLED | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG,
#endif
		/* Linux 6.0 */
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG,
		/* Linux 5.19 */
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	int rc = -EINVAL;

	for (unsigned i = 0; i < array_size(flags) && rc == -EINVAL; i++) {
		struct io_uring_params parameters = {
			.flags = flags[i] | IORING_SETUP_CQSIZE,
			.cq_entries = DEPTH,
		};

		rc = io_uring_queue_init_params(SUBMISSION_ENTRIES, &worker->ring, &parameters);
	}
	if (rc)
		return rc;
	rc = io_uring_register_eventfd(&worker->ring, worker->poller.wake_fd);
	if (rc)
		io_uring_queue_exit(&worker->ring);
	return rc;
}

static int make_buffers(struct block_worker *worker)
{
	size_t size = BOUNCE_COUNT * BOUNCE_SIZE + ZEROES_SIZE;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return -errno;
	worker->memory = memory;
	for (unsigned i = 0; i < BOUNCE_COUNT; i++)
		block_worker_give_bounce(worker, memory + i * BOUNCE_SIZE);
	for (unsigned i = 0; i < ZEROES_COUNT; i++) {
		worker->zeroes[i].iov_base = memory + BOUNCE_COUNT * BOUNCE_SIZE;
		worker->zeroes[i].iov_len = ZEROES_SIZE;
	}
	return 0;
}

int block_worker_create(struct block_worker **worker)
{
	struct block_worker *made = calloc(1, sizeof(*made));
	int rc;

	if (!made)
		return -ENOMEM;
	made->poller.ops = &worker_poller_ops;
	made->poller.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	rc = made->poller.wake_fd < 0 ? -errno : make_buffers(made);
	if (rc) {
		if (made->poller.wake_fd >= 0)
			close(made->poller.wake_fd);
		free(made);
		return rc;
	}
	made->ring_error = make_ring(made);
	*worker = made;
	return 0;
}

void block_worker_destroy(struct block_worker *worker)
{
	if (!worker->ring_error)
		io_uring_queue_exit(&worker->ring);
	close(worker->poller.wake_fd);
	munmap(worker->memory, BOUNCE_COUNT * BOUNCE_SIZE + ZEROES_SIZE);
	free(worker);
}

/* On the sidecore: from now on it is the ring's single issuer. */
static void enable_ring(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct block_worker *worker = container_of(message, struct block_worker, enable);

	if (worker->ring_error)
		return;
	/* The system call itself: liburing 2.3's shared library does not export io_uring_enable_rings(). */
	if ((worker->ring.flags & IORING_SETUP_R_DISABLED) &&
	    syscall(SYS_io_uring_register, worker->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0)) {
		worker->ring_error = -errno;
		log_error("sidecore %u: cannot enable its io_uring: %s; file disks on it fail",
			  sidecore_index(sidecore), strerror(errno));
		io_uring_queue_exit(&worker->ring);
		return;
	}
	/* Linux 5.18; without it calls are a little dearer. Also makes what the next call needs. */
	io_uring_register_ring_fd(&worker->ring);
	/* Linux 5.14; without it the kernel's workers go where they like. */
	if (CPU_COUNT(&worker->helper_cpus))
		io_uring_register_iowq_aff(&worker->ring, sizeof(worker->helper_cpus), &worker->helper_cpus);
}

/* All CPUs that we may use but the sidecores'. */
static void choose_helper_cpus(struct engine *engine, cpu_set_t *cpus)
{
	if (sched_getaffinity(0, sizeof(*cpus), cpus))
		CPU_ZERO(cpus);
	for (unsigned i = 0; i < engine_sidecore_count(engine); i++) {
		int cpu = sidecore_cpu(engine_sidecore(engine, i));

		if (cpu >= 0)
			CPU_CLR(cpu, cpus);
	}
}

int block_worker_attach(struct block_worker *worker, struct engine *engine, struct sidecore *sidecore)
{
	worker->engine = engine;
	choose_helper_cpus(engine, &worker->helper_cpus);
	worker->enable.run = enable_ring;
	sidecore_post(sidecore, &worker->enable);
	return engine_attach(engine, sidecore, &worker->poller, NULL);
}

void block_worker_detach(struct block_worker *worker, struct engine_completion *completion)
{
	engine_detach(worker->engine, &worker->poller, completion);
}

static struct io_uring_sqe *take_entry(struct block_worker *worker)
{
	struct io_uring_sqe *entry;

	if (worker->in_kernel == DEPTH)
		return NULL;
	entry = io_uring_get_sqe(&worker->ring);
	if (!entry) {
		block_worker_flush(worker);
		entry = io_uring_get_sqe(&worker->ring);
	}
	if (entry)
		worker->in_kernel++;
	return entry;
}

/* Requests that the kernel has and has not answered. */
static unsigned at_work(const struct block_worker *worker)
{
	return worker->in_kernel - io_uring_sq_ready(&worker->ring) - io_uring_cq_ready(&worker->ring);
}

/* See "Prompt submission". What fails is tried again at the end of the batch. */
static void submit_promptly(struct block_worker *worker)
{
	if (io_uring_sq_ready(&worker->ring) > at_work(worker) / PROMPT_SHARE)
		worker->prompt = io_uring_submit(&worker->ring) > 0 && at_work(worker);
}

static bool start(struct block_worker *worker, struct block_request *request)
{
	struct io_uring_sqe *entry = take_entry(worker);

	if (!entry)
		return false;
	request->channel->ops->prepare(request, entry);
	io_uring_sqe_set_data(entry, request);
	if (worker->prompt)
		submit_promptly(worker);
	return true;
}

void block_worker_start(struct block_worker *worker, struct block_request *request)
{
	/* Whoever waits already goes first. */
	if (worker->overflow.first || !start(worker, request))
		block_list_append(&worker->overflow, request);
}

static bool kernel_wants_a_call(const struct block_worker *worker)
{
	return IO_URING_READ_ONCE(*worker->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static void set_pending(struct block_worker *worker)
{
	worker->poller.pending = worker->resumed.first || (!worker->ring_error && io_uring_sq_ready(&worker->ring));
}

void block_worker_flush(struct block_worker *worker)
{
	worker->queued = 0;
	worker->prompt = true;
	/*
	 * A failure (EAGAIN, EBUSY, EINTR: the kernel is short of memory or wants its completions taken first) leaves
	 * the entries where they are; the worker's next turn tries again.
	 */
	if (!worker->ring_error && io_uring_sq_ready(&worker->ring)) {
		if (kernel_wants_a_call(worker))
			io_uring_submit_and_get_events(&worker->ring);
		else
			io_uring_submit(&worker->ring);
	}
	set_pending(worker);
}

void block_worker_resume(struct block_worker *worker, struct block_request *request)
{
	block_list_append(&worker->resumed, request);
	set_pending(worker);
}

/* One piece of one request a turn: they take turns, and so do all other pollers. */
static unsigned resume_one(struct block_worker *worker)
{
	struct block_request *request = block_list_take(&worker->resumed);

	if (!request)
		return 0;
	request->channel->ops->resume(request);
	set_pending(worker);
	return 1;
}

void *block_worker_take_bounce(struct block_worker *worker, struct block_request *request)
{
	void *buffer = worker->bounce_free;

	if (buffer)
		worker->bounce_free = *(void **)buffer;
	else
		block_list_append(&worker->bounce_waiting, request);
	return buffer;
}

void block_worker_give_bounce(struct block_worker *worker, void *buffer)
{
	struct block_request *waiting = block_list_take(&worker->bounce_waiting);

	if (waiting) {
		waiting->bounce = buffer;
		block_worker_start(worker, waiting);
		return;
	}
	*(void **)buffer = worker->bounce_free;
	worker->bounce_free = buffer;
}

void block_worker_at_batch_end(struct block_worker *worker, struct block_batch_end *end)
{
	if (end->queued)
		return;
	end->queued = true;
	end->next = worker->ends;
	worker->ends = end;
}

void block_worker_run_batch_ends(struct block_worker *worker)
{
	worker->ending = true;
	while (worker->ends) {
		struct block_batch_end *end = worker->ends;

		worker->ends = end->next;
		end->queued = false;
		end->run(end); /* the last touch: it may end its owner */
	}
	worker->ending = false;
}

static unsigned take_completions(struct block_worker *worker, unsigned limit)
{
	struct io_uring_cqe *completion;
	unsigned count = 0;

	while (count < limit && worker->queued < QUEUED_MAX && !io_uring_peek_cqe(&worker->ring, &completion)) {
		struct block_request *request = io_uring_cqe_get_data(completion);
		int result = completion->res;

		io_uring_cqe_seen(&worker->ring, completion);
		worker->in_kernel--;
		count++;
		request->channel->ops->kernel_done(request, result);
	}
	return count;
}

static void restart_overflow(struct block_worker *worker)
{
	while (worker->overflow.first && start(worker, worker->overflow.first))
		block_list_take(&worker->overflow);
}

void block_worker_take_inline(struct block_worker *worker)
{
	if (worker->ending || worker->ring_error || !io_uring_cq_ready(&worker->ring))
		return;
	take_completions(worker, INLINE_MAX);
	restart_overflow(worker);
	block_worker_run_batch_ends(worker);
}

static unsigned worker_poll(struct poller *poller, const struct turn *turn)
{
	struct block_worker *worker = container_of(poller, struct block_worker, poller);
	unsigned count = resume_one(worker);

	if (worker->ring_error) {
		block_worker_run_batch_ends(worker);
		return count;
	}
	if (io_uring_cq_ready(&worker->ring) || kernel_wants_a_call(worker)) {
		if (kernel_wants_a_call(worker))
			io_uring_submit_and_get_events(&worker->ring);
		count += take_completions(worker, turn->requests);
		restart_overflow(worker);
	}
	block_worker_flush(worker);
	block_worker_run_batch_ends(worker);
	return count;
}

static bool worker_arm(struct poller *poller)
{
	struct block_worker *worker = container_of(poller, struct block_worker, poller);

	if (worker->ring_error)
		return false;
	io_uring_cq_eventfd_toggle(&worker->ring, true);
	/* Pairs with the kernel's barrier between posting a completion and looking at the flag. */
	atomic_thread_fence(memory_order_seq_cst);
	return io_uring_cq_ready(&worker->ring) || kernel_wants_a_call(worker) || io_uring_sq_ready(&worker->ring);
}

static void worker_disarm(struct poller *poller)
{
	struct block_worker *worker = container_of(poller, struct block_worker, poller);

	if (!worker->ring_error)
		io_uring_cq_eventfd_toggle(&worker->ring, false);
}
