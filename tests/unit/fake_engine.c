/* SPDX-License-Identifier: BSD-3-Clause */
#include "fake_engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/notifier.h"

#define STEPS 1024

struct sidecore {
	int unused;
};

static struct {
	struct engine_completion *completion;
	struct sidecore_message *message;
} steps[STEPS];
static unsigned first_step, last_step;
static struct sidecore only_sidecore;
static struct notifier *notifiers[2]; /* the sidecore's and the control thread's; made once, at the first reset */

struct fake_engine fake_engine;

struct engine *fake_engine_get(void)
{
	return (struct engine *)&fake_engine;
}

void fake_engine_reset(void)
{
	memset(&fake_engine, 0, sizeof(fake_engine));
	first_step = last_step = 0;
	for (unsigned i = 0; i < 2; i++) {
		if (!notifiers[i] && notifier_create(&notifiers[i]))
			abort();
	}
}

static void add(struct engine_completion *completion, struct sidecore_message *message)
{
	assert(last_step - first_step < STEPS);
	steps[last_step % STEPS].completion = completion;
	steps[last_step++ % STEPS].message = message;
	fake_engine.waiting++;
}

bool fake_engine_step(void)
{
	struct engine_completion *completion;
	struct sidecore_message *message;

	if (first_step == last_step)
		return false;
	completion = steps[first_step % STEPS].completion;
	message = steps[first_step++ % STEPS].message;
	fake_engine.waiting--;
	if (completion)
		completion->done(completion);
	else
		message->run(&only_sidecore, message);
	return true;
}

void fake_engine_run(void)
{
	while (fake_engine_step())
		;
}

int engine_attach(struct engine *engine, struct sidecore *sidecore, struct poller *poller,
		  struct engine_completion *completion)
{
	int error = fake_engine.attach_error;

	fake_engine.attach_error = 0;
	if (error)
		return error;
	poller->sidecore = sidecore;
	fake_engine.attached++;
	if (completion)
		add(completion, NULL);
	return 0;
}

void engine_detach(struct engine *engine, struct poller *poller, struct engine_completion *completion)
{
	assert(poller->sidecore);
	poller->sidecore = NULL;
	fake_engine.attached--;
	fake_engine.detaches++;
	add(completion, NULL);
}

void engine_barrier(struct engine *engine, struct engine_completion *completion)
{
	fake_engine.barriers++;
	add(completion, NULL);
}

void engine_complete(struct engine *engine, struct engine_completion *completion)
{
	add(completion, NULL);
}

void sidecore_post(struct sidecore *sidecore, struct sidecore_message *message)
{
	fake_engine.messages++;
	add(NULL, message);
}

unsigned engine_sidecore_count(const struct engine *engine)
{
	return 1;
}

struct sidecore *engine_sidecore(struct engine *engine, unsigned index)
{
	return &only_sidecore;
}

struct sidecore *engine_pick_sidecore(struct engine *engine)
{
	return &only_sidecore;
}


struct notifier *sidecore_notifier(const struct sidecore *sidecore)
{
	return notifiers[0];
}

struct notifier *engine_notifier(const struct engine *engine)
{
	return notifiers[1];
}
