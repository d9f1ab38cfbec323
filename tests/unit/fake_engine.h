/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An engine without threads: what it is asked to do waits in a list until the test runs it, so that a test decides what
 * happens between two steps. Stands in for engine/engine.h in tests that name it.
 */
#ifndef TESTS_FAKE_ENGINE_H
#define TESTS_FAKE_ENGINE_H

#include <stdbool.h>

#include "engine/engine.h"

struct fake_engine {
	unsigned attached; /* pollers */
	int attach_error;  /* for the next engine_attach() */
	unsigned barriers, detaches, messages;
	unsigned waiting; /* steps that have not run */
};

extern struct fake_engine fake_engine;

/** fake_engine_reset() - forget everything. */
void fake_engine_reset(void);

/** fake_engine_step() - run the oldest waiting step. Return: false when there was none. */
bool fake_engine_step(void);

/** fake_engine_run() - run steps until none waits. */
void fake_engine_run(void);

struct engine *fake_engine_get(void);

#endif
