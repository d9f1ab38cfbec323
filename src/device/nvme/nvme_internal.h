/* SPDX-License-Identifier: BSD-3-Clause */
/* NVMe: what the files of the controller share; of the admin queue: nvme_admin.h. Who owns what is said at each member;
 * threads: device/nvme/nvme.c. */
#ifndef DEVICE_NVME_NVME_INTERNAL_H
#define DEVICE_NVME_NVME_INTERNAL_H

#include <endian.h>
#include <stdatomic.h>

#include "base/checked.h"
#include "device/device_queue.h"
#include "device/nvme/nvme.h"
#include "device/nvme/nvme_spec.h"
#include "memory/guest_access.h"

#define NVME_QUEUES_MAX	     64U /* pairs of I/O queues */
#define NVME_QUEUES_DEFAULT  16U
#define NVME_ENTRIES_DEFAULT 1024U
#define NVME_ENTRIES_MAX     4096U

/**
 * The registers' BAR: page 0 is trapped, doorbells follow. A pair of queues has a cache line for its two doorbells
 * (stride 32 bytes), so that guest CPUs that ring different queues do not take lines from each other.
 */
#define NVME_BAR	   0U
#define NVME_BAR_SIZE	   0x4000U
#define NVME_DOORBELLS	   0x1000U
#define NVME_DOORBELL_SIZE 0x2000U
#define NVME_STRIDE	   3U
#define NVME_MSIX_BAR	   4U
#define NVME_MSIX_BAR_SIZE 0x4000U
#define NVME_MSIX_PENDING  0x2000U

static inline uint32_t nvme_tail_doorbell(unsigned id)
{
	return NVME_DOORBELLS + (2 * id << (2 + NVME_STRIDE));
}

static inline uint32_t nvme_head_doorbell(unsigned id)
{
	return NVME_DOORBELLS + ((2 * id + 1) << (2 + NVME_STRIDE));
}

_Static_assert((2 * (NVME_QUEUES_MAX + 1) << (2 + NVME_STRIDE)) <= NVME_DOORBELL_SIZE,
	       "all doorbells are in the window");
_Static_assert(NVME_DOORBELLS + NVME_DOORBELL_SIZE <= NVME_BAR_SIZE, "and the window in the BAR");

/** The largest transfer: 1 MiB. In PRPs of 4 KiB that is at most 257 pages. */
#define NVME_MDTS	   8U
#define NVME_TRANSFER_MAX  (1U << (NVME_PAGE_SHIFT_MIN + NVME_MDTS))
#define NVME_MPSMAX	   4U /* host pages of up to 64 KiB */
#define NVME_SEGMENTS_MAX  258U
#define NVME_EVENT_LIMIT   4U  /* asynchronous event requests (AERL + 1) */
#define NVME_ERROR_ENTRIES 16U /* of the error log (ELPE + 1) */

struct nvme;
struct nvme_request;

/** struct nvme_namespace - one disk. Control thread, but for what is atomic. */
struct nvme_namespace {
	struct disk *disk;
	struct disk_limits limits; /* as at creation; the size is below */
	_Atomic uint64_t blocks;   /* that the guest may address */
	uint8_t shift;		   /* of the block size */
	bool acquired;		   /* disk_acquire() */
	bool changed;		   /* in the changed namespace list */
	uint8_t uuid[16];
	uint32_t error_recovery; /* feature 05h */
};

/** struct nvme_flush - disks that are made durable by the controller itself: nvme_flush.c. The control thread's, or, from
 * message to completion, the sidecore's. */
struct nvme_flush {
	bool active; /* control thread */
	struct nvme *nvme;
	void (*done)(struct nvme *nvme, int error);
	struct sidecore_message message;
	struct engine_completion completion;
	uint32_t pending; /* requests under way */
	struct nvme_flush_request {
		struct block_request io;
		struct nvme_flush *flush;
		struct block_channel *channel; /* NULL: nothing to be flushed */
		int error;
	} requests[NVME_NAMESPACES_MAX];
};

/** struct nvme_error - a command that failed, for the log; or what was not a command: @status 0. */
struct nvme_error {
	uint16_t sq_id, cid, status; /* without the phase */
	uint8_t opcode;
	uint32_t nsid;
	uint64_t lba;
};

