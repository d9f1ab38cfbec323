/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The stop sequence.
 *
 *	1 transports	the control socket and the devices' sockets go, so that nobody comes in any more; each
 *			transport brings its device to rest: unpublished, detached, requests in flight awaited
 *	2 devices	device models are destroyed; network ports leave their networks, block channels are closed
 *	3 uplinks	closed and detached; disks have no users left and are closed
 *	4 workers	the pollers of block completions are detached from the sidecores
 *	5 barrier	every sidecore passes between two rounds: nothing unpublished above is used any more
 *	6 end		threads joined, everything freed
 *
 * A stage begins things, counts them in @pending, and ends when the last one has told so. The next begins from the
 * event loop and not from within the call that told (it may come out of engine_run_completions(), and stage 6 destroys
 * the engine). A stage that takes more than two seconds is named in the log, and so are disks that have not answered.
 */
#include <stdlib.h>

#include "base/log.h"
#include "control/control_socket.h"
#include "control/handover.h"
#include "control/server.h"
#include "control/server_state.h"
#include "transport/listeners.h"

#define PATIENCE_SECONDS 2

static const char *const stage_names[] = {
	[SERVER_RUNNING] = "running",
	[SERVER_STOPPING_TRANSPORTS] = "1, sockets and queues",
	[SERVER_STOPPING_DEVICES] = "2, devices",
	[SERVER_STOPPING_UPLINKS] = "3, uplinks",
	[SERVER_STOPPING_WORKERS] = "4, workers",
	[SERVER_STOPPING_BARRIER] = "5, barrier",
	[SERVER_STOPPED] = "6, end",
};

static void wait_over(struct server *server)
{
	if (--server->pending == 0)
		event_active(server->advance, 0, 0);
}

static void wait_completed(struct engine_completion *completion)
{
	wait_over(container_of(completion, struct server_wait, completion)->server);
}

static void transport_destroyed(void *context)
{
	wait_over(context);
}

static void handed_over(void *context, int parcel)
{
	struct server *server = context;

	if (parcel >= 0)
		handover_add(server->left, parcel);
	wait_over(server);
}

static struct engine_completion *wait_for(struct server *server, struct server_wait *wait)
{
	server->pending++;
	wait->completion.done = wait_completed;
	return &wait->completion;
}

static void stop_transport(struct server *server, struct server_frontend *frontend)
{
	if (frontend->vhost_user) {
		server->pending++;
		vhost_user_server_destroy(frontend->vhost_user, transport_destroyed, server);
		frontend->vhost_user = NULL;
	}
	if (frontend->vfio_user) {
		server->pending++;
		if (server->left)
			vfio_user_server_hand_over(frontend->vfio_user, handed_over, server);
		else
			vfio_user_server_destroy(frontend->vfio_user, transport_destroyed, server);
		frontend->vfio_user = NULL;
	}
}

static void stop_transports(struct server *server)
{
	control_socket_destroy(server->control);
	server->control = NULL;
	if (server->sampler)
		event_del(server->sampler);
	for (unsigned i = 0; i < server->interface_count; i++)
		stop_transport(server, &server->interfaces[i].frontend);
	for (unsigned i = 0; i < server->disk_count; i++)
		stop_transport(server, &server->disks[i].frontend);
}

static void stop_devices(struct server *server)
{
	for (unsigned i = 0; i < server->interface_count; i++) {
		struct server_interface *interface = &server->interfaces[i];

		if (interface->frontend.virtio)
			virtio_net_destroy(interface->frontend.virtio, wait_for(server, &interface->wait));
		if (interface->frontend.pci)
			intel_nic_destroy(interface->frontend.pci, wait_for(server, &interface->wait));
		interface->frontend = (struct server_frontend){ 0 };
	}
	for (unsigned i = 0; i < server->disk_count; i++) {
		struct server_disk *disk = &server->disks[i];

		if (disk->frontend.virtio)
			virtio_blk_destroy(disk->frontend.virtio, wait_for(server, &disk->wait));
		if (disk->frontend.pci)
			nvme_destroy(disk->frontend.pci, wait_for(server, &disk->wait));
		disk->frontend = (struct server_frontend){ 0 };
	}
}

