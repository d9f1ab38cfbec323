/* SPDX-License-Identifier: BSD-3-Clause */
#include "fake_pci_device.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/parcel.h"

static struct fake_pci_device *fake_of(struct pci_device *device)
{
	return container_of(device, struct fake_pci_device, device);
}

static uint8_t *place(struct fake_pci_device *fake, unsigned bar, uint32_t offset, unsigned size)
{
	assert(size == 1 || size == 2 || size == 4);
	assert(offset % size == 0);
	if (bar == 2) {
		assert(range_inside(offset, size, FAKE_PCI_PORTS));
		return fake->ports + offset;
	}
	assert(bar == 0 && range_inside(offset, size, FAKE_PCI_BAR));
	assert(offset / 0x1000 != FAKE_PCI_WINDOW / 0x1000);
	return fake->registers + offset;
}

static uint32_t read_register(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size)
{
	struct fake_pci_device *fake = fake_of(device);
	uint32_t value = 0;

	fake->reads++;
	if (bar == 4)
		return 0;
	memcpy(&value, place(fake, bar, offset, size), size);
	return value;
}

static enum pci_result write_register(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size,
				      uint32_t value)
{
	struct fake_pci_device *fake = fake_of(device);

	assert(!fake->waiting);
	if (fake->writes < array_size(fake->order))
		fake->order[fake->writes] = value;
	fake->writes++;
	if (bar == 4)
		return PCI_DONE;
	memcpy(place(fake, bar, offset, size), &value, size);
	if (bar)
		return PCI_DONE;
	switch (offset) {
	case FAKE_PCI_DEFER:
		fake->waiting = true;
		return PCI_DEFERRED;
	case FAKE_PCI_RAISE:
		for (unsigned i = 0; i < 32; i++) {
			if (value >> i & 1)
				pci_interrupt_message(&device->interrupts, i, engine_notifier(device->engine));
		}
		return PCI_DONE;
	case FAKE_PCI_PIN:
		pci_interrupt_pin(&device->interrupts, value & 1, engine_notifier(device->engine));
		return PCI_DONE;
	default:
		return PCI_DONE;
	}
}

static void doorbell(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size)
{
	struct fake_pci_device *fake = fake_of(device);

	fake->doorbells++;
	fake->last_doorbell = pci_window_load(&device->bars[bar], offset & ~3U);
}

static enum pci_result pause_device(struct pci_device *device)
{
	struct fake_pci_device *fake = fake_of(device);

	assert(!fake->resting && !fake->waiting);
	fake->pauses++;
	fake->resting = true;
	fake->waiting = fake->defer_pause;
	return fake->defer_pause ? PCI_DEFERRED : PCI_DONE;
}

static void resume_device(struct pci_device *device)
{
	struct fake_pci_device *fake = fake_of(device);

	assert(fake->resting && !fake->waiting);
	fake->resting = false;
	fake->resumes++;
	fake->memory = device->memory;
}

static enum pci_result reset_device(struct pci_device *device)
{
	struct fake_pci_device *fake = fake_of(device);

	assert(!fake->waiting);
	fake->resets++;
	memset(fake->registers, 0, sizeof(fake->registers));
	memset(fake->ports, 0, sizeof(fake->ports));
	for (uint32_t i = 0; i < 0x1000; i += 4)
		pci_window_store(&device->bars[0], FAKE_PCI_WINDOW + i, 0);
	fake->waiting = fake->defer_reset;
	return fake->defer_reset ? PCI_DEFERRED : PCI_DONE;
}

static void command_changed(struct pci_device *device)
{
	fake_of(device)->commands++;
}

static void save_device(struct pci_device *device, struct parcel *parcel)
{
	struct fake_pci_device *fake = fake_of(device);

	assert(fake->resting && !fake->waiting);
	parcel_put(parcel, 1, fake->registers, sizeof(fake->registers));
	parcel_put(parcel, 2, fake->ports, sizeof(fake->ports));
}

static int load_device(struct pci_device *device, struct parcel *parcel)
{
	struct fake_pci_device *fake = fake_of(device);
	int error = parcel_get(parcel, 1, fake->registers, sizeof(fake->registers));

	assert(fake->resting && !fake->waiting);
	return error ? error : parcel_get(parcel, 2, fake->ports, sizeof(fake->ports));
}

void fake_pci_device_init(struct fake_pci_device *fake, struct engine *engine)
{
	memset(fake, 0, sizeof(*fake));
	fake->resting = true;
	fake->ops = (struct pci_device_ops){
		.type = "fake",
		.read = read_register,
		.write = write_register,
		.doorbell = doorbell,
		.pause = pause_device,
		.resume = resume_device,
		.reset = reset_device,
		.command_changed = command_changed,
		.save = save_device,
		.load = load_device,
	};
	fake->device.ops = &fake->ops;
	fake->device.name = "fake";
	fake->device.engine = engine;
	fake->device.bars[0] =
		(struct pci_bar){ .size = FAKE_PCI_BAR, .window_count = 1, .windows = { { FAKE_PCI_WINDOW, 0x1000 } } };
	fake->device.bars[2] = (struct pci_bar){ .size = FAKE_PCI_PORTS, .io = true };
	fake->device.bars[4] = (struct pci_bar){ .size = 0x1000, .wide = true };
	fake->device.config.identity = (struct pci_identity){
		.vendor = 0x1234,
		.device = 0x5678,
		.class_code = 0xff,
		.express = true,
		.pin = true,
		.msi = true,
		.msix_count = FAKE_PCI_VECTORS,
		.msix_bar = 4,
		.msix_pending = 0x800,
	};
	assert(!pci_device_init(&fake->device));
}

void fake_pci_device_release(struct fake_pci_device *fake)
{
	assert(fake->resting && !fake->waiting);
	pci_device_release(&fake->device);
}

void fake_pci_device_finish(struct fake_pci_device *fake)
{
	assert(fake->waiting);
	fake->waiting = false;
	pci_device_done(&fake->device);
}
