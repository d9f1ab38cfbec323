/* SPDX-License-Identifier: BSD-3-Clause */
/* Intel's network cards: causes, masks, vectors, moderation, and registers that are written without telling. */
#include "test.h"

#include "base/clock.h"
#include "intel_fixture.h"

#define MICROSECOND NANOSECONDS_PER_MICROSECOND

static uint8_t bytes[2000];

static void start(enum intel_nic_model model, enum pci_interrupt_kind kind)
{
	intel_fixture_start(model, false, kind);
	/* The control thread reads the real clock, which shall not overtake ours. */
	intel.net.turn.now = clock_nanoseconds() + 3600 * NANOSECONDS_PER_SECOND;
	intel_rings(0);
	intel_offer(0, 100);
}

static void receive(void)
{
	uint32_t length = intel_frame(bytes, intel_mac, 17, 64);

	assert_int_equal(intel_send(bytes, length, NULL), 1);
}

/* ---- ICR ---- */

static void test_pin(void **state)
{
	static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

	for (unsigned i = 0; i < 3; i++) {
		start(models[i], PCI_INTERRUPT_PIN);
		receive();
		assert_int_equal(intel_interrupts(0), 0); /* masked */
		intel_write(IMS, ICR_RXT0 | ICR_LSC);
		assert_int_equal(intel_interrupts(0), 1);
		assert_true(pci_interrupt_pin_asserted(&intel.device->interrupts));
		receive();
		assert_int_equal(intel_interrupts(0), 0); /* a level */
		assert_int_equal(intel_read(ICR), ICR_RXT0 | ICR_INT_ASSERTED);
		assert_false(pci_interrupt_pin_asserted(&intel.device->interrupts));
		assert_int_equal(intel_read(ICR), 0);
		/* Answered and unmasked by the VMM: the next one. */
		pci_interrupt_pin_unmask(&intel.device->interrupts, engine_notifier(intel.net.engine));
		assert_int_equal(intel_interrupts(0), 0);
		intel_nic_set_link(intel.device, false);
		assert_int_equal(intel_interrupts(0), 1);
		/* Masked while asserted: the level goes. */
		intel_write(IMC, UINT32_MAX);
		assert_false(pci_interrupt_pin_asserted(&intel.device->interrupts));
		assert_int_equal(intel_read(IMS), 0);
		intel_fixture_stop();
	}
}

/* A read that was not for us must not lose what comes next (shared pins): the mask is not empty, nothing is asserted.
 */
static void test_spurious_read(void **state)
{
	start(INTEL_NIC_E1000E, PCI_INTERRUPT_PIN);
	intel_write(IMS, ICR_LSC);
	receive(); /* pending, but masked */
	assert_int_equal(intel_read(ICR), ICR_RXT0);
	assert_int_equal(intel_read(ICR), ICR_RXT0);
	intel_write(IMS, ICR_RXT0);
	assert_int_equal(intel_interrupts(0), 1);
	/* IAM masks by the read of an asserted ICR, with CTRL_EXT.IAME. */
	intel_write(IAM, UINT32_MAX);
	intel_write(CTRL_EXT, CTRL_EXT_IAME);
	assert_true(intel_read(ICR) & ICR_INT_ASSERTED);
	assert_int_equal(intel_read(IMS), 0);
	intel_fixture_stop();
}

static void test_write_clears(void **state)
{
	start(INTEL_NIC_IGB, PCI_INTERRUPT_MSI);
	intel_write(IMS, ICR_RXT0 | ICR_LSC);
	intel_write(ICS, ICR_RXT0 | ICR_LSC);
	assert_int_equal(intel_interrupts(0), 1);
	/* What is left is told of again. */
	intel_write(ICR, ICR_RXT0);
	assert_int_equal(intel_interrupts(0), 1);
	intel_write(ICR, ICR_LSC);
	assert_int_equal(intel_interrupts(0), 0);
	intel_fixture_stop();
}

