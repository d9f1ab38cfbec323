/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Delivery of frames that their receiver does not get as they are.
 *
 * Theory of operation
 * -------------------
 * What a receiver cannot take (net/segment.h) is finished just before delivery, in scratch memory of the sidecore, and
 * a port that is a trunk has each frame's tag put in or taken out. Frames that need no cutting go on in runs, as many
 * at once as there are.
 *
 * When the receiver becomes full half way through the segments of a frame, the frame stays, and remembers how many it
 * has sent. A port may take several segments of TCP as one packet (port_ops.coalesce_max): it is asked anew for each
 * frame, and what is remembered are segments, however they went.
 *
 * Context: any sidecore, under the receiver's claim.
 */
#include "base/counter.h"
#include "net/network_internal.h"
#include "net/port_filter.h"

/*
 * Cut @frame, and complete checksums, for @to. Return: true when the frame is done with; false when the port is full,
 * with frame->segments_done telling how far it came.
 */
static bool finish_frame(struct batch *batch, struct port *to, struct frame *frame)
{
	struct network_worker *worker = batch->worker;
	struct port_counters *counters = port_counters(to, batch->turn);
	struct segment_plan *plan = &worker->plan;
	struct segment_room room = { worker->frames, NETWORK_BATCH, worker->headers, worker->segments,
				     WORKER_SEGMENTS };
	unsigned built, taken;

	if (segment_plan(plan, frame, to->abilities.checksum, worker->identification++)) {
		port_drop(batch->from, batch->turn, PORT_DROP_BAD_HEADER, 1);
		return true;
	}
	segment_skip(plan, frame->segments_done);
	if (to->ops->coalesce_max && plan->count > 1)
		segment_coalesce(plan, to->ops->coalesce_max(to, frame, batch->turn));
	while ((built = segment_next(plan, &room)) > 0) {
		taken = to->ops->transmit(to, worker->frames, built, batch->turn);
		if (plan->together > 1)
			counter_add(&counters->coalesced, taken);
		if (taken < built) {
			/* All that were taken were full ones: only the last of the frame has fewer segments. */
			frame->segments_done = (uint16_t)(frame->segments_done + taken * plan->together);
			return false;
		}
		frame->segments_done = (uint16_t)plan->index;
	}
	counter_add(frame->offload.gso == FRAME_GSO_NONE ? &counters->checksummed : &counters->segmented, 1);
	frame->segments_done = 0;
	return true;
}

unsigned network_finish(struct batch *batch, struct port *to, struct frame *frames, unsigned count)
{
	unsigned done = 0;

	while (done < count) {
		unsigned whole = done;

		/* As many as the port takes as they are. */
		for (; whole < count; whole++) {
			struct frame *frame = &frames[whole];

			port_vlan_tag(to, frame);
			if (!segment_needed(&frame->offload, &to->abilities))
				continue;
			if (frame->offload.gso == FRAME_GSO_NONE && segment_checksum(frame)) {
				counter_add(&port_counters(to, batch->turn)->checksummed, 1);
				continue;
			}
			break;
		}
		if (whole > done) {
			done += to->ops->transmit(to, frames + done, whole - done, batch->turn);
			if (done < whole)
				return done;
		}
		if (done < count) {
			if (!finish_frame(batch, to, &frames[done]))
				return done;
			done++;
		}
	}
	return done;
}
