/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An emulated PCI device, between the transport that brings a guest's accesses (vfio-user) and the model that knows what
 * its registers mean (NVMe, Intel's network cards).
 *
 * Theory of operation
 * -------------------
 * *Registers.* A device has up to six BARs. Most registers are *trapped*: an access is a message, which the transport
 * hands to the model's read() and write() on the control thread, cut into naturally aligned pieces of 1, 2 or 4 bytes.
 * Pages that a driver touches for each packet or request can be *windows*: memory that the guest maps and that the model's
 * sidecores poll, so that an access is a plain load or store and nobody is told. The memory behind a window holds the
 * registers' values whether the guest maps it or not: an access that does come as a message (mapping switched off, or
 * disabled by the VMM) is done on that same memory by pci_device_access(), and then told to the model by doorbell(), which
 * wakes the sidecore. So a model has one way of reading a doorbell, and "mapped" against "posted" is the transport's switch.
 *
 * *Interrupts.* See device/pci/pci_interrupt.h.
 *
 * *Guest memory.* device->memory is exchanged by the transport while the device is paused, and by nobody else.
 *
 * *Rest.* What needs the device at rest (new guest memory, a reset, a register whose write ends a queue) is an *operation*
 * that may take until requests in flight are back: pause(), reset() and a write() that returns PCI_DEFERRED end with
 * pci_device_done(). The transport starts one operation at a time, and holds back the guest's next message meanwhile;
 * other guests go on. A vCPU waits for the answer, so nothing but its own requests may be waited for.
 *
 * States: disconnected (no memory, paused) -> connect: reset, resumed -> [pause, memory changes, resume]* -> disconnect:
 * paused, reset, memory = NULL. A device begins its life paused.
 *
 * *Faults.* A guest that gives a device nonsense stops that device only, by a name: pci_device_fault(). It stays so until
 * it is reset.
 *
 * Context: everything here runs on the control thread unless it says otherwise.
 */
#ifndef DEVICE_PCI_PCI_DEVICE_H
#define DEVICE_PCI_PCI_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "device/pci/pci_config.h"
#include "device/pci/pci_interrupt.h"
#include "engine/engine.h"
#include "memory/guest_memory.h"

#define PCI_BARS	6U
#define PCI_WINDOWS_MAX 8U

/** struct pci_window - part of a BAR that can be mapped by the guest; both in whole pages of 4 KiB. */
struct pci_window {
	uint32_t offset, length;
};

/**
 * struct pci_bar - one BAR as the model describes it.
 * @size:	bytes, a power of two; 0: there is none. At least 4 KiB for memory, 4 for ports
 * @io:		I/O ports
 * @wide:	64-bit: takes the next number as well, which stays empty
 * @windows:	sorted, not overlapping, inside the BAR; none for ports
 * @shared:	host address of the BAR's first byte; only what lies in windows may be touched. Hostile: the guest writes it
 *		whenever it likes. Made by pci_device_init()
 * @shared_fd:	the memory behind it: a sealed memfd, at the BAR's offsets; what the transport hands to the VMM. -1: no window
 */
struct pci_bar {
	uint64_t size;
	bool io, wide, prefetchable;
	uint8_t window_count;
	struct pci_window windows[PCI_WINDOWS_MAX];

	guest_byte *shared;
	int shared_fd;
};

/** What became of a write or an operation. */
enum pci_result {
	PCI_DONE,
	PCI_DEFERRED, /* pci_device_done() follows */
};

struct parcel;
struct pci_device;

struct pci_device_ops {
	const char *type; /* "nvme", "igb", ... */

	/**
	 * @read: a trapped register. @offset is a multiple of @size, inside the BAR and outside of windows; @size is 1, 2 or 4.
	 * Return: the value; what is not there reads as the device's data sheet says, else as zero.
	 */
	uint32_t (*read)(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size);
	enum pci_result (*write)(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size, uint32_t value);

	/** @doorbell: [@offset, +@size) of a window was written by message; its memory holds the value already. */
	void (*doorbell)(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size);

	/** @pause: come to rest: no sidecore touches guest memory or windows, no request is in flight. */
	enum pci_result (*pause)(struct pci_device *device);
	/** @resume: go on with device->memory, which may be another one, or NULL. Rings that do not lie in it fault. */
	void (*resume)(struct pci_device *device);
	/** @reset: to the state after power-on (configuration space is reset by the caller); windows are zeroed by the model. May
	 * be called paused or not, and leaves that as it was. */
	enum pci_result (*reset)(struct pci_device *device);

	/** @command_changed: the guest wrote the command register or the power state; may be NULL. */
	void (*command_changed)(struct pci_device *device);

	/**
	 * @save, @load: of a device at rest, all that a guest could tell from another one; see device/pci/pci_state.c. Both
	 * NULL: the device cannot be handed over. What is wrong is told by parcel_fail(). @load gets a device as after
	 * reset(), with its guest memory, and believes nothing; after a failure the caller resets the device.
	 */
	void (*save)(struct pci_device *device, struct parcel *parcel);
	int (*load)(struct pci_device *device, struct parcel *parcel);
};

