/* SPDX-License-Identifier: BSD-3-Clause */
/* What the commands of the control socket do. */
#include "control/control_command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/server.h"
#include "control/server_state.h"
#include "control/status.h"

#define ADDRESSES_MAX 4096U

static json_t *execute_addresses(struct server *server, const struct control_request *request)
{
	struct network_address *addresses;
	json_t *list = json_array();
	unsigned count;

	for (unsigned i = 0; i < server->network_count; i++) {
		const struct server_network *network = &server->networks[i];

		if (strcmp(network->config->name, request->network))
			continue;
		addresses = calloc(ADDRESSES_MAX, sizeof(*addresses));
		count = addresses ? network_read_addresses(network->network, addresses, ADDRESSES_MAX) : 0;
		for (unsigned j = 0; j < count; j++) {
			char mac[STATUS_MAC_SIZE];

			status_format_mac(addresses[j].mac, mac);
			json_array_append_new(list, json_pack("{s:s, s:i, s:i, s:i}", "mac", mac, "vlan",
							      addresses[j].vlan, "port", addresses[j].port,
							      "age_seconds", (int)addresses[j].age_seconds));
		}
		free(addresses);
		return json_pack("{s:o}", "addresses", list);
	}
	json_decref(list);
	return control_error("\"status\" lists the networks", "there is no network \"%.60s\"", request->network);
}

static json_t *execute_resize(struct server *server, const struct control_request *request)
{
	const char *reason = NULL;
	struct disk_limits limits;
	int result;

	for (unsigned i = 0; i < server->disk_count; i++) {
		struct server_disk *disk = &server->disks[i];

		if (strcmp(disk->config->name, request->disk))
			continue;
		if (request->size % disk->config->block_size)
			return control_error("round it", "size must be a multiple of the block size of %u bytes",
					     disk->config->block_size);
		result = disk_resize(disk->disk, request->size, &reason);
		if (result)
			return control_error(reason ? reason : "see the log", "cannot resize disk %.60s: %s",
					     request->disk, strerror(-result));
		server_disk_resized(disk);
		disk_read_limits(disk->disk, &limits);
		return json_pack("{s:s, s:I}", "disk", disk->config->name, "size", (json_int_t)limits.size);
	}
	return control_error("\"status\" lists the disks", "there is no disk \"%.60s\"", request->disk);
}

static json_t *execute_announce(struct server *server, const struct control_request *request)
{
	int result;

	for (unsigned i = 0; i < server->interface_count; i++) {
		struct server_interface *interface = &server->interfaces[i];

		if (strcmp(interface->config->name, request->interface))
			continue;
		if (!interface->frontend.virtio)
			return control_error("its driver announces itself when the link comes up: see \"link\"",
					     "cannot announce %.60s: it is an emulated card (%s)", request->interface,
					     interface->frontend.pci->ops->type);
		result = interface->frontend.virtio->ops->announce(interface->frontend.virtio, interface->config->address);
		if (result)
			return control_error("its queues must be running: see \"status\"", "cannot announce %.60s: %s",
					     request->interface, strerror(-result));
		return json_pack("{s:s}", "announced", interface->config->name);
	}
	return control_error("\"status\" lists the interfaces", "there is no interface \"%.60s\"", request->interface);
}

static json_t *execute_link(struct server *server, const struct control_request *request)
{
	for (unsigned i = 0; i < server->interface_count; i++) {
		struct server_interface *interface = &server->interfaces[i];

		if (strcmp(interface->config->name, request->interface))
			continue;
		/* QEMU answers what a virtio driver asks of its link by itself. */
		if (!interface->frontend.pci)
			return control_error("use QEMU's command set_link",
					     "the link of %.60s is up to its virtual machine monitor", request->interface);
		intel_nic_set_link(interface->frontend.pci, request->up);
		return json_pack("{s:s, s:s}", "interface", interface->config->name, "link", request->up ? "up" : "down");
	}
	return control_error("\"status\" lists the interfaces", "there is no interface \"%.60s\"", request->interface);
}

static json_t *execute_restart(struct server *server)
{
	const char *reason = NULL;
	char obstacle[256];

	if (server_restart_obstacle(server, obstacle, sizeof(obstacle)))
		return control_error("mend it or end that guest first, or stop and start the daemon",
				     "not restarted: %s", obstacle);
	if (!server->restart || server->restart(server->restart_context, &reason))
		return control_error("see the log; the daemon goes on as it is", "not restarted: %s",
				     reason ? reason : "this program cannot");
	return json_pack("{s:s}", "restart", "begun");
}

json_t *control_execute(struct server *server, const char *line, size_t length)
{
	struct control_request request;
	json_t *answer = NULL;

	if (control_parse(line, length, &request, &answer))
		return answer;
	switch (request.command) {
	case CONTROL_STATUS:
		answer = status_describe(server);
		break;
	case CONTROL_ADDRESSES:
		answer = execute_addresses(server, &request);
		break;
	case CONTROL_RESIZE:
		answer = execute_resize(server, &request);
		break;
	case CONTROL_LINK:
		answer = execute_link(server, &request);
		break;
	case CONTROL_RESTART:
		answer = execute_restart(server);
		break;
	default:
		answer = execute_announce(server, &request);
		break;
	}
	control_request_release(&request);
	return answer;
}
