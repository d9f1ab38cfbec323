/* SPDX-License-Identifier: BSD-3-Clause */
/* Status of sidecores and queues, and the samples that rates are made of. */
#include "control/status.h"

#include "base/clock.h"
#include "control/server_state.h"

/* Counters are written by a sidecore while we read them: one plain load each, never torn, never kept in a register. */
#define READ(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

static double share(double part, double whole)
{
	return whole > 0 ? min(max(part / whole, 0.0), 1.0) : 0.0;
}

/* @cycles: what passed by the time stamp counter, which runs evenly on all cores. What is not polling is sleep: a sleep
 * that is going on is not yet in any counter. */
static struct server_share compute_share(uint64_t busy_cycles, uint64_t empty_cycles, uint64_t cycles)
{
	struct server_share result;

	result.busy = share((double)busy_cycles, (double)cycles);
	result.polling = share((double)empty_cycles, (double)cycles);
	result.asleep = share((double)cycles - (double)busy_cycles - (double)empty_cycles, (double)cycles);
	return result;
}

static json_t *describe_share(const struct server_share *value)
{
	return json_pack("{s:f, s:f, s:f}", "busy", value->busy, "polling", value->polling, "asleep", value->asleep);
}

static json_t *describe_sidecore(const struct server *server, const struct server_sidecore *sidecore, uint64_t cycles)
{
	struct server_share total;
	struct sidecore_counters now;

	sidecore_read_counters(sidecore->sidecore, &now);
	total = compute_share(now.busy_cycles, now.empty_cycles, cycles);
	return json_pack("{s:i, s:i, s:f, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:I, s:I, s:I, s:I}}", "cpu",
			 now.cpu, "pollers", (int)now.pollers, "busy_share", sidecore->second.busy, "second",
			 describe_share(&sidecore->second), "total", describe_share(&total), "rounds",
			 (json_int_t)now.rounds, "empty_rounds", (json_int_t)now.empty_rounds, "sleeps",
			 (json_int_t)now.sleeps, "aborted_sleeps", (json_int_t)now.aborted_sleeps, "sleep_ns",
			 (json_int_t)now.sleep_ns, "busy_cycles", (json_int_t)now.busy_cycles, "empty_cycles",
			 (json_int_t)now.empty_cycles, "cycles", (json_int_t)cycles, "wakes", "kick",
			 (json_int_t)now.wakes_kick, "message", (json_int_t)now.wakes_message, "timer",
			 (json_int_t)now.wakes_timer, "nap", (json_int_t)now.wakes_nap);
}

json_t *status_describe_sidecores(struct server *server)
{
	uint64_t cycles = clock_cycles() - server->started_cycles;
	json_t *list = json_array();

	for (unsigned i = 0; i < server->sidecore_count; i++)
		json_array_append_new(list, describe_sidecore(server, &server->sidecores[i], cycles));
	return list;
}

/* virtio 1.3 5.1.2: receive and transmit alternate, the control queue comes last. */
static const char *queue_kind(const struct virtio_device *device, unsigned index)
{
	if (device->ops->device_id != 1)
		return "request";
	if (device->queue_count % 2 && index == device->queue_count - 1U)
		return "control";
	return index % 2 ? "transmit" : "receive";
}

