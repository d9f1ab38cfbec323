/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NVMe controller: a PCI device whose namespaces are disks (NVM Express Base 2.0, NVM Command Set 1.0, PCIe
 * Transport 1.0).
 *
 * Theory of operation
 * -------------------
 *	nvme.c			the device: made, destroyed, counted; namespaces
 *	nvme_life.c		enabled, disabled, shut down, paused, reset
 *	nvme_registers.c	page 0 of BAR 0
 *	nvme_queue.c		rings, slots; queues that stop by themselves
 *	nvme_interrupt.c	interrupts, and how they are held back
 *	nvme_admin.c		the admin queue
 *	nvme_admin_queues.c	its commands: nvme_identify.c, nvme_log.c, nvme_features.c, nvme_event.c as well
 *	nvme_error.c		the error log
 *	nvme_flush.c		disks that are flushed by the controller itself
 *	nvme_io.c		I/O commands, from a turn to the disk
 *	nvme_request.c		and back to the completion queue
 *	nvme_dma.c		data pointers: PRP and SGL
 *
 * BAR 0 has the registers on page 0, trapped, and the doorbells from 0x1000 on as a window. With MSI-X a driver touches
 * nothing but doorbells and its own memory for a command, so in steady state there are no messages at all, neither for
 * a command nor for an interrupt: sidecores poll the doorbells, and interrupts are eventfds. BAR 4 has MSI-X table and
 * pending bits.
 *
 * Each I/O submission queue is a poller on one sidecore, with a block channel to each disk. A completion queue is on
 * the sidecore of its submission queues. The admin queue is executed by the control thread; a sidecore merely watches
 * its doorbells.
 *
 * Who owns what: registers, admin queue, features, logs: control thread. Queues: their sidecore while their pollers are
 * attached, else the control thread, which makes and frees them. Both read: sizes of namespaces, the write cache's
 * state and the interrupt mask, one atomic word each.
 *
 * What is optional and not here is not advertised, and refused: keep alive (a timer that tells a controller behind a network
 * that its host is gone; over PCI Express no driver sets it, and the VMM tells us), format, sanitize, firmware,
 * namespace management, copy, reservations, directives, host memory and controller memory buffers, fused operations.
 *
 * What is mapped cannot be watched: a write to the doorbell of a queue that is not there is reported (as the
 * asynchronous event of that name) only when it comes as a message, and a doorbell that is rung twice with one value is
 * one ring.
 *
 * Names. A namespace's identifier is made of the names of controller and disk, the same after each start: 128 bits,
 * which guests keep in their configuration.
 *
 * Context: control thread.
 */
#include "device/nvme/nvme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/counter.h"
#include "device/nvme/nvme_admin.h"

/* Nobody's identifiers: drivers bind to the class, and have no tables of our peculiarities. */
#define VENDOR_ID 0x5343U
#define DEVICE_ID 0x4e56U

static const struct pci_device_ops nvme_ops = {
	.type = "nvme",
	.read = nvme_read,
	.write = nvme_write,
	.doorbell = nvme_doorbell,
	.pause = nvme_pause,
	.resume = nvme_resume,
	.reset = nvme_reset,
	.command_changed = nvme_command_changed,
	.save = nvme_save,
	.load = nvme_load,
};

/* ---- namespaces -------------------------------------------------------------------------------------------------- */

/* FNV-1a over @text and its end, going on from @hash. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
	do {
		hash = (hash ^ (uint8_t)*text) * 0x100000001b3ULL;
	} while (*text++);
	return hash;
}

/* RFC 9562 5.8: a UUID of our own making, version 8. */
static void make_uuid(const struct nvme *nvme, uint32_t nsid, const char *serial, uint8_t uuid[16])
{
	char number[16];

	snprintf(number, sizeof(number), "%u", nsid);
	for (unsigned half = 0; half < 2; half++) {
		uint64_t hash = hash_text(hash_text(0xcbf29ce484222325ULL + half, nvme->serial), nvme->name);

		hash = htobe64(hash_text(hash_text(hash, serial), number));
		memcpy(uuid + 8U * half, &hash, sizeof(hash));
	}
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x80);
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

static void init_namespace(struct nvme *nvme, uint32_t index, struct disk *disk)
{
	struct nvme_namespace *namespace = &nvme->namespaces[index];

	namespace->disk = disk;
	disk_read_limits(disk, &namespace->limits);
	namespace->shift = (uint8_t)__builtin_ctz(namespace->limits.block_size);
	atomic_store(&namespace->blocks, namespace->limits.size >> namespace->shift);
	make_uuid(nvme, index + 1, disk_serial(disk), namespace->uuid);
	nvme->has_cache |= namespace->limits.flush_needed;
}

void nvme_resized(struct pci_device *device, unsigned index)
{
	struct nvme *nvme = nvme_of(device);
	struct nvme_namespace *namespace = &nvme->namespaces[index];
	struct disk_limits limits;
	uint64_t blocks;

	disk_read_limits(namespace->disk, &limits);
	blocks = limits.size >> namespace->shift;
	if (atomic_exchange(&namespace->blocks, blocks) == blocks)
		return;
	namespace->changed = true;
	if (nvme->features.events & NVME_EVENT_CONFIG_NAMESPACE)
		nvme_event(nvme, NVME_EVENT_NOTICE, NVME_EVENT_NAMESPACE_CHANGED, NVME_LOG_CHANGED_NAMESPACES);
}

