/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intel's network cards with sidecores that run: two cards of a model send to each other, each polled by a sidecore of its own,
 * while the control thread reads and writes every register, resets, pauses, pulls the cable and gives interrupts. For
 * ThreadSanitizer, and for what it cannot see: a card that does not work any more.
 */
#include "test.h"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "device/intel/intel_internal.h"
#include "net_fixture.h"

#define ROUNDS	   60U
#define HANG_MS	   60000
#define MEMORY	   0x100000U
#define RING_SIZE  64U /* descriptors */
#define TX_RING	   0x1000U
#define RX_RING	   0x2000U
#define TX_BUFFER  0x10000U
#define RX_BUFFERS 0x20000U
#define BURST	   8U

struct card {
	struct pci_device *device;
	struct intel_nic *nic;
	int memory_fd, vector;
	uint8_t *memory;
	uint32_t tail, receive_tail;
	bool done;
};

static struct net_fixture fixture;
static struct card cards[2];

/* ---- operations ---- */

static void note_done(struct pci_device *device)
{
	((struct card *)device->transport)->done = true;
}

static const struct pci_device_host host = { .done = note_done };

static void run_completions(void)
{
	struct pollfd pollfd = { .fd = engine_completion_fd(fixture.engine), .events = POLLIN };

	assert_int_equal(poll(&pollfd, 1, HANG_MS), 1);
	engine_run_completions(fixture.engine);
}

static void operate(struct card *card, enum pci_result (*operation)(struct pci_device *device))
{
	card->done = false;
	if (operation(card->device) == PCI_DEFERRED) {
		while (!card->done)
			run_completions();
	}
}

static void access_bar(struct card *card, uint32_t offset, uint32_t *value, bool write)
{
	struct pci_access access = { .write = write, .offset = offset, .length = 4, .data = (uint8_t *)value };

	card->done = false;
	while (pci_device_access(card->device, &access) == PCI_DEFERRED) {
		while (!card->done)
			run_completions();
		card->done = false;
	}
}

static uint32_t read_register(struct card *card, uint32_t offset)
{
	uint32_t value = 0;

	access_bar(card, offset, &value, false);
	return value;
}

static void write_register(struct card *card, uint32_t offset, uint32_t value)
{
	access_bar(card, offset, &value, true);
}

/* As a guest does, which knows nothing of a message; where nothing is mapped, by message. */
static void store(struct card *card, uint32_t offset, uint32_t value)
{
	if (card->device->bars[0].window_count)
		pci_window_store(&card->device->bars[0], offset, value);
	else
		write_register(card, offset, value);
}

/* ---- the driver ---- */

static void set_ring(struct card *card, bool receive, uint32_t base)
{
	uint32_t at = intel_ring_registers(card->nic, receive, 0);

	write_register(card, at + RING_BASE_LOW, base);
	write_register(card, at + RING_BASE_HIGH, 0);
	write_register(card, at + RING_LENGTH, RING_SIZE * 16);
	write_register(card, at + RING_HEAD, 0);
	write_register(card, at + RING_TAIL, 0);
	if (receive && card->nic->variant->generation == INTEL_82576)
		write_register(card, at + RING_SRRCTL, 1U << 25 | 2);
	write_register(card, at + RING_CONTROL, RING_CONTROL_ENABLE);
}

static void offer_buffers(struct card *card)
{
	/* All but one, again and again: those that are still full are filled anew. */
	for (unsigned i = 0; i < RING_SIZE / 2; i++) {
		const uint64_t words[2] = { RX_BUFFERS + 0x800 * card->receive_tail, 0 };

		memcpy(card->memory + RX_RING + 16 * card->receive_tail, words, sizeof(words));
		card->receive_tail = (card->receive_tail + 1) % RING_SIZE;
	}
	store(card, intel_ring_registers(card->nic, true, 0) + RING_TAIL, card->receive_tail);
}