static json_t *describe_queue(const struct virtio_device *device, unsigned index)
{
	const struct virtio_queue *queue = &device->queues[index];
	const struct virtqueue *ring = &queue->ring;
	bool running = queue->state == VIRTIO_QUEUE_RUNNING;
	uint8_t broken = READ(ring->broken);
	json_t *object = json_object();
	const struct {
		const char *key;
		uint64_t value;
	} counts[] = {
		{ "chains", READ(ring->counters.chains) },
		{ "bytes", READ(ring->counters.bytes) },
		{ "notifications", READ(ring->counters.notifications) },
		{ "suppressed", READ(ring->counters.suppressed) },
		{ "kicks", READ(ring->counters.kicks) },
		{ "breaks", READ(ring->counters.breaks) },
		{ "in_flight", READ(queue->life.in_flight) },
		{ "turns", READ(queue->life.poller.counters.turns) },
		{ "empty_turns", READ(queue->life.poller.counters.empty_turns) },
		{ "work", READ(queue->life.poller.counters.work) },
		{ "cycles", READ(queue->life.poller.counters.cycles) },
		{ "wakes", READ(queue->life.poller.counters.wakes) },
	};

	json_object_set_new(object, "index", json_integer(index));
	json_object_set_new(object, "kind", json_string(queue_kind(device, index)));
	json_object_set_new(object, "running", json_boolean(running));
	json_object_set_new(object, "size", json_integer(running ? ring->config.size : 0));
	json_object_set_new(object, "packed", json_boolean(running && ring->config.packed));
	json_object_set_new(object, "sidecore",
			    running && queue->life.home ? json_integer(sidecore_index(queue->life.home)) : json_null());
	json_object_set_new(object, "broken",
			    broken == VIRTQUEUE_INTACT ? json_null()
						       : json_string(virtqueue_break_reason_name(broken)));
	for (unsigned i = 0; i < array_size(counts); i++)
		json_object_set_new(object, counts[i].key, json_integer((json_int_t)counts[i].value));
	return object;
}

json_t *status_describe_queues(const struct server *server, const struct virtio_device *device)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < device->queue_count; i++)
		json_array_append_new(list, describe_queue(device, i));
	return list;
}

static double rate(uint64_t now, uint64_t *before, double seconds)
{
	double result = seconds > 0 ? (double)(now - *before) / seconds : 0.0;

	*before = now;
	return result;
}

static void sample_interface(struct server_interface *interface, double seconds)
{
	struct server_flow *flow = &interface->flow;
	struct port_counters sum;

	port_read_counters(server_interface_port(interface), &sum);
	flow->in_frame_rate = rate(sum.in_frames, &flow->in_frames, seconds);
	flow->in_byte_rate = rate(sum.in_bytes, &flow->in_bytes, seconds);
	flow->out_frame_rate = rate(sum.out_frames, &flow->out_frames, seconds);
	flow->out_byte_rate = rate(sum.out_bytes, &flow->out_bytes, seconds);
}

static void sample_disk(struct server_disk *disk, double seconds)
{
	struct server_disk_flow *flow = &disk->flow;
	struct status_disk_counters counters;

	status_read_disk(disk, &counters);
	flow->read_rate = rate(counters.reads, &flow->reads, seconds);
	flow->read_byte_rate = rate(counters.read_bytes, &flow->read_bytes, seconds);
	flow->write_rate = rate(counters.writes, &flow->writes, seconds);
	flow->write_byte_rate = rate(counters.write_bytes, &flow->write_bytes, seconds);
}

void server_sample(struct server *server)
{
	uint64_t now = clock_nanoseconds(), cycles = clock_cycles();
	double seconds = (double)(now - server->sampled_ns) / (double)NANOSECONDS_PER_SECOND;

	for (unsigned i = 0; i < server->sidecore_count; i++) {
		struct server_sidecore *sidecore = &server->sidecores[i];
		struct sidecore_counters counters;

		sidecore_read_counters(sidecore->sidecore, &counters);
		sidecore->second = compute_share(counters.busy_cycles - sidecore->sampled.busy_cycles,
						 counters.empty_cycles - sidecore->sampled.empty_cycles,
						 cycles - server->sampled_cycles);
		sidecore->sampled = counters;
	}
	for (unsigned i = 0; i < server->interface_count; i++)
		sample_interface(&server->interfaces[i], seconds);
	for (unsigned i = 0; i < server->disk_count; i++) {
		sample_disk(&server->disks[i], seconds);
		disk_observe(server->disks[i].disk, now);
	}
	server->sampled_ns = now;
	server->sampled_cycles = cycles;
}