/* ---- the device -------------------------------------------------------------------------------------------------- */

static int check_options(const struct nvme_options *options)
{
	if (options->queues > NVME_QUEUES_MAX || options->queue_entries > NVME_ENTRIES_MAX ||
	    options->queue_entries == 1)
		return -EINVAL;
	if (!options->disk_count || options->disk_count > NVME_NAMESPACES_MAX)
		return -EINVAL;
	return 0;
}

static void describe(struct nvme *nvme, struct engine *engine)
{
	struct pci_device *device = &nvme->device;

	device->ops = &nvme_ops;
	device->name = nvme->name;
	device->engine = engine;
	device->config.identity = (struct pci_identity){
		.vendor = VENDOR_ID,
		.device = DEVICE_ID,
		.subsystem_vendor = VENDOR_ID,
		.subsystem = DEVICE_ID,
		.revision = 1,
		.class_code = 0x01,
		.subclass = 0x08,
		.programming_interface = 0x02,
		.express = true,
		.pin = true,
		.msi = true,
		.msix_count = (uint16_t)(nvme->queues + 1),
		.msix_bar = NVME_MSIX_BAR,
		.msix_table = 0,
		.msix_pending = NVME_MSIX_PENDING,
	};
	device->bars[NVME_BAR] = (struct pci_bar){
		.size = NVME_BAR_SIZE,
		.wide = true,
		.window_count = 1,
		.windows = { { NVME_DOORBELLS, NVME_DOORBELL_SIZE } },
	};
	device->bars[NVME_MSIX_BAR] = (struct pci_bar){ .size = NVME_MSIX_BAR_SIZE };
}

static void init_queues(struct nvme *nvme)
{
	for (unsigned i = 0; i <= NVME_QUEUES_MAX; i++) {
		nvme->cqs[i].nvme = nvme;
		nvme->cqs[i].id = (uint16_t)i;
	}
	nvme->admin.queue.poller.ops = &nvme_admin_poller_ops;
	nvme->admin.queue.poller.silent = !nvme->posted;
	nvme->admin.work.done = nvme_admin_work;
	nvme->report.done = nvme_report;
}

int nvme_create(const struct nvme_options *options, struct engine *engine, struct pci_device **device)
{
	struct nvme *nvme;
	int rc = check_options(options);

	if (rc)
		return rc;
	nvme = aligned_alloc(CACHE_LINE, (sizeof(*nvme) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
	if (!nvme)
		return -ENOMEM;
	memset(nvme, 0, sizeof(*nvme));
	snprintf(nvme->name, sizeof(nvme->name), "%s", options->name);
	snprintf(nvme->serial, sizeof(nvme->serial), "%.20s", options->serial ? options->serial : options->name);
	nvme->queues = options->queues ? options->queues : NVME_QUEUES_DEFAULT;
	nvme->entries = options->queue_entries ? options->queue_entries : NVME_ENTRIES_DEFAULT;
	nvme->posted = options->posted;
	nvme->sidecore = options->sidecore;
	nvme->namespace_count = options->disk_count;
	nvme->created = clock_nanoseconds();
	nvme->paused = true;
	for (unsigned i = 0; i < options->disk_count; i++)
		init_namespace(nvme, i, options->disks[i]);
	describe(nvme, engine);
	init_queues(nvme);
	rc = device_queue_init(&nvme->admin.queue, engine, true);
	if (rc)
		goto free_nvme;
	rc = pci_device_init(&nvme->device);
	if (rc)
		goto release_queue;
	nvme->power_cycles = 1;
	nvme_set_defaults(nvme, NVME_RESET_POWER);
	*device = &nvme->device;
	return 0;

release_queue:
	device_queue_release(&nvme->admin.queue);
free_nvme:
	free(nvme);
	return rc;
}

/* Hand-overs that sidecores posted before the device was paused have run: completions come in order. */
static void gone(struct engine_completion *completion)
{
	struct nvme *nvme = container_of(completion, struct nvme, gone);
	struct engine_completion *told = nvme->gone_completion;
	struct engine *engine = nvme->device.engine;

	device_queue_release(&nvme->admin.queue);
	pci_device_release(&nvme->device);
	free(nvme);
	if (told)
		engine_complete(engine, told);
}

void nvme_destroy(struct pci_device *device, struct engine_completion *completion)
{
	struct nvme *nvme = nvme_of(device);

	/* Paused, so at rest: this frees queues and releases disks at once. */
	nvme_reset(device);
	nvme->gone.done = gone;
	nvme->gone_completion = completion;
	engine_complete(device->engine, &nvme->gone);
}

void nvme_read_counters(const struct pci_device *device, struct nvme_counters *counters)
{
	const struct nvme *nvme = nvme_of(device);
	uint64_t *sums = (uint64_t *)counters;

	_Static_assert(sizeof(*counters) % sizeof(uint64_t) == 0, "counters are all uint64_t");
	memset(counters, 0, sizeof(*counters));
	for (unsigned i = 0; i <= nvme->queues; i++) {
		const uint64_t *queue = (const uint64_t *)&nvme->counters[i];

		for (unsigned j = 0; j < sizeof(*counters) / sizeof(uint64_t); j++)
			sums[j] += counter_read(&queue[j]);
	}
	counters->admin = counter_read(&nvme->admin_commands);
}