static void test_msi(void **state)
{
	start(INTEL_NIC_IGB, PCI_INTERRUPT_MSI);
	intel_write(IAM, UINT32_MAX);
	intel_write(IMS, ICR_RXT0);
	for (unsigned i = 0; i < 5; i++) {
		receive();
		assert_int_equal(intel_interrupts(0), 1);
		receive();
		assert_int_equal(intel_interrupts(0), 0);
		assert_true(intel_read(ICR) & ICR_RXT0);
		assert_int_equal(intel_read(IMS), 0);
		receive(); /* while the driver polls */
		assert_int_equal(intel_interrupts(0), 0);
		intel_write(IMS, ICR_RXT0);
		assert_int_equal(intel_interrupts(0), 1);
		intel_read(ICR);
		intel_write(IMS, ICR_RXT0);
		intel_advance(MICROSECOND);
	}
	intel_fixture_stop();
}

/* ---- 82576, vectors: all of it in mapped pages ---- */

static void start_vectors(void)
{
	start(INTEL_NIC_IGB, PCI_INTERRUPT_MSIX);
	intel_store_mapped(GPIE, GPIE_MULTIPLE_MSIX | GPIE_EIAME | GPIE_NSICR | 1U << 31);
	intel_store_mapped(EIAC, 0xff);
	intel_store_mapped(EIAM, 0xff);
	intel_store_mapped(IVAR, (IVAR_VALID | 1) | (IVAR_VALID | 2) << 8); /* queue 0: receive 1, transmit 2 */
	intel_store_mapped(IVAR_MISC, IVAR_VALID << 8);
	intel_store_mapped(EIMS, 0xff);
	intel_write(IMS, ICR_LSC);
	intel_round();
}

static void send_one(void)
{
	uint32_t length = intel_frame(intel.memory + INTEL_TX_BUFFERS, intel_peer_mac, 17, 64);

	intel_post(0, INTEL_TX_BUFFERS, length | TXD_DEXT | 3U << TXD_DTYP_SHIFT | TXD_EOP | TXD_RS, 0);
	intel_store_mapped(RING_TRANSMIT + RING_TAIL, intel.transmit_tails[0]);
	intel_round();
}

static void test_vectors(void **state)
{
	start_vectors();
	receive();
	assert_int_equal(intel_interrupts(1), 1);
	assert_int_equal(intel_interrupts(2), 0);
	/* It masked itself: silence until it is unmasked, then what came meanwhile. */
	receive();
	assert_int_equal(intel_interrupts(1), 0);
	intel_store_mapped(EIMS, 1U << 1);
	assert_true(intel_interrupts_waiting(intel.nic, intel.net.turn.sidecore));
	intel_round();
	assert_int_equal(intel_interrupts(1), 1);
	intel_store_mapped(EIMS, 1U << 1);
	intel_round();
	assert_int_equal(intel_interrupts(1), 0);

	send_one();
	assert_int_equal(intel_interrupts(2), 1);
	send_one();
	assert_int_equal(intel_interrupts(2), 0);
	intel_store_mapped(EIMS, 1U << 2);
	intel_round();
	assert_int_equal(intel_interrupts(2), 1);
	/* The link: ICR by way of IVAR_MISC; its handler reads ICR, which clears with NSICR. */
	intel_nic_set_link(intel.device, false);
	assert_int_equal(intel_interrupts(0), 1);
	assert_true(intel_read(ICR) & ICR_LSC);
	assert_int_equal(intel_read(ICR), 0);
	intel_fixture_stop();
}

static void test_masks(void **state)
{
	start_vectors();
	assert_int_equal(intel_load_mapped(EIMS) & 0x1ffffff, 0xff); /* reads as the mask */
	intel_store_mapped(EIMC, 1U << 1);
	intel_round();
	assert_int_equal(intel_load_mapped(EIMC), 0);
	intel_round();
	assert_int_equal(intel_load_mapped(EIMS) & 0x1ffffff, 0xfd);
	receive();
	assert_int_equal(intel_interrupts(1), 0);
	/* A driver that reads the mask and writes it back with one bit more. */
	intel_store_mapped(EIMS, intel_load_mapped(EIMS) | 1U << 1);
	intel_round();
	assert_int_equal(intel_interrupts(1), 1);
	/* Flushed by a read of a trapped register, without a round of the sidecore. */
	intel_store_mapped(EIMS, 1U << 1);
	intel_store_mapped(EICS, 1U << 1 | 1U << 5);
	intel_read(STATUS);
	assert_int_equal(intel_interrupts(1), 1);
	assert_int_equal(intel_interrupts(5), 1);
	/* Out of range: nothing. */
	intel_store_mapped(EIMS, 0xffffff00);
	intel_store_mapped(EICS, 0xffffff00);
	intel_round();
	assert_null(atomic_load(&intel.device->fault));
	intel_fixture_stop();
}

