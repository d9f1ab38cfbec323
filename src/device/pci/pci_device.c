/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What all emulated PCI devices share. Theory of operation: device/pci/pci_device.h.
 *
 * Windows. The memory behind a BAR's windows is one sealed memfd as long as the BAR, of which only the windows ever
 * have pages: the VMM maps a window at its offset in the BAR, and so do we. Sealed, it cannot shrink under us; who
 * holds the descriptor may still punch holes, which read as zeroes, and change whatever it likes in there: values are
 * hostile anyway. But they are that guest's values: a client that has gone may keep its mapping for ever, and would have
 * the doorbells and ring addresses of the next client's guest in its hands. So each client gets a memory of its own
 * (pci_device_renew_windows()), at the same address, so that nobody has to be told.
 *
 * Faults. Sidecores set the reason (one compare-and-swap: the first one stays) and then see to it that a completion is
 * on its way; the completion first notes that it is no longer on its way, and then reads the reason. All four are
 * seq_cst: if the sidecore found a completion on its way, that exchange comes before the completion's store, so its
 * reason, stored before, is read after; else it posts one itself. No fault goes untold, and the completion is never
 * posted twice.
 */
#include "device/pci/pci_device.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"

#define WINDOW_PAGE 4096U

/* ---- making and freeing ------------------------------------------------------------------------------------------ */

static bool windows_fit(const struct pci_bar *bar)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < bar->window_count; i++) {
		const struct pci_window *window = &bar->windows[i];

		if (!window->length || (window->offset | window->length) % WINDOW_PAGE || window->offset < end ||
		    !range_inside(window->offset, window->length, bar->size))
			return false;
		end = (uint64_t)window->offset + window->length;
	}
	return true;
}

/* What a model says of a BAR is constant, so that a mistake is found by the first test that makes the model. */
static bool bar_is_possible(const struct pci_device *device, unsigned index)
{
	const struct pci_bar *bar = &device->bars[index];

	if (!bar->size)
		return !bar->window_count;
	if (bar->size & (bar->size - 1) || bar->size < (bar->io ? 4 : WINDOW_PAGE))
		return false;
	if (bar->io && (bar->wide || bar->window_count))
		return false;
	/* Offsets are 32-bit (struct pci_device_ops), whatever the address is. */
	if (bar->size > 1ULL << 31 || (bar->wide && (index == PCI_BARS - 1 || device->bars[index + 1].size)))
		return false;
	return bar->window_count <= PCI_WINDOWS_MAX && windows_fit(bar);
}

/* Memory for the windows, in place of the one that there may be. After an error all is as it was. */
static int make_windows(struct pci_bar *bar, const char *name)
{
	int fd, error;
	void *shared;

	if (!bar->window_count)
		return 0;
	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bar->size) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		goto close_fd;
	shared =
		mmap(bar->shared, bar->size, PROT_READ | PROT_WRITE, MAP_SHARED | (bar->shared ? MAP_FIXED : 0), fd, 0);
	if (shared == MAP_FAILED)
		goto close_fd;
	/* Their pages are made now: whether there is memory for them is not found out by a sidecore. */
	for (unsigned i = 0; i < bar->window_count; i++)
		memset((uint8_t *)shared + bar->windows[i].offset, 0, bar->windows[i].length);
	bar->shared = shared;
	if (bar->shared_fd >= 0)
		close(bar->shared_fd);
	bar->shared_fd = fd;
	return 0;

close_fd:
	error = -errno;
	close(fd);
	return error;
}

int pci_device_renew_windows(struct pci_device *device)
{
	int error = 0;

	for (unsigned i = 0; i < PCI_BARS && !error; i++)
		error = make_windows(&device->bars[i], device->ops->type);
	return error;
}

static void tell_fault(struct engine_completion *completion)
{
	struct pci_device *device = container_of(completion, struct pci_device, fault_completion);
	const char *reason;

	atomic_store(&device->fault_posted, false);
	reason = atomic_load(&device->fault);
	if (!reason) /* cleared meanwhile */
		return;
	device->faults++;
	log_limited(&device->log_limit, LOG_LEVEL_WARNING, "%s: %s stopped because of what the guest did: %s",
		    device->name, device->ops->type, reason);
	if (device->host && device->host->faulted)
		device->host->faulted(device);
}

static int init_interrupts(struct pci_device *device)
{
	const struct pci_identity *identity = &device->config.identity;
	const uint16_t counts[PCI_INTERRUPT_KINDS] = {
		[PCI_INTERRUPT_PIN] = identity->pin,
		[PCI_INTERRUPT_MSI] = identity->msi,
		[PCI_INTERRUPT_MSIX] = identity->msix_count,
	};

	device->interrupts.notifier = engine_notifier(device->engine);
	return pci_interrupts_init(&device->interrupts, counts);
}

int pci_device_init(struct pci_device *device)
{
	int error = 0;

	atomic_store(&device->fault, NULL);
	atomic_store(&device->fault_posted, false);
	device->fault_completion.done = tell_fault;
	device->interrupts.nobody = -1;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		device->bars[i].shared = NULL;
		device->bars[i].shared_fd = -1;
		if (!bar_is_possible(device, i))
			return -EINVAL;
	}
	if (device->config.identity.msix_count > PCI_VECTORS_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < PCI_BARS && !error; i++)
		error = make_windows(&device->bars[i], device->ops->type);
	if (!error)
		error = init_interrupts(device);
	if (error) {
		pci_device_release(device);
		return error;
	}
	pci_config_init(&device->config, device->bars);
	return 0;
}

