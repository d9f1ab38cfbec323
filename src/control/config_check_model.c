/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Models: which keys have a meaning for which, and namespaces.
 *
 * A key that means nothing for a model is a misunderstanding, not to be ignored. Emulated devices come by vfio-user, where
 * the virtual machine monitor always connects to us; how many queues they have, and how large these are, their drivers choose
 * within what the hardware has.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "control/config_check.h"

#define BIT(number) (1U << (number))

/** struct model_key - a key and the models that it belongs to. */
struct model_key {
	const char *key;
	unsigned models;
};

static int check_keys(struct config_document *document, const char *section, unsigned index, const char *what,
		      const struct model_key *keys, unsigned count, int model, const char *name)
{
	for (unsigned i = 0; i < count; i++) {
		struct config_place place = PLACE(section, (int)index, keys[i].key);

		if (config_document_has(document, place) && !(keys[i].models & BIT(model)))
			return FAIL(place, "\"%s\" means nothing to %s of model %s; remove it", keys[i].key, what, name);
	}
	return 0;
}

static int check_mode(struct config_document *document, const char *section, unsigned index, int mode, const char *name)
{
	if (mode == CONFIG_MODE_SERVER)
		return 0;
	return FAIL(PLACE(section, (int)index, "mode"),
		    "virtual machine monitors connect to an emulated device (%s) and never listen for it; remove \"mode\"",
		    name);
}

int config_check_nic_model(const struct config *config, struct config_document *document, unsigned index)
{
	static const struct model_key keys[] = {
		{ "doorbells", BIT(CONFIG_NIC_IGB) | BIT(CONFIG_NIC_E1000E) | BIT(CONFIG_NIC_E1000) },
		{ "receive_coalescing", BIT(CONFIG_NIC_IGB) },
		{ "queue_pairs", BIT(CONFIG_NIC_VIRTIO) },
		{ "queue_size", BIT(CONFIG_NIC_VIRTIO) },
		{ "mtu", BIT(CONFIG_NIC_VIRTIO) },
	};
	const struct config_interface *interface = &config->interfaces[index];
	const char *name = config_nic_model_name(interface->model);

	/* Two models that one might expect it of; virtio has large frames anyway. */
	if (interface->receive_coalescing &&
	    (interface->model == CONFIG_NIC_E1000E || interface->model == CONFIG_NIC_E1000))
		return FAIL(PLACE("interfaces", (int)index, "receive_coalescing"),
			    "drivers of %s throw away frames that take several descriptors; use model igb, or remove it",
			    name);
	if (check_keys(document, "interfaces", index, "an interface", keys, array_size(keys), interface->model, name))
		return -EINVAL;
	return interface->model == CONFIG_NIC_VIRTIO ? 0
						     : check_mode(document, "interfaces", index, interface->mode, name);
}

/* ---- namespaces -------------------------------------------------------------------------------------------------- */

static int find_controller(struct config *config, struct config_document *document, unsigned index)
{
	struct config_disk *disk = &config->disks[index];
	struct config_place place = PLACE("disks", (int)index, "controller");
	unsigned namespaces = 1; /* the controller's own */

	for (unsigned i = 0; i < config->disks_count; i++) {
		const struct config_disk *other = &config->disks[i];

		if (!strcmp(other->name, disk->controller))
			disk->controller_index = (int)i;
		if (i < index && other->controller && !strcmp(other->controller, disk->controller))
			namespaces++;
	}
	if (disk->controller_index < 0)
		return FAIL(place, "there is no disk \"%.60s\"; name one of model nvme", disk->controller);
	if (disk->controller_index == (int)index)
		return FAIL(place, "%s cannot be a namespace of itself; remove \"controller\"", disk->name);
	if (config->disks[disk->controller_index].controller)
		return FAIL(place, "%s is a namespace itself; name its controller, %.60s", disk->controller,
			    config->disks[disk->controller_index].controller);
	if (config->disks[disk->controller_index].model != CONFIG_DISK_NVME)
		return FAIL(place, "%s has no controller; give it \"model: nvme\"", disk->controller);
	if (namespaces >= CONFIG_NAMESPACES_MAX)
		return FAIL(place, "%s has %u namespaces already, which is the most; use another controller",
			    disk->controller, namespaces);
	return 0;
}

static int check_namespace(struct config *config, struct config_document *document, unsigned index)
{
	static const char *const keys[] = {
		"socket", "mode", "doorbells", "queues", "queue_size", "serial", "sidecore", "memory_max",
	};
	struct config_disk *disk = &config->disks[index];

	for (unsigned i = 0; i < array_size(keys); i++) {
		struct config_place place = PLACE("disks", (int)index, keys[i]);

		if (config_document_has(document, place))
			return FAIL(place, "\"%s\" belongs to the controller, %.60s; remove it here", keys[i],
				    disk->controller);
	}
	if (config_document_has(document, PLACE("disks", (int)index, "model")) && disk->model != CONFIG_DISK_NVME)
		return FAIL(PLACE("disks", (int)index, "model"),
			    "a disk with a \"controller\" is a namespace of it; remove one of the two");
	disk->model = CONFIG_DISK_NVME;
	return find_controller(config, document, index);
}

int config_check_disk_model(struct config *config, struct config_document *document, unsigned index)
{
	static const struct model_key keys[] = {
		{ "doorbells", BIT(CONFIG_DISK_NVME) },
	};
	struct config_disk *disk = &config->disks[index];
	struct config_place handover = PLACE("disks", (int)index, "backend", "handover");
	int error;

	disk->controller_index = -1;
	if (disk->controller)
		error = check_namespace(config, document, index);
	else
		error = check_keys(document, "disks", index, "a disk", keys, array_size(keys), disk->model,
				   config_disk_model_name(disk->model));
	if (error || disk->model == CONFIG_DISK_VIRTIO)
		return error;
	if (disk->backend->handover)
		return FAIL(handover, "guests with emulated devices cannot be migrated; remove \"handover\"");
	return check_mode(document, "disks", index, disk->mode, config_disk_model_name(disk->model));
}
