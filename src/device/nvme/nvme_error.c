/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe error log (Base 5.16.1.2): entries are written wherever a command fails, and put in order when somebody reads them.
 *
 * Theory of operation
 * -------------------
 * Each queue has a ring of its own, with as many slots as the log page has entries: so whichever queues the newest errors are
 * of, they are there. Nobody is told of an entry, and a guest that causes errors in floods costs nobody but itself; the
 * control thread looks at all rings when the page is asked for. Numbers are taken from one counter, which puts the
 * entries of all rings in order, and is what SMART counts.
 *
 * A slot may be written while it is read. Its number says whether it is whole: the writer stores 0, the entry, and then the
 * number; the reader loads the number, the entry, and the number again. All stores of the entry are releases and all its
 * loads acquires: a reader that has seen any word of a newer entry therefore sees, when it looks again, the 0 that was
 * stored before that word or something later, but not the number with which it began; numbers are never used twice.
 *
 * An entry is written before the completion that has the More bit set, so a driver that has seen that finds the entry.
 *
 * Rings outlive queues, resets and clients, as the specification wants of the log.
 *
 * Context: said at each function.
 */
#include <string.h>

#include "device/nvme/nvme_internal.h"

/* The only writer of ring @ring: the sidecore of that submission queue; of 0 the control thread. */
uint16_t nvme_log_error(struct nvme *nvme, unsigned ring, const struct nvme_error *error)
{
	struct nvme_error_ring *to = &nvme->errors[ring];
	struct nvme_error_slot *slot = &to->slots[to->next++ % NVME_ERROR_ENTRIES];
	uint16_t status = error->status ? (uint16_t)(error->status | NVME_MORE) : 0;

	atomic_store_explicit(&slot->number, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->lba, error->lba, memory_order_release);
	atomic_store_explicit(&slot->command,
			      error->sq_id | (uint64_t)error->cid << 16 | (uint64_t)status << 32 |
				      (uint64_t)error->opcode << 48,
			      memory_order_release);
	atomic_store_explicit(&slot->nsid, error->nsid, memory_order_release);
	atomic_store_explicit(&slot->number, atomic_fetch_add(&nvme->error_count, 1) + 1, memory_order_release);
	return status;
}

/* Return: false when there is nothing in the slot, or it is being written. */
static bool read_slot(struct nvme_error_slot *slot, struct nvme_error_entry *entry)
{
	uint64_t number = atomic_load_explicit(&slot->number, memory_order_acquire);
	uint64_t lba = atomic_load_explicit(&slot->lba, memory_order_acquire);
	uint64_t command = atomic_load_explicit(&slot->command, memory_order_acquire);
	uint32_t nsid = atomic_load_explicit(&slot->nsid, memory_order_acquire);

	if (!number || atomic_load_explicit(&slot->number, memory_order_relaxed) != number)
		return false;
	*entry = (struct nvme_error_entry){
		.count = htole64(number),
		.sq_id = htole16((uint16_t)command),
		.cid = (uint16_t)(command >> 16), /* as the driver wrote it */
		.status = htole16((uint16_t)(command >> 32 << 1)),
		.location = 0xffff, /* not told */
		.lba = htole64(lba),
		.nsid = htole32(nsid),
		.opcode = (uint8_t)(command >> 48),
	};
	return true;
}

/* Puts @entry where it belongs in @entries, newest first; the oldest falls out. */
static void insert(struct nvme_error_entry *entries, const struct nvme_error_entry *entry)
{
	unsigned place = NVME_ERROR_ENTRIES;

	while (place && le64toh(entries[place - 1].count) < le64toh(entry->count))
		place--;
	if (place == NVME_ERROR_ENTRIES)
		return;
	memmove(entries + place + 1, entries + place, (NVME_ERROR_ENTRIES - 1 - place) * sizeof(*entries));
	entries[place] = *entry;
}

void nvme_read_errors(struct nvme *nvme, struct nvme_error_entry entries[NVME_ERROR_ENTRIES])
{
	struct nvme_error_entry entry;

	memset(entries, 0, NVME_ERROR_ENTRIES * sizeof(*entries));
	for (unsigned ring = 0; ring <= nvme->queues; ring++) {
		for (unsigned i = 0; i < NVME_ERROR_ENTRIES; i++) {
			if (read_slot(&nvme->errors[ring].slots[i], &entry))
				insert(entries, &entry);
		}
	}
}
