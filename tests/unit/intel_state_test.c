/* SPDX-License-Identifier: BSD-3-Clause */
/* Intel's cards: what is saved is loaded, is the same again, and goes on; what was damaged stops nobody. */
#include "test.h"

#include <string.h>

#include "base/disposal.h"
#include "intel_fixture.h"
#include "state_copy.h"

#define ROUNDS 1500U

static struct disposal *disposal;

static const struct {
	enum intel_nic_model model;
	bool posted;
	enum pci_interrupt_kind kind;
} cards[] = {
	/* 0 */ { INTEL_NIC_IGB, false, PCI_INTERRUPT_MSIX },
	/* 1 */ { INTEL_NIC_IGB, true, PCI_INTERRUPT_MSIX },
	/* 2 */ { INTEL_NIC_E1000E, false, PCI_INTERRUPT_MSIX },
	/* 3 */ { INTEL_NIC_E1000, false, PCI_INTERRUPT_PIN },
};

static void operate(enum pci_result (*operation)(struct pci_device *device))
{
	intel.done = false;
	if (operation(intel.device) == PCI_DEFERRED) {
		for (unsigned i = 0; i < 10 && !intel.done; i++)
			intel_round();
		assert_true(intel.done);
	}
}

static void reset(void)
{
	operate(intel.device->ops->reset);
	pci_device_config_reset(intel.device);
}

static void send_one(void)
{
	uint8_t *frame = intel.memory + INTEL_TX_BUFFERS;
	uint32_t length = intel_frame(frame, intel_peer_mac, 17, 100);

	intel_post(0, INTEL_TX_BUFFERS, TXD_EOP | TXD_RS | length, 0);
	intel_ring_tail(0);
	for (unsigned i = 0; i < 4; i++)
		intel_round();
}

static void set_up(unsigned card)
{
	intel_fixture_start(cards[card].model, cards[card].posted, cards[card].kind);
	intel_rings(0);
	intel_offer(0, 16);
	intel_write(IMS, 4);
	for (unsigned i = 0; i < 3; i++)
		send_one();
	operate(intel.device->ops->pause);
}

static void same_again(void **state)
{
	for (unsigned card = 0; card < array_size(cards); card++) {
		struct parcel saved = { 0 }, copy, again = { 0 };
		uint32_t head;

		set_up(card);
		head = intel.nic->transmit[0].head;
		assert_int_equal(head, 3);
		pci_device_save(intel.device, &saved);
		assert_false(saved.failed);
		state_copy(&saved, &copy);
		reset();
		if (pci_device_load(intel.device, &copy))
			fail_msg("card %u: %s", card, copy.reason);
		assert_int_equal(copy.position, copy.length);
		assert_int_equal(intel.nic->transmit[0].head, head);
		pci_device_save(intel.device, &again);
		assert_int_equal(again.length, saved.length);
		assert_memory_equal(again.bytes, saved.bytes, saved.length);
		assert_int_equal(intel_read(GPTC), 3);
		assert_int_equal(intel_read(GPTC), 0);
		parcel_release(&saved, NULL);
		parcel_release(&copy, disposal);
		parcel_release(&again, NULL);
		intel_fixture_stop();
	}
}

static void damaged(void **state)
{
	for (unsigned card = 0; card < array_size(cards); card++) {
		unsigned seed = card + 1, loaded = 0;
		struct parcel saved = { 0 }, copy;

		set_up(card);
		pci_device_save(intel.device, &saved);
		for (unsigned i = 0; i < ROUNDS; i++) {
			reset();
			state_copy(&saved, &copy);
			state_damage(&copy, &seed, 9000); /* registers are the long rest */
			if (!pci_device_load(intel.device, &copy)) {
				loaded++;
				intel_rings(0);
				intel.device->ops->resume(intel.device);
				send_one();
				intel_read(EECD);
				intel_read(GPTC);
				operate(intel.device->ops->pause);
			}
			parcel_release(&copy, disposal);
		}
		assert_true(loaded > ROUNDS / 20 && loaded < ROUNDS);
		parcel_release(&saved, NULL);
		intel_fixture_stop();
	}
}

static int make_disposal(void **state)
{
	disposal = disposal_create();
	return disposal ? 0 : -1;
}

static int destroy_disposal(void **state)
{
	disposal_destroy(disposal);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_again),
		cmocka_unit_test(damaged),
	};

	return cmocka_run_group_tests(tests, make_disposal, destroy_disposal);
}
