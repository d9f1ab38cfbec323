/* SPDX-License-Identifier: BSD-3-Clause */
#include "engine/scheduler.h"

#include <string.h>

#include "engine/scheduler_round_robin.h"

static const struct scheduler_ops *const schedulers[] = {
	&scheduler_round_robin, /* the default */
};

const struct scheduler_ops *scheduler_find(const char *name)
{
	if (!name)
		return schedulers[0];
	for (size_t i = 0; i < array_size(schedulers); i++) {
		if (!strcmp(schedulers[i]->name, name))
			return schedulers[i];
	}
	return NULL;
}