/** struct pci_device_host - what the transport wants to be told. */
struct pci_device_host {
	void (*done)(struct pci_device *device);
	void (*faulted)(struct pci_device *device); /* may be NULL */
};

struct pci_device {
	const struct pci_device_ops *ops;
	const char *name; /* from the configuration */
	struct engine *engine;
	struct pci_bar bars[PCI_BARS];
	struct pci_config config;
	struct pci_interrupts interrupts;
	struct guest_memory *memory; /* the transport's; NULL: none */
	const struct pci_device_host *host; /* set while connected; else NULL */
	void *transport;		    /* the host's own */
	struct log_limit log_limit;

	/* faults; see pci_device_fault() */
	_Atomic(const char *) fault; /* a string that lives for ever; NULL: none */
	uint64_t faults;	     /* since the start */
	struct engine_completion fault_completion;
	atomic_bool fault_posted;

	/* counters for status; the control thread's */
	uint64_t reads, writes; /* trapped accesses, windows by message included */
	uint64_t resets;
};

/**
 * pci_device_init() - after ops, name, engine, bars and config.identity were filled in: makes the windows' memory, the
 * configuration space and the interrupts. Return: 0; -ENOMEM; errno of memfd_create(), mmap(), eventfd().
 */
int pci_device_init(struct pci_device *device);

/**
 * pci_device_renew_windows() - for the transport: another memory behind the windows, all zero. Who was given shared_fd
 * before keeps memory that nobody looks at any more. The device is paused.
 *
 * Return: 0; errno of memfd_create() and mmap(): the windows are as they were.
 */
int pci_device_renew_windows(struct pci_device *device);

/**
 * pci_device_save() - for the transport: put the device, which is at rest, into a parcel. pci_device_load(): make this one,
 * which is paused and as after a reset, the device that was saved: with its windows, its interrupts and all registers.
 *
 * Return: 0 or -EBADMSG: it is another device, or the parcel is not what it should be (parcel->reason); errno of mmap() and
 * dup3(). The device is to be reset then.
 */
void pci_device_save(struct pci_device *device, struct parcel *parcel);
int pci_device_load(struct pci_device *device, struct parcel *parcel);

/** pci_device_release() - frees what pci_device_init() made. The device is paused and has no transport; its completions have
 * run. */
void pci_device_release(struct pci_device *device);

/**
 * pci_device_config_read(), pci_device_config_write() - configuration space as the guest sees it: with the level of the pin,
 * and with what a write changes (the pin disabled, ops->command_changed()). [@offset, +@length) is inside config.size.
 *
 * Return: of the write: the guest has asked for a function level reset, which is the transport's operation (reset(), then
 * pci_device_config_reset()).
 */
void pci_device_config_read(struct pci_device *device, uint32_t offset, void *to, uint32_t length);
bool pci_device_config_write(struct pci_device *device, uint32_t offset, const void *from, uint32_t length);
/** pci_device_config_reset() - the part of a reset that is not the model's: configuration space, pin and fault. */
void pci_device_config_reset(struct pci_device *device);

/**
 * struct pci_access - one guest access to a BAR on its way through the model: in pieces, and a piece may be deferred.
 */
struct pci_access {
	uint8_t bar;
	bool write;
	uint32_t length, position; /* bytes; those that are done */
	uint64_t offset;
	uint8_t *data; /* to be written, or read into */
};

/**
 * pci_device_access() - do, or go on with, an access. The caller has checked that it lies inside the BAR.
 * Return: PCI_DEFERRED: call again after host->done(); PCI_DONE: all of it is done.
 */
enum pci_result pci_device_access(struct pci_device *device, struct pci_access *access);

/** pci_device_done() - for models: the operation that returned PCI_DEFERRED has ended. Control thread. */
static inline void pci_device_done(struct pci_device *device)
{
	if (device->host)
		device->host->done(device);
}

/**
 * pci_device_fault() - any thread: the guest gave the device nonsense. The first reason stays until pci_device_clear_fault()
 * and is logged (limited) by the control thread. The model stops by itself what must stop.
 */
void pci_device_fault(struct pci_device *device, const char *reason);
void pci_device_clear_fault(struct pci_device *device);

/* ---- windows: single accesses of naturally aligned registers, each exactly one load or store ---- */

static inline uint32_t pci_window_load(const struct pci_bar *bar, uint32_t offset)
{
	/* Acquire: what the driver stored before it rang (descriptors) is seen after this; x86 orders it so in the guest. */
	return __atomic_load_n((const uint32_t *)(const void *)(bar->shared + offset), __ATOMIC_ACQUIRE);
}

static inline void pci_window_store(const struct pci_bar *bar, uint32_t offset, uint32_t value)
{
	__atomic_store_n((uint32_t *)(void *)(bar->shared + offset), value, __ATOMIC_RELEASE);
}

/** pci_window_exchange() - take a register's value and leave @value: for write-1-to-set registers that are polled. */
static inline uint32_t pci_window_exchange(const struct pci_bar *bar, uint32_t offset, uint32_t value)
{
	return __atomic_exchange_n((uint32_t *)(void *)(bar->shared + offset), value, __ATOMIC_SEQ_CST);
}

#endif
