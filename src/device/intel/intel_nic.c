/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intel Gigabit network cards: 82540EM (e1000), 82574L (e1000e), 82576 (igb), for the drivers that come with guests.
 *
 * Theory of operation
 * -------------------
 * One core with variants (82540.c, 82574.c, 82576.c: tables). A card is a port of a network, as virtio-net's is:
 *
 *  - *transmit*: lanes (intel_transmit.c) poll the driver's rings and lead into network_forward(). What descriptors ask
 *    for becomes offload state (intel_offload.c): between capable guests nothing is segmented or summed.
 *  - *receive*: whoever sends to the port fills the driver's rings, under the port's claim (intel_receive.c), by
 *    filters (intel_filter.c) and RSS (intel_rss.c). These rings are nobody's, and not polled.
 *  - *interrupts*: causes, masks, vectors, moderation (intel_interrupt.c).
 *  - *registers* (intel_bar.c): trapped ones are the control thread's; what sidecores need of them they load, relaxed.
 *    Ring registers, and those of the 82576's interrupts, lie on pages that the guest can map: whoever uses a ring
 *    looks at them (intel_ring.c). In steady state the driver of an 82576 touches nothing else, so neither a packet nor an
 *    interrupt costs a message.
 *
 * *Life.* The card runs while the transport has resumed it, it may master the bus, has memory, and RCTL.EN or TCTL.EN
 * is set: @transmitting, @receiving, and lanes attached (intel_nic_start()). It comes to rest (intel_nic_rest()) for a
 * pause, a reset, and when one of the two is switched off, since the driver frees its buffers then: the port goes down,
 * lanes are stopped, every sidecore passes between two rounds, timers are cancelled; then nothing of the guest is
 * referenced, and the operation goes on. One operation at a time: the transport sees to that.
 *
 * The number of lanes is one, or as many as there are sidecores, for a card with several queues that no sidecore was
 * chosen for: queue n belongs to lane n modulo the number of lanes. Only lanes that have queues which the driver may
 * have set up are attached; lane 0 always is.
 *
 * *Faults.* A driver's nonsense stops the card by a name (pci_device_fault()): lanes find no work then, what is sent to
 * it is dropped, until CTRL.RST or a reset.
 *
 * Invariants
 * - Transmit rings are touched by their lane, receive rings under the claim, both by the control thread at rest only.
 * - nic->transmitting or nic->receiving is set only while lanes may run and device.memory stays as it is.
 *
 * Context: this file is the control thread's.
 */
#include "device/intel/intel_nic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "device/intel/intel_internal.h"

/* ---- running ---- */

struct intel_when intel_when_control(const struct intel_nic *nic)
{
	return (struct intel_when){ .notifier = engine_notifier(nic->device.engine), .now = clock_nanoseconds() };
}

bool intel_nic_link_up(const struct intel_nic *nic)
{
	return (nic->link || intel_phy_loopback(nic)) &&
	       (intel_load(nic, CTRL) & CTRL_SLU || nic->variant->identity.express);
}

bool intel_nic_looked_after(const struct intel_nic *nic)
{
	return nic->lanes[0].queue.state == DEVICE_QUEUE_RUNNING;
}

void intel_nic_kick(struct intel_nic *nic)
{
	for (unsigned i = 0; i < nic->lane_count; i++) {
		if (nic->lanes[i].queue.state == DEVICE_QUEUE_RUNNING)
			device_queue_kick(&nic->lanes[i].queue);
	}
}

static bool may_run(const struct intel_nic *nic)
{
	return !nic->resting && !nic->rest.under_way && nic->device.memory &&
	       pci_config_bus_master(&nic->device.config) && !pci_config_power_state(&nic->device.config);
}

unsigned intel_nic_lanes_wanted(const struct intel_nic *nic)
{
	unsigned wanted = 1;

	for (unsigned queue = 0; nic->lane_count > 1 && queue < nic->variant->queues; queue++) {
		uint32_t registers = intel_ring_registers(nic, false, queue);

		if (intel_page_load(nic, registers + RING_CONTROL) & RING_CONTROL_ENABLE &&
		    intel_page_load(nic, registers + RING_LENGTH))
			wanted |= 1U << queue % nic->lane_count;
	}
	return wanted;
}

