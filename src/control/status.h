/* SPDX-License-Identifier: BSD-3-Clause */
/* What the daemon tells of itself. The fields are documented in docs/sidecore.1.scd. Control thread. */
#ifndef CONTROL_STATUS_H
#define CONTROL_STATUS_H

#include <jansson.h>
#include <stdint.h>

#define STATUS_MAC_SIZE 18

struct server;
struct virtio_device;

/** status_describe() - all of it, as one object. Return: NULL when out of memory. */
json_t *status_describe(struct server *server);

/** status_format_mac() - "52:54:00:00:00:01". */
void status_format_mac(const uint8_t mac[6], char text[STATUS_MAC_SIZE]);

/* status_engine.c: parts of it. */
json_t *status_describe_sidecores(struct server *server);
json_t *status_describe_queues(const struct server *server, const struct virtio_device *device);

#endif
