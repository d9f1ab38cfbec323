/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Network load: one thread that plays the drivers of one or two guests.
 *
 * Theory of operation
 * -------------------
 * Each turn reaps and sends on the transmitting cards and receives on the receiving ones. The turn's cycles are
 * counted as work only if it moved something, which gives the client's own cycles per frame and the share of turns that
 * found work: near 1 means that the client, not the server, is the limit.
 *
 * Forwarding is a closed loop by default: at most one ring of frames is under way in each direction, so that a receive
 * buffer waits for each and a correct switch loses none. If nothing arrives for STALL_SECONDS with the window full, the
 * frames under way are given up and counted as lost, and the loop opens again. After the measured time, what is under
 * way is waited for, and then sent and received must be equal. Frames sent before a path first worked are not counted:
 * servers bring a card up some time after they have acknowledged its queues, and drop what comes earlier.
 *
 * An idle turn backs off for some pauses: a line that is read all the time is a line that the server cannot write. With
 * options.endpoint.interrupts it arms the cards and sleeps, as a guest does.
 */
#include "client/net_load.h"

#include "client/load_events.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define STALL_SECONDS	0.5
#define DRAIN_SECONDS	0.2
#define OPEN_SECONDS	5.0
#define OPEN_STEP	0.05
#define QUIET_STEPS	6 /* without a frame: the rest was dropped while the path was not open yet */
#define IDLE_PAUSES	4
#define WAIT_MS		10
#define MEASURE_DEFAULT 1.0

/* One direction of forwarding. */
struct flow {
	struct net_endpoint *from;
	struct net_endpoint *to;
	uint64_t sent_before;	  /* until the path worked */
	uint64_t received_before; /* of those */
	uint64_t given_up;
	uint32_t window;
	uint32_t least_room; /* of it, for a batch that is worth sending */
	uint64_t last_received;
	uint64_t progress_cycles;
};

struct net_load {
	const struct net_load_options *options;
	struct net_load_result *result;
	struct net_endpoint endpoints[2];
	unsigned int endpoint_count;
	struct flow flows[2];
	unsigned int flow_count;
	uint64_t stall_cycles;
	uint64_t waits;
	struct load_polls polls;
};

static int explain(struct net_load *load, const struct net_endpoint *endpoint, int error)
{
	snprintf(load->result->error, sizeof(load->result->error), "%s: %s", endpoint->options.socket_path,
		 net_endpoint_error(endpoint)[0] ? net_endpoint_error(endpoint) : strerror(-error));

	return error;
}

static void open_flow(struct net_load *load, struct flow *flow, struct net_endpoint *from, struct net_endpoint *to)
{
	const struct net_load_options *options = load->options;
	uint32_t window = options->window;

	if (window == NET_LOAD_WINDOW_RING)
		window = to->driver->rx_count;
	/* A frame that takes several buffers leaves room for fewer. */
	if (options->window == NET_LOAD_WINDOW_RING)
		window /= net_endpoint_buffers(to);
	if (window == 0 && options->window != 0)
		window = 1;
	*flow = (struct flow){ .from = from, .to = to, .window = window };
	flow->least_room = (window < options->endpoint.batch ? window : options->endpoint.batch) / 2;
	if (flow->least_room > from->driver->tx_count)
		flow->least_room = from->driver->tx_count;
	if (flow->least_room == 0)
		flow->least_room = 1;
}

