/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Status: counters of all rooms, read relaxed while the sidecores write them, put into one JSON object.
 *
 * A number may be a batch younger than its neighbour; none is ever torn, and none goes back. Rates are of the last full
 * second, sampled by a timer of the control thread, so that asking often does not change the answer.
 */
#include "control/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "control/server_state.h"

#define ADDRESSES_MAX 4096U

void status_format_mac(const uint8_t mac[6], char text[STATUS_MAC_SIZE])
{
	snprintf(text, STATUS_MAC_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
		 mac[5]);
}

void status_set_count(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

void status_set_text(json_t *object, const char *key, const char *text)
{
	json_object_set_new(object, key, text ? json_string(text) : json_null());
}

static void describe_port(json_t *object, const struct port *port)
{
	struct port_counters sum;
	json_t *drops = json_object();

	port_read_counters(port, &sum);
	status_set_count(object, "in_frames", sum.in_frames);
	status_set_count(object, "in_bytes", sum.in_bytes);
	status_set_count(object, "out_frames", sum.out_frames);
	status_set_count(object, "out_bytes", sum.out_bytes);
	status_set_count(object, "flooded", sum.flooded);
	status_set_count(object, "segmented", sum.segmented);
	status_set_count(object, "coalesced", sum.coalesced);
	status_set_count(object, "checksummed", sum.checksummed);
	status_set_count(object, "waits", sum.waits);
	for (unsigned reason = 0; reason < PORT_DROPS; reason++) {
		if (sum.drops[reason])
			status_set_count(drops, port_drop_name(reason), sum.drops[reason]);
	}
	json_object_set_new(object, "drops", drops);
}

static json_t *describe_uplink(const struct server_network *network)
{
	json_t *object;

	if (!network->uplink)
		return json_null();
	object = json_object();
	status_set_text(object, "type", uplink_port(network->uplink)->ops->kind);
	status_set_text(object, "state", uplink_state(network->uplink));
	describe_port(object, uplink_port(network->uplink));
	return object;
}

static json_t *describe_networks(const struct server *server)
{
	struct network_address *addresses = calloc(ADDRESSES_MAX, sizeof(*addresses));
	json_t *networks = json_object();

	for (unsigned i = 0; addresses && i < server->network_count; i++) {
		const struct server_network *network = &server->networks[i];
		json_t *object = json_object();

		json_object_set_new(object, "uplink", describe_uplink(network));
		status_set_count(object, "addresses", network_read_addresses(network->network, addresses, ADDRESSES_MAX));
		json_object_set_new(networks, network->config->name, object);
	}
	free(addresses);
	return networks;
}

/* Emulated devices have no virtqueues. */
static json_t *describe_queues(const struct server *server, const struct server_frontend *frontend)
{
	return frontend->virtio ? status_describe_queues(server, frontend->virtio) : json_array();
}

static json_t *describe_interface(const struct server *server, const struct server_interface *interface)
{
	const struct server_flow *flow = &interface->flow;
	json_t *object = json_object();
	char mac[STATUS_MAC_SIZE];

	status_format_mac(interface->config->address, mac);
	status_set_text(object, "network", interface->config->network);
	status_set_text(object, "mac", mac);
	status_describe_frontend(object, &interface->frontend, interface->config->socket);
	json_object_set_new(object, "rates",
			    json_pack("{s:f, s:f, s:f, s:f}", "in_frames", flow->in_frame_rate, "in_bytes",
				      flow->in_byte_rate, "out_frames", flow->out_frame_rate, "out_bytes",
				      flow->out_byte_rate));
	describe_port(object, server_interface_port(interface));
	json_object_set_new(object, "queues", describe_queues(server, &interface->frontend));
	return object;
}

void status_read_disk(const struct server_disk *disk, struct status_disk_counters *counters)
{
	struct virtio_blk_counters blk = { 0 };
	struct nvme_counters nvme = { 0 };

	if (disk->frontend.virtio)
		virtio_blk_read_counters(disk->frontend.virtio, &blk);
	if (disk->frontend.pci)
		nvme_read_counters(disk->frontend.pci, &nvme);
	*counters = (struct status_disk_counters){
		.reads = blk.reads + nvme.reads,
		.read_bytes = blk.read_bytes + nvme.read_bytes,
		.writes = blk.writes + nvme.writes,
		.write_bytes = blk.write_bytes + nvme.write_bytes,
		.flushes = blk.flushes + nvme.flushes,
		.discards = blk.discards + nvme.discards,
		.write_zeroes = blk.write_zeroes + nvme.write_zeroes,
		.errors = blk.errors + nvme.errors,
	};
}

/* What only one of the two counts. */
static void describe_own_counters(json_t *object, const struct server_disk *disk)
{
	struct virtio_blk_counters blk = { 0 };
	struct nvme_counters nvme = { 0 };

	if (disk->frontend.virtio) {
		virtio_blk_read_counters(disk->frontend.virtio, &blk);
		status_set_count(object, "unsupported", blk.unsupported);
	} else {
		nvme_read_counters(disk->frontend.pci, &nvme);
		status_set_count(object, "compares", nvme.compares);
		status_set_count(object, "admin", nvme.admin);
	}
}

static void describe_requests(json_t *object, const struct server *server, const struct server_disk *disk)
{
	struct status_disk_counters counters;

	status_read_disk(disk, &counters);
	status_set_count(object, "reads", counters.reads);
	status_set_count(object, "read_bytes", counters.read_bytes);
	status_set_count(object, "writes", counters.writes);
	status_set_count(object, "write_bytes", counters.write_bytes);
	status_set_count(object, "flushes", counters.flushes);
	status_set_count(object, "discards", counters.discards);
	status_set_count(object, "write_zeroes", counters.write_zeroes);
	status_set_count(object, "errors", counters.errors);
	describe_own_counters(object, disk);
	json_object_set_new(object, "rates",
			    json_pack("{s:f, s:f, s:f, s:f}", "reads", disk->flow.read_rate, "read_bytes",
				      disk->flow.read_byte_rate, "writes", disk->flow.write_rate, "write_bytes",
				      disk->flow.write_byte_rate));
	json_object_set_new(object, "queues", describe_queues(server, &disk->frontend));
}

static json_t *describe_namespaces(const struct server *server, const struct server_disk *disk)
{
	json_t *list = json_array();

	json_array_append_new(list, json_string(disk->config->name));
	for (unsigned i = 0; i < server->disk_count; i++) {
		if (server->disks[i].controller == disk)
			json_array_append_new(list, json_string(server->disks[i].config->name));
	}
	return list;
}

static json_t *describe_disk(const struct server *server, const struct server_disk *disk)
{
	struct disk_limits limits = { 0 };
	json_t *object = json_object();

	disk_read_limits(disk->disk, &limits);
	status_set_text(object, "kind", disk_kind(disk->disk));
	status_set_text(object, "state", disk_state(disk->disk));
	status_set_text(object, "serial", disk_serial(disk->disk));
	status_set_count(object, "size", limits.size);
	status_set_count(object, "block_size", limits.block_size);
	json_object_set_new(object, "read_only", json_boolean(limits.read_only));
	status_set_text(object, "controller", disk->controller ? disk->controller->config->name : NULL);
	if (disk->controller) {
		status_set_text(object, "model", disk->controller->frontend.pci->ops->type);
		status_set_count(object, "namespace", disk->namespace_index + 1);
		return object;
	}
	status_describe_frontend(object, &disk->frontend, disk->config->socket);
	if (disk->frontend.pci) {
		status_set_count(object, "namespace", 1);
		json_object_set_new(object, "namespaces", describe_namespaces(server, disk));
	}
	describe_requests(object, server, disk);
	return object;
}

json_t *status_describe(struct server *server)
{
	json_t *object = json_object(), *interfaces = json_object(), *disks = json_object();

	status_set_text(object, "version", SIDECORE_VERSION);
	status_set_count(object, "pid", (uint64_t)getpid());
	json_object_set_new(object, "uptime_seconds",
			    json_real((double)(clock_nanoseconds() - server->started_ns) / 1e9));
	status_set_count(object, "taken_over", server->adopted);
	json_object_set_new(object, "sidecores", status_describe_sidecores(server));
	json_object_set_new(object, "networks", describe_networks(server));
	for (unsigned i = 0; i < server->interface_count; i++)
		json_object_set_new(interfaces, server->interfaces[i].config->name,
				    describe_interface(server, &server->interfaces[i]));
	json_object_set_new(object, "interfaces", interfaces);
	for (unsigned i = 0; i < server->disk_count; i++)
		json_object_set_new(disks, server->disks[i].config->name, describe_disk(server, &server->disks[i]));
	json_object_set_new(object, "disks", disks);
	return object;
}