static void send_burst(struct card *card)
{
	const struct card *to = &cards[card == cards];
	const struct intel_descriptor descriptor = { TX_BUFFER, 200 | TXD_EOP | TXD_RS, 0 };
	uint8_t *frame = card->memory + TX_BUFFER;

	memcpy(frame, to->nic->mac, 6);
	memcpy(frame + 6, card->nic->mac, 6);
	memcpy(frame + 12, "\x08\0\x45\0\0\xba\0\0\0\0\x40\x11", 12);
	for (unsigned i = 0; i < BURST; i++) {
		memcpy(card->memory + TX_RING + 16 * card->tail, &descriptor, 16);
		card->tail = (card->tail + 1) % RING_SIZE;
	}
	store(card, intel_ring_registers(card->nic, false, 0) + RING_TAIL, card->tail);
}

static void set_up(struct card *card)
{
	write_register(card, CTRL, read_register(card, CTRL) | CTRL_SLU);
	card->tail = card->receive_tail = 0;
	memset(card->memory, 0, TX_BUFFER);
	set_ring(card, false, TX_RING);
	set_ring(card, true, RX_RING);
	write_register(card, RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC);
	write_register(card, TCTL, TCTL_EN | 8);
	write_register(card, IMS, UINT32_MAX);
	offer_buffers(card);
}

/* ---- what the control thread does meanwhile ---- */

/* Of every kind: interrupts, moderation, RSS, filters, statistics, PHY, EEPROM. */
static void touch_registers(struct card *card, unsigned round)
{
	static const uint16_t written[] = { ICS,  IMC,	IMS,  ITR,   EITR,  EITR_82574, IVAR,  IVAR_82574,
					    GPIE, EIAC, EIAM, EIMS,  EIMC,  EICS,	IAM,   EIAC_82574,
					    RDTR, RADV, TIDV, TADV,  MRQC,  RXCSUM,	RLPML, VET,
					    MTA,  VFTA, RETA, RSSRK, RFCTL, CTRL_EXT };

	for (unsigned i = 0; i < array_size(written); i++) {
		write_register(card, written[i], i == 0 ? round : 1U << (round + i) % 32);
		read_register(card, written[i]);
	}
	write_register(card, MRQC, card->nic->variant->generation == INTEL_82576 ? 0xff0002 : 0xff0001);
	write_register(card, MDIC, 1U << 27 | 1U << 21 | 1U << 16);
	write_register(card, EERD, 1);
	for (uint32_t offset = STATISTICS; offset < STATISTICS_END; offset += 4)
		read_register(card, offset);
	read_register(card, ICR);
	read_register(card, STATUS);
	read_register(card, intel_ring_registers(card->nic, false, 0) + RING_HEAD);
	if (card->device->bars[0].window_count && card->nic->variant->generation == INTEL_82576) {
		store(card, EIMS, 1U << round % 5);
		store(card, EICS, 1U << round % 3);
		store(card, EIMC, 1U << round % 7);
	}
	write_register(card, VET, 0x8100);
	write_register(card, RFCTL, 0);
}

static void change_interrupts(struct card *card, unsigned round)
{
	struct pci_interrupts *interrupts = &card->device->interrupts;
	enum pci_interrupt_kind kind = round % PCI_INTERRUPT_KINDS;

	if (!interrupts->counts[kind])
		kind = PCI_INTERRUPT_PIN;
	for (unsigned other = 0; other < PCI_INTERRUPT_KINDS; other++) {
		if (other != kind && interrupts->counts[other])
			pci_interrupts_disable(interrupts, other);
	}
	assert_int_equal(pci_interrupts_set(interrupts, kind, 0, card->vector), 0);
	pci_interrupt_pin_mask(interrupts);
	pci_interrupt_pin_unmask(interrupts, engine_notifier(fixture.engine));
}

static void disturb(struct card *card, unsigned round)
{
	static const uint16_t off = 2, on = 6;

	switch (round % 10) {
	case 1:
		operate(card, card->device->ops->pause);
		card->device->ops->resume(card->device);
		break;
	case 3:
		intel_nic_set_link(card->device, false);
		send_burst(card);
		intel_nic_set_link(card->device, true);
		break;
	case 5:
		write_register(card, CTRL, CTRL_RST);
		set_up(card);
		break;
	case 7:
		write_register(card, RCTL, 0);
		write_register(card, TCTL, 0);
		set_up(card);
		break;
	case 8: /* bus mastering */
		pci_device_config_write(card->device, 4, &off, 2);
		send_burst(card);
		pci_device_config_write(card->device, 4, &on, 2);
		break;
	case 9:
		operate(card, card->device->ops->reset);
		set_up(card);
		break;
	default:
		break;
	}
}

