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

static void set_count(json_t *object, const char *key, uint64_t value)
{
	json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_text(json_t *object, const char *key, const char *text)
{
	json_object_set_new(object, key, text ? json_string(text) : json_null());
}

static void set_hexadecimal(json_t *object, const char *key, uint64_t value)
{
	char text[19];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)value);
	set_text(object, key, text);
}

static void describe_port(json_t *object, const struct port *port)
{
	struct port_counters sum;
	json_t *drops = json_object();

	port_read_counters(port, &sum);
	set_count(object, "in_frames", sum.in_frames);
	set_count(object, "in_bytes", sum.in_bytes);
	set_count(object, "out_frames", sum.out_frames);
	set_count(object, "out_bytes", sum.out_bytes);
	set_count(object, "flooded", sum.flooded);
	set_count(object, "segmented", sum.segmented);
	set_count(object, "checksummed", sum.checksummed);
	set_count(object, "waits", sum.waits);
	for (unsigned reason = 0; reason < PORT_DROPS; reason++) {
		if (sum.drops[reason])
			set_count(drops, port_drop_name(reason), sum.drops[reason]);
	}
	json_object_set_new(object, "drops", drops);
}

static json_t *describe_uplink(const struct server_network *network)
{
	json_t *object;

	if (!network->uplink)
		return json_null();
	object = json_object();
	set_text(object, "type", uplink_port(network->uplink)->ops->kind);
	set_text(object, "state", uplink_state(network->uplink));
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
		set_count(object, "addresses", network_read_addresses(network->network, addresses, ADDRESSES_MAX));
		json_object_set_new(networks, network->config->name, object);
	}
	free(addresses);
	return networks;
}

static void describe_transport(json_t *object, const struct vhost_user_server *transport, const char *path)
{
	struct vhost_user_status status = { 0 };

	vhost_user_server_read_status(transport, &status);
	json_object_set_new(object, "connected", json_boolean(status.connected));
	set_text(object, "socket", path);
	set_count(object, "connections", status.connections);
	set_count(object, "messages", status.messages);
	set_count(object, "refused", status.refused);
	set_text(object, "last_error", status.last_error);
	set_count(object, "memory", status.memory);
	set_count(object, "memory_regions", status.regions);
	set_count(object, "log_missed", status.log_missed);
	set_hexadecimal(object, "features", status.features);
	set_hexadecimal(object, "protocol_features", status.protocol_features);
}

static json_t *describe_interface(const struct server *server, const struct server_interface *interface)
{
	const struct server_flow *flow = &interface->flow;
	json_t *object = json_object();
	char mac[STATUS_MAC_SIZE];

	status_format_mac(interface->config->address, mac);
	set_text(object, "network", interface->config->network);
	set_text(object, "mac", mac);
	describe_transport(object, interface->transport, interface->config->socket);
	json_object_set_new(object, "rates",
			    json_pack("{s:f, s:f, s:f, s:f}", "in_frames", flow->in_frame_rate, "in_bytes",
				      flow->in_byte_rate, "out_frames", flow->out_frame_rate, "out_bytes",
				      flow->out_byte_rate));
	describe_port(object, virtio_net_port(interface->device));
	json_object_set_new(object, "queues", status_describe_queues(server, interface->device));
	return object;
}

static json_t *describe_disk(const struct server *server, const struct server_disk *disk)
{
	struct virtio_blk_counters counters = { 0 };
	struct disk_limits limits = { 0 };
	json_t *object = json_object();

	describe_transport(object, disk->transport, disk->config->socket);
	disk_read_limits(disk->disk, &limits);
	set_text(object, "kind", disk_kind(disk->disk));
	set_text(object, "state", disk_state(disk->disk));
	set_text(object, "serial", disk_serial(disk->disk));
	set_count(object, "size", limits.size);
	set_count(object, "block_size", limits.block_size);
	json_object_set_new(object, "read_only", json_boolean(limits.read_only));
	virtio_blk_read_counters(disk->device, &counters);
	set_count(object, "reads", counters.reads);
	set_count(object, "read_bytes", counters.read_bytes);
	set_count(object, "writes", counters.writes);
	set_count(object, "write_bytes", counters.write_bytes);
	set_count(object, "flushes", counters.flushes);
	set_count(object, "discards", counters.discards);
	set_count(object, "write_zeroes", counters.write_zeroes);
	set_count(object, "errors", counters.errors);
	set_count(object, "unsupported", counters.unsupported);
	json_object_set_new(object, "rates",
			    json_pack("{s:f, s:f, s:f, s:f}", "reads", disk->flow.read_rate, "read_bytes",
				      disk->flow.read_byte_rate, "writes", disk->flow.write_rate, "write_bytes",
				      disk->flow.write_byte_rate));
	json_object_set_new(object, "queues", status_describe_queues(server, disk->device));
	return object;
}

json_t *status_describe(struct server *server)
{
	json_t *object = json_object(), *interfaces = json_object(), *disks = json_object();

	set_text(object, "version", SIDECORE_VERSION);
	set_count(object, "pid", (uint64_t)getpid());
	json_object_set_new(object, "uptime_seconds",
			    json_real((double)(clock_nanoseconds() - server->started_ns) / 1e9));
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