static int attach(struct net_load *load)
{
	const struct net_load_options *options = load->options;
	bool forward = options->mode == NET_LOAD_FORWARD;

	for (unsigned int i = 0; i < (forward ? 2u : 1u); i++) {
		struct net_endpoint_options endpoint = options->endpoint;
		int error;

		endpoint.device = options->devices[i];
		endpoint.socket_path = options->sockets[i];
		endpoint.check = forward;
		endpoint.transmit = options->mode == NET_LOAD_TX || (forward && (i == 0 || options->both_ways));
		endpoint.receive = options->mode == NET_LOAD_RX || (forward && (i == 1 || options->both_ways));
		memcpy(endpoint.source, options->addresses[i], NET_ENDPOINT_ADDRESS_LEN);
		memcpy(endpoint.destination, options->addresses[1 - i], NET_ENDPOINT_ADDRESS_LEN);

		load->endpoint_count = i + 1;
		error = net_endpoint_attach(&load->endpoints[i], &endpoint);
		if (error)
			return explain(load, &load->endpoints[i], error);
	}
	if (forward) {
		open_flow(load, &load->flows[0], &load->endpoints[0], &load->endpoints[1]);
		open_flow(load, &load->flows[1], &load->endpoints[1], &load->endpoints[0]);
		load->flow_count = options->both_ways ? 2 : 1;
	}

	return 0;
}

/* ---- one turn ---- */

static int turn_transmit(struct net_load *load)
{
	struct net_endpoint *endpoint = &load->endpoints[0];
	int reaped = net_endpoint_reap(endpoint), sent;

	if (reaped < 0)
		return explain(load, endpoint, reaped);
	sent = net_endpoint_send(endpoint, UINT64_MAX);

	return sent < 0 ? explain(load, endpoint, sent) : reaped + sent;
}

static int turn_receive(struct net_load *load)
{
	int received = net_endpoint_receive(&load->endpoints[0]);

	return received < 0 ? explain(load, &load->endpoints[0], received) : received;
}

/* Never more than the window, since only what fits is sent. Frames that were given up may come after all: none, then.
 */
static uint64_t under_way(const struct flow *flow)
{
	uint64_t arrived = flow->to->counters.received + flow->to->counters.unexpected + flow->given_up;

	return flow->from->counters.sent > arrived ? flow->from->counters.sent - arrived : 0;
}

/* Frames that are under way for too long are not coming: forget them, so that the window opens again. */
static void watch_stall(struct net_load *load, struct flow *flow, uint64_t now)
{
	uint64_t received = flow->to->counters.received + flow->to->counters.unexpected;

	if (received != flow->last_received) {
		flow->last_received = received;
		flow->progress_cycles = now;
	} else if (now - flow->progress_cycles > load->stall_cycles) {
		flow->given_up += under_way(flow);
		flow->progress_cycles = now;
	}
}

static int turn_flow(struct net_load *load, struct flow *flow, bool sending, uint64_t now)
{
	uint32_t window = flow->window;
	int received = net_endpoint_receive(flow->to);
	int reaped, sent = 0;

	if (received < 0)
		return explain(load, flow->to, received);
	reaped = net_endpoint_reap(flow->from);
	if (reaped < 0)
		return explain(load, flow->from, reaped);

	if (sending && window == 0) {
		sent = net_endpoint_send(flow->from, UINT64_MAX);
	} else if (sending) {
		uint64_t room = window - under_way(flow);

		if (room >= flow->least_room)
			sent = net_endpoint_send(flow->from, room);
		else if (received == 0)
			watch_stall(load, flow, now);
	}
	if (sent < 0)
		return explain(load, flow->from, sent);

	return received + reaped + sent;
}

static int turn(struct net_load *load, bool sending, uint64_t now)
{
	int work = 0;

	if (load->options->mode == NET_LOAD_TX)
		return turn_transmit(load);
	if (load->options->mode == NET_LOAD_RX)
		return turn_receive(load);

	for (unsigned int i = 0; i < load->flow_count; i++) {
		int moved = turn_flow(load, &load->flows[i], sending, now);

		if (moved < 0)
			return moved;
		work += moved;
	}

	return work;
}

/* Nothing to do: let the other side have the lines for a moment, or arm the cards and sleep. Return: 0 or a negative
 * errno. */