void pci_device_release(struct pci_device *device)
{
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &device->bars[i];

		if (bar->shared)
			munmap(bar->shared, bar->size);
		if (bar->shared_fd >= 0)
			close(bar->shared_fd);
		bar->shared = NULL;
		bar->shared_fd = -1;
	}
	pci_interrupts_release(&device->interrupts);
}

/* ---- configuration space ----------------------------------------------------------------------------------------- */

void pci_device_config_read(struct pci_device *device, uint32_t offset, void *to, uint32_t length)
{
	pci_config_set_interrupt_status(&device->config, pci_interrupt_pin_asserted(&device->interrupts));
	pci_config_read(&device->config, offset, to, length);
}

/* What the model wants to know of: whether it is master, its pin, its power. */
struct command {
	bool master, pin_disabled;
	unsigned power;
};

static struct command read_command(const struct pci_config *config)
{
	return (struct command){
		.master = pci_config_bus_master(config),
		.pin_disabled = pci_config_pin_disabled(config),
		.power = pci_config_power_state(config),
	};
}

static void tell_command(struct pci_device *device, const struct command *before)
{
	struct command after = read_command(&device->config);

	if (after.pin_disabled != before->pin_disabled)
		pci_interrupt_pin_disable(&device->interrupts, after.pin_disabled, device->interrupts.notifier);
	if (device->ops->command_changed && (after.master != before->master || after.power != before->power ||
					     after.pin_disabled != before->pin_disabled))
		device->ops->command_changed(device);
}

bool pci_device_config_write(struct pci_device *device, uint32_t offset, const void *from, uint32_t length)
{
	struct command before = read_command(&device->config);

	pci_config_write(&device->config, offset, from, length);
	tell_command(device, &before);
	return pci_config_take_function_reset(&device->config);
}

void pci_device_config_reset(struct pci_device *device)
{
	struct command before = read_command(&device->config);

	pci_config_reset(&device->config);
	pci_interrupt_pin(&device->interrupts, false, device->interrupts.notifier);
	pci_device_clear_fault(device);
	tell_command(device, &before);
}

/* ---- access ------------------------------------------------------------------------------------------------------ */

/* The largest naturally aligned piece of 1, 2 or 4 bytes at @offset. Windows begin and end on pages: it never crosses
 * one. */
static unsigned piece_size(uint64_t offset, uint32_t left)
{
	unsigned size = 4;

	while (size > 1 && (size > left || offset % size))
		size /= 2;
	return size;
}

static bool in_window(const struct pci_bar *bar, uint64_t offset)
{
	for (unsigned i = 0; i < bar->window_count; i++) {
		if (offset - bar->windows[i].offset < bar->windows[i].length)
			return true;
	}
	return false;
}

static uint32_t get_piece(const uint8_t *data, unsigned size)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint32_t)data[i] << (8 * i);
	return value;
}

static void put_piece(uint8_t *data, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size; i++)
		data[i] = (uint8_t)(value >> (8 * i));
}

/* As a guest's own access would be: one load or store of the register's size. */
static uint32_t load_window(const guest_byte *from, unsigned size)
{
	const void *address = from;

	switch (size) {
	case 1:
		return __atomic_load_n((const uint8_t *)address, __ATOMIC_ACQUIRE);
	case 2:
		return __atomic_load_n((const uint16_t *)address, __ATOMIC_ACQUIRE);
	default:
		return __atomic_load_n((const uint32_t *)address, __ATOMIC_ACQUIRE);
	}
}

static void store_window(guest_byte *to, unsigned size, uint32_t value)
{
	void *address = to;

	switch (size) {
	case 1:
		__atomic_store_n((uint8_t *)address, (uint8_t)value, __ATOMIC_RELEASE);
		break;
	case 2:
		__atomic_store_n((uint16_t *)address, (uint16_t)value, __ATOMIC_RELEASE);
		break;
	default:
		__atomic_store_n((uint32_t *)address, value, __ATOMIC_RELEASE);
		break;
	}
}

static enum pci_result write_piece(struct pci_device *device, unsigned index, uint32_t offset, unsigned size,
				   uint32_t value)
{
	const struct pci_bar *bar = &device->bars[index];

	if (!in_window(bar, offset))
		return device->ops->write(device, index, offset, size, value);
	store_window(bar->shared + offset, size, value);
	if (device->ops->doorbell)
		device->ops->doorbell(device, index, offset, size);
	return PCI_DONE;
}

static uint32_t read_piece(struct pci_device *device, unsigned index, uint32_t offset, unsigned size)
{
	const struct pci_bar *bar = &device->bars[index];

	if (in_window(bar, offset))
		return load_window(bar->shared + offset, size);
	return device->ops->read(device, index, offset, size);
}

enum pci_result pci_device_access(struct pci_device *device, struct pci_access *access)
{
	if (!access->position)
		*(access->write ? &device->writes : &device->reads) += 1;
	while (access->position < access->length) {
		uint64_t offset = access->offset + access->position;
		uint8_t *data = access->data + access->position;
		unsigned size = piece_size(offset, access->length - access->position);

		access->position += size;
		if (!access->write)
			put_piece(data, size, read_piece(device, access->bar, (uint32_t)offset, size));
		else if (write_piece(device, access->bar, (uint32_t)offset, size, get_piece(data, size)) ==
			 PCI_DEFERRED)
			return PCI_DEFERRED;
	}
	return PCI_DONE;
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

void pci_device_fault(struct pci_device *device, const char *reason)
{
	const char *none = NULL;

	if (atomic_compare_exchange_strong(&device->fault, &none, reason) &&
	    !atomic_exchange(&device->fault_posted, true))
		engine_complete(device->engine, &device->fault_completion);
}

void pci_device_clear_fault(struct pci_device *device)
{
	atomic_store(&device->fault, NULL);
}
