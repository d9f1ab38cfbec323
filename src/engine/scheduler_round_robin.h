/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef ENGINE_SCHEDULER_ROUND_ROBIN_H
#define ENGINE_SCHEDULER_ROUND_ROBIN_H

#include "engine/scheduler.h"

extern const struct scheduler_ops scheduler_round_robin;

#endif
