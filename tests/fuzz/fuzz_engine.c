/* SPDX-License-Identifier: BSD-3-Clause */
#include "fuzz_engine.h"

#include <fcntl.h>
#include <sys/random.h>

#include "base/log.h"
#include "block/block.h"
#include "engine/sidecore.h"
#include "net/network.h"

#define SETTLE_ROUNDS 64U

/* The address table's keys and the like: an input must do the same each time. Takes the C library's place when linked.
 */
ssize_t getrandom(void *to, size_t length, unsigned flags)
{
	memset(to, 0x5a, length);
	return (ssize_t)length;
}

void fuzz_engine_open(struct fuzz_engine *engine)
{
	struct engine_config config = { .sidecore_count = 1, .sidecores = { { .cpu = -1 } } };
	struct block_worker *worker;

	/* Errors alone: nothing that a guest or client does may cause one. */
	log_set_level(LOG_LEVEL_ERROR);
	fuzz_require(!engine_create(&config, &engine->engine));
	engine->sidecore = engine_sidecore(engine->engine, 0);
	sidecore_set_slot(engine->sidecore, SIDECORE_SLOT_NET, network_worker_create());
	fuzz_require(!block_worker_create(&worker));
	sidecore_set_slot(engine->sidecore, SIDECORE_SLOT_BLOCK, worker);
	engine->turn =
		(struct turn){ .sidecore = engine->sidecore, .now = 1000000000, .requests = 64, .bytes = 1 << 20 };
}

static unsigned run_messages(struct fuzz_engine *engine)
{
	unsigned work = sidecore_run_messages(engine->sidecore);

	engine_run_completions(engine->engine);
	return work || !mailbox_empty(&engine->sidecore->mailbox);
}

void fuzz_engine_settle(struct fuzz_engine *engine)
{
	/* A stop is a chain of a few messages and completions; a round without a message may still have completed one.
	 */
	for (unsigned i = 0, quiet = 0; quiet < 4; i++) {
		fuzz_require(i < SETTLE_ROUNDS);
		quiet = run_messages(engine) ? 0 : quiet + 1;
	}
}

unsigned fuzz_engine_round(struct fuzz_engine *engine)
{
	unsigned work = 0;

	run_messages(engine);
	for (struct attachment *a = engine->sidecore->attachments; a; a = a->next) {
		unsigned done = a->poller->ops->poll(a->poller, &engine->turn);

		/* A turn is bounded, whatever the guest does: NETWORK_BATCH or a batch of requests may finish what was
		 * begun. */
		fuzz_require(done <= engine->turn.requests);
		work += done;
	}
	fuzz_engine_settle(engine);
	return work;
}

void fuzz_engine_arm(struct fuzz_engine *engine)
{
	for (struct attachment *a = engine->sidecore->attachments; a; a = a->next) {
		if (a->poller->ops->arm)
			a->poller->ops->arm(a->poller);
	}
	for (struct attachment *a = engine->sidecore->attachments; a; a = a->next) {
		if (a->poller->ops->disarm)
			a->poller->ops->disarm(a->poller);
	}
}

struct fuzz_fds fuzz_open_fds(void)
{
	struct fuzz_fds fds = { 0 };

	for (int fd = 0; fd < 128; fd++) {
		if (fcntl(fd, F_GETFD) >= 0)
			fds.bits[fd / 64] |= 1ULL << fd % 64;
	}
	return fds;
}
