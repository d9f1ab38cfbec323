/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe I/O commands (NVM Command Set 3.2): fetched in batches, checked, handed to the disk.
 *
 * Trust boundary. A batch of commands is copied from the submission queue once; only the copy is looked at. What a
 * command asks for is checked against our own copies of sizes and limits; a command that asks for the impossible is
 * answered with the specification's status and stops nobody.
 *
 * Theory of operation
 * -------------------
 * A turn loads the tail doorbell once, reserves slots of the completion queue, copies a run of commands, and starts one
 * after the other. The head is moved with each command, so that a completion reports it rightly even when the disk
 * completes at once. Submissions are handed over, and the driver is interrupted, once a turn.
 *
 * A command is bounded by what it moves, and pays for that with its turn's bytes; commands that move much without data
 * (zeroes, deallocation) are done in pieces: nvme_request.c.
 *
 * Context: sidecore.
 */
#include <string.h>

#include "base/clock.h"
#include "device/nvme/nvme_io.h"

/* As for virtio-blk: now and then a turn looks at the clock, because memory may be slow to come: some 0.3 ms on x86. */
#define TURN_CYCLES	  (1ULL << 20)
#define COMMANDS_PER_LOOK 4U

/* Turns between two looks at the guest's memory for a file that shrank, a power of two. */
#define TURNS_PER_LOOK 64U

/* Bytes of its turn that a segment above the first few costs: it has to be read, checked and translated. */
#define SEGMENT_COST 128U

enum started {
	STARTED,
	NO_ROOM, /* not now; the command stays in the queue */
};

static bool has_blocks(uint8_t opcode)
{
	return opcode == NVME_READ || opcode == NVME_WRITE || opcode == NVME_COMPARE || opcode == NVME_VERIFY ||
	       opcode == NVME_WRITE_ZEROES;
}

/* A command that is refused. */
static enum started complete(struct nvme_sq *sq, const struct nvme_command *command, uint16_t status)
{
	struct nvme_error error = {
		.cid = command->cid, .status = status, .opcode = command->opcode, .nsid = le32toh(command->nsid)
	};

	if (has_blocks(command->opcode))
		error.lba = (uint64_t)le32toh(command->dw11) << 32 | le32toh(command->dw10);
	status = nvme_sq_error(sq, &error);
	nvme_cq_post(sq->cq, 0, sq->head, sq->id, command->cid, status);
	return STARTED;
}

/* Is [slba, +blocks) inside @namespace? */
static bool blocks_inside(const struct nvme_namespace *namespace, uint64_t slba, uint64_t blocks)
{
	return range_inside(slba, blocks, atomic_load_explicit(&namespace->blocks, memory_order_relaxed));
}

static bool writes_through(const struct nvme_sq *sq, const struct nvme_namespace *namespace, uint32_t dw12)
{
	return namespace->limits.flush_needed &&
	       (dw12 & NVME_RW_FUA || !atomic_load_explicit(&sq->nvme->write_cache, memory_order_relaxed));
}

static void begin(struct nvme_request *request, const struct nvme_command *command, uint32_t namespace,
		  enum nvme_plan plan)
{
	request->cid = command->cid;
	request->opcode = command->opcode;
	request->namespace = (uint8_t) namespace;
	request->plan = (uint8_t)plan;
	request->io.segment_count = 0;
	request->sq->queue.in_flight++;
}

static void begin_steps(struct nvme_request *request)
{
	request->step = 0;
	request->position = 0;
	request->submitting = false;
}

/* The most segments that the data of @command may need, or an underestimate that nvme_dma_map() will notice. */
static unsigned segments_needed(const struct nvme_sq *sq, const struct nvme_command *command, uint32_t length)
{
	if (unlikely(command->flags & NVME_FLAGS_PSDT))
		return command->sgl.type == NVME_SGL_DATA ? 1 : NVME_LARGE_SEGMENTS;
	return nvme_dma_pages(le64toh(command->prp1), length, sq->page_shift);
}

/*
 * A request with the segments of @length bytes of data, with @reserve segments of its own left free.
 * Return: status, NVME_DMA_FULL: not now.
 */
