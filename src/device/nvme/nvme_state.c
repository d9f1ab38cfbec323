/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe: the controller's state, for the daemon that comes after this one. Theory of operation: device/pci/pci_state.c.
 *
 * At rest no command is under way: those that were fetched have their completions in the queues, those that were not
 * are behind the submission queues' heads, in guest memory, and will be fetched by the next daemon. So each command is
 * done exactly once. What is left are registers, positions of queues, event requests that wait, features and logs.
 *
 * Disks are the configuration's. One whose content ends with the daemon cannot follow its guest, and neither can its
 * controller.
 *
 * Context: control thread; the controller is paused.
 */
#include <errno.h>
#include <string.h>

#include "base/parcel.h"
#include "device/nvme/nvme_internal.h"

#define TAG_CONTROLLER 0x20000U
#define TAG_NAMESPACES 0x20001U
#define TAG_CQS	       0x20002U
#define TAG_SQS	       0x20003U
#define TAG_ERRORS     0x20004U
#define TAG_COUNTERS   0x20005U

struct saved_event {
	uint8_t pending, masked, info, log;
};

struct saved_controller {
	uint64_t asq, acq, unread[2];
	uint64_t error_count, created, unsafe_shutdowns, power_cycles, admin_commands;
	uint64_t timestamp, timestamp_at;
	/* what the configuration made */
	uint32_t queues, entries, posted, namespace_count;
	uint32_t cc, aqa, masked, subsystem_reset;
	uint32_t state, shutdown, write_cache, timestamp_origin;
	uint32_t admin_head, admin_broken, admin_home, event_count, reserved;
	uint32_t arbitration, power, used, coalescing, atomicity, events, software_progress;
	uint32_t temperature_over, temperature_under;
	uint32_t vectors[NVME_QUEUES_MAX + 1];
	uint16_t event_cids[NVME_EVENT_LIMIT];
	uint8_t host_id[16];
	struct saved_event event_types[NVME_EVENT_TYPES];
};

struct saved_namespace {
	uint64_t blocks;
	uint32_t shift, changed, error_recovery, reserved;
	uint8_t uuid[16]; /* of the names of controller and disk: it must be the same one */
};

struct saved_error {
	uint64_t number, lba, command;
	uint32_t nsid, ring;
};

struct saved_cq {
	uint64_t address;
	uint32_t size, tail, head;
	uint16_t id, vector, phase;
	uint8_t interrupts, fresh, broken, home, reserved[2];
};

struct saved_sq {
	uint64_t address;
	uint32_t size, head;
	uint16_t id, cq;
	uint8_t error, error_reported, reserved[2];
};

_Static_assert(sizeof(struct saved_controller) ==
		       11 * 8 + 26 * 4 + 4 * (NVME_QUEUES_MAX + 1) + 2 * NVME_EVENT_LIMIT + 16 + 4 * NVME_EVENT_TYPES,
	       "no holes");
_Static_assert(sizeof(struct saved_namespace) == 40 && sizeof(struct saved_cq) == 32 && sizeof(struct saved_sq) == 24 &&
		       sizeof(struct saved_error) == 32,
	       "no holes");

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static void save_features(const struct nvme *nvme, struct saved_controller *saved)
{
	const struct nvme_features *features = &nvme->features;

	saved->arbitration = features->arbitration;
	saved->power = features->power;
	saved->used = nvme->used;
	saved->coalescing = features->coalescing;
	saved->atomicity = features->atomicity;
	saved->events = features->events;
	saved->software_progress = features->software_progress;
	saved->temperature_over = features->temperature_over;
	saved->temperature_under = features->temperature_under;
	saved->timestamp = features->timestamp;
	saved->timestamp_at = features->timestamp_at; /* the host's clock goes on */
	saved->timestamp_origin = features->timestamp_origin;
	saved->write_cache = atomic_load(&nvme->write_cache);
	memcpy(saved->vectors, features->vectors, sizeof(saved->vectors));
	memcpy(saved->host_id, features->host_id, sizeof(saved->host_id));
}

