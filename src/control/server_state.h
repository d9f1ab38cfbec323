/* SPDX-License-Identifier: BSD-3-Clause */
/* Internal to the control room: what the server, its status and its control socket share. Control thread only. */
#ifndef CONTROL_SERVER_STATE_H
#define CONTROL_SERVER_STATE_H

#include <event2/event.h>

#include "block/block.h"
#include "control/config.h"
#include "device/intel/intel_nic.h"
#include "device/nvme/nvme.h"
#include "device/pci/pci_device.h"
#include "device/virtio_blk.h"
#include "device/virtio_net.h"
#include "engine/engine.h"
#include "net/network.h"
#include "net/uplink.h"
#include "transport/vfio_user/server.h"
#include "transport/vhost_user/server.h"

struct control_socket;
struct handover;

/** struct server_wait - one thing that the present stage of the stop waits for. */
struct server_wait {
	struct engine_completion completion;
	struct server *server;
};

/** struct server_flow - what passed through a port, as of the last sample, and per second. */
struct server_flow {
	uint64_t in_frames, in_bytes, out_frames, out_bytes;
	double in_frame_rate, in_byte_rate, out_frame_rate, out_byte_rate;
};

/** struct server_disk_flow - the same for a disk. */
struct server_disk_flow {
	uint64_t reads, read_bytes, writes, write_bytes;
	double read_rate, read_byte_rate, write_rate, write_byte_rate;
};

/** struct server_share - where a sidecore's time went: shares of 1 between two looks at its counters. */
struct server_share {
	double busy, polling, asleep;
};

struct server_sidecore {
	struct sidecore *sidecore;
	struct network_worker *network_worker;
	struct block_worker *block_worker;
	bool block_attached;
	struct server_wait wait;

	struct sidecore_counters sampled; /* a second ago, at most */
	struct server_share second;	  /* in the second before that sample */
};

struct server_network {
	const struct config_network *config;
	struct network *network;
	struct uplink *uplink;
	const char **forwards; /* NULL terminated, for the uplink */
	struct server_wait wait;
};

/** struct server_frontend - what a guest sees, and the socket by which it does: one of two kinds. */
struct server_frontend {
	struct virtio_device *virtio; /* by vhost-user; else NULL */
	struct vhost_user_server *vhost_user;
	struct pci_device *pci; /* emulated, by vfio-user; else NULL */
	struct vfio_user_server *vfio_user;
};

struct server_interface {
	const struct config_interface *config;
	struct server_frontend frontend;
	struct server_wait wait;
	struct server_flow flow;
};

struct server_disk {
	const struct config_disk *config;
	struct disk *disk;
	struct server_frontend frontend; /* of a namespace: none; see controller */
	struct server_disk *controller;	 /* of a namespace; else NULL */
	unsigned namespace_index;	 /* of an NVMe disk, in its controller's list: 0 is the controller's own */
	unsigned namespace_count;	 /* of a controller */
	struct server_wait wait;
	struct server_disk_flow flow;
};

enum server_stage {
	SERVER_RUNNING,
	SERVER_STOPPING_TRANSPORTS,
	SERVER_STOPPING_DEVICES,
	SERVER_STOPPING_UPLINKS,
	SERVER_STOPPING_WORKERS,
	SERVER_STOPPING_BARRIER,
	SERVER_STOPPED,
};

struct server {
	const struct config *config;
	struct event_base *base;
	struct engine *engine;
	bool engine_started;
	struct control_socket *control;

	struct server_sidecore *sidecores;
	struct server_network *networks;
	struct server_interface *interfaces;
	struct server_disk *disks;
	unsigned sidecore_count; /* built so far; likewise below */
	unsigned network_count, interface_count, disk_count;

	struct event *completions; /* of the engine */
	struct event *sampler;	   /* once a second: rates and shares */
	uint64_t started_ns, started_cycles;
	uint64_t sampled_ns, sampled_cycles;

	/* a restart: control/handover.h */
	struct handover *left;	     /* where clients of emulated devices go when it stops; NULL: nowhere */
	struct listeners *listeners; /* sockets of the daemon before, or for the next one */
	unsigned adopted;	     /* clients that were taken over */
	int (*restart)(void *context, const char **reason);
	void *restart_context;

	/* the stop */
	enum server_stage stage;
	unsigned pending;	/* what the stage waits for */
	struct event *advance;	/* to the next stage, from the event loop */
	struct event *patience; /* a stage takes long: say which */
	struct server_wait barrier;
	void (*stopped)(void *context);
	void *stopped_context;
};

/** server_open_disks() - open the images of all disks. Return: 0 or a negative errno with @error. */
int server_open_disks(struct server *server, char **error);

/** server_build_interface(), server_build_disk() - the device and, last, its socket. Return: as above. */
int server_build_interface(struct server *server, const struct config_interface *config, char **error);
int server_build_disk(struct server *server, struct server_disk *disk, char **error);

/** server_interface_port() - for counters. */
const struct port *server_interface_port(const struct server_interface *interface);

/** server_disk_resized() - the disk has another size: show it to the guest. */
void server_disk_resized(struct server_disk *disk);

/** server_failed() - note the first error as the operator's sentence. Return: @result. */
int server_failed(char **error, int result, const char *format, ...) __attribute__((format(printf, 3, 4)));

/** server_prepare_stop() - make what the stop needs, so that it cannot fail later. Return: 0; -1: out of memory. */
int server_prepare_stop(struct server *server);

/** server_sample() - look at the counters and compute rates; once a second. */
void server_sample(struct server *server);

#endif
