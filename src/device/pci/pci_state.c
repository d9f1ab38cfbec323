/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The state of a PCI device, for the daemon that comes after this one.
 *
 * Theory of operation
 * -------------------
 * A device at rest is its configuration space, its interrupts, the memory of its windows, and what its model knows. All
 * of it goes into a parcel (base/parcel.h): numbers as bytes, windows and the VMM's eventfds as the files that they are.
 * The guest goes on storing into its windows meanwhile: their memory moves, its content is never copied.
 *
 * Layouts are those of the structures here, of fixed width and without holes; who changes one, or the meaning of a
 * field in it, counts PARCEL_VERSION (base/parcel.c) up.
 *
 * Trust boundary. What is read decides over guests, and may have been damaged: sizes and identity must be those of the
 * device that the configuration has made; of the configuration space only bits are taken that a guest could have
 * written; files must be of the kinds that they are used as.
 *
 * Context: control thread; the device is paused.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file_kind.h"
#include "base/parcel.h"
#include "device/pci/pci_device.h"

/* Last: see device/pci/pci_config.c. */
#include <linux/pci_regs.h>

#define TAG_DEVICE 0x10000U
#define TAG_GIVEN  0x10001U

#define VECTORS_ALL (2 * PCI_VECTORS_MAX + 1)

struct saved_bar {
	uint64_t size;
	uint32_t window_count, reserved;
	struct pci_window windows[PCI_WINDOWS_MAX];
};

struct saved_device {
	struct saved_bar bars[PCI_BARS];
	uint64_t reads, writes, resets, faults, signals;
	uint32_t counts[PCI_INTERRUPT_KINDS];
	uint32_t kind, pin, faulted, config_size, reserved;
	uint8_t config[PCI_EXPRESS_CONFIG_SIZE];
};

_Static_assert(sizeof(struct saved_bar) == 16 + 8 * PCI_WINDOWS_MAX, "no holes");
_Static_assert(sizeof(struct saved_device) ==
		       PCI_BARS * sizeof(struct saved_bar) + 5 * 8 + 8 * 4 + PCI_EXPRESS_CONFIG_SIZE,
	       "no holes");

/* ---- saving ------------------------------------------------------------------------------------------------------ */

/* What the configuration made, and the guest has seen: it must be the same on the other side. */
static void describe_bars(const struct pci_device *device, struct saved_bar saved[PCI_BARS])
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		saved[i].size = device->bars[i].size;
		saved[i].window_count = device->bars[i].window_count;
		for (unsigned j = 0; j < device->bars[i].window_count; j++)
			saved[i].windows[j] = device->bars[i].windows[j];
	}
}

static void save_interrupts(const struct pci_interrupts *interrupts, struct parcel *parcel)
{
	uint8_t given[VECTORS_ALL];
	size_t count = 0;

	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS; kind++) {
		for (unsigned i = 0; i < interrupts->counts[kind] && count < sizeof(given); i++)
			given[count++] = interrupts->given[kind][i];
	}
	parcel_put(parcel, TAG_GIVEN, given, count);
	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS; kind++) {
		for (unsigned i = 0; i < interrupts->counts[kind]; i++) {
			if (interrupts->given[kind][i])
				parcel_put_file(parcel, interrupts->fds[kind][i]);
		}
	}
}

void pci_device_save(struct pci_device *device, struct parcel *parcel)
{
	const struct pci_interrupts *interrupts = &device->interrupts;
	struct saved_device saved = {
		.reads = device->reads,
		.writes = device->writes,
		.resets = device->resets,
		.faults = device->faults,
		.signals = atomic_load(&interrupts->signals),
		.kind = pci_interrupts_kind(interrupts),
		.pin = pci_interrupts_pin_word(interrupts),
		.faulted = atomic_load(&device->fault) != NULL,
		.config_size = device->config.size,
	};

	if (!device->ops->save || !device->ops->load) {
		parcel_fail(parcel, "a device of this kind cannot be handed over");
		return;
	}
	describe_bars(device, saved.bars);
	for (unsigned i = 0; i < PCI_INTERRUPT_KINDS; i++)
		saved.counts[i] = interrupts->counts[i];
	memcpy(saved.config, device->config.space, sizeof(saved.config));
	parcel_put(parcel, TAG_DEVICE, &saved, sizeof(saved));
	for (unsigned i = 0; i < PCI_BARS; i++) {
		if (device->bars[i].window_count)
			parcel_put_file(parcel, device->bars[i].shared_fd);
	}
	save_interrupts(interrupts, parcel);
	device->ops->save(device, parcel);
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

/* Is it this device? All that a guest cannot write must be the same; the level of the pin is shown when it is read. */
static bool same_config(const struct pci_config *config, const struct saved_device *saved)
{
	if (saved->config_size != config->size)
		return false;
	for (unsigned i = 0; i < sizeof(saved->config); i++) {
		uint8_t fixed = (uint8_t)~config->writable[i];

		if (i == PCI_STATUS)
			fixed &= (uint8_t)~PCI_STATUS_INTERRUPT;
		if ((config->space[i] ^ saved->config[i]) & fixed)
			return false;
	}
	return true;
}

static int check_device(const struct pci_device *device, const struct saved_device *saved, struct parcel *parcel)
{
	struct saved_bar bars[PCI_BARS];

	memset(bars, 0, sizeof(bars));
	describe_bars(device, bars);
	if (memcmp(bars, saved->bars, sizeof(bars)))
		return parcel_fail(parcel, "its registers, or its doorbells, are others now");
	for (unsigned i = 0; i < PCI_INTERRUPT_KINDS; i++) {
		if (saved->counts[i] != device->interrupts.counts[i])
			return parcel_fail(parcel, "it has another number of queues or interrupts now");
	}
	if (saved->kind > PCI_INTERRUPT_NONE || (saved->kind < PCI_INTERRUPT_KINDS && !saved->counts[saved->kind]))
		return parcel_fail(parcel, "its interrupts are impossible");
	if (!same_config(&device->config, saved))
		return parcel_fail(parcel, "it is another device now");
	return 0;
}

/* The memory that the guest has mapped takes the place of ours, at the same address. */
static int adopt_window(struct pci_bar *bar, int fd, struct parcel *parcel)
{
	struct stat status;
	int seals = fcntl(fd, F_GET_SEALS);

	/* Memory, and sealed: it cannot shrink under us. */
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &status) || status.st_size != (off_t)bar->size) {
		close(fd);
		return parcel_fail(parcel, "the memory of its doorbells is not what it was");
	}
	if (mmap(bar->shared, bar->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
		close(fd);
		return parcel_fail(parcel, "the memory of its doorbells cannot be mapped");
	}
	close(bar->shared_fd);
	bar->shared_fd = fd;
	return 0;
}