static void save_controller(const struct nvme *nvme, struct parcel *parcel)
{
	struct saved_controller saved = {
		.asq = nvme->asq,
		.acq = nvme->acq,
		.unread = { atomic_load(&nvme->unread[0]), atomic_load(&nvme->unread[1]) },
		.error_count = atomic_load(&nvme->error_count),
		.created = nvme->created,
		.unsafe_shutdowns = nvme->unsafe_shutdowns,
		.power_cycles = nvme->power_cycles,
		.admin_commands = nvme->admin_commands,
		.queues = nvme->queues,
		.entries = nvme->entries,
		.posted = nvme->posted,
		.namespace_count = nvme->namespace_count,
		.cc = nvme->cc,
		.aqa = nvme->aqa,
		.masked = atomic_load(&nvme->masked),
		.subsystem_reset = nvme->subsystem_reset,
		.state = nvme->state,
		.shutdown = nvme->shutdown,
		.admin_head = nvme->admin.head,
		.admin_broken = nvme->admin.broken,
		.admin_home = nvme->admin.home ? sidecore_index(nvme->admin.home) : 0,
		.event_count = nvme->admin.event_count,
	};

	save_features(nvme, &saved);
	memcpy(saved.event_cids, nvme->admin.event_cids, sizeof(saved.event_cids));
	for (unsigned i = 0; i < NVME_EVENT_TYPES; i++)
		saved.event_types[i] = (struct saved_event){
			.pending = nvme->admin.events[i].pending,
			.masked = nvme->admin.events[i].masked,
			.info = nvme->admin.events[i].info,
			.log = nvme->admin.events[i].log,
		};
	parcel_put(parcel, TAG_CONTROLLER, &saved, sizeof(saved));
}

static void save_namespaces(const struct nvme *nvme, struct parcel *parcel)
{
	struct saved_namespace saved[NVME_NAMESPACES_MAX] = { 0 };

	for (unsigned i = 0; i < nvme->namespace_count; i++) {
		const struct nvme_namespace *namespace = &nvme->namespaces[i];

		if (disk_is_transient(namespace->disk))
			parcel_fail(parcel, "its disk is in memory, and ends with the daemon");
		saved[i] = (struct saved_namespace){
			.blocks = atomic_load(&namespace->blocks),
			.shift = namespace->shift,
			.changed = namespace->changed,
			.error_recovery = namespace->error_recovery,
		};
		memcpy(saved[i].uuid, namespace->uuid, sizeof(saved[i].uuid));
	}
	parcel_put(parcel, TAG_NAMESPACES, saved, nvme->namespace_count * sizeof(saved[0]));
}

static void save_queues(const struct nvme *nvme, struct parcel *parcel)
{
	struct saved_cq cqs[NVME_QUEUES_MAX + 1] = { 0 };
	struct saved_sq sqs[NVME_QUEUES_MAX] = { 0 };
	size_t cq_count = 0, sq_count = 0;

	for (unsigned i = 0; i <= nvme->queues; i++) {
		const struct nvme_cq *cq = &nvme->cqs[i];

		if (!cq->present)
			continue;
		cqs[cq_count++] = (struct saved_cq){
			.address = cq->address,
			.size = cq->size,
			.tail = cq->tail,
			.head = cq->head,
			.id = cq->id,
			.vector = cq->vector,
			.phase = cq->phase,
			.interrupts = cq->interrupts,
			.fresh = cq->fresh != 0,
			.broken = cq->broken,
			.home = cq->home ? (uint8_t)sidecore_index(cq->home) : 0,
		};
	}
	for (unsigned i = 1; i <= nvme->queues; i++) {
		const struct nvme_sq *sq = nvme->sqs[i];

		if (!sq)
			continue;
		sqs[sq_count++] = (struct saved_sq){
			.address = sq->address,
			.size = sq->size,
			.head = sq->head,
			.id = sq->id,
			.cq = sq->cq->id,
			.error = atomic_load(&sq->error),
			.error_reported = sq->error_reported,
		};
	}
	parcel_put(parcel, TAG_CQS, cqs, cq_count * sizeof(cqs[0]));
	parcel_put(parcel, TAG_SQS, sqs, sq_count * sizeof(sqs[0]));
}

/* Entry by entry, of each ring the oldest first. */
static void save_errors(struct nvme *nvme, struct parcel *parcel)
{
	struct saved_error saved[(NVME_QUEUES_MAX + 1) * NVME_ERROR_ENTRIES] = { 0 };
	size_t count = 0;

	for (unsigned ring = 0; ring <= nvme->queues; ring++) {
		struct nvme_error_ring *errors = &nvme->errors[ring];

		for (unsigned i = 0; i < NVME_ERROR_ENTRIES; i++) {
			struct nvme_error_slot *slot = &errors->slots[(errors->next + i) % NVME_ERROR_ENTRIES];

			if (!atomic_load(&slot->number))
				continue;
			saved[count++] = (struct saved_error){
				.number = atomic_load(&slot->number),
				.lba = atomic_load(&slot->lba),
				.command = atomic_load(&slot->command),
				.nsid = atomic_load(&slot->nsid),
				.ring = ring,
			};
		}
	}
	parcel_put(parcel, TAG_ERRORS, saved, count * sizeof(saved[0]));
}

