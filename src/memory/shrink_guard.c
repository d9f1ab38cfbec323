/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Shrink guard.
 *
 * Theory of operation
 * -------------------
 * A signal handler is process-wide, and so is the table of guarded ranges: chunks of slots that are never freed, in a list
 * to which only the control thread adds. The handler, on any thread, looks for the slot that holds the fault address,
 * maps anonymous memory over the whole range (mmap is one system call, safe in a handler) and sets the owner's flag. The
 * faulting instruction is then repeated and goes on with zeroes; the owner finds the flag at its next turn. No slot: the
 * fault is a bug of ours; the default action is restored and the repeated instruction ends the process with a core file.
 *
 * A slot is changed in the order: size 0, base and flag, size. A reader takes size, base and flag, size again, and believes
 * them only when both sizes are equal and not 0:
 * - The slot of the faulting range itself does not change: whoever touches the range keeps it from being removed.
 * - Another slot may change under the reader. Equal sizes before and after mean that base is of a range of that size, old or
 *   new; neither contains the fault address, since mapped ranges do not overlap and the old one is still mapped while its
 *   slot is cleared.
 */
#include "memory/shrink_guard.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"

#define SLOTS 256

struct guard_slot {
	_Atomic(uintptr_t) base;
	_Atomic(size_t) size; /* 0: free */
	_Atomic(atomic_bool *) damaged;
};

struct guard_chunk {
	_Atomic(struct guard_chunk *) next;
	struct guard_slot slots[SLOTS];
};

/* Signal dispositions belong to the process; there is no object that could own this. */
static struct guard_chunk first_chunk;

static struct guard_slot *find_fault(uintptr_t address)
{
	for (struct guard_chunk *chunk = &first_chunk; chunk; chunk = atomic_load(&chunk->next)) {
		for (unsigned i = 0; i < SLOTS; i++) {
			struct guard_slot *slot = &chunk->slots[i];
			size_t size = atomic_load(&slot->size);
			uintptr_t base = atomic_load(&slot->base);

			if (size && address - base < size && atomic_load(&slot->size) == size)
				return slot;
		}
	}
	return NULL;
}

static void handle_fault(int number, siginfo_t *info, void *context)
{
	struct guard_slot *slot = find_fault((uintptr_t)info->si_addr);
	int saved_errno = errno;

	(void)context;
	if (slot) {
		void *base = (void *)atomic_load(&slot->base);
		void *there = mmap(base, atomic_load(&slot->size), PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);

		if (there == base) {
			atomic_store(atomic_load(&slot->damaged), true);
			errno = saved_errno;
			return;
		}
	}
	signal(number, SIG_DFL);
}

/* For each range again: a library (or a test runner) may have taken the signal in between. */
static int install_handler(void)
{
	struct sigaction action = { .sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigemptyset(&action.sa_mask);
	return sigaction(SIGBUS, &action, NULL) < 0 ? -errno : 0;
}

/* Control thread only: the free slot, in a new chunk if there is none. */
static struct guard_slot *find_free(void)
{
	struct guard_chunk *chunk = &first_chunk, *next;

	for (;;) {
		for (unsigned i = 0; i < SLOTS; i++) {
			if (!atomic_load(&chunk->slots[i].size))
				return &chunk->slots[i];
		}
		next = atomic_load(&chunk->next);
		if (!next)
			break;
		chunk = next;
	}
	next = calloc(1, sizeof(*next));
	if (!next)
		return NULL;
	atomic_store(&chunk->next, next);
	return &next->slots[0];
}

int shrink_guard_add(void *base, size_t size, atomic_bool *damaged)
{
	struct guard_slot *slot;
	int error = install_handler();

	if (error)
		return error;
	slot = find_free();
	if (!slot)
		return -ENOMEM;
	atomic_store(&slot->base, (uintptr_t)base);
	atomic_store(&slot->damaged, damaged);
	atomic_store(&slot->size, size);
	return 0;
}

void shrink_guard_remove(void *base)
{
	for (struct guard_chunk *chunk = &first_chunk; chunk; chunk = atomic_load(&chunk->next)) {
		for (unsigned i = 0; i < SLOTS; i++) {
			struct guard_slot *slot = &chunk->slots[i];

			if (atomic_load(&slot->size) && atomic_load(&slot->base) == (uintptr_t)base) {
				atomic_store(&slot->size, 0);
				return;
			}
		}
	}
}
