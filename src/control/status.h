/* SPDX-License-Identifier: BSD-3-Clause */
/* What the daemon tells of itself. The fields are documented in docs/sidecore.1.scd. Control thread. */
#ifndef CONTROL_STATUS_H
#define CONTROL_STATUS_H

#include <jansson.h>
#include <stdint.h>

#define STATUS_MAC_SIZE 18

struct server;
struct server_disk;
struct server_frontend;
struct virtio_device;

/** status_describe() - all of it, as one object. Return: NULL when out of memory. */
json_t *status_describe(struct server *server);

/** status_format_mac() - "52:54:00:00:00:01". */
void status_format_mac(const uint8_t mac[6], char text[STATUS_MAC_SIZE]);

/** struct status_disk_counters - what virtio-blk and NVMe both count; of an NVMe controller for all its namespaces. */
struct status_disk_counters {
	uint64_t reads, read_bytes, writes, write_bytes, flushes, discards, write_zeroes, errors;
};

/** status_read_disk() - all zero for a namespace, whose requests its controller counts. */
void status_read_disk(const struct server_disk *disk, struct status_disk_counters *counters);

/* Setters of one member; @text may be NULL. */
void status_set_count(json_t *object, const char *key, uint64_t value);
void status_set_text(json_t *object, const char *key, const char *text);

/** status_describe_frontend() - model, connection and, of emulated devices, "pci", into @object. */
void status_describe_frontend(json_t *object, const struct server_frontend *frontend, const char *path);

/* status_engine.c: parts of it. */
json_t *status_describe_sidecores(struct server *server);
json_t *status_describe_queues(const struct server *server, const struct virtio_device *device);

#endif
