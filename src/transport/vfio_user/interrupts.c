/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * DEVICE_SET_IRQS: how the client is told of interrupts. How they are raised: device/pci/pci_interrupt.h.
 *
 * Theory of operation
 * -------------------
 * A message names an index (the kind of interrupt), a range of its vectors, one action and one form of data:
 *
 *	             NONE               BOOL                    EVENTFD
 *	TRIGGER      raise them all     those that are true     signal these when they are raised; no fd: take away
 *	MASK/UNMASK  all, the pin only  those that are true     (un)mask when these are signalled; no fd: take away
 *
 * TRIGGER with NONE and a count of 0 disables the whole index. Vectors of MSI and MSI-X are masked by the VMM, which does
 * not tell us. The indices of errors and device requests are accepted and never signalled: nothing here fails in such a way.
 *
 * The pin can be unmasked by message, or by an eventfd that KVM signals at the guest's end of interrupt; the client's vCPU
 * then never leaves the kernel. Such an eventfd is watched and never read: edge-triggered, so that each signal is seen,
 * and a client that reads it, or has made it blocking, cannot make us wait.
 *
 * Context: control thread. Trust boundary: transport/vfio_user/connection.c.
 */
#include <errno.h>
#include <event2/event.h>
#include <poll.h>

#include "base/checked.h"
#include "base/disposal.h"
#include "base/file_kind.h"
#include "base/notifier.h"
#include "transport/vfio_user/connection.h"
#include "transport/vfio_user/handlers.h"

#define DATA   (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD)
#define ACTION (VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER)

_Static_assert(PCI_INTERRUPT_PIN == (int)VFIO_PCI_INTX_IRQ_INDEX && PCI_INTERRUPT_MSI == (int)VFIO_PCI_MSI_IRQ_INDEX &&
		       PCI_INTERRUPT_MSIX == (int)VFIO_PCI_MSIX_IRQ_INDEX,
	       "indices are kinds");

static void mask_signalled(evutil_socket_t fd, short what, void *context)
{
	struct vfio_user_connection *connection = context;

	if (connection->mask_watch.stale) {
		connection->mask_watch.stale = false;
		return;
	}
	pci_interrupt_pin_mask(&connection->device->interrupts);
}

static void unmask_signalled(evutil_socket_t fd, short what, void *context)
{
	struct vfio_user_connection *connection = context;

	pci_interrupt_pin_unmask(&connection->device->interrupts, engine_notifier(connection->device->engine));
}

static void unwatch(struct vfio_user_connection *connection, struct vfio_user_watch *watch)
{
	if (watch->event)
		event_free(watch->event);
	watch->event = NULL;
	disposal_close(connection->disposal, watch->fd);
	watch->fd = -1;
}

/* @fd becomes the watch's, unless there is an error. */
static int watch(struct vfio_user_connection *connection, struct vfio_user_watch *watch, int fd,
		 event_callback_fn signalled)
{
	struct event *event = event_new(connection->base, fd, EV_READ | EV_PERSIST | EV_ET, signalled, connection);

	if (!event || event_add(event, NULL)) {
		if (event)
			event_free(event);
		return -ENOMEM;
	}
	unwatch(connection, watch);
	watch->fd = fd;
	watch->event = event;
	return 0;
}

int vfio_user_watch_pin(struct vfio_user_connection *connection, bool unmask, int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	if (unmask)
		return watch(connection, &connection->unmask_watch, fd, unmask_signalled);
	/*
	 * The eventfd is never read, so what was signalled to the daemon before is told once more. To unmask in vain
	 * costs a needless interrupt at most; to mask in vain would be a hang. A signal that came in between is lost
	 * with it, which again costs an interrupt.
	 */
	connection->mask_watch.stale = poll(&poll_fd, 1, 0) == 1;
	return watch(connection, &connection->mask_watch, fd, mask_signalled);
}

void vfio_user_interrupts_release(struct vfio_user_connection *connection)
{
	struct pci_interrupts *interrupts = &connection->device->interrupts;

	unwatch(connection, &connection->mask_watch);
	unwatch(connection, &connection->unmask_watch);
	for (unsigned kind = 0; kind < PCI_INTERRUPT_KINDS; kind++)
		pci_interrupts_disable(interrupts, (enum pci_interrupt_kind)kind);
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static int check_files(struct vfio_user_connection *connection, const struct vfio_user_irq_set *set,
		       const struct vfio_user_message *message)
{
	if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) {
		if (message->fd_count && message->fd_count != set->count)
			return vfio_user_refuse(connection, -EINVAL, "not one file descriptor for each vector");
	} else if (message->fd_count) {
		return vfio_user_refuse(connection, -EINVAL, "file descriptors that nothing is said of");
	}
	for (unsigned i = 0; i < message->fd_count; i++) {
		if (!file_is_eventfd(message->fds[i]))
			return vfio_user_refuse(connection, -EINVAL, "file that is no eventfd");
	}
	return 0;
}

