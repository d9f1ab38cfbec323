/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The real engine with one sidecore whose thread is never started: the fuzz target's thread is control thread and
 * sidecore in turn, so that an input always does the same.
 */
#ifndef TESTS_FUZZ_ENGINE_H
#define TESTS_FUZZ_ENGINE_H

#include "engine/engine.h"
#include "fuzz.h"

struct fuzz_engine {
	struct engine *engine;
	struct sidecore *sidecore;
	struct turn turn; /* of the next round; the target moves its clock and sets its bounds */
};

/** fuzz_engine_open() - once, with the scratch memory of the net and block rooms. Log lines are switched off. */
void fuzz_engine_open(struct fuzz_engine *engine);

/** fuzz_engine_round() - messages, completions, one turn for each poller. Return: work done. */
unsigned fuzz_engine_round(struct fuzz_engine *engine);

/** fuzz_engine_settle() - messages and completions only, until there are none. */
void fuzz_engine_settle(struct fuzz_engine *engine);

/** fuzz_engine_arm() - what the sidecore does before it sleeps and after it wakes. */
void fuzz_engine_arm(struct fuzz_engine *engine);

/** fuzz_open_fds() - a set of the open file descriptors below 128, for the question whether one has leaked. */
struct fuzz_fds {
	uint64_t bits[2];
};
struct fuzz_fds fuzz_open_fds(void);

#endif
