/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Shrink guard: files that others gave us may shrink while they are mapped, and the next access raises SIGBUS. The guard
 * turns that into anonymous memory in place of the file and a flag for the mapping's owner.
 *
 * Context: added and removed by the control thread; the signal handler runs on whichever thread touched the memory.
 */
#ifndef MEMORY_SHRINK_GUARD_H
#define MEMORY_SHRINK_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/**
 * shrink_guard_add() - from now on a fault in [@base, @base + @size) replaces that range by zero pages and sets @damaged.
 * @base, @size:	a mapping, page aligned (huge pages: aligned to theirs)
 * @damaged:		set by the signal handler; lives until shrink_guard_remove()
 *
 * Return: 0; -ENOMEM; the negative errno of sigaction.
 */
int shrink_guard_add(void *base, size_t size, atomic_bool *damaged);

/** shrink_guard_remove() - before the range is unmapped; no thread may still touch it. */
void shrink_guard_remove(void *base);

#endif