/** struct nvme_error_ring - the newest errors of one submission queue: nvme_error.c. */
struct nvme_error_ring {
	unsigned next; /* the writer's */
	struct nvme_error_slot {
		_Atomic uint64_t number; /* from 1; 0: nothing, or being written */
		_Atomic uint64_t lba, command;
		atomic_uint nsid;
	} slots[NVME_ERROR_ENTRIES];
};

/** struct nvme_cq - a completion queue. Belongs to its home sidecore while queues are polled; number 0 to the control
 * thread. */
struct nvme_cq {
	guest_byte *entries;
	uint32_t size;
	uint32_t tail;	   /* stored by the owner; see nvme_cq_taken() */
	uint32_t head;	   /* the doorbell's value at the last look */
	uint32_t reserved; /* commands under way, each with a slot that is kept for its completion */
	uint32_t space;	   /* slots that are free for certain */
	uint32_t fresh;	   /* entries since the last interrupt; see NVME_FRESH_URGENT */
	uint16_t phase;
	uint16_t id, vector;
	bool interrupts; /* IEN */
	bool broken;	 /* an invalid head: no more commands are fetched for it */
	struct nvme *nvme;
	atomic_uint coalescing;	  /* THR, TIME << 8; 0: none. Stored by the control thread */
	struct engine_timer held; /* until when the driver is not told */

	/* control thread */
	bool present;
	uint64_t address;
	unsigned users; /* submission queues */
	struct sidecore *home;
};

/** Added to nvme_cq.fresh: no threshold is as high, so the driver is told at once. */
#define NVME_FRESH_URGENT 0x100U

/** Why a queue stopped by itself. */
enum nvme_queue_error {
	NVME_QUEUE_OK,
	NVME_QUEUE_BAD_TAIL,
	NVME_QUEUE_BAD_HEAD, /* of the completion queue */
	NVME_QUEUE_MEMORY,
};

#define NVME_BATCH 32U

/** struct nvme_sq - an I/O submission queue. Made and freed by the control thread; in between its home sidecore's. */
struct nvme_sq {
	struct device_queue queue;
	struct nvme *nvme;
	struct nvme_cq *cq;
	guest_byte *entries;
	uint32_t size, head;
	uint32_t doorbell; /* offset in the BAR */
	uint16_t id;
	uint8_t page_shift; /* CC.MPS */
	bool in_turn;	    /* the turn interrupts by itself when it ends */
	uint64_t submitted; /* namespaces with submissions that were not handed over, a bit each */
	const struct guest_memory *memory;
	const struct guest_region *hint;
	struct nvme_request *free;
	struct nvme_counters *counters;
	struct block_batch_end batch_end;
	uint64_t turn_began; /* clock_cycles() */
	uint32_t turns;
	atomic_uchar error; /* enum nvme_queue_error */

	/* requests in many pieces that wait for their next turn */
	struct nvme_request *resumed;
	struct sidecore_message resume;
	bool resume_posted;

	bool comparing; /* the buffer is in use */
	uint8_t *compare_buffer;

	void *medium_free, *large_free; /* blocks of segments, each beginning with a pointer to the next */
	struct guest_segment *blocks;
	struct nvme_request *requests;
	struct nvme_command batch[NVME_BATCH];

	/* control thread */
	uint64_t address;
	bool deleting, error_reported;
	uint16_t delete_cid;
	struct block_channel *channels[NVME_NAMESPACES_MAX]; /* read by the sidecore */
};

/** struct nvme_admin - the admin queues. Control thread, but for what the watching poller reads. */
struct nvme_admin {
	struct device_queue queue; /* watches the doorbells, nothing else */
	struct nvme_cq *cq;
	guest_byte *entries;
	uint32_t size, head;
	bool busy; /* a command waits for a queue to stop, or for disks to be flushed */
	uint16_t flush_cid;
	bool broken; /* invalid doorbell */
	struct sidecore *home;
	const struct guest_region *hint;
	struct engine_completion work; /* nvme_admin_run() */
	atomic_bool work_posted;
	atomic_uint seen; /* tail | head << 16: doorbells that the control thread has seen */