static int rest(struct net_load *load)
{
	int events[2 * NET_DRIVER_EVENTS];
	uint64_t signalled = 0;
	bool pending = false;

	if (!load->options->endpoint.interrupts) {
		for (unsigned int i = 0; i < IDLE_PAUSES; i++)
			load_relax();
		return 0;
	}

	for (unsigned int i = 0; i < load->endpoint_count; i++) {
		struct net_driver *driver = load->endpoints[i].driver;
		int armed = driver->ops->arm(driver);

		if (armed < 0)
			return explain(load, &load->endpoints[i], armed);
		pending |= armed;
		memcpy(&events[i * NET_DRIVER_EVENTS], driver->events, sizeof(driver->events));
	}
	load->waits +=
		load_events_wait(events, load->endpoint_count * NET_DRIVER_EVENTS, pending ? 0 : WAIT_MS, &signalled);
	for (unsigned int i = 0; i < load->endpoint_count; i++) {
		struct net_driver *driver = load->endpoints[i].driver;
		uint64_t own = signalled >> (i * NET_DRIVER_EVENTS) & ((1u << NET_DRIVER_EVENTS) - 1);
		int error = driver->ops->disarm(driver, own);

		if (error)
			return explain(load, &load->endpoints[i], error);
	}

	return 0;
}

/* Turns until @cycles have passed. */
static int run_for(struct net_load *load, uint64_t cycles, bool sending)
{
	uint64_t start = load_cycles();
	uint64_t now = start;

	while (now - start < cycles) {
		int work = turn(load, sending, now);
		uint64_t then = now;

		if (work < 0)
			return work;
		load->polls.polls++;
		if (work == 0) {
			int error = rest(load);

			if (error)
				return error;
		}
		now = load_cycles();
		if (work > 0) {
			load->polls.busy++;
			load->polls.busy_cycles += now - then;
		}
	}

	return 0;
}

/*
 * Until all that was sent has come, or nothing more comes. What is taken for lost and comes after all would be counted
 * as doubled: a server that shares its CPU may stand still for a while.
 */
static int wait_for_rest(struct net_load *load, const struct flow *flow, const struct load_clock *clock)
{
	for (unsigned int quiet = 0; quiet < QUIET_STEPS && flow->to->counters.received < flow->from->counters.sent;) {
		uint64_t before = flow->to->counters.received;
		int error = run_for(load, (uint64_t)(OPEN_STEP * clock->cycles_per_second), false);

		if (error)
			return error;
		quiet = flow->to->counters.received == before ? quiet + 1 : 0;
	}

	return 0;
}

/* Forwarding: send until each path has delivered something, wait for the rest, and begin to count. */
static int open_paths(struct net_load *load, const struct load_clock *clock)
{
	unsigned int open = 0;

	for (double waited = 0; open < load->flow_count; waited += OPEN_STEP) {
		int error = run_for(load, (uint64_t)(OPEN_STEP * clock->cycles_per_second), true);

		if (error)
			return error;
		open = 0;
		for (unsigned int i = 0; i < load->flow_count; i++)
			open += load->flows[i].to->counters.received > 0;
		if (open < load->flow_count && waited > OPEN_SECONDS) {
			snprintf(load->result->error, sizeof(load->result->error),
				 "no frame of %u bytes came through in %.0f s (%llu of other lengths did)",
				 load->options->endpoint.frame_size, OPEN_SECONDS,
				 (unsigned long long)load->endpoints[0].counters.unexpected +
					 load->endpoints[1].counters.unexpected);
			return -ETIMEDOUT;
		}
	}

	for (unsigned int i = 0; i < load->flow_count; i++) {
		int error = wait_for_rest(load, &load->flows[i], clock);

		if (error)
			return error;
		load->flows[i].sent_before = load->flows[i].from->counters.sent;
		load->flows[i].received_before = load->flows[i].to->counters.received;
		/* Modulo 2^64, so that under_way() is 0 from here whatever strangers have sent. */
		load->flows[i].given_up = load->flows[i].sent_before - load->flows[i].received_before -
					  load->flows[i].to->counters.unexpected;
	}

	return 0;
}

