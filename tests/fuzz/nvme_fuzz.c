/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: the NVMe controller against a hostile driver, VMM and disk.
 *
 * Theory of operation
 * -------------------
 * Input: steps. A step is the driver's (a register, a doorbell, a command of any kind into any queue, bytes anywhere in
 * rings, lists and data), the sidecore's (a turn; arming before it sleeps), the disk's (keep requests, let some go, fail), or
 * the VMM's (pause with another memory, reset, interrupts of another kind, masked and unmasked, bus mastering). The controller
 * is reached by struct pci_device alone.
 *
 * Oracles: the disk checks all that a device model promises to backends (../unit/nvme_driver.c); operations end when
 * the disk has let go; requests in flight never exceed what queues can hold; and in the end, whatever happened, a reset
 * controller serves the next driver: queues, a write, and a read that brings it back.
 */
#include <sys/eventfd.h>

#include "../unit/nvme_driver.h"

#include "engine/sidecore.h"

#define STEPS 400U

/* What inputs write to, and what is cleared between them. */
#define RINGS_SIZE 0x28000U
#define LISTS_SIZE 0x4000U
#define DATA_SIZE  0x10000U

static struct nvme_driver driver;
static int vector; /* eventfd of all interrupts */

static uint64_t pick_address(struct fuzz_input *input)
{
	uint8_t kind = fuzz_u8(input);

	switch (kind % 8) {
	case 0:
	case 1:
		return DRIVER_DATA + (kind & 0x80 ? 0U : fuzz_u16(input) % DATA_SIZE);
	case 2:
		return DRIVER_LISTS + (kind & 0x80 ? 0U : fuzz_u16(input) % LISTS_SIZE);
	case 3:
		return DRIVER_DATA + 0x1000ULL * (fuzz_u8(input) % 16);
	case 4:
		return DRIVER_SEAM - 0x1000 + (fuzz_u16(input) & 0x1fff);
	case 5:
		return DRIVER_SQ(0) + fuzz_u16(input);
	case 6:
		return DRIVER_MEMORY + DRIVER_MEMORY_SIZE - fuzz_u16(input);
	}
	return fuzz_u64(input);
}

/* A list of either kind at the lists' place. */
static void write_list(struct fuzz_input *input)
{
	uint32_t at = fuzz_u16(input) % LISTS_SIZE & ~15U;
	uint8_t *place = driver_bytes(&driver, DRIVER_LISTS + at);
	unsigned count = fuzz_u8(input) % 32;
	bool sgl = fuzz_u8(input) & 1;

	for (unsigned i = 0; i < count && at + 16 * (i + 1) <= LISTS_SIZE; i++) {
		struct nvme_sgl descriptor = { .address = pick_address(input) };

		if (!sgl) {
			descriptor.address &= ~0xfffULL;
			memcpy(place + 8UL * i, &descriptor.address, 8);
			continue;
		}
		descriptor.length = fuzz_u16(input);
		descriptor.type = (uint8_t)(fuzz_u8(input) & 0x30);
		memcpy(place + 16UL * i, &descriptor, sizeof(descriptor));
	}
}

static void scribble(struct fuzz_input *input)
{
	static const struct {
		uint64_t base;
		uint32_t size;
	} areas[] = { { DRIVER_MEMORY, RINGS_SIZE }, { DRIVER_LISTS, LISTS_SIZE }, { DRIVER_DATA, DATA_SIZE } };
	uint8_t kind = fuzz_u8(input);
	uint32_t size = areas[kind % 3].size;
	uint32_t at = fuzz_u32(input) % size, length = kind >> 3;

	fuzz_bytes(input, driver_bytes(&driver, areas[kind % 3].base + at), length < size - at ? length : size - at);
}

