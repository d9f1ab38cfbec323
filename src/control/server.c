/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The server: what a configuration describes, built in order.
 *
 * Theory of operation
 * -------------------
 * Built from the bottom up, everything on the control thread: the engine and, for each sidecore, the scratch memory of
 * the network room and the io_uring of the block room; then networks with their uplinks; then interfaces and disks
 * (server_devices.c), each a device model first and a socket in front of it last, so that the first client finds all in
 * place; then the control socket. Clients that the daemon before has left are adopted at the very end: until then any
 * step may fail, and they must stay what they are, for another attempt (control/handover.c).
 *
 * Taken down from the top, by server_stop.c, in stages, whether it was complete or failed half way: each object notes
 * itself as soon as it exists, and the stop passes over what does not.
 *
 * Ownership: the control thread owns this structure and everything that hangs on it. Sidecores own what is attached to
 * them; they are reached by message only (engine/engine.h).
 */
#include "control/server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/control_socket.h"
#include "control/handover.h"
#include "control/server_state.h"
#include "transport/listeners.h"

int server_failed(char **error, int result, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	if (!*error && vasprintf(error, format, arguments) < 0)
		*error = NULL;
	va_end(arguments);
	return result;
}

static void run_completions(evutil_socket_t fd, short events, void *context)
{
	struct server *server = context;

	engine_run_completions(server->engine);
}

static void sample(evutil_socket_t fd, short events, void *context)
{
	server_sample(context);
}

static int build_engine(struct server *server, char **error)
{
	const struct config *config = server->config;
	struct engine_config options = {
		.sidecore_count = config->sidecores_count,
		.busy_poll_ns = config->busy_poll_ns,
		.scheduler = config->scheduler,
	};
	int result;

	for (unsigned i = 0; i < config->sidecores_count; i++)
		options.sidecores[i].cpu = config->sidecores[i].cpu;
	result = engine_create(&options, &server->engine);
	if (result)
		return server_failed(error, result,
			      "cannot make the engine: %s; check \"sidecores\" and the allowed CPUs (taskset -p)",
			      strerror(-result));
	for (unsigned i = 0; i < config->sidecores_count; i++) {
		struct server_sidecore *sidecore = &server->sidecores[i];

		sidecore->sidecore = engine_sidecore(server->engine, i);
		sidecore->wait.server = server;
		server->sidecore_count = i + 1;
		sidecore->network_worker = network_worker_create();
		result = sidecore->network_worker ? block_worker_create(&sidecore->block_worker) : -ENOMEM;
		if (result)
			return server_failed(error, result,
				      "cannot set up sidecore %u for block I/O: %s; io_uring must be allowed "
				      "(sysctl kernel.io_uring_disabled=0, LimitMEMLOCK=infinity)",
				      i, strerror(-result));
		sidecore_set_slot(sidecore->sidecore, SIDECORE_SLOT_NET, sidecore->network_worker);
		sidecore_set_slot(sidecore->sidecore, SIDECORE_SLOT_BLOCK, sidecore->block_worker);
	}
	return 0;
}

static int start_engine(struct server *server, char **error)
{
	struct timeval second = { .tv_sec = 1 };
	int result;

	server->completions = event_new(server->base, engine_completion_fd(server->engine), EV_READ | EV_PERSIST,
					run_completions, server);
	server->sampler = event_new(server->base, -1, EV_PERSIST, sample, server);
	if (!server->completions || !server->sampler || event_add(server->completions, NULL) ||
	    event_add(server->sampler, &second))
		return server_failed(error, -ENOMEM, "cannot watch the engine: out of memory or file descriptors");
	result = engine_start(server->engine);
	if (result)
		return server_failed(error, result, "cannot start the sidecores: %s; check the limit of threads (TasksMax)",
			      strerror(-result));
	server->engine_started = true;
	for (unsigned i = 0; i < server->sidecore_count; i++) {
		struct server_sidecore *sidecore = &server->sidecores[i];

		result = block_worker_attach(sidecore->block_worker, server->engine, sidecore->sidecore);
		if (result)
			return server_failed(error, result, "cannot attach block I/O to sidecore %u: %s", i,
				      strerror(-result));
		sidecore->block_attached = true;
	}
	return 0;
}

