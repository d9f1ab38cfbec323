/* SPDX-License-Identifier: BSD-3-Clause */
/* The null uplink swallows what it is sent: the end of a transmit benchmark. It looks at no byte of a frame. */
#include <errno.h>

#include "net/uplink_internal.h"

static unsigned null_transmit(struct port *port, const struct frame *frames, unsigned count, const struct turn *turn)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < count; i++)
		bytes += frames[i].length;
	uplink_count_out(port, turn, count, bytes);
	return count;
}

static void null_flush(struct port *port, const struct turn *turn)
{
}

static const struct port_ops null_port_ops = {
	.kind = "null",
	.transmit = null_transmit,
	.flush = null_flush,
};

static int null_open(const struct uplink_config *config, struct engine *engine, struct uplink **result,
		     const char **error)
{
	struct uplink *uplink = uplink_allocate(sizeof(*uplink));

	if (!uplink)
		return -ENOMEM;
	uplink->port.ops = &null_port_ops;
	uplink->port.abilities = (struct port_abilities){ true, true, true, true, true, true, true };
	*result = uplink;
	return 0;
}

static void null_close(struct uplink *uplink)
{
}

static const char *null_state(const struct uplink *uplink)
{
	return "swallows all";
}

const struct uplink_type_ops uplink_null_ops = {
	.kind = "null",
	.open = null_open,
	.close = null_close,
	.state = null_state,
};