/* What goes with data of @length bytes that is not all over the place: pages one after the other, listed where lists are. */
static void list_data(struct nvme_command *command, uint32_t length)
{
	uint64_t *entries = (uint64_t *)driver_bytes(&driver, DRIVER_LISTS);
	const struct nvme_sgl pieces[2] = {
		{ .address = DRIVER_DATA, .length = 512, .type = NVME_SGL_DATA },
		{ .address = DRIVER_LISTS + 0x1000, .length = sizeof(pieces[0]), .type = NVME_SGL_LAST_SEGMENT },
	};
	const struct nvme_sgl rest = { .address = DRIVER_DATA + 512, .length = length - 512, .type = NVME_SGL_DATA };

	if (command->flags) {
		memcpy(entries, pieces, sizeof(pieces));
		memcpy(entries + 512, &rest, sizeof(rest));
		command->sgl = (struct nvme_sgl){ .address = DRIVER_LISTS,
						  .length = sizeof(pieces),
						  .type = NVME_SGL_SEGMENT };
		return;
	}
	for (unsigned i = 0; i < 512; i++)
		entries[i] = i == 511 ? DRIVER_LISTS + 0x1000 : DRIVER_DATA + 0x1000ULL * i;
	memcpy(entries + 512, entries, 4096);
	/* Near the page's end, so that there is a second page of it. */
	command->prp2 = DRIVER_LISTS + (length & 512 ? 0xf00 : 0);
}

static void submit(struct fuzz_input *input)
{
	static const uint8_t opcodes[] = { NVME_FLUSH,	 NVME_WRITE,	    NVME_READ,	  NVME_READ,
					   NVME_COMPARE, NVME_WRITE_ZEROES, NVME_DATASET, NVME_VERIFY };
	struct nvme_command command = { 0 };
	uint8_t form = fuzz_u8(input), number = fuzz_u8(input);
	unsigned id = number % 4;

	if (form & 0x80) {
		fuzz_bytes(input, &command, sizeof(command));
	} else {
		command.opcode = id ? opcodes[form % 8] : (uint8_t)(form % 0x1c);
		command.flags = form & 0x40 ? 0x40 : 0;
		command.nsid = number & 0x40 ? (uint32_t)(int8_t)fuzz_u8(input) : 1; /* 255: all */
		command.prp1 = pick_address(input);
		command.prp2 = pick_address(input);
		if (command.flags) {
			command.sgl.length = fuzz_u16(input);
			command.sgl.type = (uint8_t)(fuzz_u8(input) & 0x30);
		}
		command.dw10 = number & 0x20 ? fuzz_u32(input) : fuzz_u8(input);
		command.dw11 = number & 0x10 ? fuzz_u32(input) : 0;
		command.dw12 = number & 0x80 ? fuzz_u32(input) : form >> 3 & 15U;
		if (number & 8)
			command.dw12 = (command.dw12 & ~0xffU) | fuzz_u8(input);
		if (number & 4)
			list_data(&command, ((command.dw12 & 0xffff) + 1) * 512);
	}
	if (!driver.queues[id].sq_size)
		driver.queues[id].sq_size = DRIVER_ENTRIES;
	driver_submit(&driver, id, &command);
}

static void take_all(void)
{
	struct nvme_completion completion;

	for (unsigned id = 0; id < 4; id++) {
		struct driver_queue *queue = &driver.queues[id];

		for (unsigned i = 0; i < 64 && queue->cq_size && driver_take(&driver, id, &completion); i++)
			;
	}
}

/* Queues that a well-meaning driver would make; the answer is not looked at. */
static void make_queues(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);
	unsigned id = 1 + form % 3, size = 2 + (form >> 2) % 15;
	struct nvme_command cq = { .opcode = NVME_ADMIN_CREATE_CQ,
				   .prp1 = DRIVER_CQ(id),
				   .dw10 = (size - 1) << 16 | id,
				   .dw11 = 3 | id << 16 };
	struct nvme_command sq = { .opcode = NVME_ADMIN_CREATE_SQ,
				   .prp1 = DRIVER_SQ(id),
				   .dw10 = 15 << 16 | id,
				   .dw11 = (form & 0x80 ? 1 : id) << 16 | 1 };

	driver.queues[id] = (struct driver_queue){ .sq_size = DRIVER_ENTRIES, .cq_size = size, .phase = 1 };
	memset(driver_bytes(&driver, DRIVER_CQ(id)), 0, 16UL * DRIVER_ENTRIES);
	driver_submit(&driver, 0, &cq);
	driver_submit(&driver, 0, &sq);
}

static void let_go(void)
{
	for (unsigned i = 0; i < 2; i++) {
		driver.slow[i].hold = false;
		driver.slow[i].error = 0;
		slow_release(&driver, &driver.slow[i], 0);
	}
}

