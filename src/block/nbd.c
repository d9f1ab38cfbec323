/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NBD disks: an export of any NBD server (qemu-nbd, nbdkit, a storage daemon), by libnbd.
 *
 * Theory of operation
 * -------------------
 * libnbd's state machine makes system calls whenever it likes, so it runs in a helper thread of the disk
 * (block/nbd_thread.c), and sidecores never wait for it. Two stacks without locks connect them:
 *
 *	submissions	A channel collects the requests of a batch and pushes them onto the disk's stack at once;
 *			whoever finds it empty writes the thread's eventfd: at most one system call a batch.
 *	completions	The thread pushes onto the stack of the request's channel; when it finds that empty it posts the
 *			channel's message. The message takes the whole stack with one exchange.
 *
 * Between two exchanges exactly one push finds the stack empty, so there is exactly one post for each exchange: the
 * message is never posted while it waits in a mailbox, and when the last request of a channel is back no post is
 * outstanding.
 *
 * disk_open() waits for the first connection, at most CONNECT_TIMEOUT: without it nobody knows the size. Later losses
 * of the connection are the thread's business: it connects again and repeats what was under way; requests that take
 * longer than the disk's timeout fail with -ETIMEDOUT.
 *
 * Context: open, close on the control thread; submit and flush on a channel's sidecore.
 */
#include "block/nbd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

#define TIMEOUT_DEFAULT	 30000U
#define DISCARD_MAX	 (256ULL << 20)
#define WRITE_ZEROES_MAX (64ULL << 20)

/* Starts the thread with all signals blocked: they are the control thread's. */
static int start_thread(struct nbd_disk *nbd)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&nbd->thread, NULL, nbd_thread_run, nbd);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	nbd->thread_started = !rc;
	return -rc;
}

static int prepare(struct nbd_disk *nbd, const struct disk_config *config)
{
	nbd->timeout = (config->timeout ? config->timeout : TIMEOUT_DEFAULT) * NANOSECONDS_PER_MILLISECOND;
	nbd->uri = strdup(config->uri);
	if (!nbd->uri)
		return -ENOMEM;
	nbd->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (nbd->wake_fd < 0)
		return -errno;
	nbd->bounce = mmap(NULL, NBD_SLOTS * NBD_BOUNCE_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (nbd->bounce == MAP_FAILED) {
		nbd->bounce = NULL;
		return -errno;
	}
	for (unsigned i = 0; i < NBD_SLOTS; i++)
		nbd->slots[i].bounce = (char *)nbd->bounce + i * NBD_BOUNCE_SIZE;
	return start_thread(nbd);
}

static int nbd_open(struct disk *disk, const struct disk_config *config, struct engine *engine)
{
	struct nbd_disk *nbd = container_of(disk, struct nbd_disk, disk);
	struct disk_limits *limits = &disk->limits;
	int rc;

	nbd->wake_fd = -1;
	sem_init(&nbd->opened, 0, 0);
	if (!config->uri)
		return disk_error(-EINVAL, "disk %s: no uri given", disk->name);
	rc = prepare(nbd, config);
	if (rc)
		return disk_error(rc, "disk %s: cannot prepare for NBD: %s", disk->name, strerror(-rc));

	/* The thread keeps its own time; it always answers. */
	while (sem_wait(&nbd->opened) && errno == EINTR)
		;
	if (nbd->open_result)
		return disk_error(nbd->open_result, "disk %s: %s: %s", disk->name, config->uri, nbd->open_text);
	limits->discard_max = DISCARD_MAX;
	limits->write_zeroes_max = WRITE_ZEROES_MAX;
	limits->discard_alignment = limits->block_size;
	return 0;
}

static void wake_thread(struct nbd_disk *nbd)
{
	uint64_t one = 1;

	/* Fails only when the counter is full, and then the thread is about to wake anyway. */
	if (write(nbd->wake_fd, &one, sizeof(one)) < 0)
		return;
}

static void nbd_disk_close(struct disk *disk)
{
	struct nbd_disk *nbd = container_of(disk, struct nbd_disk, disk);

	if (nbd->thread_started) {
		atomic_store(&nbd->stopping, true);
		wake_thread(nbd);
		pthread_join(nbd->thread, NULL);
	}
	if (nbd->bounce)
		munmap(nbd->bounce, NBD_SLOTS * NBD_BOUNCE_SIZE);
	if (nbd->wake_fd >= 0)
		close(nbd->wake_fd);
	sem_destroy(&nbd->opened);
	free(nbd->uri);
}

static int nbd_resize(struct disk *disk, uint64_t size)
{
	return disk_error(-EOPNOTSUPP, "disk %s: an NBD export cannot be resized from here; restart the disk",
			  disk->name);
}

static bool nbd_is_away(const struct disk *disk)
{
	return !atomic_load(&container_of(disk, struct nbd_disk, disk)->connected);
}

static const char *nbd_state(const struct disk *disk)
{
	return nbd_is_away(disk) ? "reconnecting" : "connected";
}

static void nbd_hurry(struct disk *disk, uint64_t deadline)
{
	struct nbd_disk *nbd = container_of(disk, struct nbd_disk, disk);

	atomic_store(&nbd->hurry, deadline);
	wake_thread(nbd);
}

static void take_completed(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct nbd_channel *channel = container_of(message, struct nbd_channel, message);
	struct block_worker *worker = channel->channel.worker;
	struct block_request *newest, *oldest = NULL;

	/* Release, too: the mailbox is done with the message when the thread finds the stack empty and posts it. */
	newest = atomic_exchange_explicit(&channel->completed, NULL, memory_order_acq_rel);
	while (newest) {
		struct block_request *older = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = older;
	}
	/* The last completion may end the channel; nothing of it is touched after that. */
	while (oldest) {
		struct block_request *request = oldest;

		oldest = request->next;
		block_finish(request, request->status);
	}
	block_worker_run_batch_ends(worker);
}

static int nbd_channel_open(struct block_channel *channel)
{
	container_of(channel, struct nbd_channel, channel)->message.run = take_completed;
	return 0;
}

static void nbd_submit(struct block_channel *channel, struct block_request *request)
{
	struct nbd_channel *nbd_channel = container_of(channel, struct nbd_channel, channel);

	request->next = nbd_channel->submitted;
	if (!nbd_channel->submitted)
		nbd_channel->submitted_last = request;
	nbd_channel->submitted = request;
}

static void nbd_flush_submissions(struct block_channel *channel)
{
	struct nbd_channel *nbd_channel = container_of(channel, struct nbd_channel, channel);
	struct nbd_disk *nbd = container_of(channel->disk, struct nbd_disk, disk);
	struct block_request *head;

	if (!nbd_channel->submitted)
		return;
	head = atomic_load_explicit(&nbd->submitted, memory_order_relaxed);
	do {
		nbd_channel->submitted_last->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&nbd->submitted, &head, nbd_channel->submitted,
							memory_order_release, memory_order_relaxed));
	nbd_channel->submitted = NULL;
	if (!head)
		wake_thread(nbd);
}

const struct disk_ops nbd_disk_ops = {
	.kind = "nbd",
	.disk_size = sizeof(struct nbd_disk),
	.channel_size = sizeof(struct nbd_channel),
	.open = nbd_open,
	.close = nbd_disk_close,
	.resize = nbd_resize,
	.state = nbd_state,
	.is_away = nbd_is_away,
	.hurry = nbd_hurry,
	.channel_open = nbd_channel_open,
	.submit = nbd_submit,
	.flush_submissions = nbd_flush_submissions,
};