static uint16_t get_with_data(struct nvme_sq *sq, const struct nvme_command *command, uint32_t length,
			      unsigned segments, struct nvme_request **request)
{
	static const unsigned capacities[] = { NVME_INLINE_SEGMENTS, NVME_MEDIUM_SEGMENTS, NVME_LARGE_SEGMENTS };
	struct nvme_dma dma = { .memory = sq->memory, .hint = &sq->hint, .page_shift = sq->page_shift };
	uint16_t status;

	for (;;) {
		*request = nvme_request_get(sq, segments);
		if (unlikely(!*request))
			return NVME_DMA_FULL;
		dma.segments = (*request)->segments;
		dma.capacity = capacities[(*request)->segment_class];
		status = nvme_dma_map(&dma, command, length);
		(*request)->io.segment_count = dma.count;
		if (likely(!status))
			return NVME_SUCCESS;
		nvme_request_put(*request);
		if (status != NVME_DMA_FULL)
			return status;
		/* Pages or data blocks that span regions: once more with the largest block. What exceeds that is
		 * refused. */
		if (dma.capacity == NVME_LARGE_SEGMENTS)
			return NVME_SGL_INVALID_COUNT | NVME_DNR;
		segments = NVME_LARGE_SEGMENTS;
	}
}

/* What all commands with a range of blocks have to satisfy. @length: out, bytes. Return: status. */
static uint16_t check_blocks(const struct nvme_namespace *namespace, const struct nvme_command *command,
			     uint64_t *length)
{
	uint64_t slba = (uint64_t)le32toh(command->dw11) << 32 | le32toh(command->dw10);
	uint64_t blocks = (le32toh(command->dw12) & 0xffffU) + 1;

	if (unlikely(!blocks_inside(namespace, slba, blocks)))
		return NVME_LBA_OUT_OF_RANGE | NVME_DNR;
	*length = blocks << namespace->shift;
	return NVME_SUCCESS;
}

static uint64_t offset_of(const struct nvme_namespace *namespace, const struct nvme_command *command)
{
	/* The range is inside the disk, so this does not overflow. */
	return ((uint64_t)le32toh(command->dw11) << 32 | le32toh(command->dw10)) << namespace->shift;
}

/* Read, write, compare (NVM Command Set 3.2.4, 3.2.6, 3.2.1). @cost: out, bytes of the turn. */
static enum started start_transfer(struct nvme_sq *sq, const struct nvme_command *command, uint32_t index,
				   uint64_t *cost)
{
	const struct nvme_namespace *namespace = &sq->nvme->namespaces[index];
	uint32_t dw12 = le32toh(command->dw12);
	struct nvme_request *request;
	uint64_t length;
	uint16_t status = check_blocks(namespace, command, &length);

	if (unlikely(status))
		return complete(sq, command, status);
	if (unlikely(length > NVME_TRANSFER_MAX))
		return complete(sq, command, NVME_INVALID_FIELD | NVME_DNR);
	if (unlikely(command->opcode == NVME_WRITE && namespace->limits.read_only))
		return complete(sq, command, NVME_WRITE_PROTECTED | NVME_DNR);
	if (unlikely(command->opcode == NVME_COMPARE && sq->comparing))
		return NO_ROOM;
	status = get_with_data(sq, command, (uint32_t)length,
			       max(segments_needed(sq, command, (uint32_t)length),
				   command->opcode == NVME_COMPARE ? NVME_INLINE_SEGMENTS + 1 : 0U),
			       &request);
	if (unlikely(status))
		return status == NVME_DMA_FULL ? NO_ROOM : complete(sq, command, status);

	*cost = length;
	if (unlikely(request->io.segment_count > NVME_INLINE_SEGMENTS))
		*cost += request->io.segment_count * SEGMENT_COST;
	request->cid = command->cid;
	request->opcode = command->opcode;
	request->namespace = (uint8_t)index;
	request->plan = NVME_PLAN_ONE;
	request->io.operation = command->opcode == NVME_WRITE ? BLOCK_WRITE : BLOCK_READ;
	request->io.durable = command->opcode == NVME_WRITE && writes_through(sq, namespace, dw12);
	request->io.offset = offset_of(namespace, command);
	request->io.length = length;
	request->io.segments = request->segments;
	sq->queue.in_flight++;
	if (unlikely(command->opcode == NVME_COMPARE)) {
		request->plan = NVME_PLAN_COMPARE;
		request->limit = length;
		request->cursor.length = 0;
		sq->comparing = true;
	} else if (likely(command->opcode == NVME_WRITE || !(dw12 & NVME_RW_FUA) || !namespace->limits.flush_needed)) {
		nvme_request_submit(request);
		return STARTED;
	} else {
		request->plan = NVME_PLAN_FLUSH_READ;
	}
	begin_steps(request);
	nvme_request_run(request);
	return STARTED;
}