/* Two CPUs unmask their vectors between two looks: the first store is lost, but not for ever. */
static void test_collapse(void **state)
{
	start_vectors();
	receive();
	send_one();
	assert_int_equal(intel_interrupts(1), 1);
	assert_int_equal(intel_interrupts(2), 1);
	intel_store_mapped(EIMS, 1U << 1); /* lost */
	intel_store_mapped(EIMS, 1U << 2);
	intel_round();
	receive();
	assert_int_equal(intel_interrupts(1), 0);
	intel_advance(NANOSECONDS_PER_MILLISECOND / 2);
	intel_round();
	assert_int_equal(intel_interrupts(1), 0); /* it may well still poll */
	intel_advance(NANOSECONDS_PER_MILLISECOND);
	intel_round();
	assert_int_equal(intel_interrupts(1), 1);
	/* Masked by the driver: no suspicion. */
	intel_store_mapped(EIMC, 1U << 1);
	intel_round();
	receive();
	intel_store_mapped(EIMS, 1U << 2);
	intel_round();
	intel_advance(10 * NANOSECONDS_PER_MILLISECOND);
	intel_round();
	assert_int_equal(intel_interrupts(1), 0);
	intel_fixture_stop();
}

/* By message instead, while nothing is mapped: none is lost, whatever the sidecore does meanwhile. */
static void test_by_message(void **state)
{
	start_vectors();
	receive();
	send_one();
	intel_interrupts(1);
	intel_interrupts(2);
	receive();
	send_one();
	intel_write(EIMS, 1U << 1);
	intel_write(EIMS, 1U << 2);
	assert_int_equal(intel_interrupts(1), 1);
	assert_int_equal(intel_interrupts(2), 1);
	intel_fixture_stop();
}

/* MSI-X with one vector only: as MSI. Drivers test their interrupts so, after a reset. */
static void test_single_vector(void **state)
{
	start(INTEL_NIC_IGB, PCI_INTERRUPT_MSIX);
	for (unsigned bit = 0; bit < 31; bit++) {
		intel_write(ICR, UINT32_MAX);
		intel_write(IMS, 1U << bit);
		intel_write(ICS, 1U << bit);
		assert_int_equal(intel_interrupts(0), 1);
		assert_true(intel_read(ICR) & 1U << bit);
		intel_write(IMC, UINT32_MAX);
		intel_write(ICS, 1U << bit);
		assert_int_equal(intel_interrupts(0), 0);
		intel_read(ICR);
	}
	intel_fixture_stop();
}

/* ---- 82574, vectors ---- */

static void test_82574(void **state)
{
	start(INTEL_NIC_E1000E, PCI_INTERRUPT_MSIX);
	intel_write(IVAR_82574, 8 | 9 << 8 | 10 << 16 | IVAR_82574_EVERY_WRITE_BACK);
	intel_write(EIAC_82574, ICR_RXQ0 | ICR_TXQ0);
	intel_write(IMS, ICR_RXQ0 | ICR_TXQ0 | ICR_OTHER | ICR_LSC);
	receive();
	assert_int_equal(intel_interrupts(0), 1);
	assert_int_equal(intel_interrupts(1), 0);
	receive();
	assert_int_equal(intel_interrupts(0), 0);
	assert_false(intel_read(IMS) & ICR_RXQ0); /* masked itself */
	intel_write(IMS, ICR_RXQ0);
	assert_int_equal(intel_interrupts(0), 1);
	/* "Other": shown with its cause, and asserted, so that the handler's read clears. */
	intel_nic_set_link(intel.device, false);
	assert_int_equal(intel_interrupts(2), 1);
	assert_int_equal(intel_read(ICR) & (ICR_LSC | ICR_OTHER | ICR_INT_ASSERTED),
			 ICR_LSC | ICR_OTHER | ICR_INT_ASSERTED);
	assert_int_equal(intel_read(ICR), 0);
	/* The driver's watchdog. */
	intel_write(IMS, ICR_RXQ0 | ICR_TXQ0);
	intel_write(ICS, ICR_RXQ0 | ICR_TXQ0);
	assert_int_equal(intel_interrupts(0), 1);
	assert_int_equal(intel_interrupts(1), 1);
	/* A vector that is not there. */
	intel_write(IVAR_82574, 0x000fffff);
	intel_write(IMS, UINT32_MAX);
	receive();
	intel_fixture_stop();
}