static void stop_uplinks(struct server *server)
{
	for (unsigned i = 0; i < server->network_count; i++) {
		struct server_network *network = &server->networks[i];

		if (network->uplink)
			uplink_close(network->uplink, wait_for(server, &network->wait));
		network->uplink = NULL;
	}
	for (unsigned i = 0; i < server->disk_count; i++) {
		if (server->disks[i].disk)
			disk_close(server->disks[i].disk);
		server->disks[i].disk = NULL;
	}
}

static void stop_workers(struct server *server)
{
	for (unsigned i = 0; i < server->sidecore_count; i++) {
		struct server_sidecore *sidecore = &server->sidecores[i];

		if (sidecore->block_attached)
			block_worker_detach(sidecore->block_worker, wait_for(server, &sidecore->wait));
		sidecore->block_attached = false;
	}
}

static void end(struct server *server)
{
	if (server->engine_started)
		engine_stop(server->engine);
	server->engine_started = false;
	event_del(server->patience);
	if (server->left && handover_in_place(server->left)) {
		handover_add_listeners(server->left, server->listeners);
		server->listeners = NULL;
	}
	server->stopped(server->stopped_context);
}

static void advance(evutil_socket_t fd, short events, void *context)
{
	struct server *server = context;
	struct timeval patience = { .tv_sec = PATIENCE_SECONDS };

	server->stage++;
	log_debug("stop: stage %s", stage_names[server->stage]);
	if (server->stage == SERVER_STOPPED) {
		end(server);
		return;
	}
	event_add(server->patience, &patience);
	server->pending = 1; /* the stage itself, until it has begun everything */
	switch (server->stage) {
	case SERVER_STOPPING_TRANSPORTS:
		stop_transports(server);
		break;
	case SERVER_STOPPING_DEVICES:
		stop_devices(server);
		break;
	case SERVER_STOPPING_UPLINKS:
		stop_uplinks(server);
		break;
	case SERVER_STOPPING_WORKERS:
		stop_workers(server);
		break;
	default:
		/* Without threads there is nobody to pass the barrier, nor anybody to use anything. */
		if (server->engine_started)
			engine_barrier(server->engine, wait_for(server, &server->barrier));
		break;
	}
	wait_over(server);
}

static void lost_patience(evutil_socket_t fd, short events, void *context)
{
	struct server *server = context;

	log_warning("stopping takes long: stage %s, waiting for %u; a second signal ends at once",
		    stage_names[server->stage], server->pending);
	for (unsigned i = 0; i < server->disk_count; i++) {
		const struct disk *disk = server->disks[i].disk;
		unsigned count = disk ? disk_in_flight(disk) : 0;

		if (count)
			log_warning("disk %s does not answer: %u request%s in flight%s", server->disks[i].config->name,
				    count, count == 1 ? "" : "s",
				    disk_is_away(disk) ? "; its server is not connected" : "");
	}
}

int server_prepare_stop(struct server *server)
{
	server->barrier.server = server;
	server->advance = event_new(server->base, -1, 0, advance, server);
	server->patience = event_new(server->base, -1, EV_PERSIST, lost_patience, server);
	return server->advance && server->patience ? 0 : -1;
}

void server_stop(struct server *server, void (*stopped)(void *context), void *context)
{
	if (server->stopped)
		return;
	server->stopped = stopped;
	server->stopped_context = context;
	event_active(server->advance, 0, 0);
}

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

void server_destroy(struct server *server)
{
	for (unsigned i = 0; i < server->network_count; i++) {
		if (server->networks[i].network)
			network_destroy(server->networks[i].network);
		free(server->networks[i].forwards);
	}
	for (unsigned i = 0; i < server->sidecore_count; i++) {
		if (server->sidecores[i].network_worker)
			network_worker_destroy(server->sidecores[i].network_worker);
		if (server->sidecores[i].block_worker)
			block_worker_destroy(server->sidecores[i].block_worker);
	}
	free_event(server->completions);
	free_event(server->sampler);
	free_event(server->advance);
	free_event(server->patience);
	if (server->engine)
		engine_destroy(server->engine);
	listeners_release(server->listeners);
	free(server->sidecores);
	free(server->networks);
	free(server->interfaces);
	free(server->disks);
	free(server);
}