static int open_uplink(struct server *server, struct server_network *network, char **error)
{
	const struct config_uplink *config = network->config->uplink;
	struct uplink_config options = {
		.name = network->config->name,
		.type = (enum uplink_type)config->type,
		.interface = config->interface,
		.queues = config->queues,
		.address = config->address,
		.listen = config->listen,
		.net4 = config->net4,
		.restricted = config->restricted,
		.ipv6 = config->ipv6,
		.size = config->size,
	};
	const char *reason = NULL;
	int result;

	network->forwards = calloc(config->forwards_count + 1, sizeof(*network->forwards));
	if (!network->forwards)
		return server_failed(error, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < config->forwards_count; i++)
		network->forwards[i] = config->forwards[i];
	options.forwards = network->forwards;
	result = uplink_open(&options, server->engine, network->network, &network->uplink, &reason);
	if (result)
		return server_failed(error, result, "uplink of network %s: %s", network->config->name,
			      reason ? reason : strerror(-result));
	return 0;
}

static int build_network(struct server *server, const struct config_network *config, char **error)
{
	struct server_network *network = &server->networks[server->network_count++];
	struct network_config options = {
		.name = config->name,
		.aging_seconds = config->aging,
		.patience_ns = config->patience_ns,
	};

	network->config = config;
	network->wait.server = server;
	network->network = network_create(&options);
	if (!network->network)
		return server_failed(error, -ENOMEM, "network %s: out of memory", config->name);
	if (!config->uplink || config->uplink->type == UPLINK_NONE)
		return 0;
	return open_uplink(server, network, error);
}

static int build(struct server *server, char **error)
{
	const struct config *config = server->config;
	int result = build_engine(server, error);

	if (!result)
		result = start_engine(server, error);
	for (unsigned i = 0; !result && i < config->networks_count; i++)
		result = build_network(server, &config->networks[i], error);
	for (unsigned i = 0; !result && i < config->interfaces_count; i++)
		result = server_build_interface(server, &config->interfaces[i], error);
	if (!result)
		result = server_open_disks(server, error);
	for (unsigned i = 0; !result && i < server->disk_count; i++)
		result = server_build_disk(server, &server->disks[i], error);
	if (!result && config->control)
		result = control_socket_create(config->control, config->group_id, server, &server->control, error);
	return result;
}

static void adopt_client(struct server *server, struct server_frontend *frontend, struct handover *handover)
{
	struct vfio_user_status status;
	struct parcel *parcel;

	if (!frontend->vfio_user)
		return;
	parcel = handover_find(handover, frontend->pci->ops->type, frontend->pci->name);
	if (!parcel)
		return;
	vfio_user_server_adopt(frontend->vfio_user, parcel);
	vfio_user_server_read_status(frontend->vfio_user, &status);
	server->adopted += status.adopted;
}

/* Nothing can fail any more but a client of its own accord: now they become ours. */
static void adopt(struct server *server, struct handover *handover)
{
	handover_open(handover);
	for (unsigned i = 0; i < server->interface_count; i++)
		adopt_client(server, &server->interfaces[i].frontend, handover);
	for (unsigned i = 0; i < server->disk_count; i++)
		adopt_client(server, &server->disks[i].frontend, handover);
	handover_disregarded(handover);
	listeners_settle(server->listeners);
}

static void note_stopped(void *context)
{
	bool *stopped = context;

	*stopped = true;
}

int server_create(const struct config *config, struct event_base *base, struct handover *handover,
		  struct server **created, char **error)
{
	struct server *server = calloc(1, sizeof(*server));
	bool stopped = false;
	int result;

	*error = NULL;
	if (!server)
		return server_failed(error, -ENOMEM, "out of memory");
	server->config = config;
	server->base = base;
	server->listeners = listeners_create(config->group_id);
	server->sidecores = calloc(config->sidecores_count, sizeof(*server->sidecores));
	server->networks = calloc(config->networks_count + 1, sizeof(*server->networks));
	server->interfaces = calloc(config->interfaces_count + 1, sizeof(*server->interfaces));
	server->disks = calloc(config->disks_count + 1, sizeof(*server->disks));
	if (!server->listeners || !server->sidecores || !server->networks || !server->interfaces || !server->disks ||
	    server_prepare_stop(server)) {
		server_destroy(server);
		return server_failed(error, -ENOMEM, "out of memory");
	}
	server->started_ns = server->sampled_ns = clock_nanoseconds();
	server->started_cycles = server->sampled_cycles = clock_cycles();
	handover_take_listeners(handover, server->listeners);
	result = build(server, error);
	if (!result) {
		adopt(server, handover);
		*created = server;
		return 0;
	}
	server_stop(server, note_stopped, &stopped);
	while (!stopped && event_base_loop(base, EVLOOP_ONCE) == 0)
		;
	server_destroy(server);
	return result;
}
