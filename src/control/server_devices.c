/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Interfaces and disks: a device model, then the socket in front of it.
 *
 * A device is virtio, served by vhost-user, or an emulated PCI device, served by vfio-user (struct server_frontend): the
 * configuration's "model" says which, and nothing but this file, the stop and the status has to ask. All images are
 * opened before the first disk's device is made, because an NVMe controller has several of them as namespaces.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/control_socket.h"
#include "control/server_state.h"

/* ---- sockets ----------------------------------------------------------------------------------------------------- */

static int give_to_group(const struct server *server, const char *what, const char *name, const char *path, char **error)
{
	/* lchown: the name could have been replaced by a link in the meantime, in a folder that others can write. */
	if (server->config->group_id < 0 || !lchown(path, (uid_t)-1, (gid_t)server->config->group_id))
		return 0;
	return server_failed(error, -errno,
			     "%s %s: cannot give %s to group %s: %s; the daemon must be root or a member of it", what, name,
			     path, server->config->group, strerror(errno));
}

static int socket_failed(char **error, int result, const char *what, const char *name, const char *path,
			 const char *reason)
{
	return server_failed(error, result, "%s %s: %s: %s%s%s", what, name, path, strerror(-result), reason ? "; " : "",
			     reason ? reason : "");
}

static int open_vhost_user(struct server *server, const char *what, const char *name,
			   const struct vhost_user_options *options, struct server_frontend *frontend, char **error)
{
	const char *reason = NULL;
	int result;

	if (!options->client)
		control_make_default_folder(options->path);
	result = vhost_user_server_create(options, frontend->virtio, server->base, &frontend->vhost_user, &reason);
	if (result)
		return socket_failed(error, result, what, name, options->path, reason);
	return options->client ? 0 : give_to_group(server, what, name, options->path, error);
}

static int open_vfio_user(struct server *server, const char *what, const char *name,
			  const struct vfio_user_options *options, struct server_frontend *frontend, char **error)
{
	const char *reason = NULL;
	int result;

	control_make_default_folder(options->path);
	result = vfio_user_server_create(options, frontend->pci, server->base, &frontend->vfio_user, &reason);
	if (result)
		return socket_failed(error, result, what, name, options->path, reason);
	return give_to_group(server, what, name, options->path, error);
}

/* ---- interfaces -------------------------------------------------------------------------------------------------- */

static void describe_vlan(const struct config_interface *config, struct port_vlan *vlan)
{
	if (config->vlan) {
		vlan->mode = PORT_VLAN_ACCESS;
		vlan->vlan = config->vlan;
	} else if (config->trunk_count) {
		vlan->mode = PORT_VLAN_TRUNK;
		vlan->vlan = config->native;
		for (unsigned i = 0; i < config->trunk_count; i++)
			vlan->allowed[config->trunk[i] / 64] |= 1ULL << (config->trunk[i] % 64);
	}
}

static int make_virtio_net(struct server *server, struct server_interface *interface, struct network *network)
{
	const struct config_interface *config = interface->config;
	struct virtio_net_config_options options = {
		.name = config->name,
		.queue_pairs = config->queue_pairs,
		.mtu = config->mtu,
		.queue_size_max = config->queue_size,
		.isolated = config->isolated,
		.check_mac = config->check_mac,
		.ipv4_count = (uint8_t)config->ipv4_count,
		.sidecore = config->sidecore,
	};

	memcpy(options.mac, config->address, sizeof(options.mac));
	memcpy(options.ipv4, config->ipv4_addresses, sizeof(options.ipv4));
	describe_vlan(config, &options.vlan);
	return virtio_net_create(&options, server->engine, network, &interface->frontend.virtio);
}

static int make_intel_nic(struct server *server, struct server_interface *interface, struct network *network)
{
	static const enum intel_nic_model models[] = {
		[CONFIG_NIC_IGB] = INTEL_NIC_IGB,
		[CONFIG_NIC_E1000E] = INTEL_NIC_E1000E,
		[CONFIG_NIC_E1000] = INTEL_NIC_E1000,
	};
	const struct config_interface *config = interface->config;
	struct intel_nic_options options = {
		.name = config->name,
		.model = models[config->model],
		.posted = config->doorbells == CONFIG_DOORBELLS_POSTED,
		.coalescing = config->receive_coalescing,
		.isolated = config->isolated,
		.check_mac = config->check_mac,
		.ipv4_count = (uint8_t)config->ipv4_count,
		.sidecore = config->sidecore,
	};

	memcpy(options.mac, config->address, sizeof(options.mac));
	memcpy(options.ipv4, config->ipv4_addresses, sizeof(options.ipv4));
	describe_vlan(config, &options.vlan);
	return intel_nic_create(&options, server->engine, network, &interface->frontend.pci);
}

static int open_interface_socket(struct server *server, struct server_interface *interface, char **error)
{
	const struct config_interface *config = interface->config;
	struct vhost_user_options vhost_user = {
		.path = config->socket,
		.client = config->mode == CONFIG_MODE_CLIENT,
		.memory_max = config->memory_max_bytes,
		.listeners = server->listeners,
	};
	struct vfio_user_options vfio_user = {
		.path = config->socket,
		.memory_max = config->memory_max_bytes,
		.listeners = server->listeners,
		.trap_windows = config->doorbells == CONFIG_DOORBELLS_POSTED,
	};

	if (interface->frontend.virtio)
		return open_vhost_user(server, "interface", config->name, &vhost_user, &interface->frontend, error);
	return open_vfio_user(server, "interface", config->name, &vfio_user, &interface->frontend, error);
}