	/* asynchronous events */
	uint16_t event_cids[NVME_EVENT_LIMIT];
	unsigned event_count;
	struct {
		bool pending, masked;
		uint8_t info, log;
	} events[NVME_EVENT_TYPES];
};

/** struct nvme_features - what Set Features can change. Control thread, but for write_cache. */
struct nvme_features {
	uint32_t arbitration, power, coalescing, atomicity, events, software_progress;
	uint16_t temperature_over, temperature_under;
	uint32_t vectors[NVME_QUEUES_MAX + 1]; /* number | NVME_VECTOR_ALONE */
	uint64_t timestamp, timestamp_at;      /* milliseconds; clock_nanoseconds() when it was set */
	uint8_t timestamp_origin;	       /* 0: counted since reset, 1: set by the host */
	uint8_t host_id[16];
};

#define NVME_VECTOR_ALONE (1U << 16) /* CD: coalescing disabled */

/** What a reset forgets; each more than the one before (Base 3.7). */
enum nvme_reset_level {
	NVME_RESET_CONTROLLER, /* CC.EN: all but the admin queue's registers */
	NVME_RESET_FUNCTION,   /* of the function, the machine, the subsystem: registers, too */
	NVME_RESET_POWER,      /* that a subsystem reset has happened */
};

enum nvme_state {
	NVME_DISABLED,
	NVME_READY,
	NVME_DISABLING, /* CC.EN was cleared, queues are on their way to rest */
	NVME_FAILED,	/* could not be enabled: CSTS.CFS */
};

/** An operation of the transport's that waits for queues to rest. */
enum nvme_operation {
	NVME_NOTHING,
	NVME_PAUSE,
	NVME_RESET,
};

struct nvme {
	struct pci_device device;
	char name[64], serial[21];
	uint16_t queues, entries; /* offered */
	bool posted;
	int sidecore;
	uint32_t namespace_count;
	struct nvme_namespace namespaces[NVME_NAMESPACES_MAX];

	/* registers; control thread */
	uint32_t cc, aqa;
	uint64_t asq, acq;
	bool subsystem_reset;

	/* life; control thread. See nvme_life.c */
	uint8_t state;	   /* enum nvme_state */
	uint8_t operation; /* enum nvme_operation */
	uint8_t shutdown;  /* CSTS.SHST: 0, NVME_CSTS_SHST_ACTIVE, NVME_CSTS_SHST_DONE */
	bool paused, running, resting, unmapped;
	bool flush_wanted; /* the shutdown that has begun is a normal one: disks are flushed before it is done */
	bool used;	   /* enabled since the power came on */
	struct nvme_flush flush;

	struct nvme_admin admin;
	struct nvme_sq *sqs[NVME_QUEUES_MAX + 1]; /* by number; 0 is not used */
	struct nvme_cq cqs[NVME_QUEUES_MAX + 1];  /* 0: admin */

	/* interrupts other than MSI-X */
	_Atomic uint64_t unread[2]; /* completion queues with entries that the driver has not taken, a bit each */
	atomic_uint masked;	    /* INTMS: bit 0 */

	/* queues that stopped by themselves */
	struct engine_completion report;
	atomic_bool report_posted;

	struct nvme_features features;
	atomic_bool write_cache; /* VWC.WCE */
	bool has_cache;		 /* any disk has a volatile cache */

	/* log pages; control thread */
	struct nvme_error_ring errors[NVME_QUEUES_MAX + 1]; /* 0: admin, and what is no command. See nvme_error.c */
	_Atomic uint64_t error_count;
	uint64_t created; /* clock_nanoseconds() */
	uint64_t unsafe_shutdowns, power_cycles;
	uint64_t admin_commands;			    /* counter */
	struct nvme_counters counters[NVME_QUEUES_MAX + 1]; /* 0: of the controller itself */

	struct engine_completion gone, *gone_completion;
};

static inline struct nvme *nvme_of(const struct pci_device *device)
{
	return container_of(device, struct nvme, device);
}

static inline uint32_t nvme_page_size(const struct nvme *nvme)
{
	return 1U << (NVME_PAGE_SHIFT_MIN + NVME_CC_MPS(nvme->cc));
}