static enum started start_verify(struct nvme_sq *sq, const struct nvme_command *command, uint32_t index, uint64_t *cost)
{
	const struct nvme_namespace *namespace = &sq->nvme->namespaces[index];
	struct nvme_request *request;
	uint64_t length;
	uint16_t status = check_blocks(namespace, command, &length);

	if (status)
		return complete(sq, command, status);
	request = sq->comparing ? NULL : nvme_request_get(sq, 1);
	if (!request)
		return NO_ROOM;
	*cost = length;
	begin(request, command, index, NVME_PLAN_VERIFY);
	request->io.operation = BLOCK_READ;
	request->io.offset = offset_of(namespace, command);
	request->limit = length;
	sq->comparing = true;
	begin_steps(request);
	nvme_request_run(request);
	return STARTED;
}

/* Flush of one namespace or of all (NVM Command Set 3.2: Flush is of the Base specification, 7.1). */
static enum started start_flush(struct nvme_sq *sq, const struct nvme_command *command)
{
	uint32_t nsid = le32toh(command->nsid), index = nsid - 1;
	struct nvme_request *request;

	if (nsid != NVME_NSID_ALL && index >= sq->nvme->namespace_count)
		return complete(sq, command, NVME_INVALID_NAMESPACE | NVME_DNR);
	request = nvme_request_get(sq, 0);
	if (!request)
		return NO_ROOM;
	request->io.operation = BLOCK_FLUSH;
	request->io.offset = request->io.length = 0;
	request->io.segments = request->segments;
	if (nsid != NVME_NSID_ALL && sq->nvme->namespaces[index].limits.flush_needed) {
		begin(request, command, index, NVME_PLAN_ONE);
		nvme_request_submit(request);
		return STARTED;
	}
	/* All that have a cache; none, when it is about one that has not. */
	begin(request, command, 0, NVME_PLAN_FLUSH_ALL);
	begin_steps(request);
	if (nsid != NVME_NSID_ALL)
		request->step = (uint16_t)sq->nvme->namespace_count;
	nvme_request_run(request);
	return STARTED;
}

static void run_ranges(struct nvme_request *request, const struct nvme_namespace *namespace, uint64_t limit)
{
	uint64_t block = namespace->limits.block_size;

	begin_steps(request);
	request->limit = max(limit - limit % block, block);
	request->io.segments = request->segments;
	nvme_request_run(request);
}

/* NVM Command Set 3.2.8 */
static enum started start_write_zeroes(struct nvme_sq *sq, const struct nvme_command *command, uint32_t index,
				       uint64_t *cost)
{
	const struct nvme_namespace *namespace = &sq->nvme->namespaces[index];
	uint32_t dw12 = le32toh(command->dw12);
	struct nvme_request *request;
	uint64_t length;
	uint16_t status = check_blocks(namespace, command, &length);

	if (status)
		return complete(sq, command, status);
	if (namespace->limits.read_only)
		return complete(sq, command, NVME_WRITE_PROTECTED | NVME_DNR);
	if (!namespace->limits.write_zeroes)
		return complete(sq, command, NVME_INVALID_OPCODE | NVME_DNR);
	request = nvme_request_get(sq, 1);
	if (!request)
		return NO_ROOM;
	*cost = length;
	begin(request, command, index, NVME_PLAN_RANGES);
	request->io.operation = BLOCK_WRITE_ZEROES;
	request->io.may_unmap = dw12 & NVME_ZEROES_DEALLOCATE && namespace->limits.write_zeroes_unmap;
	request->io.durable = writes_through(sq, namespace, dw12);
	*(struct nvme_range *)(void *)request->segments = (struct nvme_range){ offset_of(namespace, command), length };
	request->range_count = 1;
	run_ranges(request, namespace, namespace->limits.write_zeroes_max);
	return STARTED;
}

