/* SPDX-License-Identifier: BSD-3-Clause */
/* Status of what a guest sees: the model, its connection, and what concerns emulated devices only. */
#include <stdio.h>

#include "control/server_state.h"
#include "control/status.h"

static void set_hexadecimal(json_t *object, const char *key, uint64_t value)
{
	char text[19];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)value);
	status_set_text(object, key, text);
}

static void describe_vhost_user(json_t *object, const struct vhost_user_server *transport)
{
	struct vhost_user_status status = { 0 };

	vhost_user_server_read_status(transport, &status);
	json_object_set_new(object, "connected", json_boolean(status.connected));
	status_set_count(object, "connections", status.connections);
	status_set_count(object, "messages", status.messages);
	status_set_count(object, "refused", status.refused);
	status_set_text(object, "last_error", status.last_error);
	status_set_count(object, "memory", status.memory);
	status_set_count(object, "memory_regions", status.regions);
	status_set_count(object, "log_missed", status.log_missed);
	set_hexadecimal(object, "features", status.features);
	set_hexadecimal(object, "protocol_features", status.protocol_features);
}

static const char *interrupt_name(const struct pci_interrupts *interrupts)
{
	static const char *const names[] = {
		[PCI_INTERRUPT_PIN] = "intx",
		[PCI_INTERRUPT_MSI] = "msi",
		[PCI_INTERRUPT_MSIX] = "msix",
		[PCI_INTERRUPT_NONE] = "none",
	};

	return names[pci_interrupts_kind(interrupts)];
}

static json_t *describe_pci(const struct pci_device *device, const struct vfio_user_status *status)
{
	json_t *object = json_object(), *messages = json_object();

	status_set_text(object, "fault", atomic_load_explicit(&device->fault, memory_order_relaxed));
	status_set_count(object, "faults", device->faults);
	status_set_count(object, "resets", device->resets);
	status_set_text(object, "interrupt", interrupt_name(&device->interrupts));
	status_set_count(object, "interrupts",
			 atomic_load_explicit(&device->interrupts.signals, memory_order_relaxed));
	status_set_count(object, "trapped_reads", device->reads);
	status_set_count(object, "trapped_writes", device->writes);
	status_set_count(messages, "region_reads", status->region_reads);
	status_set_count(messages, "region_writes", status->region_writes);
	status_set_count(messages, "interrupts", status->interrupt_messages);
	status_set_count(messages, "memory", status->memory_messages);
	json_object_set_new(object, "messages", messages);
	return object;
}

static void describe_vfio_user(json_t *object, const struct pci_device *device, const struct vfio_user_server *transport)
{
	struct vfio_user_status status = { 0 };

	vfio_user_server_read_status(transport, &status);
	json_object_set_new(object, "connected", json_boolean(status.connected));
	status_set_count(object, "connections", status.connections);
	status_set_count(object, "messages", status.messages);
	status_set_count(object, "refused", status.refused);
	status_set_text(object, "last_error", status.last_error);
	status_set_count(object, "memory", status.memory);
	status_set_count(object, "memory_regions", status.regions);
	json_object_set_new(object, "pci", describe_pci(device, &status));
}

void status_describe_frontend(json_t *object, const struct server_frontend *frontend, const char *path)
{
	status_set_text(object, "model", frontend->virtio ? "virtio" : frontend->pci->ops->type);
	status_set_text(object, "socket", path);
	if (frontend->virtio)
		describe_vhost_user(object, frontend->vhost_user);
	else
		describe_vfio_user(object, frontend->pci, frontend->vfio_user);
}