/* ---- nvme_registers.c: struct pci_device_ops ---- */

uint32_t nvme_read(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size);
enum pci_result nvme_write(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size, uint32_t value);
void nvme_doorbell(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size);

/* ---- nvme_life.c ---- */

enum pci_result nvme_pause(struct pci_device *device);
void nvme_resume(struct pci_device *device);
enum pci_result nvme_reset(struct pci_device *device);
void nvme_command_changed(struct pci_device *device);

/** nvme_acquire_disks() - those that are not yet. nvme_check_setup() - is what the driver has set up something that can
 * run? Return: NULL, or what is wrong. */
const char *nvme_acquire_disks(struct nvme *nvme);
const char *nvme_check_setup(const struct nvme *nvme);

/** nvme_update() - something that has a say in whether queues are polled has changed. */
void nvme_update(struct nvme *nvme);

/** nvme_configure() - CC was written. */
void nvme_configure(struct nvme *nvme, uint32_t cc);

/** nvme_queue_stopped() - for device_queue_stop(): @context is the struct nvme. */
void nvme_queue_stopped(struct device_queue *queue, void *context);

/** nvme_set_defaults() - registers and features after a reset. */
void nvme_set_defaults(struct nvme *nvme, enum nvme_reset_level level);

/** nvme_flushed() - nvme_flush() is over: what waited for it to rest may go on. */
void nvme_flushed(struct nvme *nvme);

/* ---- nvme_flush.c ---- */

/** nvme_flush() - flush all disks that have a cache; @done is told of the last error. Not while nvme->flush.active. */
void nvme_flush(struct nvme *nvme, void (*done)(struct nvme *nvme, int error));

/* ---- nvme_state.c: struct pci_device_ops ---- */

void nvme_save(struct pci_device *device, struct parcel *parcel);
int nvme_load(struct pci_device *device, struct parcel *parcel);

/* ---- nvme_queue.c ---- */

/** nvme_cq_start() - make @cq a queue of @size entries at @address, which is known to be mapped. */
void nvme_cq_start(struct nvme_cq *cq, uint32_t size, uint64_t address, uint16_t vector, bool interrupts);

/** nvme_cq_map(), nvme_sq_map() - find the rings in device->memory. Return: false when they are not there. */
bool nvme_cq_map(struct nvme_cq *cq);
bool nvme_sq_map(struct nvme_sq *sq);

/** nvme_sq_create() - Return: 0, -ENOMEM, errors of device_queue_init() and block_channel_open(). */
int nvme_sq_create(struct nvme *nvme, uint16_t id, uint32_t size, uint64_t address, struct nvme_cq *cq);
void nvme_sq_destroy(struct nvme_sq *sq);

/** nvme_cq_look() - the owner: load the head doorbell. Return: false when it is invalid; the queue is broken then. */
bool nvme_cq_look(struct nvme_cq *cq);

/** nvme_report() - a completion: look for queues that have stopped by themselves, tell driver and log. */
void nvme_report(struct engine_completion *completion);

/** nvme_sq_fail() - sidecore: the queue stops; the control thread tells the driver and the log. */
void nvme_sq_fail(struct nvme_sq *sq, enum nvme_queue_error error);

static inline bool nvme_uses_msix(const struct nvme *nvme)
{
	return likely(pci_interrupts_kind(&nvme->device.interrupts) == PCI_INTERRUPT_MSIX);
}

/** nvme_cq_post() - the owner: one entry, into a slot that was reserved. @status: without the phase. */
static inline void nvme_cq_post(struct nvme_cq *cq, uint32_t result, uint32_t sq_head, uint16_t sq_id, uint16_t cid,
				uint16_t status)
{
	uint32_t tail = cq->tail;
	uint64_t *entry = (uint64_t *)(void *)(cq->entries + ((size_t)tail << NVME_COMPLETION_SHIFT));
	uint64_t high = (uint64_t)sq_head | (uint64_t)sq_id << 16 | (uint64_t)cid << 32 |
			(uint64_t)(uint16_t)(status << 1 | cq->phase) << 48;

	if (unlikely(++tail == cq->size)) {
		tail = 0;
		cq->phase ^= 1;
	}
	__atomic_store_n(&cq->tail, tail, __ATOMIC_RELAXED);
	/*
	 * The driver takes an entry once its phase bit, which is in the second half, has changed: release makes the
	 * first half, the tail, and the data that was read for the command, visible before it. The ring is 16-byte
	 * aligned: see nvme_cq_map().
	 */
	__atomic_store_n(entry, htole64(result), __ATOMIC_RELAXED);
	__atomic_store_n(entry + 1, htole64(high), __ATOMIC_RELEASE);
	cq->reserved--;
	cq->fresh++;
}