static void attach_lane(struct intel_nic *nic, struct intel_lane *lane)
{
	int error;

	if (lane->queue.state != DEVICE_QUEUE_STOPPED)
		return;
	lane->active = 0;
	lane->looks = 0;
	atomic_fetch_or(&nic->lanes_attached, 1U << lane->index);
	error = device_queue_start(&lane->queue, device_queue_place(nic->device.engine, nic->sidecore));
	if (error) /* no memory for the attachment: nothing would move, so say so */
		pci_device_fault(&nic->device, "no memory to poll the card");
}

void intel_nic_start(struct intel_nic *nic)
{
	bool run = may_run(nic), loopback = atomic_load(&nic->loopback);
	bool transmit = run && intel_load(nic, TCTL) & TCTL_EN && (intel_nic_link_up(nic) || loopback);
	bool receive = run && intel_load(nic, RCTL) & RCTL_EN;

	/* Release: rings and registers as they were set up. */
	atomic_store_explicit(&nic->transmitting, transmit, memory_order_release);
	atomic_store_explicit(&nic->receiving, receive, memory_order_release);
	atomic_store_explicit(&nic->port.up, receive && !loopback && intel_nic_link_up(nic), memory_order_release);
	if (!run || !((intel_load(nic, TCTL) | intel_load(nic, RCTL)) & TCTL_EN))
		return;
	for (unsigned lanes = intel_nic_lanes_wanted(nic); lanes; lanes &= lanes - 1)
		attach_lane(nic, &nic->lanes[__builtin_ctz(lanes)]);
	intel_nic_kick(nic);
}

/* Lane 0 has found queues that no lane polls. */
static void attach_lanes(struct engine_completion *completion)
{
	struct intel_nic *nic = container_of(completion, struct intel_nic, attach);

	/* Before the look: what lane 0 finds after this is posted again. */
	atomic_store(&nic->attach_posted, false);
	intel_nic_start(nic);
}

/* ---- coming to rest ---- */

static void rested(struct intel_nic *nic)
{
	nic->rest.under_way = false;
	nic->rest.then(nic);
}

/* Every sidecore has cancelled its timer. */
static void after_timers(struct engine_completion *completion)
{
	rested(container_of(completion, struct intel_nic, rest.completion));
}

static void cancel_timer(struct sidecore *sidecore, struct sidecore_message *message)
{
	struct intel_timer *own = container_of(message, struct intel_timer, cancel);
	struct intel_nic *nic = own->nic;

	sidecore_timer_cancel(sidecore, &own->timer);
	/* Full order: the last of them sees to it that all have cancelled before the control thread goes on. */
	if (atomic_fetch_sub(&nic->rest.timers, 1) == 1)
		engine_complete(nic->device.engine, &nic->rest.completion);
}

/*
 * Lanes are stopped. A message to each sidecore cancels its timer, and is at the same time the barrier after which none
 * uses the receive side: it was unpublished before, and messages run between two rounds.
 */
static void cancel_timers(struct intel_nic *nic)
{
	nic->rest.completion.done = after_timers;
	atomic_store(&nic->rest.timers, nic->timer_count);
	for (unsigned i = 0; i < nic->timer_count; i++)
		sidecore_post(engine_sidecore(nic->device.engine, i), &nic->timers[i].cancel);
}

static void lane_stopped(struct device_queue *queue, void *context)
{
	struct intel_nic *nic = context;

	if (!--nic->rest.lanes)
		cancel_timers(nic);
}

enum pci_result intel_nic_rest(struct intel_nic *nic, void (*then)(struct intel_nic *nic))
{
	atomic_store(&nic->transmitting, false);
	atomic_store(&nic->receiving, false);
	atomic_store(&nic->port.up, false);
	atomic_store(&nic->lanes_attached, 0);
	nic->rest.then = then;
	nic->rest.under_way = true;
	nic->rest.lanes = nic->lane_count;
	for (unsigned i = 0; i < nic->lane_count; i++)
		device_queue_stop(&nic->lanes[i].queue, lane_stopped, nic);
	return PCI_DEFERRED;
}

/* ---- operations of the transport ---- */

static void paused(struct intel_nic *nic)
{
	intel_rings_forget(nic, false, false);
	pci_device_done(&nic->device);
}

enum pci_result intel_op_pause(struct pci_device *device)
{
	struct intel_nic *nic = intel_nic_of(device);

	nic->resting = true;
	return intel_nic_rest(nic, paused);
}

void intel_op_resume(struct pci_device *device)
{
	struct intel_nic *nic = intel_nic_of(device);

	nic->resting = false;
	intel_nic_start(nic);
}

