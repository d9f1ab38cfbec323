/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe data pointers: PRP entries and lists (Base 4.1.1), SGLs (Base 4.1.2), turned into segments of guest memory.
 *
 * Trust boundary. Lists lie in guest memory and may change at any time. Each piece of one is copied once, checked, and only
 * the copy is used. A list can be wrong, too long, or a circle: every entry consumes bytes of a length that is bounded by the
 * largest transfer, and chains of SGL segments have a budget, so that each walk ends.
 *
 * Context: whoever executes the command.
 */
#include <errno.h>

#include "device/nvme/nvme_internal.h"

/** Entries that are copied at once: a page of 4 KiB would hold 512, the largest transfer needs 257. */
#define PRP_PIECE 64U
#define SGL_PIECE 32U

/** Descriptors and segments of one SGL, all together. */
#define SGL_DESCRIPTORS_MAX 1024U
#define SGL_SEGMENTS_MAX    64U

static uint16_t append(struct nvme_dma *dma, uint64_t address, uint64_t length)
{
	int rc = guest_memory_segments(dma->memory, dma->hint, address, length, dma->segments, dma->capacity,
				       &dma->count);

	if (likely(!rc))
		return NVME_SUCCESS;
	return rc == -ENOSPC ? NVME_DMA_FULL : NVME_DATA_TRANSFER_ERROR | NVME_DNR;
}

/* ---- PRP --------------------------------------------------------------------------------------------------------- */

/* Pages named by a list. The last entry of a page of the list names the list's next page if more are needed than fit.
 */
static uint16_t map_prp_list(struct nvme_dma *dma, uint64_t list, uint32_t length)
{
	uint32_t page = 1U << dma->page_shift, position = 0, left;
	uint64_t entries[PRP_PIECE];

	if (list % sizeof(entries[0]))
		return NVME_INVALID_PRP_OFFSET | NVME_DNR;
	/* Entries of this page of the list: the first may begin anywhere in its page (Base 4.1.1). */
	left = (page - (uint32_t)(list & (page - 1))) / (uint32_t)sizeof(entries[0]);
	while (length) {
		uint32_t needed = (length + page - 1) >> dma->page_shift;
		uint32_t count = min(min(needed, left), PRP_PIECE);

		if (!guest_memory_read(dma->memory, dma->hint, list, entries, count * sizeof(entries[0])))
			return NVME_DATA_TRANSFER_ERROR | NVME_DNR;
		for (position = 0; position < count; position++) {
			uint64_t entry = le64toh(entries[position]);
			uint32_t piece = min(length, page);
			uint16_t status;

			if (entry & (page - 1))
				return NVME_INVALID_PRP_OFFSET | NVME_DNR;
			if (left == 1 && needed > 1) {
				list = entry;
				left = page / (uint32_t)sizeof(entries[0]);
				break;
			}
			status = append(dma, entry, piece);
			if (status)
				return status;
			length -= piece;
			needed--;
			left--;
			list += sizeof(entries[0]);
		}
	}
	return NVME_SUCCESS;
}

static uint16_t map_prp(struct nvme_dma *dma, uint64_t prp1, uint64_t prp2, uint32_t length)
{
	uint32_t page = 1U << dma->page_shift;
	uint32_t first = min(length, page - (uint32_t)(prp1 & (page - 1)));
	uint64_t available = 0;
	uint16_t status;

	if (unlikely(prp1 & 3))
		return NVME_INVALID_PRP_OFFSET | NVME_DNR;
	/* The first page, which is all there is of most requests, without a call. */
	dma->segments[0].base = guest_memory_translate(dma->memory, dma->hint, prp1, first, &available);
	if (likely(dma->segments[0].base && available == first)) {
		dma->segments[0].length = first;
		dma->count = 1;
	} else {
		status = append(dma, prp1, first);
		if (status)
			return status;
	}
	length -= first;
	if (!length)
		return NVME_SUCCESS;
	if (length > page)
		return map_prp_list(dma, prp2, length);
	if (unlikely(prp2 & (page - 1)))
		return NVME_INVALID_PRP_OFFSET | NVME_DNR;
	return append(dma, prp2, length);
}