/* ---- moderation ---- */

static void test_moderation(void **state)
{
	static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

	for (unsigned i = 0; i < 3; i++) {
		unsigned count = 0;

		start(models[i], PCI_INTERRUPT_PIN);
		if (models[i] == INTEL_NIC_IGB)
			intel_store_mapped(EITR, 1000 << 2); /* 1 ms */
		else
			intel_write(ITR, 3906); /* times 256 ns */
		intel_write(IMS, ICR_RXT0);
		/* Idle: at once. */
		intel_advance(10 * NANOSECONDS_PER_MILLISECOND);
		receive();
		assert_int_equal(intel_interrupts(0), 1);
		/* Busy: one each millisecond, however many frames. */
		for (unsigned step = 0; step < 1000; step++) {
			uint64_t words[2];

			if (intel_interrupts(0))
				count++;
			if (pci_interrupt_pin_asserted(&intel.device->interrupts)) {
				intel_read(ICR);
				pci_interrupt_pin_unmask(&intel.device->interrupts, engine_notifier(intel.net.engine));
			}
			receive();
			while (intel_received(0, words))
				intel_offer(0, 1);
			intel_advance(10 * MICROSECOND);
			intel_round();
		}
		assert_in_range(count, 8, 11);
		/* And the last one is not forgotten. */
		intel_read(ICR);
		receive();
		for (unsigned step = 0; step < 3; step++) {
			intel_advance(2 * NANOSECONDS_PER_MILLISECOND);
			intel_round();
		}
		assert_true(pci_interrupt_pin_asserted(&intel.device->interrupts));
		intel_fixture_stop();
	}
}

static void test_vector_moderation(void **state)
{
	start_vectors();
	intel_store_mapped(EITR + 4, 100 << 2);
	intel_advance(NANOSECONDS_PER_MILLISECOND);
	receive();
	assert_int_equal(intel_interrupts(1), 1);
	intel_store_mapped(EIMS, 1U << 1);
	intel_round();
	receive();
	assert_int_equal(intel_interrupts(1), 0);
	send_one(); /* another vector is not concerned */
	assert_int_equal(intel_interrupts(2), 1);
	intel_advance(99 * MICROSECOND);
	assert_int_equal(intel_interrupts(1), 0);
	intel_advance(2 * MICROSECOND);
	assert_int_equal(intel_interrupts(1), 1);
	intel_fixture_stop();
}

/* A rest while an interrupt waits for its time: it comes afterwards. */
static void test_rest(void **state)
{
	start_vectors();
	intel_store_mapped(EITR + 4, 100 << 2);
	intel_advance(NANOSECONDS_PER_MILLISECOND);
	receive();
	assert_int_equal(intel_interrupts(1), 1);
	intel_store_mapped(EIMS, 1U << 1);
	intel_round();
	receive();
	intel.done = false;
	assert_int_equal(intel.device->ops->pause(intel.device), PCI_DEFERRED);
	intel_round();
	assert_true(intel.done);
	intel_advance(NANOSECONDS_PER_MILLISECOND); /* its timer is gone */
	assert_int_equal(intel_interrupts(1), 0);
	intel.device->ops->resume(intel.device);
	intel_round();
	intel_advance(1);
	assert_int_equal(intel_interrupts(1), 1);
	intel_fixture_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pin),	      cmocka_unit_test(test_spurious_read),
		cmocka_unit_test(test_write_clears),  cmocka_unit_test(test_msi),
		cmocka_unit_test(test_vectors),	      cmocka_unit_test(test_masks),
		cmocka_unit_test(test_collapse),      cmocka_unit_test(test_by_message),
		cmocka_unit_test(test_single_vector), cmocka_unit_test(test_82574),
		cmocka_unit_test(test_moderation),    cmocka_unit_test(test_vector_moderation),
		cmocka_unit_test(test_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
