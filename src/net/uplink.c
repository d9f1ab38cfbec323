/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Life of an uplink, the same for all types.
 *
 * Open: the type makes its structure and descriptors; the port enters the network, still down; pollers are attached;
 * the port goes up. Close goes the same way back: the port leaves the network, pollers are detached, and after a
 * barrier no sidecore can be inside its transmit any more; then the type lets go of its descriptors.
 *
 * Context: control thread.
 */
#include "net/uplink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "net/uplink_internal.h"

static const struct uplink_type_ops *const types[] = {
	[UPLINK_SLIRP] = &uplink_slirp_ops, [UPLINK_TAP] = &uplink_tap_ops,	  [UPLINK_STREAM] = &uplink_stream_ops,
	[UPLINK_NULL] = &uplink_null_ops,   [UPLINK_SOURCE] = &uplink_source_ops,
};

void *uplink_allocate(size_t size)
{
	void *uplink;

	size = (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
	uplink = aligned_alloc(CACHE_LINE, size);
	if (uplink)
		memset(uplink, 0, size);
	return uplink;
}

static void uplink_free(struct uplink *uplink)
{
	uplink->ops->close(uplink);
	free(uplink->name);
	free(uplink);
}

static void uplink_closed(struct engine_completion *completion)
{
	struct uplink *uplink = container_of(completion, struct uplink, closed);
	struct engine_completion *told = uplink->completion;

	uplink_free(uplink);
	if (told)
		told->done(told);
}

int uplink_open(const struct uplink_config *config, struct engine *engine, struct network *network,
		struct uplink **result, const char **error)
{
	struct uplink *uplink = NULL;
	int code;

	*error = "out of memory";
	if ((unsigned)config->type >= array_size(types) || !types[config->type]) {
		*error = "there is no such type of uplink";
		return -EINVAL;
	}
	code = types[config->type]->open(config, engine, &uplink, error);
	if (code)
		return code;

	uplink->ops = types[config->type];
	uplink->engine = engine;
	uplink->network = network;
	uplink->closed.done = uplink_closed;
	uplink->name = strdup(config->name ? config->name : uplink->ops->kind);
	if (!uplink->name) {
		uplink_free(uplink);
		return -ENOMEM;
	}
	uplink->port.name = uplink->name;
	code = network_add_port(network, &uplink->port);
	if (code) {
		*error = "the network has no room for another port";
		uplink_free(uplink);
		return code;
	}

	for (unsigned i = 0; i < uplink->poller_count; i++) {
		code = engine_attach(engine, engine_pick_sidecore(engine), uplink->pollers[i], NULL);
		if (code) {
			*error = "a sidecore cannot watch the uplink's file descriptor";
			uplink_close(uplink, NULL); /* those that are attached must be detached first */
			return code;
		}
	}
	/* Release: who sees the port up sees it as it was set up. */
	atomic_store_explicit(&uplink->port.up, true, memory_order_release);
	*result = uplink;
	return 0;
}

void uplink_close(struct uplink *uplink, struct engine_completion *completion)
{
	uplink->completion = completion;
	network_remove_port(uplink->network, &uplink->port);
	for (unsigned i = 0; i < uplink->poller_count; i++)
		engine_detach(uplink->engine, uplink->pollers[i], NULL);
	/* A sidecore runs its messages in order: past the barrier, it has detached; and it is in no round that began
	 * before. */
	engine_barrier(uplink->engine, &uplink->closed);
}

struct port *uplink_port(struct uplink *uplink)
{
	return &uplink->port;
}

const char *uplink_state(const struct uplink *uplink)
{
	return uplink->ops->state(uplink);
}
