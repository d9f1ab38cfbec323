/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where header, data and status of a virtio-blk request lie in its chain, in any layout (virtio 1.3 2.7.4): the header is
 * the first 16 readable bytes, the status is the last writable byte, data is what lies between, however the driver cut
 * it into descriptors.
 *
 * Context: sidecore; the chain has been checked by the ring, and is long enough for what is asked of it here.
 */
#ifndef DEVICE_VIRTIO_BLK_CHAIN_H
#define DEVICE_VIRTIO_BLK_CHAIN_H

#include "device/virtio_blk_internal.h"

/* Copies @length bytes from @skip bytes into @segments on; the caller knows that they are there. */
static inline void blk_read_segments(const struct guest_segment *segments, size_t skip, void *to, size_t length)
{
	char *place = to;

	for (; length; segments++) {
		size_t piece;

		if (skip >= segments->length) {
			skip -= segments->length;
			continue;
		}
		piece = min(length, segments->length - skip);
		guest_fetch(place, segments->base + skip, piece);
		place += piece;
		length -= piece;
		skip = 0;
	}
}

/* Copies the part [@skip, @skip + @length) of @from to @to. Return: how many segments that makes. */
static inline unsigned blk_cut_segments(const struct guest_segment *from, size_t skip, size_t length,
					struct guest_segment *to)
{
	unsigned count = 0;

	for (; length; from++) {
		if (skip >= from->length) {
			skip -= from->length;
			continue;
		}
		to[count].base = from->base + skip;
		to[count].length = min(length, from->length - skip);
		length -= to[count].length;
		skip = 0;
		count++;
	}
	return count;
}

/*
 * The segments of the data: readable ones after the header, or writable ones before the status. Drivers give header
 * and status descriptors of their own and small requests one for the data; the general cut is for all others.
 */
static inline unsigned blk_data_segments(const struct chain *chain, bool write, size_t length, struct guest_segment *to)
{
	const struct guest_segment *from = write ? chain->segments : chain_writable(chain);
	unsigned count = write ? chain->readable_count : chain->writable_count;

	if (likely(count == 2 && from[write].length == length)) {
		*to = from[write];
		return 1;
	}
	return blk_cut_segments(from, write ? sizeof(struct virtio_blk_outhdr) : 0, length, to);
}

/* The header as the driver wrote it, in little endian. */
static inline void blk_read_header(const struct chain *chain, struct virtio_blk_outhdr *header)
{
	/* A copy of constant size is two loads, not a call. */
	if (likely(chain->segments->length >= sizeof(*header)))
		guest_read(header, chain->segments->base, sizeof(*header));
	else
		blk_read_segments(chain->segments, 0, header, sizeof(*header));
}

#endif