/* An operation that waits for the disk ends when the disk has let go, and not later. */
static void operate(enum pci_result (*operation)(struct pci_device *device))
{
	driver.done = false;
	if (operation(driver.device) == PCI_DONE)
		return;
	let_go();
	fuzz_engine_settle(&driver.engine);
	fuzz_require(driver.done);
}

static void interrupts(uint8_t what)
{
	struct pci_interrupts *interrupts = &driver.device->interrupts;
	enum pci_interrupt_kind kind = (enum pci_interrupt_kind)(what >> 3) % PCI_INTERRUPT_KINDS;

	switch (what & 7) {
	case 0:
	case 1:
		fuzz_require(!pci_interrupts_set(interrupts, kind, what & 1 && kind == PCI_INTERRUPT_MSIX, vector));
		break;
	case 2:
		fuzz_require(!pci_interrupts_set(interrupts, kind, 0, -1));
		break;
	case 3:
		pci_interrupt_pin_mask(interrupts);
		break;
	default:
		pci_interrupt_pin_unmask(interrupts, engine_notifier(driver.engine.engine));
		break;
	}
}

static void vmm(struct fuzz_input *input)
{
	const struct pci_device_ops *ops = driver.device->ops;
	uint8_t what = fuzz_u8(input);
	uint8_t command[2] = { what >> 4 & 6U, 0 };
	const char *error;

	switch (what % 8) {
	case 0:
	case 1:
		operate(ops->pause);
		driver.device->memory = what & 0x80 ? NULL : driver.memory;
		ops->resume(driver.device);
		break;
	case 2:
		operate(ops->reset);
		break;
	case 3:
		pci_device_config_write(driver.device, 4, command, sizeof(command));
		break;
	case 4:
		interrupts(what >> 3);
		break;
	case 5:
		pci_interrupts_disable(&driver.device->interrupts, (enum pci_interrupt_kind)((what >> 4) % 3));
		break;
	default:
		fuzz_require(!disk_resize(&driver.slow[what >> 4 & 1U].disk, what & 0x80 ? SLOW_SIZE : SLOW_SIZE / 4,
					  &error));
		nvme_resized(driver.device, what >> 4 & 1U);
	}
}

static void disk(struct fuzz_input *input)
{
	uint8_t what = fuzz_u8(input);
	struct slow_disk *slow = &driver.slow[what & 1];

	slow->hold = what & 2;
	slow->error = what & 4 ? -5 : 0;
	if (what >> 4)
		slow_release(&driver, slow, what >> 4);
}

/* Interrupts that are held back. */
static void time_passes(void)
{
	struct engine_timer *timer;

	while ((timer = driver.engine.sidecore->timers.root) != NULL) {
		timer_heap_remove(&driver.engine.sidecore->timers, timer);
		timer->expire(driver.engine.sidecore, timer);
	}
}

static void turn(struct fuzz_input *input)
{
	uint8_t form = fuzz_u8(input);

	if (form & 0x40)
		time_passes();
	driver.engine.turn.requests = 1 + form % 64U;
	driver.engine.turn.bytes = form & 0x80 ? 1 : 1 << 20;
	fuzz_engine_round(&driver.engine);
}

static void check(void)
{
	const struct nvme *nvme = driver.nvme;

	for (unsigned i = 1; i <= nvme->queues; i++) {
		const struct nvme_sq *sq = nvme->sqs[i];

		if (!sq)
			continue;
		fuzz_require(sq->head < sq->size && sq->queue.in_flight <= sq->size);
		fuzz_require(sq->cq->present && sq->cq->users);
		fuzz_require(sq->cq->reserved + sq->cq->space <= sq->cq->size - 1);
	}
}

