/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: any frame with any offload state that virtio-net's header check lets through is cut, or refused, without a
 * byte read or written outside, and what comes out adds up. Input: 12 bytes of header, then the frame.
 */
#include <stdlib.h>
#include <string.h>

#include "device/virtio_net_header.h"
#include "net/segment.h"

#define ROOM_FRAMES   16U
#define ROOM_SEGMENTS 64U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct frame frames[ROOM_FRAMES];
	static uint8_t headers[ROOM_FRAMES][SEGMENT_HEADER_MAX + 8];
	static struct guest_segment slices[ROOM_SEGMENTS];
	static uint8_t out[FRAME_LENGTH_MAX + 8];
	const struct segment_room room = { frames, ROOM_FRAMES, headers, slices, ROOM_SEGMENTS };
	struct virtio_net_header header;
	struct guest_segment segments[2];
	struct frame_offload offload;
	struct segment_plan plan;
	struct frame frame;
	unsigned built, total = 0;
	uint8_t *bytes;
	uint32_t length, first;

	if (size < sizeof(header) + FRAME_LENGTH_MIN || size - sizeof(header) > FRAME_LENGTH_MAX)
		return 0;
	memcpy(&header, data, sizeof(header));
	length = (uint32_t)(size - sizeof(header));
	if (!virtio_net_header_parse(&header, UINT64_MAX, length, &offload))
		return 0;
	/* On the heap and of its exact size, so that the sanitizer sees each byte too many. */
	bytes = malloc(length);
	if (!bytes)
		return 0;
	memcpy(bytes, data + sizeof(header), length);
	first = 1 + header.num_buffers % length;
	segments[0] = (struct guest_segment){ guest_bytes_of(bytes), first };
	segments[1] = (struct guest_segment){ guest_bytes_of(bytes + first), length - first };
	frame_from_segments(&frame, segments, first < length ? 2 : 1, length);
	frame.offload = offload;

	if (!segment_plan(&plan, &frame, data[0] & 2, 1)) {
		while ((built = segment_next(&plan, &room)) > 0) {
			for (unsigned i = 0; i < built; i++) {
				if (frames[i].length > sizeof(out) || !frame_read(&frames[i], 0, out, frames[i].length))
					abort();
			}
			total += built;
		}
		if (total != plan.count || plan.position != length)
			abort();
	}
	if (offload.checksum_partial)
		segment_checksum(&frame);
	frame_flow_hash(&frame);
	free(bytes);
	return 0;
}