void nvme_save(struct pci_device *device, struct parcel *parcel)
{
	struct nvme *nvme = nvme_of(device);

	save_controller(nvme, parcel);
	save_namespaces(nvme, parcel);
	save_queues(nvme, parcel);
	save_errors(nvme, parcel);
	parcel_put(parcel, TAG_COUNTERS, nvme->counters, (nvme->queues + 1U) * sizeof(nvme->counters[0]));
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static int check_controller(const struct nvme *nvme, const struct saved_controller *saved, struct parcel *parcel)
{
	if (saved->queues != nvme->queues || saved->entries != nvme->entries || saved->posted != nvme->posted)
		return parcel_fail(parcel, "it has other queues now");
	if (saved->namespace_count != nvme->namespace_count)
		return parcel_fail(parcel, "it has another number of namespaces now");
	/* No other state lasts while queues are at rest. */
	if ((saved->state != NVME_DISABLED && saved->state != NVME_READY && saved->state != NVME_FAILED) ||
	    (saved->shutdown && saved->shutdown != NVME_CSTS_SHST_DONE))
		return parcel_fail(parcel, "its state is impossible");
	if (saved->event_count > NVME_EVENT_LIMIT)
		return parcel_fail(parcel, "more event requests than there can be");
	return 0;
}

static void load_features(struct nvme *nvme, const struct saved_controller *saved)
{
	nvme->features = (struct nvme_features){
		.arbitration = saved->arbitration,
		.power = saved->power,
		.coalescing = saved->coalescing,
		.atomicity = saved->atomicity,
		.events = saved->events,
		.software_progress = saved->software_progress,
		.temperature_over = (uint16_t)saved->temperature_over,
		.temperature_under = (uint16_t)saved->temperature_under,
		.timestamp = saved->timestamp,
		.timestamp_at = saved->timestamp_at,
		.timestamp_origin = saved->timestamp_origin & 1,
	};
	memcpy(nvme->features.vectors, saved->vectors, sizeof(saved->vectors));
	memcpy(nvme->features.host_id, saved->host_id, sizeof(saved->host_id));
	atomic_store(&nvme->write_cache, saved->write_cache & 1);
}

static int load_registers(struct nvme *nvme, const struct saved_controller *saved, struct parcel *parcel)
{
	const char *wrong = NULL;

	nvme->asq = saved->asq & ~0xfffULL;
	nvme->acq = saved->acq & ~0xfffULL;
	nvme->aqa = saved->aqa & 0x0fff0fffU;
	nvme->cc = saved->cc & NVME_CC_IMPLEMENTED;
	if (saved->state == NVME_READY)
		wrong = nvme->cc & NVME_CC_EN ? nvme_check_setup(nvme) : "it is ready and not enabled";
	if (wrong)
		return parcel_fail(parcel, wrong);
	nvme->state = (uint8_t)saved->state;
	nvme->shutdown = (uint8_t)saved->shutdown;
	nvme->subsystem_reset = saved->subsystem_reset & 1;
	atomic_store(&nvme->masked, saved->masked);
	atomic_store(&nvme->error_count, saved->error_count);
	nvme->used = saved->used & 1;
	nvme->created = saved->created;
	nvme->unsafe_shutdowns = saved->unsafe_shutdowns;
	nvme->power_cycles = saved->power_cycles;
	nvme->admin_commands = saved->admin_commands;
	return 0;
}

static int load_namespaces(struct nvme *nvme, struct parcel *parcel)
{
	struct saved_namespace saved[NVME_NAMESPACES_MAX];
	size_t count = parcel_get_array(parcel, TAG_NAMESPACES, saved, sizeof(saved[0]), NVME_NAMESPACES_MAX);

	if (count != nvme->namespace_count)
		return parcel_fail(parcel, "its namespaces are not all there");
	for (unsigned i = 0; i < count; i++) {
		struct nvme_namespace *namespace = &nvme->namespaces[i];

		if (saved[i].shift != namespace->shift)
			return parcel_fail(parcel, "a namespace has blocks of another size now");
		if (memcmp(saved[i].uuid, namespace->uuid, sizeof(namespace->uuid)))
			return parcel_fail(parcel, "a namespace is another disk now");
		namespace->changed = saved[i].changed & 1;
		namespace->error_recovery = saved[i].error_recovery;
		/* As the driver knows it; that it has another size is told when the disk is acquired. */
		atomic_store(&namespace->blocks, saved[i].blocks);
	}
	return 0;
}

/* Where it was, unless the configuration wants it elsewhere: until they are polled, all would seem best at one place. */
static struct sidecore *find_home(const struct nvme *nvme, unsigned index)
{
	struct engine *engine = nvme->device.engine;

	if (nvme->sidecore < 0 && index < engine_sidecore_count(engine))
		return engine_sidecore(engine, index);
	return device_queue_place(engine, nvme->sidecore);
}

static bool cq_is_possible(const struct nvme *nvme, const struct saved_cq *saved)
{
	uint32_t most = saved->id ? nvme->entries : 4096;

	if (saved->id > nvme->queues || nvme->cqs[saved->id].present || saved->vector > nvme->queues ||
	    saved->phase > 1)
		return false;
	if (!saved->id && (saved->size != (nvme->aqa >> 16 & 0xfff) + 1 || saved->address != nvme->acq))
		return false;
	return saved->size >= 2 && saved->size <= most && saved->tail < saved->size && saved->head < saved->size &&
	       !(saved->address & (nvme_page_size(nvme) - 1));
}

static int load_cq(struct nvme *nvme, const struct saved_cq *saved, struct parcel *parcel)
{
	struct nvme_cq *cq;

	if (!cq_is_possible(nvme, saved))
		return parcel_fail(parcel, "a completion queue is impossible");
	cq = &nvme->cqs[saved->id];
	nvme_cq_start(cq, saved->size, saved->address, saved->vector, saved->interrupts & 1);
	cq->tail = saved->tail;
	cq->head = saved->head;
	cq->phase = saved->phase;
	cq->fresh = saved->fresh & 1;
	cq->broken = saved->broken & 1;
	/* Nothing is under way, so nothing is reserved. */
	cq->space = cq->size - 1 - (cq->tail - cq->head + (cq->tail < cq->head ? cq->size : 0));
	cq->home = find_home(nvme, saved->home);
	return 0;
}

static int load_sq(struct nvme *nvme, const struct saved_sq *saved, struct parcel *parcel)
{
	if (!saved->id || saved->id > nvme->queues || nvme->sqs[saved->id] || !saved->cq || saved->cq > nvme->queues ||
	    !nvme->cqs[saved->cq].present || saved->size < 2 || saved->size > nvme->entries ||
	    saved->head >= saved->size || saved->address & (nvme_page_size(nvme) - 1) ||
	    saved->error > NVME_QUEUE_MEMORY)
		return parcel_fail(parcel, "a submission queue is impossible");
	if (nvme_sq_create(nvme, saved->id, saved->size, saved->address, &nvme->cqs[saved->cq]))
		return parcel_fail(parcel, "no memory for a queue");
	nvme->sqs[saved->id]->head = saved->head;
	nvme->sqs[saved->id]->error_reported = saved->error_reported & 1;
	atomic_store(&nvme->sqs[saved->id]->error, saved->error);
	return 0;
}

static int load_queues(struct nvme *nvme, struct parcel *parcel)
{
	struct saved_cq cqs[NVME_QUEUES_MAX + 1];
	struct saved_sq sqs[NVME_QUEUES_MAX];
	size_t cq_count = parcel_get_array(parcel, TAG_CQS, cqs, sizeof(cqs[0]), array_size(cqs));
	size_t sq_count = parcel_get_array(parcel, TAG_SQS, sqs, sizeof(sqs[0]), array_size(sqs));
	int error = parcel->failed ? -EBADMSG : 0;

	/* The admin queue is there as long as the controller is ready, and without it there are no others. */
	if (!error && (nvme->state == NVME_READY) != (cq_count && !cqs[0].id))
		return parcel_fail(parcel, "its queues do not fit its state");
	if (!error && nvme->state != NVME_READY && (cq_count || sq_count))
		return parcel_fail(parcel, "its queues do not fit its state");
	for (size_t i = 0; i < cq_count && !error; i++)
		error = load_cq(nvme, &cqs[i], parcel);
	for (size_t i = 0; i < sq_count && !error; i++)
		error = load_sq(nvme, &sqs[i], parcel);
	return error;
}

static int load_admin(struct nvme *nvme, const struct saved_controller *saved, struct parcel *parcel)
{
	struct nvme_admin *admin = &nvme->admin;

	if (nvme->state != NVME_READY)
		return 0;
	admin->size = (nvme->aqa & 0xfff) + 1;
	if (saved->admin_head >= admin->size)
		return parcel_fail(parcel, "its admin queue is impossible");
	admin->head = saved->admin_head;
	admin->broken = saved->admin_broken & 1;
	admin->busy = false;
	admin->cq = &nvme->cqs[0];
	admin->home = find_home(nvme, saved->admin_home);
	atomic_store(&admin->seen, 0); /* the first look finds what is different */
	admin->event_count = saved->event_count;
	memcpy(admin->event_cids, saved->event_cids, sizeof(admin->event_cids));
	for (unsigned i = 0; i < NVME_EVENT_TYPES; i++) {
		admin->events[i].pending = saved->event_types[i].pending & 1;
		admin->events[i].masked = saved->event_types[i].masked & 1;
		admin->events[i].info = saved->event_types[i].info;
		admin->events[i].log = saved->event_types[i].log;
	}
	return 0;
}

/* The disks were the other daemon's, which has let go of them. */
static int take_disks(struct nvme *nvme, struct parcel *parcel)
{
	const char *wrong;

	for (unsigned i = 0; i < nvme->namespace_count; i++) {
		if (disk_is_transient(nvme->namespaces[i].disk))
			return parcel_fail(parcel, "its disk is in memory now, and another one");
	}
	wrong = nvme->state == NVME_READY ? nvme_acquire_disks(nvme) : NULL;
	if (wrong)
		return parcel_fail(parcel, wrong);
	for (unsigned i = 0; i < nvme->namespace_count; i++)
		nvme_resized(&nvme->device, i);
	return 0;
}

static int load_errors(struct nvme *nvme, struct parcel *parcel)
{
	struct saved_error saved[(NVME_QUEUES_MAX + 1) * NVME_ERROR_ENTRIES];
	size_t count = parcel_get_array(parcel, TAG_ERRORS, saved, sizeof(saved[0]), array_size(saved));

	memset(nvme->errors, 0, sizeof(nvme->errors));
	for (size_t i = 0; i < count; i++) {
		struct nvme_error_ring *errors;
		struct nvme_error_slot *slot;

		if (saved[i].ring > nvme->queues)
			return parcel_fail(parcel, "an error of a queue that there is not");
		errors = &nvme->errors[saved[i].ring];
		slot = &errors->slots[errors->next++ % NVME_ERROR_ENTRIES];
		atomic_store(&slot->number, saved[i].number);
		atomic_store(&slot->lba, saved[i].lba);
		atomic_store(&slot->command, saved[i].command);
		atomic_store(&slot->nsid, saved[i].nsid);
	}
	return parcel->failed ? -EBADMSG : 0;
}

int nvme_load(struct pci_device *device, struct parcel *parcel)
{
	struct nvme *nvme = nvme_of(device);
	struct saved_controller saved;
	int error = parcel_get(parcel, TAG_CONTROLLER, &saved, sizeof(saved));

	if (!error)
		error = check_controller(nvme, &saved, parcel);
	if (!error)
		error = load_registers(nvme, &saved, parcel);
	if (!error)
		error = load_namespaces(nvme, parcel);
	if (!error) {
		load_features(nvme, &saved);
		error = load_queues(nvme, parcel);
	}
	if (!error)
		error = load_admin(nvme, &saved, parcel);
	if (!error)
		error = load_errors(nvme, parcel);
	if (!error && parcel_get_array(parcel, TAG_COUNTERS, nvme->counters, sizeof(nvme->counters[0]),
				       nvme->queues + 1U) != nvme->queues + 1U)
		error = parcel_fail(parcel, "its counters are not all there");
	if (error)
		return error;
	for (unsigned i = 0; i <= nvme->queues; i++) {
		if (nvme->cqs[i].present)
			atomic_fetch_or(&nvme->unread[i / 64], saved.unread[i / 64] & 1ULL << i % 64);
	}
	return take_disks(nvme, parcel);
}
