/* SPDX-License-Identifier: BSD-3-Clause */
/* Intel's network cards: registers, EEPROM, PHY, statistics, resets; as drivers find them. */
#include "test.h"

#include "intel_fixture.h"

static const enum intel_nic_model models[] = { INTEL_NIC_E1000, INTEL_NIC_E1000E, INTEL_NIC_IGB };

#define FOR_ALL(model)                                                                                                 \
	for (unsigned model##_ = 0; model##_ < 3; model##_++)                                                          \
		for (enum intel_nic_model model = models[model##_],                                                    \
					  once_ = (intel_fixture_start(model, false, PCI_INTERRUPT_PIN), 0);           \
		     !once_; once_ = 1, intel_fixture_stop())

static void test_identity(void **state)
{
	static const struct {
		uint16_t device;
		uint32_t bar;
		bool express;
	} expected[3] = { { 0x100e, 0x20000, false }, { 0x10d3, 0x20000, true }, { 0x10c9, 0x20000, true } };

	FOR_ALL(model)
	{
		uint32_t id;

		pci_device_config_read(intel.device, 0, &id, 4);
		assert_int_equal(id, 0x8086U | (uint32_t)expected[model].device << 16);
		assert_int_equal(intel.device->bars[0].size, expected[model].bar);
		assert_int_equal(intel.device->config.identity.express, expected[model].express);
		/* Nothing may be mapped where only the pin is. */
		assert_int_equal(intel.device->bars[0].window_count > 0, model != INTEL_NIC_E1000);
	}
}

/* ---- tables of what is remembered ---- */

static const uint32_t patterns[] = { 0x5a5a5a5a, 0xa5a5a5a5, 0, UINT32_MAX };

static void check_pattern(uint32_t offset, uint32_t mask)
{
	for (unsigned i = 0; i < array_size(patterns); i++) {
		intel_write(offset, patterns[i]);
		assert_int_equal(intel_read(offset) & mask, patterns[i] & mask);
	}
	intel_write(offset, 0);
}

static void test_remembered(void **state)
{
	static const struct {
		uint32_t first, step, count, mask;
	} cases[] = {
		/* 0 */ { FCAL, 4, 1, UINT32_MAX },
		/* 1 */ { FCAH, 4, 2, 0xffff },
		/* 2 */ { VET, 4, 1, 0xffff },
		/* 3 */ { FCTTV, 4, 1, 0xffff },
		/* 4 */ { TIPG, 4, 1, 0x3fffffff },
		/* 5 */ { RING_RECEIVE, RING_LENGTH, 2, 0x000fff80 }, /* base and length */
		/* 6 */ { RING_TRANSMIT, RING_LENGTH, 2, 0x000fff80 },
		/* 7 */ { RING_RECEIVE + RING_TAIL, 4, 1, 0xffff },
		/* 8 */ { RAL0, 4, 32, 0x8003ffff },
		/* 9 */ { MTA, 4, 128, UINT32_MAX },
		/* 10 */ { VFTA, 4, 128, UINT32_MAX },
		/* 11 */ { RETA, 4, 32, UINT32_MAX },
	};

	FOR_ALL(model)
	{
		for (unsigned i = 0; i < array_size(cases); i++) {
			for (unsigned n = 0; n < cases[i].count; n++)
				check_pattern(cases[i].first + n * cases[i].step, cases[i].mask);
		}
	}
}

static void test_all_offsets(void **state)
{
	/* Any register, any width, at any moment: an answer, and nothing that asserts. Twice, with rings set up. */
	FOR_ALL(model)
	{
		for (uint32_t offset = 0; offset < INTEL_BAR_SIZE; offset += 4) {
			uint8_t bytes[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
			struct pci_access read = { .offset = offset, .length = 8, .data = bytes };
			struct pci_access odd = { .write = true, .offset = offset + 1, .length = 2, .data = bytes };

			if (offset == INTEL_BAR_SIZE - 4)
				read.length = 4;
			intel_write(offset, UINT32_MAX);
			assert_int_equal(pci_device_access(intel.device, &read), PCI_DONE);
			assert_int_equal(pci_device_access(intel.device, &odd), PCI_DONE);
			if (!(offset & 0xfff))
				intel_round();
		}
		intel_round();
	}
}

static void test_status(void **state)
{
	FOR_ALL(model)
	{
		uint32_t before = intel_read(STATUS);

		assert_true(before & STATUS_LU);
		assert_int_equal(before & (3U << 6), STATUS_SPEED_1000);
		intel_write(STATUS, UINT32_MAX);
		assert_int_equal(intel_read(STATUS), before);
		if (model == INTEL_NIC_E1000)
			continue;
		/* Drivers wait for this bit before a reset. */
		intel_write(CTRL, intel_read(CTRL) | CTRL_GIO_MASTER_DISABLE);
		assert_false(intel_read(STATUS) & STATUS_GIO_MASTER_ENABLE);
	}
}

/* ---- EEPROM ---- */

static uint16_t read_eerd(enum intel_nic_model model, uint32_t word)
{
	uint32_t value;

	intel_write(EERD, word << (model == INTEL_NIC_E1000 ? 8 : 2) | 1);
	value = intel_read(EERD);
	assert_true(value & (model == INTEL_NIC_E1000 ? 1U << 4 : 1U << 1));
	return (uint16_t)(value >> 16);
}

static void test_eeprom(void **state)
{
	FOR_ALL(model)
	{
		uint16_t sum = 0;

		for (uint32_t word = 0; word < 64; word++)
			sum = (uint16_t)(sum + read_eerd(model, word));
		assert_int_equal(sum, 0xbaba);
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(read_eerd(model, i), intel_mac[2 * i] | intel_mac[2 * i + 1] << 8);
		assert_int_equal(read_eerd(model, 0x3fff & (model == INTEL_NIC_E1000 ? 0xff : 0x3fff)), 0);
		assert_int_equal(intel_read(RAL0), 0x00000002);
		assert_int_equal(intel_read(RAL0 + 4), RAH_AV | 0x0100);
	}
}

#define SK 1U
#define CS 2U
#define DI 4U
#define DO 8U

static void clock_bit(bool bit)
{
	uint32_t line = 0x40 | CS | (bit ? DI : 0);

	intel_write(EECD, line);
	intel_write(EECD, line | SK);
	intel_write(EECD, line);
}

static void clock_bits(uint32_t bits, unsigned count)
{
	while (count--)
		clock_bit(bits >> count & 1);
}

static uint16_t read_microwire(uint32_t word)
{
	uint16_t value = 0;

	clock_bits(6 << 6 | word, 9);
	for (unsigned i = 0; i < 16; i++) {
		clock_bit(0);
		value = (uint16_t)(value << 1 | !!(intel_read(EECD) & DO));
	}
	intel_write(EECD, 0x40);
	return value;
}

static void test_microwire(void **state)
{
	uint16_t sum = 0;

	intel_fixture_start(INTEL_NIC_E1000, false, PCI_INTERRUPT_PIN);
	intel_write(EECD, 0x40);
	assert_true(intel_read(EECD) & 0x80); /* granted */
	for (uint32_t word = 0; word < 64; word++)
		sum = (uint16_t)(sum + read_microwire(word));
	assert_int_equal(sum, 0xbaba);

	clock_bits(5 << 6 | 0x20, 9); /* not before it is enabled */
	clock_bits(0x1234, 16);
	intel_write(EECD, 0x40);
	assert_int_equal(read_microwire(0x20), 0);
	clock_bits(4 << 6 | 0x30, 9);
	intel_write(EECD, 0x40);
	clock_bits(5 << 6 | 0x20, 9);
	clock_bits(0x1234, 16);
	intel_write(EECD, 0x40);
	assert_int_equal(read_microwire(0x20), 0x1234);
	intel_fixture_stop();
}

/* ---- PHY ---- */

static uint16_t read_phy(unsigned number)
{
	uint32_t value;

	intel_write(MDIC, number << 16 | 1U << 21 | 2U << 26);
	value = intel_read(MDIC);
	assert_true(value & 1U << 28);
	assert_false(value & 1U << 30);
	return (uint16_t)value;
}

static void write_phy(unsigned number, uint16_t value)
{
	intel_write(MDIC, value | number << 16 | 1U << 21 | 1U << 26);
	assert_true(intel_read(MDIC) & 1U << 28);
}

static void test_phy(void **state)
{
	static const uint32_t identifiers[3] = { 0x01410c20, 0x01410cb0, 0x02a80390 };

	FOR_ALL(model)
	{
		assert_int_equal((uint32_t)read_phy(2) << 16 | (read_phy(3) & 0xfff0), identifiers[model]);
		assert_true(read_phy(1) & 4); /* link, negotiated */
		assert_true(read_phy(1) & 0x20);
		write_phy(0, 0x9340); /* reset and restart clear themselves */
		assert_int_equal(read_phy(0), 0x1140);
		write_phy(2, 0);
		assert_int_equal(read_phy(2), identifiers[model] >> 16);
		intel_nic_set_link(intel.device, false);
		assert_false(read_phy(1) & 4);
		assert_false(intel_read(STATUS) & STATUS_LU);
		intel_nic_set_link(intel.device, true);
		assert_true(intel_read(STATUS) & STATUS_LU);
		/* Nobody lives at another address. */
		intel_write(MDIC, 2 << 16 | 3U << 21 | 2U << 26);
		assert_true(intel_read(MDIC) & 1U << 30);
	}
}

/* ---- I/O ports, semaphores ---- */

static void test_ports(void **state)
{
	uint32_t value = RAL0;
	struct pci_access address = { .bar = 1, .write = true, .length = 4, .data = (uint8_t *)&value };
	struct pci_access data = { .bar = 1, .offset = 4, .length = 4, .data = (uint8_t *)&value };

	intel_fixture_start(INTEL_NIC_E1000, false, PCI_INTERRUPT_PIN);
	assert_int_equal(pci_device_access(intel.device, &address), PCI_DONE);
	assert_int_equal(pci_device_access(intel.device, &data), PCI_DONE);
	assert_int_equal(value, intel_read(RAL0));
	value = UINT32_MAX; /* beyond everything */
	address.position = data.position = 0;
	assert_int_equal(pci_device_access(intel.device, &address), PCI_DONE);
	assert_int_equal(pci_device_access(intel.device, &data), PCI_DONE);
	assert_int_equal(value, 0);
	intel_fixture_stop();
}

static void test_semaphore(void **state)
{
	intel_fixture_start(INTEL_NIC_IGB, false, PCI_INTERRUPT_PIN);
	assert_false(intel_read(SWSM) & SWSM_SMBI);
	assert_true(intel_read(SWSM) & SWSM_SMBI);
	intel_write(SWSM, 0);
	assert_false(intel_read(SWSM) & SWSM_SMBI);
	intel_fixture_stop();
}

/* ---- statistics ---- */

static void test_statistics(void **state)
{
	uint8_t bytes[1600];
	uint32_t length = intel_frame(bytes, intel_mac, 17, 400);

	FOR_ALL(model)
	{
		intel_rings(0);
		intel_offer(0, 8);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		memset(bytes, 0xff, 6);
		assert_int_equal(intel_send(bytes, length, NULL), 1);
		memcpy(bytes, intel_mac, 6);
		assert_int_equal(intel_read(GPRC), 2);
		assert_int_equal(intel_read(GPRC), 0); /* cleared by the read */
		assert_int_equal(intel_read(TPR), 2);  /* on its own */
		assert_int_equal(intel_read(BPRC), 1);
		assert_int_equal(intel_read(PRC64 + 12), 2); /* 256 to 511 */
		assert_int_equal(intel_read(GORCL), 2 * (length + 4));
		assert_int_equal(intel_read(GORCL), 2 * (length + 4)); /* the upper half clears */
		assert_int_equal(intel_read(GORCH), 0);
		assert_int_equal(intel_read(GORCL), 0);

		memcpy(intel.memory + INTEL_TX_BUFFERS, bytes, length);
		intel_post(0, INTEL_TX_BUFFERS, length | TXD_EOP | TXD_RS, 0);
		intel_ring_tail(0);
		intel_round();
		assert_int_equal(intel_read(GPTC), 1);
		assert_int_equal(intel_read(GPTC), 0);
		assert_int_equal(intel_read(GOTCL), length + 4);
	}
}

/* ---- resets ---- */

static void test_soft_reset(void **state)
{
	FOR_ALL(model)
	{
		intel_rings(0);
		intel_write(MTA, UINT32_MAX);
		intel_write(IMS, UINT32_MAX);
		intel_write(CTRL, intel_read(CTRL) | CTRL_RST);
		assert_false(intel_read(CTRL) & CTRL_RST);
		assert_int_equal(intel_read(MTA), 0);
		assert_int_equal(intel_read(IMS), 0);
		assert_int_equal(intel_read(RCTL), 0);
		assert_int_equal(intel_read(RING_TRANSMIT), 0);
		assert_int_equal(intel_read(RAL0 + 4), RAH_AV | 0x0100);
		assert_false(atomic_load(&intel.nic->port.up));
		intel_rings(0); /* and it works again */
		assert_true(atomic_load(&intel.nic->port.up));
	}
}

static void test_transport_reset(void **state)
{
	FOR_ALL(model)
	{
		intel_rings(0);
		intel.done = false;
		assert_int_equal(intel.device->ops->reset(intel.device), PCI_DEFERRED);
		intel_round();
		assert_true(intel.done);
		assert_int_equal(intel_read(TCTL), 0);
		assert_false(atomic_load(&intel.nic->transmitting));
		/* Paused, it stays so. */
		intel.done = false;
		assert_int_equal(intel.device->ops->pause(intel.device), PCI_DEFERRED);
		intel_round();
		intel.done = false;
		assert_int_equal(intel.device->ops->reset(intel.device), PCI_DEFERRED);
		intel_round();
		assert_true(intel.done);
		assert_true(intel.nic->resting);
		intel_write(RCTL, RCTL_EN);
		assert_false(atomic_load(&intel.nic->port.up));
	}
}

static void write_microwire(uint32_t word, uint16_t value)
{
	clock_bits(4 << 6 | 0x30, 9);
	intel_write(EECD, 0x40);
	clock_bits(5 << 6 | word, 9);
	clock_bits(value, 16);
	intel_write(EECD, 0x40);
}

/* What a guest leaves in its card is its own until the client goes, and nothing that the next one's guest could find. */
static void test_next_client(void **state)
{
	FOR_ALL(model)
	{
		uint32_t low = intel_read(RAL0);

		if (model == INTEL_NIC_E1000)
			write_microwire(0, 0x6666);
		else
			intel.device->ops->write(intel.device, 3, 0x10, 4, 0x12345678);
		intel.done = false;
		assert_int_equal(intel.device->ops->reset(intel.device), PCI_DEFERRED);
		intel_round();
		assert_int_equal(intel_read(RAL0), model == INTEL_NIC_E1000 ? (low & 0xffff0000) | 0x6666 : low);
		if (model != INTEL_NIC_E1000)
			assert_int_equal(intel.device->ops->read(intel.device, 3, 0x10, 4), 0);
		assert_int_equal(intel.device->ops->pause(intel.device), PCI_DEFERRED);
		intel_round();
		assert_int_equal(intel.device->ops->reset(intel.device), PCI_DEFERRED);
		intel_round();
		assert_int_equal(intel_read(RAL0), low);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),    cmocka_unit_test(test_remembered),
		cmocka_unit_test(test_all_offsets), cmocka_unit_test(test_status),
		cmocka_unit_test(test_eeprom),	    cmocka_unit_test(test_microwire),
		cmocka_unit_test(test_phy),	    cmocka_unit_test(test_ports),
		cmocka_unit_test(test_semaphore),   cmocka_unit_test(test_statistics),
		cmocka_unit_test(test_soft_reset),  cmocka_unit_test(test_transport_reset),
		cmocka_unit_test(test_next_client),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