int server_build_interface(struct server *server, const struct config_interface *config, char **error)
{
	struct server_interface *interface = &server->interfaces[server->interface_count++];
	struct network *network = server->networks[config->network_index].network;
	int result;

	interface->config = config;
	interface->wait.server = server;
	if (config->model == CONFIG_NIC_VIRTIO)
		result = make_virtio_net(server, interface, network);
	else
		result = make_intel_nic(server, interface, network);
	if (result == -ENOSPC)
		return server_failed(error, result,
				     "interface %s: network %s has no room for more than %u ports; make another network",
				     config->name, config->network, NETWORK_PORTS_MAX);
	if (result)
		return server_failed(error, result, "interface %s: %s", config->name, strerror(-result));
	return open_interface_socket(server, interface, error);
}

const struct port *server_interface_port(const struct server_interface *interface)
{
	if (interface->frontend.virtio)
		return virtio_net_port(interface->frontend.virtio);
	return intel_nic_port(interface->frontend.pci);
}

/* ---- disks ------------------------------------------------------------------------------------------------------- */

static int open_disk(struct server *server, const struct config_disk *config, char **error)
{
	static const int types[] = {
		[CONFIG_BACKEND_FILE] = DISK_FILE,
		[CONFIG_BACKEND_RAM] = DISK_RAM,
		[CONFIG_BACKEND_NULL] = DISK_NULL,
		[CONFIG_BACKEND_NBD] = DISK_NBD,
	};
	struct server_disk *disk = &server->disks[server->disk_count++];
	struct disk_config image = {
		.name = config->name,
		.path = config->backend->path,
		.uri = config->backend->uri,
		.size = config->backend->size_bytes,
		.block_size = config->block_size,
		.read_only = config->read_only,
		.direct = config->backend->direct,
		.timeout = config->backend->timeout_ms,
		.handover = config->backend->handover,
		.serial = config->serial,
	};
	const char *reason = NULL;
	int result;

	image.type = types[config->backend->type];
	disk->config = config;
	disk->wait.server = server;
	if (config->controller_index >= 0)
		disk->controller = &server->disks[config->controller_index];
	result = disk_open(&image, server->engine, &disk->disk, &reason);
	if (result)
		return server_failed(error, result, "%s", reason ? reason : strerror(-result)); /* names the disk */
	return 0;
}

int server_open_disks(struct server *server, char **error)
{
	const struct config *config = server->config;
	int result = 0;

	for (unsigned i = 0; !result && i < config->disks_count; i++)
		result = open_disk(server, &config->disks[i], error);
	return result;
}

static int make_virtio_blk(struct server *server, struct server_disk *disk)
{
	struct virtio_blk_options options = {
		.name = disk->config->name,
		.queues = disk->config->queues,
		.queue_size_max = disk->config->queue_size,
		.sidecore = disk->config->sidecore,
	};

	return virtio_blk_create(&options, server->engine, disk->disk, &disk->frontend.virtio);
}

static int make_nvme(struct server *server, struct server_disk *disk)
{
	struct nvme_options options = {
		.name = disk->config->name,
		.serial = disk->config->serial,
		.queues = disk->config->queues,
		.queue_entries = disk->config->queue_size,
		.posted = disk->config->doorbells == CONFIG_DOORBELLS_POSTED,
		.sidecore = disk->config->sidecore,
	};

	/* The controller's own disk is namespace 1; the others follow in the order of the file. */
	options.disks[options.disk_count++] = disk->disk;
	for (unsigned i = 0; i < server->disk_count; i++) {
		struct server_disk *other = &server->disks[i];

		if (other->controller != disk)
			continue;
		other->namespace_index = options.disk_count;
		options.disks[options.disk_count++] = other->disk;
	}
	disk->namespace_count = options.disk_count;
	return nvme_create(&options, server->engine, &disk->frontend.pci);
}

int server_build_disk(struct server *server, struct server_disk *disk, char **error)
{
	const struct config_disk *config = disk->config;
	struct vhost_user_options vhost_user = {
		.path = config->socket,
		.client = config->mode == CONFIG_MODE_CLIENT,
		.memory_max = config->memory_max_bytes,
		.listeners = server->listeners,
	};
	struct vfio_user_options vfio_user = {
		.path = config->socket,
		.memory_max = config->memory_max_bytes,
		.listeners = server->listeners,
		.trap_windows = config->doorbells == CONFIG_DOORBELLS_POSTED,
	};
	int result;

	if (disk->controller)
		return 0; /* a namespace: its controller has the device and the socket */
	result = config->model == CONFIG_DISK_NVME ? make_nvme(server, disk) : make_virtio_blk(server, disk);
	if (result)
		return server_failed(error, result, "disk %s: %s", config->name, strerror(-result));
	if (disk->frontend.virtio)
		return open_vhost_user(server, "disk", config->name, &vhost_user, &disk->frontend, error);
	return open_vfio_user(server, "disk", config->name, &vfio_user, &disk->frontend, error);
}

void server_disk_resized(struct server_disk *disk)
{
	struct server_disk *owner = disk->controller ? disk->controller : disk;

	if (owner->frontend.virtio)
		virtio_blk_resized(owner->frontend.virtio);
	else
		nvme_resized(owner->frontend.pci, disk->namespace_index);
}