static void reset_fully(struct intel_nic *nic)
{
	/* A client comes or goes, else the card would not be paused: nothing stays of what a guest has left in it. */
	if (nic->resting)
		intel_eeprom_fill(nic);
	intel_nic_reset(nic, false);
	network_forget_addresses(&nic->port);
	intel_nic_start(nic);
	pci_device_done(&nic->device);
}

enum pci_result intel_op_reset(struct pci_device *device)
{
	return intel_nic_rest(intel_nic_of(device), reset_fully);
}

/*
 * Bus mastering or power was switched. There is no operation to wait for here: what was begun in this moment may end a
 * few microseconds later, as transactions on a bus do.
 */
void intel_op_command_changed(struct pci_device *device)
{
	intel_nic_start(intel_nic_of(device));
}

/* ---- registers after a reset ---- */

static void store_default(struct intel_nic *nic, uint32_t offset, uint32_t value)
{
	if (intel_in_window(nic->variant, offset))
		intel_page_store(nic, offset, value);
	else
		intel_store(nic, offset, value);
}

static void clear_pages(struct intel_nic *nic)
{
	const struct pci_bar *bar = &nic->variant->bars[0];

	for (unsigned i = 0; i < bar->window_count; i++) {
		for (uint32_t offset = 0; offset < bar->windows[i].length; offset += 4)
			intel_page_store(nic, bar->windows[i].offset + offset, 0);
	}
}

void intel_nic_reset(struct intel_nic *nic, bool soft)
{
	const struct intel_variant *variant = nic->variant;
	uint32_t eecd = intel_load(nic, EECD);

	for (uint32_t offset = 0; offset < INTEL_BAR_SIZE; offset += 4)
		intel_store(nic, offset, 0);
	clear_pages(nic);
	intel_store(nic, EECD, soft ? eecd : variant->eecd);
	for (unsigned i = 0; i < variant->default_count; i++)
		store_default(nic, variant->defaults[i].offset, variant->defaults[i].value);
	/* The first address comes from the EEPROM. */
	intel_store(nic, RAL0, (uint32_t)(nic->eeprom.words[0] | nic->eeprom.words[1] << 16));
	intel_store(nic, RAL0 + 4, nic->eeprom.words[2] | RAH_AV);
	if (!soft) {
		intel_phy_reset(nic);
		nic->io_address = 0;
		if (nic->vectors)
			memset(nic->vectors, 0, INTEL_VECTOR_BAR);
		nic->reset_at = clock_nanoseconds();
	}
	atomic_store(&nic->loopback, intel_phy_loopback(nic));
	atomic_fetch_add_explicit(&nic->key_version, 1, memory_order_release);
	intel_interrupts_reset(nic);
	intel_statistics_reset(nic);
	intel_rings_forget(nic, true, true);
}

/* ---- making and freeing ---- */

static void set_up_port(struct intel_nic *nic, const struct intel_nic_options *options)
{
	struct port *port = &nic->port;

	port->ops = &intel_port_ops;
	port->name = options->name;
	port->isolated = options->isolated;
	port->check_mac = options->check_mac;
	memcpy(port->mac, options->mac, sizeof(port->mac));
	port->ipv4_count = options->ipv4_count < PORT_IPV4_MAX ? options->ipv4_count : PORT_IPV4_MAX;
	memcpy(port->ipv4, options->ipv4, sizeof(port->ipv4));
	port->vlan = options->vlan;
}

static const struct intel_variant *variant_of(enum intel_nic_model model)
{
	switch (model) {
	case INTEL_NIC_E1000:
		return &intel_82540;
	case INTEL_NIC_E1000E:
		return &intel_82574;
	case INTEL_NIC_IGB:
		return &intel_82576;
	}
	return NULL;
}

static void *allocate(size_t size)
{
	void *memory = aligned_alloc(CACHE_LINE, (size + CACHE_LINE - 1) & -(size_t)CACHE_LINE);

	if (memory)
		memset(memory, 0, size);
	return memory;
}

static int make_lanes(struct intel_nic *nic)
{
	unsigned sidecores = engine_sidecore_count(nic->device.engine);
	int error;

	nic->lane_count = nic->sidecore < 0 && nic->variant->generation == INTEL_82576 ? min(sidecores, 4U) : 1;
	nic->lanes = allocate(nic->lane_count * sizeof(*nic->lanes));
	nic->timers = allocate(sidecores * sizeof(*nic->timers));
	if (!nic->lanes || !nic->timers)
		return -ENOMEM;
	nic->timer_count = sidecores;
	for (unsigned i = 0; i < sidecores; i++) {
		nic->timers[i].nic = nic;
		nic->timers[i].timer.expire = intel_interrupts_expire;
		nic->timers[i].cancel.run = cancel_timer;
	}
	for (unsigned i = 0; i < nic->lane_count; i++)
		nic->lanes[i].queue.kick_fd = -1;
	for (unsigned i = 0; i < nic->lane_count; i++) {
		struct intel_lane *lane = &nic->lanes[i];

		lane->nic = nic;
		lane->index = i;
		lane->queue.poller.ops = &intel_lane_ops;
		lane->queue.poller.silent = nic->device.bars[0].window_count;
		error = device_queue_init(&lane->queue, nic->device.engine, true);
		if (error)
			return error;
	}
	return 0;
}