/* ---- SGL --------------------------------------------------------------------------------------------------------- */

/** struct sgl_walk - where a walk is: what is left of the transfer, and of its budgets. */
struct sgl_walk {
	uint32_t left;
	unsigned descriptors, segments;
};

static uint16_t map_data_block(struct nvme_dma *dma, struct sgl_walk *walk, const struct nvme_sgl *descriptor)
{
	uint32_t length = le32toh(descriptor->length);
	uint16_t status;

	/* Longer SGLs than data are not offered (SGLS bit 18). */
	if (length > walk->left)
		return NVME_SGL_INVALID_LENGTH | NVME_DNR;
	if (!length)
		return NVME_SUCCESS;
	status = append(dma, le64toh(descriptor->address), length);
	walk->left -= length;
	return status;
}

/*
 * One segment of descriptors: data blocks, then, unless it is the last, one more segment.
 * @next: in: the segment; out: the one after it
 * Return: status; @more: whether there is one after it.
 */
static uint16_t map_segment(struct nvme_dma *dma, struct sgl_walk *walk, struct nvme_sgl *next, bool *more)
{
	bool last = next->type == NVME_SGL_LAST_SEGMENT;
	uint32_t length = le32toh(next->length), count = length / (uint32_t)sizeof(*next);
	uint64_t address = le64toh(next->address);

	if (!count || length % sizeof(*next) || !walk->segments--)
		return NVME_SGL_INVALID_SEGMENT | NVME_DNR;
	if (count > walk->descriptors)
		return NVME_SGL_INVALID_COUNT | NVME_DNR;
	walk->descriptors -= count;
	*more = false;
	while (count) {
		struct nvme_sgl piece[SGL_PIECE];
		uint32_t now = min(count, SGL_PIECE);

		if (!guest_memory_read(dma->memory, dma->hint, address, piece, now * sizeof(piece[0])))
			return NVME_DATA_TRANSFER_ERROR | NVME_DNR;
		address += now * sizeof(piece[0]);
		for (uint32_t i = 0; i < now; i++, count--) {
			uint16_t status;

			if (piece[i].type == NVME_SGL_SEGMENT || piece[i].type == NVME_SGL_LAST_SEGMENT) {
				if (last || count > 1)
					return NVME_SGL_INVALID_SEGMENT | NVME_DNR;
				*next = piece[i];
				*more = true;
				continue;
			}
			if (piece[i].type != NVME_SGL_DATA)
				return NVME_SGL_INVALID_TYPE | NVME_DNR;
			status = map_data_block(dma, walk, &piece[i]);
			if (status)
				return status;
		}
	}
	/* A segment that is not the last names the one after it (Base 4.1.2). */
	return last || *more ? NVME_SUCCESS : NVME_SGL_INVALID_SEGMENT | NVME_DNR;
}

static uint16_t map_sgl(struct nvme_dma *dma, const struct nvme_sgl *first, uint32_t length)
{
	struct sgl_walk walk = { length, SGL_DESCRIPTORS_MAX, SGL_SEGMENTS_MAX };
	struct nvme_sgl next = *first;
	uint16_t status;
	bool more = true;

	if (next.type == NVME_SGL_DATA)
		status = map_data_block(dma, &walk, &next);
	else if (next.type != NVME_SGL_SEGMENT && next.type != NVME_SGL_LAST_SEGMENT)
		return NVME_SGL_INVALID_TYPE | NVME_DNR;
	else
		for (status = NVME_SUCCESS; more && !status;)
			status = map_segment(dma, &walk, &next, &more);
	if (!status && walk.left)
		return NVME_SGL_INVALID_LENGTH | NVME_DNR;
	return status;
}

uint16_t nvme_dma_map(struct nvme_dma *dma, const struct nvme_command *command, uint32_t length)
{
	dma->count = 0;
	switch (command->flags & NVME_FLAGS_PSDT) {
	case 0:
		return map_prp(dma, le64toh(command->prp1), le64toh(command->prp2), length);
	case NVME_PSDT_SGL_BUFFER:
	case NVME_PSDT_SGL:
		return map_sgl(dma, &command->sgl, length);
	}
	return NVME_INVALID_FIELD | NVME_DNR;
}
