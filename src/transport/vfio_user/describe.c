/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the device is: regions and interrupts, in the words of Linux's VFIO (linux/vfio.h). Regions 0 to 5 are the BARs, 7
 * is the configuration space; the others are there, and empty. Context: transport/vfio_user/connection.c.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "transport/vfio_user/connection.h"
#include "transport/vfio_user/handlers.h"

_Static_assert(sizeof(((struct vfio_user_region_info *)0)->areas) / sizeof(struct vfio_region_sparse_mmap_area) ==
		       PCI_WINDOWS_MAX,
	       "room for all windows");

int vfio_user_get_info(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	struct vfio_user_device_info *info = &message->payload.device;

	if (info->argsz < sizeof(*info))
		return vfio_user_refuse(connection, -EINVAL, "no room for the answer");
	*info = (struct vfio_user_device_info){
		.argsz = sizeof(*info),
		.flags = VFIO_DEVICE_FLAGS_RESET | VFIO_DEVICE_FLAGS_PCI,
		.num_regions = VFIO_PCI_NUM_REGIONS,
		.num_irqs = VFIO_PCI_NUM_IRQS,
	};
	return 0;
}

/* The windows of a BAR, as areas that can be mapped. Return: bytes of the capability. */
static uint32_t describe_windows(const struct pci_bar *bar, struct vfio_user_region_info *region)
{
	region->capability =
		(struct vfio_info_cap_header){ .id = VFIO_REGION_INFO_CAP_SPARSE_MMAP, .version = 1, .next = 0 };
	region->area_count = bar->window_count;
	region->reserved = 0;
	for (unsigned i = 0; i < bar->window_count; i++)
		region->areas[i] = (struct vfio_region_sparse_mmap_area){ .offset = bar->windows[i].offset,
									  .size = bar->windows[i].length };
	return (uint32_t)(offsetof(struct vfio_user_region_info, areas[bar->window_count]) -
			  offsetof(struct vfio_user_region_info, capability));
}

int vfio_user_get_region_info(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	const struct pci_device *device = connection->device;
	struct vfio_user_region_info *region = &message->payload.region;
	uint32_t room = region->info.argsz, index = region->info.index, capability = 0;
	const struct pci_bar *bar = index < PCI_BARS ? &device->bars[index] : NULL;

	if (room < sizeof(region->info))
		return vfio_user_refuse(connection, -EINVAL, "no room for the answer");
	if (index >= VFIO_PCI_NUM_REGIONS)
		return vfio_user_refuse(connection, -EINVAL, "there is no region of this index");

	region->info = (struct vfio_region_info){ .index = index };
	if (index == VFIO_PCI_CONFIG_REGION_INDEX)
		region->info.size = device->config.size;
	else if (bar)
		region->info.size = bar->size;
	if (region->info.size)
		region->info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

	message->size = sizeof(region->info);
	if (bar && bar->window_count && bar->shared_fd >= 0 && !connection->trap_windows) {
		region->info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
		capability = describe_windows(bar, region);
		/* Without room for it, the client learns from argsz that there is more, and asks again. */
		if (room >= sizeof(region->info) + capability) {
			region->info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
			region->info.cap_offset = offsetof(struct vfio_user_region_info, capability);
			message->size += capability;
			connection->reply_fd = bar->shared_fd;
			connection->windows_given = true;
		}
	}
	region->info.argsz = (uint32_t)sizeof(region->info) + capability;
	return 0;
}

/* Nothing of ours is reached by an eventfd: what is rung often lies in windows. */
int vfio_user_get_region_io_fds(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	struct vfio_user_region_io_fds *fds = &message->payload.region_io_fds;

	if (fds->argsz < sizeof(*fds))
		return vfio_user_refuse(connection, -EINVAL, "no room for the answer");
	if (fds->flags)
		return vfio_user_refuse(connection, -EINVAL, "flags that are not zero");
	if (fds->index >= VFIO_PCI_NUM_REGIONS)
		return vfio_user_refuse(connection, -EINVAL, "there is no region of this index");
	fds->argsz = sizeof(*fds);
	fds->count = 0;
	return 0;
}

int vfio_user_get_irq_info(struct vfio_user_connection *connection, struct vfio_user_message *message)
{
	const struct pci_interrupts *interrupts = &connection->device->interrupts;
	struct vfio_irq_info *irq = &message->payload.irq;

	if (irq->argsz < sizeof(*irq))
		return vfio_user_refuse(connection, -EINVAL, "no room for the answer");
	irq->argsz = sizeof(*irq);
	irq->flags = VFIO_IRQ_INFO_EVENTFD;
	switch (irq->index) {
	case VFIO_PCI_INTX_IRQ_INDEX:
		irq->flags |= VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
		irq->count = interrupts->counts[PCI_INTERRUPT_PIN];
		break;
	case VFIO_PCI_MSI_IRQ_INDEX:
		irq->count = interrupts->counts[PCI_INTERRUPT_MSI];
		break;
	case VFIO_PCI_MSIX_IRQ_INDEX:
		irq->count = interrupts->counts[PCI_INTERRUPT_MSIX];
		break;
	case VFIO_PCI_ERR_IRQ_INDEX:
	case VFIO_PCI_REQ_IRQ_INDEX:
		irq->count = 1; /* never signalled, see interrupts.c */
		break;
	default:
		return vfio_user_refuse(connection, -EINVAL, "there is no interrupt of this index");
	}
	return 0;
}