/* Reads and checks the ranges of a dataset management command. @cost: out, what they come to. Return: status. */
static uint16_t read_ranges(struct nvme_sq *sq, const struct nvme_command *command,
			    const struct nvme_namespace *namespace, struct nvme_request *request, uint64_t *cost)
{
	struct nvme_range *ranges = (struct nvme_range *)(void *)request->segments;
	unsigned count = (le32toh(command->dw10) & 0xffU) + 1, kept = 0;
	struct nvme_dataset_range wire[NVME_DATASET_RANGES];
	struct guest_segment segments[2 * NVME_INLINE_SEGMENTS];
	struct nvme_dma dma = { sq->memory, &sq->hint, segments, array_size(segments), 0, sq->page_shift };
	uint16_t status = nvme_dma_map(&dma, command, count * (uint32_t)sizeof(wire[0]));
	uint8_t *to = (uint8_t *)wire;

	if (status)
		return status == NVME_DMA_FULL ? NVME_SGL_INVALID_COUNT | NVME_DNR : status;
	for (unsigned i = 0; i < dma.count; i++) {
		guest_fetch(to, segments[i].base, segments[i].length);
		to += segments[i].length;
	}
	for (unsigned i = 0; i < count; i++) {
		uint64_t lba = le64toh(wire[i].lba), blocks = le32toh(wire[i].blocks);

		if (!blocks_inside(namespace, lba, blocks))
			return NVME_LBA_OUT_OF_RANGE | NVME_DNR;
		if (!blocks)
			continue;
		ranges[kept++] = (struct nvme_range){ lba << namespace->shift, blocks << namespace->shift };
		*cost += blocks << namespace->shift;
	}
	request->range_count = (uint16_t)kept;
	return NVME_SUCCESS;
}

/* NVM Command Set 3.2.3. Only deallocation does anything; the other attributes are hints about access. */
static enum started start_dataset(struct nvme_sq *sq, const struct nvme_command *command, uint32_t index,
				  uint64_t *cost)
{
	const struct nvme_namespace *namespace = &sq->nvme->namespaces[index];
	bool deallocate = le32toh(command->dw11) & NVME_DATASET_AD;
	struct nvme_request *request;
	uint16_t status;

	if (deallocate && namespace->limits.read_only)
		return complete(sq, command, NVME_WRITE_PROTECTED | NVME_DNR);
	request = nvme_request_get(sq, NVME_LARGE_SEGMENTS);
	if (!request)
		return NO_ROOM;
	status = read_ranges(sq, command, namespace, request, cost);
	if (status) {
		nvme_request_put(request);
		return complete(sq, command, status);
	}
	if (!deallocate || !namespace->limits.discard)
		request->range_count = 0;
	begin(request, command, index, NVME_PLAN_RANGES);
	request->io.operation = BLOCK_DISCARD;
	run_ranges(request, namespace, namespace->limits.discard_max);
	return STARTED;
}

static enum started start_other(struct nvme_sq *sq, const struct nvme_command *command, uint32_t index, uint64_t *cost)
{
	if (command->opcode == NVME_FLUSH)
		return start_flush(sq, command);
	switch (command->opcode) {
	case NVME_VERIFY:
	case NVME_WRITE_ZEROES:
	case NVME_DATASET:
		break;
	default:
		return complete(sq, command, NVME_INVALID_OPCODE | NVME_DNR);
	}
	if (index >= sq->nvme->namespace_count)
		return complete(sq, command, NVME_INVALID_NAMESPACE | NVME_DNR);
	if (command->opcode == NVME_VERIFY)
		return start_verify(sq, command, index, cost);
	return command->opcode == NVME_DATASET ? start_dataset(sq, command, index, cost)
					       : start_write_zeroes(sq, command, index, cost);
}

static enum started start(struct nvme_sq *sq, const struct nvme_command *command, uint64_t *cost)
{
	uint32_t index = le32toh(command->nsid) - 1;

	/* No fused operations are offered, and no command has anything in the reserved bits. */
	if (unlikely(command->flags & (NVME_FLAGS_FUSED | NVME_FLAGS_RESERVED)))
		return complete(sq, command, NVME_INVALID_FIELD | NVME_DNR);
	if (likely(command->opcode == NVME_READ || command->opcode == NVME_WRITE || command->opcode == NVME_COMPARE)) {
		if (unlikely(index >= sq->nvme->namespace_count))
			return complete(sq, command, NVME_INVALID_NAMESPACE | NVME_DNR);
		return start_transfer(sq, command, index, cost);
	}
	return start_other(sq, command, index, cost);
}

