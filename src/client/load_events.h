/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CLIENT_LOAD_EVENTS_H
#define CLIENT_LOAD_EVENTS_H

#include <stdint.h>

#define LOAD_EVENTS_MAX 64u

unsigned int load_events_wait(const int *events, unsigned int count, int timeout_ms, uint64_t *signalled);

#endif