static void count_frames(const struct net_load *load, uint64_t *frames, uint64_t *bytes, uint64_t *kicks)
{
	*frames = 0;
	*bytes = 0;
	*kicks = 0;
	for (unsigned int i = 0; i < load->endpoint_count; i++) {
		const struct net_endpoint_counters *counters = &load->endpoints[i].counters;

		*kicks += load->endpoints[i].driver->kicks;
		if (load->options->mode == NET_LOAD_TX) {
			*frames += counters->completed;
			*bytes += counters->completed * load->endpoints[i].options.frame_size;
		} else {
			*frames += counters->received;
			*bytes += counters->received_bytes;
		}
	}
}

static int measure(struct net_load *load, const struct load_hooks *hooks, const struct load_clock *clock)
{
	double seconds = load->options->seconds > 0 ? load->options->seconds : MEASURE_DEFAULT;
	struct net_load_result *result = load->result;
	uint64_t frames, bytes, kicks, start;
	int error;

	load->polls = (struct load_polls){ 0 };
	load->waits = 0;
	count_frames(load, &frames, &bytes, &kicks);
	if (hooks && hooks->begin)
		hooks->begin(hooks->context);
	start = load_cycles();

	error = run_for(load, (uint64_t)(seconds * clock->cycles_per_second), true);

	result->seconds = (double)(load_cycles() - start) / clock->cycles_per_second;
	if (hooks && hooks->end)
		hooks->end(hooks->context);
	count_frames(load, &result->frames, &result->bytes, &result->kicks);
	result->frames -= frames;
	result->bytes -= bytes;
	result->kicks -= kicks;
	result->waits = load->waits;
	result->polls = load->polls;
	if (result->frames)
		result->cycles_per_frame = (double)load->polls.busy_cycles / (double)result->frames;
	if (load->polls.polls)
		result->busy_share = (double)load->polls.busy / (double)load->polls.polls;

	return error;
}

static void sum_up(struct net_load *load)
{
	struct net_load_result *result = load->result;

	for (unsigned int i = 0; i < load->endpoint_count; i++) {
		const struct net_endpoint_counters *counters = &load->endpoints[i].counters;

		result->sent += counters->sent;
		result->unexpected += counters->unexpected;
		result->checked += counters->checked;
		result->corrupt += counters->corrupt;
		result->reordered += counters->reordered;
	}
	for (unsigned int i = 0; i < load->flow_count; i++) {
		const struct flow *flow = &load->flows[i];
		uint64_t sent = flow->from->counters.sent - flow->sent_before;
		uint64_t received = flow->to->counters.received - flow->received_before;

		if (sent >= received)
			result->lost += sent - received;
		else
			result->reordered += received - sent; /* more than was sent: doubled */
	}
}

/**
 * net_load_run() - attach, load, measure, drain, detach.
 * @options:	what to do
 * @hooks:	called around the measured time; may be NULL
 * @result:	what came of it
 *
 * Return: 0, or a negative errno with the reason in @result->error. Lost or corrupt frames are a result, not an error.
 */
int net_load_run(const struct net_load_options *options, const struct load_hooks *hooks, struct net_load_result *result)
{
	struct net_load load = { .options = options, .result = result };
	struct load_clock clock;
	int error;

	memset(result, 0, sizeof(*result));
	load_clock_measure(&clock);
	load.stall_cycles = (uint64_t)(STALL_SECONDS * clock.cycles_per_second);

	error = attach(&load);
	if (!error)
		error = open_paths(&load, &clock);
	if (!error)
		error = run_for(&load, (uint64_t)(options->warm_up * clock.cycles_per_second), true);
	if (!error)
		error = measure(&load, hooks, &clock);
	if (!error && options->mode == NET_LOAD_FORWARD)
		error = run_for(&load, (uint64_t)(DRAIN_SECONDS * clock.cycles_per_second), false);
	if (!error)
		sum_up(&load);

	for (unsigned int i = 0; i < load.endpoint_count; i++)
		net_endpoint_detach(&load.endpoints[i]);

	return error;
}