/* ---- turns ------------------------------------------------------------------------------------------------------- */

static bool turn_is_late(const struct nvme_sq *sq)
{
	return unlikely(clock_cycles() - sq->turn_began > TURN_CYCLES);
}

/*
 * Starts the first @count commands of the batch until the turn's @bytes are used up.
 * Return: commands started; @on: whether the turn may go on.
 */
static uint32_t start_batch(struct nvme_sq *sq, uint32_t count, int64_t *bytes, bool *on)
{
	uint32_t done = 0;

	while (*bytes > 0 && done < count) {
		uint32_t head = sq->head;
		uint64_t cost = 0;

		/* Never before the first of the batch: each turn gets on. */
		if (done % COMMANDS_PER_LOOK == COMMANDS_PER_LOOK - 1 && turn_is_late(sq))
			break;
		sq->head = head + 1 == sq->size ? 0 : head + 1;
		if (unlikely(start(sq, &sq->batch[done], &cost) != STARTED)) {
			sq->head = head;
			break;
		}
		*bytes -= (int64_t)min(cost, (uint64_t)INT32_MAX);
		done++;
	}
	*on = done == count && *bytes > 0;
	return done;
}

/* Commands from the head on that lie in the ring in one piece. */
static uint32_t run_length(const struct nvme_sq *sq, uint32_t tail)
{
	return tail >= sq->head ? tail - sq->head : sq->size - sq->head;
}

static unsigned take_commands(struct nvme_sq *sq, uint32_t tail, const struct turn *turn)
{
	int64_t bytes = max(turn->bytes, 1U);
	uint32_t total = 0;
	bool on = true;

	sq->in_turn = true;
	sq->turn_began = clock_cycles();
	while (on && sq->head != tail && total < turn->requests) {
		uint32_t count = min(min(run_length(sq, tail), turn->requests - total), NVME_BATCH), done;

		count = nvme_cq_reserve(sq->cq, count);
		if (unlikely(!count)) {
			if (sq->cq->broken)
				nvme_sq_fail(sq, NVME_QUEUE_BAD_HEAD);
			break;
		}
		guest_fetch(sq->batch, sq->entries + ((size_t)sq->head << NVME_COMMAND_SHIFT),
			    (size_t)count << NVME_COMMAND_SHIFT);
		done = start_batch(sq, count, &bytes, &on);
		if (unlikely(done != count))
			nvme_cq_unreserve(sq->cq, count - done);
		total += done;
		on = on && !turn_is_late(sq);
	}
	/* What completes in here is told with the rest. */
	nvme_sq_flush_submissions(sq);
	sq->in_turn = false;
	nvme_cq_interrupt(sq->cq, sidecore_notifier(turn->sidecore));
	return total;
}

unsigned nvme_sq_poll(struct poller *poller, const struct turn *turn)
{
	struct nvme_sq *sq = container_of(poller, struct nvme_sq, queue.poller);
	uint32_t tail = pci_window_load(&sq->nvme->device.bars[NVME_BAR], sq->doorbell) & 0xffffU;

	if (unlikely(atomic_load_explicit(&sq->error, memory_order_relaxed)))
		return 0;
	if (unlikely(!(sq->turns++ & (TURNS_PER_LOOK - 1)) && guest_memory_damaged(sq->memory))) {
		nvme_sq_fail(sq, NVME_QUEUE_MEMORY);
		return 0;
	}
	if (!nvme_uses_msix(sq->nvme)) {
		nvme_cq_level(sq->cq, sidecore_notifier(turn->sidecore));
		if (unlikely(sq->cq->broken)) {
			nvme_sq_fail(sq, NVME_QUEUE_BAD_HEAD);
			return 0;
		}
	}
	if (tail == sq->head)
		return 0;
	if (unlikely(tail >= sq->size)) {
		nvme_sq_fail(sq, NVME_QUEUE_BAD_TAIL);
		return 0;
	}
	return take_commands(sq, tail, turn);
}