static int take_windows(struct parcel *parcel, const struct pci_device *device, int files[PCI_BARS])
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		files[i] = device->bars[i].window_count ? parcel_get_file(parcel) : -1;
	return parcel->failed ? -EBADMSG : 0;
}

static int load_vector(struct pci_interrupts *interrupts, unsigned kind, unsigned vector, struct parcel *parcel)
{
	int fd = parcel_get_file(parcel), error;

	if (fd < 0)
		return -EBADMSG;
	if (!file_is_eventfd(fd)) {
		close(fd); /* not the VMM's: it was in a daemon's parcel, which has no other files there */
		return parcel_fail(parcel, "an interrupt is no eventfd");
	}
	error = pci_interrupts_set(interrupts, (enum pci_interrupt_kind)kind, vector, fd);
	close(fd);
	return error ? parcel_fail(parcel, "an interrupt cannot be taken over") : 0;
}

static int load_interrupts(struct pci_interrupts *interrupts, const struct saved_device *saved, struct parcel *parcel)
{
	uint8_t given[VECTORS_ALL];
	size_t present = parcel_get_array(parcel, TAG_GIVEN, given, 1, sizeof(given)), count = 0;
	int error = 0;

	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS; kind++)
		count += interrupts->counts[kind];
	if (parcel->failed || present != count)
		return parcel_fail(parcel, "its interrupts are not all there");
	count = 0;
	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS && !error; kind++) {
		for (unsigned i = 0; i < interrupts->counts[kind] && !error; i++) {
			if (given[count++])
				error = load_vector(interrupts, kind, i, parcel);
		}
	}
	if (error)
		return error;
	atomic_store(&interrupts->signals, saved->signals);
	pci_interrupts_restore(interrupts, (enum pci_interrupt_kind)saved->kind, saved->pin);
	return 0;
}

static void load_config(struct pci_config *config, const struct saved_device *saved)
{
	for (unsigned i = 0; i < sizeof(saved->config); i++)
		config->space[i] =
			(uint8_t)((config->space[i] & ~config->writable[i]) | (saved->config[i] & config->writable[i]));
}

static int load_checked(struct pci_device *device, const struct saved_device *saved, struct parcel *parcel,
			int files[PCI_BARS])
{
	int error;

	load_config(&device->config, saved);
	error = load_interrupts(&device->interrupts, saved, parcel);
	/* The model before the windows: what it stores there as it makes its queues is not the guest's to see. */
	if (!error)
		error = device->ops->load(device, parcel);
	for (unsigned i = 0; i < PCI_BARS && !error; i++) {
		if (files[i] < 0)
			continue;
		error = adopt_window(&device->bars[i], files[i], parcel);
		files[i] = -1;
	}
	if (error)
		return error;
	device->reads = saved->reads;
	device->writes = saved->writes;
	device->resets = saved->resets;
	device->faults = saved->faults;
	if (saved->faulted) {
		device->faults--; /* it is counted again when it is told */
		pci_device_fault(device, "before the daemon was restarted");
	}
	return 0;
}

int pci_device_load(struct pci_device *device, struct parcel *parcel)
{
	struct saved_device saved;
	int files[PCI_BARS], error;

	if (!device->ops->load)
		return parcel_fail(parcel, "a device of this kind cannot be handed over");
	error = parcel_get(parcel, TAG_DEVICE, &saved, sizeof(saved));
	if (!error)
		error = check_device(device, &saved, parcel);
	if (error)
		return error;
	error = take_windows(parcel, device, files);
	if (!error)
		error = load_checked(device, &saved, parcel, files);
	for (unsigned i = 0; i < PCI_BARS; i++) {
		if (files[i] >= 0)
			close(files[i]);
	}
	return error;
}