static void free_nic(struct intel_nic *nic)
{
	for (unsigned i = 0; nic->lanes && i < nic->lane_count; i++)
		device_queue_release(&nic->lanes[i].queue);
	free(nic->lanes);
	free(nic->timers);
	free(nic->vectors);
	free(nic->registers);
	free(nic);
}

static int make_device(struct intel_nic *nic, const struct intel_nic_options *options, struct engine *engine)
{
	struct pci_device *device = &nic->device;
	int error;

	device->ops = nic->variant->ops;
	device->name = options->name;
	device->engine = engine;
	device->config.identity = nic->variant->identity;
	memcpy(device->bars, nic->variant->bars, sizeof(device->bars));
	if (options->posted)
		device->bars[0].window_count = 0;
	nic->registers = allocate(INTEL_BAR_SIZE);
	nic->vectors = nic->variant->identity.msix_count ? allocate(INTEL_VECTOR_BAR) : NULL;
	if (!nic->registers || (!nic->vectors && nic->variant->identity.msix_count))
		return -ENOMEM;
	error = pci_device_init(device);
	if (error)
		return error;
	nic->pages = device->bars[0].window_count ? (uint8_t *)device->bars[0].shared : (uint8_t *)nic->registers;
	return 0;
}

int intel_nic_create(const struct intel_nic_options *options, struct engine *engine, struct network *network,
		     struct pci_device **device)
{
	const struct intel_variant *variant = variant_of(options->model);
	struct intel_nic *nic;
	int error;

	if (!variant)
		return -EINVAL;
	nic = allocate(sizeof(*nic));
	if (!nic)
		return -ENOMEM;
	nic->variant = variant;
	nic->network = network;
	nic->sidecore = options->sidecore;
	nic->coalescing = options->coalescing;
	nic->resting = true;
	nic->link = true;
	nic->attach.done = attach_lanes;
	memcpy(nic->mac, options->mac, sizeof(nic->mac));
	set_up_port(nic, options);
	error = make_device(nic, options, engine);
	if (error)
		goto free_nic;
	error = make_lanes(nic);
	if (error)
		goto release_device;
	error = network_add_port(network, &nic->port);
	if (error)
		goto release_device;
	intel_eeprom_fill(nic);
	intel_nic_reset(nic, false);
	*device = &nic->device;
	return 0;

release_device:
	pci_device_release(&nic->device);
free_nic:
	free_nic(nic);
	return error;
}

/* Every sidecore has passed between two rounds: none has the port any more. */
static void removed(struct engine_completion *completion)
{
	struct intel_nic *nic = container_of(completion, struct intel_nic, removal);
	struct engine_completion *told = nic->removed;

	/* The report of a fault, or of queues, is on its way: it comes before a second barrier does. */
	if (atomic_load(&nic->device.fault_posted) || atomic_load(&nic->attach_posted)) {
		engine_barrier(nic->device.engine, &nic->removal);
		return;
	}
	pci_device_release(&nic->device);
	free_nic(nic);
	if (told)
		told->done(told);
}

void intel_nic_destroy(struct pci_device *device, struct engine_completion *completion)
{
	struct intel_nic *nic = intel_nic_of(device);

	network_remove_port(nic->network, &nic->port);
	nic->removed = completion;
	nic->removal.done = removed;
	engine_barrier(device->engine, &nic->removal);
}

void intel_nic_set_link(struct pci_device *device, bool up)
{
	struct intel_nic *nic = intel_nic_of(device);
	struct intel_when when = intel_when_control(nic);

	if (nic->link == up)
		return;
	nic->link = up;
	if (!up)
		network_forget_addresses(&nic->port);
	intel_nic_start(nic);
	intel_raise(nic, &when, ICR_LSC);
}

const struct port *intel_nic_port(const struct pci_device *device)
{
	return &intel_nic_of(device)->port;
}