/* ---- life ---- */

static void start_card(struct card *card, enum intel_nic_model model, bool posted)
{
	const uint8_t number = (uint8_t)(card - cards);
	struct intel_nic_options options = {
		.name = "nic", .model = model, .posted = posted, .sidecore = number, .mac = { 2, 0, 0, 0, 0, number }
	};
	struct guest_memory *memory = guest_memory_create(), *with;
	struct guest_region *region;
	const uint16_t master = 6;

	assert_int_equal(intel_nic_create(&options, fixture.engine, fixture.network, &card->device), 0);
	card->nic = intel_nic_of(card->device);
	card->vector = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Two mappings: the driver's accesses and ours are no race that anything could see. */
	card->memory_fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(card->memory_fd, MEMORY), 0);
	card->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, card->memory_fd, 0);
	assert_ptr_not_equal(card->memory, MAP_FAILED);
	assert_int_equal(guest_region_map(card->memory_fd, 0, 0, MEMORY, 0, &region), 0);
	assert_int_equal(guest_memory_with(memory, region, &with), 0);
	guest_region_put(region);
	guest_memory_free(memory);
	card->device->memory = with;
	card->device->host = &host;
	card->device->transport = card;
	card->device->ops->resume(card->device);
	pci_device_config_write(card->device, 4, &master, 2);
	set_up(card);
}

static void note_gone(struct engine_completion *completion)
{
	completion->done = NULL;
}

static void stop_card(struct card *card)
{
	struct engine_completion gone = { .done = note_gone };

	operate(card, card->device->ops->pause);
	guest_memory_free(card->device->memory);
	card->device->memory = NULL;
	card->device->host = NULL;
	intel_nic_destroy(card->device, &gone);
	while (gone.done)
		run_completions();
	munmap(card->memory, MEMORY);
	close(card->memory_fd);
	close(card->vector);
}

/* Frames cross in both directions: the driver finds descriptors that were written back. */
static void frames_cross(void)
{
	for (unsigned i = 0; i < 2; i++) {
		operate(&cards[i], cards[i].device->ops->reset);
		set_up(&cards[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		/* Where "descriptor done" is: 82576 with its own descriptors, and all others. */
		unsigned place = cards[i].nic->variant->generation == INTEL_82576 ? 8 : 12;
		volatile uint8_t *received = cards[!i].memory + RX_RING + place;

		send_burst(&cards[i]);
		for (unsigned waited = 0; !(*received & 1); waited++) {
			assert_true(waited < HANG_MS);
			usleep(1000);
		}
		assert_memory_equal(cards[!i].memory + RX_BUFFERS, cards[i].memory + TX_BUFFER, 200);
	}
}

static void exercise(enum intel_nic_model model, bool posted)
{
	net_fixture_start(&fixture, 2, &(struct network_config){ .name = "test", .patience_ns = 100000 });
	assert_int_equal(engine_start(fixture.engine), 0);
	for (unsigned i = 0; i < 2; i++)
		start_card(&cards[i], model, posted);
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct card *card = &cards[round / 10 & 1];

		for (unsigned i = 0; i < 2; i++) {
			send_burst(&cards[i]);
			offer_buffers(&cards[i]);
		}
		touch_registers(card, round);
		change_interrupts(card, round / 3);
		disturb(card, round);
	}
	frames_cross();
	for (unsigned i = 0; i < 2; i++) {
		assert_null(atomic_load(&cards[i].device->fault));
		stop_card(&cards[i]);
	}
	engine_stop(fixture.engine);
	net_fixture_stop(&fixture);
}

static void registers_of_an_82576_under_traffic(void **state)
{
	exercise(INTEL_NIC_IGB, false);
	exercise(INTEL_NIC_IGB, true);
}

static void registers_of_an_82574_under_traffic(void **state)
{
	exercise(INTEL_NIC_E1000E, false);
}

static void registers_of_an_82540_under_traffic(void **state)
{
	exercise(INTEL_NIC_E1000, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers_of_an_82576_under_traffic),
		cmocka_unit_test(registers_of_an_82574_under_traffic),
		cmocka_unit_test(registers_of_an_82540_under_traffic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
