/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The interface of ../fuzz/fuzz_engine.h with a sidecore that has its thread: drivers that were written for tests without
 * threads (nvme_driver.c) work on a running engine, and see the same, only not in the same order.
 */
#include <poll.h>

#include "../fuzz/fuzz_engine.h"
#include "base/log.h"
#include "block/block.h"
#include "engine/engine.h"
#include "net/network.h"

/* Completions that lead to messages that lead to completions: no operation has a longer chain. */
#define STAGES 12U

#define HANG_MS 60000

struct stage {
	struct engine_completion completion;
	bool done;
};

static void note_done(struct engine_completion *completion)
{
	container_of(completion, struct stage, completion)->done = true;
}

/* Every sidecore has passed between two rounds, and what it had to say is done. */
static void pass_stage(struct engine *engine)
{
	struct pollfd pollfd = { .fd = engine_completion_fd(engine), .events = POLLIN };
	struct stage stage = { .completion.done = note_done };

	engine_barrier(engine, &stage.completion);
	while (!stage.done) {
		fuzz_require(poll(&pollfd, 1, HANG_MS) == 1);
		engine_run_completions(engine);
	}
}

void fuzz_engine_open(struct fuzz_engine *engine)
{
	struct engine_config config = { .sidecore_count = 1, .sidecores = { { .cpu = -1 } } };
	struct block_worker *worker;

	log_set_level(LOG_LEVEL_ERROR);
	fuzz_require(!engine_create(&config, &engine->engine));
	engine->sidecore = engine_sidecore(engine->engine, 0);
	sidecore_set_slot(engine->sidecore, SIDECORE_SLOT_NET, network_worker_create());
	fuzz_require(!block_worker_create(&worker));
	sidecore_set_slot(engine->sidecore, SIDECORE_SLOT_BLOCK, worker);
	fuzz_require(!engine_start(engine->engine));
	fuzz_require(!block_worker_attach(worker, engine->engine, engine->sidecore));
}

void fuzz_engine_settle(struct fuzz_engine *engine)
{
	for (unsigned i = 0; i < STAGES; i++)
		pass_stage(engine->engine);
}

/* The sidecore takes its turns by itself: nobody knows here what it did. */
unsigned fuzz_engine_round(struct fuzz_engine *engine)
{
	for (unsigned i = 0; i < STAGES / 2; i++)
		pass_stage(engine->engine);
	return 0;
}