static void step(struct fuzz_input *input)
{
	uint8_t what = fuzz_u8(input) % 16;

	switch (what) {
	case 0:
		driver_write(&driver, fuzz_u16(input) & 0x7f, 1U << fuzz_u8(input) % 4, fuzz_u64(input));
		break;
	case 14:
		fuzz_engine_arm(&driver.engine);
		break;
	case 15: /* interrupts masked, unmasked; a reset of the subsystem, now and then */
		what = fuzz_u8(input);
		if (what & 0x7f)
			driver_write(&driver, what & 0x80 ? NVME_REG_INTMS : NVME_REG_INTMC, 4, what & 1);
		else
			driver_write(&driver, NVME_REG_NSSR, 4, NVME_NSSR_RESET);
		break;
	case 1:
		driver_read(&driver, fuzz_u16(input) % 0xff8, 1U << fuzz_u8(input) % 4);
		break;
	case 2:
	case 3:
	case 4:
		submit(input);
		break;
	case 5:
	case 6:
		turn(input);
		break;
	case 7: /* doorbells: mapped, or as a message */
		if (fuzz_u8(input) & 1)
			driver_ring_head(&driver, fuzz_u8(input) % 4, fuzz_u16(input));
		else if (fuzz_u8(input) & 1)
			driver_ring_tail(&driver, fuzz_u8(input) % 4, fuzz_u16(input));
		else
			driver_write(&driver, NVME_DOORBELLS + fuzz_u8(input) * 4U, 4, fuzz_u8(input));
		break;
	case 8:
		take_all();
		break;
	case 9:
		vmm(input);
		break;
	case 10:
		disk(input);
		break;
	case 11:
		fuzz_u8(input) & 1 ? write_list(input) : scribble(input);
		break;
	case 12:
		make_queues(input);
		break;
	case 13:
		driver_enable(&driver, DRIVER_ENTRIES);
		fuzz_engine_arm(&driver.engine);
		break;
	}
	check();
}

static void clear(void)
{
	memset(driver_bytes(&driver, DRIVER_MEMORY), 0, RINGS_SIZE);
	memset(driver_bytes(&driver, DRIVER_LISTS), 0, LISTS_SIZE);
	memset(driver_bytes(&driver, DRIVER_DATA), 0, DATA_SIZE);
}

/* The next driver finds a controller that is as new. */
static void start_over(void)
{
	static const uint8_t master[2] = { 6, 0 };
	const char *error;

	let_go();
	operate(driver.device->ops->pause);
	driver.device->memory = driver.memory;
	driver.device->ops->resume(driver.device);
	let_go();
	operate(driver.device->ops->reset);
	/* As the transport does when a client goes: the power is switched. */
	operate(driver.device->ops->pause);
	operate(driver.device->ops->reset);
	driver.device->ops->resume(driver.device);
	/* Nothing of it is left: neither a timer nor a flush. */
	fuzz_require(!driver.engine.sidecore->timers.root && !driver.nvme->flush.active);
	pci_device_config_write(driver.device, 4, master, sizeof(master));
	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS; kind++)
		pci_interrupts_disable(&driver.device->interrupts, (enum pci_interrupt_kind)kind);
	for (unsigned i = 0; i < 2; i++) {
		fuzz_require(!disk_resize(&driver.slow[i].disk, SLOW_SIZE, &error));
		nvme_resized(driver.device, i);
	}
	driver.engine.turn.requests = 64;
	driver.engine.turn.bytes = 1 << 20;
	clear();
	fuzz_require(driver_enable(&driver, DRIVER_ENTRIES) == NVME_CSTS_RDY);
}

static void serve_the_next(void)
{
	struct nvme_command io = { .opcode = NVME_WRITE, .nsid = 1, .prp1 = DRIVER_DATA, .dw12 = 7 };

	driver_queue(&driver, 1, DRIVER_ENTRIES);
	memset(driver_bytes(&driver, DRIVER_DATA), 0xa5, 4096);
	fuzz_require(!driver_command(&driver, 1, &io, NULL));
	memset(driver_bytes(&driver, DRIVER_DATA), 0, 4096);
	io.opcode = NVME_READ;
	fuzz_require(!driver_command(&driver, 1, &io, NULL));
	fuzz_require(*(uint8_t *)driver_bytes(&driver, DRIVER_DATA + 4095) == 0xa5);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };

	if (!driver.device) {
		nvme_driver_start(&driver, NULL);
		vector = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		fuzz_require(vector >= 0);
	}
	start_over();
	for (unsigned i = 0; i < STEPS && input.left; i++)
		step(&input);
	start_over();
	serve_the_next();
	return 0;
}