/** nvme_cq_reserve() - the owner: keep up to @count slots. Return: how many it got. */
static inline uint32_t nvme_cq_reserve(struct nvme_cq *cq, uint32_t count)
{
	if (unlikely(cq->space < count)) {
		if (!nvme_cq_look(cq))
			return 0;
		count = min(count, cq->space);
	}
	cq->space -= count;
	cq->reserved += count;
	return count;
}

static inline void nvme_cq_unreserve(struct nvme_cq *cq, uint32_t count)
{
	cq->space += count;
	cq->reserved -= count;
}

/* ---- nvme_interrupt.c ---- */

/** nvme_cq_interrupt() - the owner: tell the driver of entries that it has not been told of, unless it wants to wait. */
void nvme_cq_interrupt(struct nvme_cq *cq, struct notifier *notifier);

/** nvme_cq_tell() - the owner: the same, and nothing is held back: nvme_cq's timer is idle after it. */
void nvme_cq_tell(struct nvme_cq *cq, struct notifier *notifier);

/** nvme_cq_set_coalescing() - control thread: take over what the features say for the queue's vector. */
void nvme_cq_set_coalescing(struct nvme_cq *cq);

/** nvme_cq_level() - the owner: bring the bit in nvme->unread, and the pin, up to date. Not for MSI-X. */
void nvme_cq_level(struct nvme_cq *cq, struct notifier *notifier);

/** nvme_cq_taken() - control thread: the head doorbell came as a message. */
void nvme_cq_taken(struct nvme_cq *cq);

/** nvme_pin_update() - any thread: the pin's level follows nvme->unread and the mask. */
void nvme_pin_update(struct nvme *nvme, struct notifier *notifier);

/* ---- nvme_io.c ---- */

unsigned nvme_sq_poll(struct poller *poller, const struct turn *turn);

/* ---- nvme_request.c ---- */

int nvme_requests_create(struct nvme_sq *sq);
void nvme_requests_destroy(struct nvme_sq *sq);

/* ---- nvme_dma.c ---- */

/** struct nvme_dma - where a data transfer goes. */
struct nvme_dma {
	const struct guest_memory *memory;
	const struct guest_region **hint;
	struct guest_segment *segments;
	unsigned capacity, count;
	uint8_t page_shift;
};

/** NVME_DMA_FULL - not a status of the wire: more segments than there is room for. */
#define NVME_DMA_FULL 0xffffU

/**
 * nvme_dma_map() - the segments of the @length bytes that @command's data pointer describes. @length is not zero.
 * Return: NVME_SUCCESS, the status to complete with, or NVME_DMA_FULL.
 */
uint16_t nvme_dma_map(struct nvme_dma *dma, const struct nvme_command *command, uint32_t length);

/** nvme_dma_pages() - pages that [@prp1, +@length) touches. */
static inline unsigned nvme_dma_pages(uint64_t prp1, uint32_t length, uint8_t page_shift)
{
	uint32_t page = 1U << page_shift;

	return (((uint32_t)prp1 & (page - 1)) + length + page - 1) >> page_shift;
}

/* ---- nvme_error.c ---- */

/** nvme_log_error() - the one writer of @ring: add an entry. Return: error->status, with the More bit unless it is 0. */
uint16_t nvme_log_error(struct nvme *nvme, unsigned ring, const struct nvme_error *error);

/** nvme_read_errors() - control thread: the log, newest first. */
void nvme_read_errors(struct nvme *nvme, struct nvme_error_entry entries[NVME_ERROR_ENTRIES]);

#endif