/* Everything, for all indices alike. */
static int check_set(struct vfio_user_connection *connection, const struct vfio_user_irq_set *set,
		     const struct vfio_user_message *message)
{
	const struct pci_interrupts *interrupts = &connection->device->interrupts;
	uint32_t data = set->flags & DATA, action = set->flags & ACTION, available;
	uint32_t booleans = message->size - (uint32_t)sizeof(*set);

	if (set->argsz < sizeof(*set))
		return vfio_user_refuse(connection, -EINVAL, "size that is too small");
	/* One of each, and nothing else: a power of two has one bit. */
	if (set->flags & ~(DATA | ACTION) || !data || data & (data - 1) || !action || action & (action - 1))
		return vfio_user_refuse(connection, -EINVAL, "not one kind of data and one action");
	if (set->index >= VFIO_PCI_NUM_IRQS)
		return vfio_user_refuse(connection, -EINVAL, "there is no interrupt of this index");
	available = set->index < PCI_INTERRUPT_KINDS ? interrupts->counts[set->index] : 1;
	if (!range_inside(set->start, set->count, available))
		return vfio_user_refuse(connection, -EINVAL, "there is no such vector");
	if (!set->count && set->flags != (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER))
		return vfio_user_refuse(connection, -EINVAL, "no vectors");
	if (booleans != (data == VFIO_IRQ_SET_DATA_BOOL ? set->count : 0))
		return vfio_user_refuse(connection, -EINVAL, "not one boolean for each vector");
	if (action != VFIO_IRQ_SET_ACTION_TRIGGER &&
	    (set->index == VFIO_PCI_MSI_IRQ_INDEX || set->index == VFIO_PCI_MSIX_IRQ_INDEX))
		return vfio_user_refuse(connection, -ENOTTY, "only the pin can be masked");
	return check_files(connection, set, message);
}

/* ---- actions ----------------------------------------------------------------------------------------------------- */

static bool meant(const struct vfio_user_irq_set *set, uint32_t i)
{
	return !(set->flags & VFIO_IRQ_SET_DATA_BOOL) || set->booleans[i];
}

/* The client raises the interrupts itself, to try them: to whoever waits for them, and whatever the device thinks. */
static void raise_vectors(struct vfio_user_connection *connection, const struct vfio_user_irq_set *set)
{
	struct pci_interrupts *interrupts = &connection->device->interrupts;

	for (uint32_t i = 0; i < set->count; i++) {
		if (meant(set, i) && interrupts->given[set->index][set->start + i])
			notifier_signal(engine_notifier(connection->device->engine),
					interrupts->fds[set->index][set->start + i]);
	}
}

static int trigger(struct vfio_user_connection *connection, const struct vfio_user_irq_set *set,
		   const struct vfio_user_message *message)
{
	struct pci_interrupts *interrupts = &connection->device->interrupts;
	enum pci_interrupt_kind kind = (enum pci_interrupt_kind)set->index;

	if (!set->count) {
		pci_interrupts_disable(interrupts, kind);
		return 0;
	}
	if (!(set->flags & VFIO_IRQ_SET_DATA_EVENTFD)) {
		raise_vectors(connection, set);
		return 0;
	}
	for (uint32_t i = 0; i < set->count; i++) {
		int error =
			pci_interrupts_set(interrupts, kind, set->start + i, message->fd_count ? message->fds[i] : -1);

		if (error)
			return vfio_user_refuse(connection, error, "eventfd that cannot be taken over");
	}
	return 0;
}

static int mask(struct vfio_user_connection *connection, const struct vfio_user_irq_set *set,
		struct vfio_user_message *message)
{
	struct pci_device *device = connection->device;
	bool unmask = set->flags & VFIO_IRQ_SET_ACTION_UNMASK;
	struct vfio_user_watch *place = unmask ? &connection->unmask_watch : &connection->mask_watch;
	int error;

	if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD) {
		if (!message->fd_count) {
			unwatch(connection, place);
			return 0;
		}
		place->stale = false;
		error = watch(connection, place, message->fds[0], unmask ? unmask_signalled : mask_signalled);
		if (!error)
			message->fds[0] = -1;
		return error;
	}
	if (!meant(set, 0))
		return 0;
	if (unmask)
		pci_interrupt_pin_unmask(&device->interrupts, engine_notifier(device->engine));
	else
		pci_interrupt_pin_mask(&device->interrupts);
	return 0;
}

int vfio_user_set_irqs(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	const struct vfio_user_irq_set *set = &message->payload.irqs;
	int error = check_set(connection, set, message);

	if (error)
		return error;
	message->size = 0;
	if (set->index >= PCI_INTERRUPT_KINDS)
		return 0;
	return set->flags & VFIO_IRQ_SET_ACTION_TRIGGER ? trigger(connection, set, message)
							: mask(connection, set, message);
}
