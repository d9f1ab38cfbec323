/* SPDX-License-Identifier: BSD-3-Clause */
/* Configuration space as a guest's firmware and kernel go through it: sizes of BARs, the list of capabilities, what can
 * be written. Offsets are written out as the specification has them, not taken from the code under test. */
#include "test.h"

#include <string.h>

#include "device/pci/pci_device.h"

static struct pci_config config;

static const struct pci_identity express_identity = {
	.vendor = 0x8086,
	.device = 0x10c9,
	.subsystem_vendor = 0x1af4,
	.subsystem = 0x1100,
	.revision = 1,
	.class_code = 2,
	.subclass = 0,
	.express = true,
	.pin = true,
	.msi = true,
	.msix_count = 10,
	.msix_bar = 3,
	.msix_table = 0,
	.msix_pending = 0x2000,
	.serial_number = 0x525400fffe123456,
};

static uint32_t read_field(uint32_t offset, uint32_t length)
{
	uint32_t value = 0;

	pci_config_read(&config, offset, &value, length);
	return value;
}

static void write_field(uint32_t offset, uint32_t length, uint32_t value)
{
	pci_config_write(&config, offset, &value, length);
}

static void build(const struct pci_identity *identity, const struct pci_bar bars[PCI_BARS])
{
	memset(&config, 0xee, sizeof(config));
	config.identity = *identity;
	pci_config_init(&config, bars);
}

static void build_express(void)
{
	static const struct pci_bar bars[PCI_BARS] = {
		[0] = { .size = 0x20000 },
		[2] = { .size = 0x20, .io = true },
		[3] = { .size = 0x4000 },
		[4] = { .size = 0x100000, .wide = true, .prefetchable = true },
	};

	build(&express_identity, bars);
}

/* Return: offset of a capability, 0: none. The list must end, and must not be walked into a loop. */
static uint32_t find_capability(uint8_t id)
{
	uint32_t offset = read_field(0x34, 1);

	for (unsigned steps = 0; offset; steps++) {
		assert_true(steps < 48);
		assert_int_equal(offset & 3, 0);
		if (read_field(offset, 1) == id)
			return offset;
		offset = read_field(offset + 1, 1);
	}
	return 0;
}

static void test_header(void **state)
{
	build_express();
	assert_int_equal(config.size, 4096);
	assert_int_equal(read_field(0, 4), 0x10c98086);
	assert_int_equal(read_field(8, 4), 0x02000001);
	assert_int_equal(read_field(0x0e, 1), 0); /* type 0, one function */
	assert_int_equal(read_field(0x2c, 4), 0x11001af4);
	assert_int_equal(read_field(0x06, 2) & 0x10, 0x10); /* a list of capabilities */
	assert_int_equal(read_field(0x3d, 1), 1);	    /* INTA# */
	assert_int_equal(read_field(0x30, 4), 0);	    /* no ROM */

	/* Nothing of all that can be written, in any width. */
	for (uint32_t offset = 0; offset < 4; offset++)
		write_field(offset, 1, 0xff);
	write_field(0x08, 4, 0);
	write_field(0x2c, 4, ~0U);
	write_field(0x30, 4, ~0U);
	write_field(0x34, 4, ~0U);
	write_field(0x3d, 1, 4);
	assert_int_equal(read_field(0, 4), 0x10c98086);
	assert_int_equal(read_field(8, 4), 0x02000001);
	assert_int_equal(read_field(0x2c, 4), 0x11001af4);
	assert_int_equal(read_field(0x30, 4), 0);
	assert_int_equal(read_field(0x3d, 1), 1);
	write_field(0x3c, 1, 11);
	assert_int_equal(read_field(0x3c, 1), 11);
}

static void test_command(void **state)
{
	build_express();
	assert_int_equal(read_field(4, 2), 0);
	assert_false(pci_config_bus_master(&config));
	write_field(4, 2, 0xffff);
	assert_int_equal(read_field(4, 2), 0x0547); /* I/O, memory, master, parity, SERR#, interrupt disable */
	assert_true(pci_config_bus_master(&config));
	assert_true(pci_config_pin_disabled(&config));
	write_field(5, 1, 0); /* the upper half on its own */
	assert_false(pci_config_pin_disabled(&config));
	assert_true(pci_config_bus_master(&config));

	write_field(6, 2, 0xffff); /* status: nothing to clear, nothing to set */
	assert_int_equal(read_field(6, 2), 0x0010);
	pci_config_set_interrupt_status(&config, true);
	assert_int_equal(read_field(6, 2), 0x0018);
	pci_config_set_interrupt_status(&config, false);
	assert_int_equal(read_field(6, 2), 0x0010);
}

/* PCI Local Bus 3.0 6.2.5.1: write ones, read the size back. */
static void test_sizing(void **state)
{
	static const struct {
		uint32_t all_ones, address, kept;
	} cases[PCI_BARS] = {
		[0] = { 0xfffe0000, 0xfebc1234, 0xfebc0000 }, [2] = { 0xffffffe1, 0x0000c05f, 0x0000c041 },
		[3] = { 0xffffc000, 0xfebe4000, 0xfebe4000 }, [4] = { 0xfff0000c, 0xfe012345, 0xfe00000c },
		[5] = { 0xffffffff, 0x00000001, 0x00000001 }, /* the upper half of 4 */
	};

	build_express();
	for (unsigned i = 0; i < PCI_BARS; i++) {
		uint32_t offset = 0x10 + 4 * i, before = read_field(offset, 4);

		write_field(offset, 4, 0xffffffff);
		assert_int_equal(read_field(offset, 4), cases[i].all_ones);
		write_field(offset, 4, cases[i].address);
		assert_int_equal(read_field(offset, 4), cases[i].kept);
		pci_config_reset(&config);
		assert_int_equal(read_field(offset, 4), before);
	}
}

static void test_capabilities(void **state)
{
	uint32_t offset;

	build_express();
	offset = find_capability(0x11);
	assert_true(offset);
	assert_int_equal(read_field(offset + 2, 2), 9); /* ten vectors */
	assert_int_equal(read_field(offset + 4, 4), 0x0003);
	assert_int_equal(read_field(offset + 8, 4), 0x2003);
	write_field(offset + 2, 2, 0xffff);
	assert_int_equal(read_field(offset + 2, 2), 0xc009); /* enable and mask; not the size */
	write_field(offset + 4, 4, ~0U);
	assert_int_equal(read_field(offset + 4, 4), 0x0003);

	offset = find_capability(0x05);
	assert_true(offset);
	assert_int_equal(read_field(offset + 2, 2), 0x0080); /* 64-bit, one message, no mask bits */
	write_field(offset + 2, 2, 0xffff);
	assert_int_equal(read_field(offset + 2, 2), 0x0081);
	write_field(offset + 4, 4, 0xfee01007);
	assert_int_equal(read_field(offset + 4, 4), 0xfee01004);
	write_field(offset + 8, 4, 0x12345678);
	assert_int_equal(read_field(offset + 8, 4), 0x12345678);
	write_field(offset + 12, 2, 0x4021);
	assert_int_equal(read_field(offset + 12, 2), 0x4021);

	offset = find_capability(0x10);
	assert_true(offset);
	assert_int_equal(read_field(offset + 2, 2), 0x0002);		      /* version 2, endpoint */
	assert_int_equal(read_field(offset + 4, 4) & 0x10008000, 0x10008000); /* FLR, role-based errors */
	assert_int_equal(read_field(offset + 8, 2), 0x2810);
	assert_int_equal(read_field(offset + 0x12, 2) & 0x3ff, 0x011); /* 2.5 GT/s, one lane */
	write_field(offset + 8, 2, 0x7fff);
	assert_int_equal(read_field(offset + 8, 2), 0x78ff);

	/* Serial number: extended capability, the first and only one. */
	assert_int_equal(read_field(0x100, 4), 0x00010003);
	assert_int_equal(read_field(0x104, 4), 0xfe123456);
	assert_int_equal(read_field(0x108, 4), 0x525400ff);

	pci_config_reset(&config);
	assert_int_equal(read_field(offset + 8, 2), 0x2810);
	assert_int_equal(read_field(find_capability(0x05) + 2, 2), 0x0080);
	assert_int_equal(read_field(find_capability(0x11) + 2, 2), 9);
}

static void test_function_reset(void **state)
{
	uint32_t control;

	build_express();
	control = find_capability(0x10) + 8;
	write_field(control, 2, 0x2810);
	assert_false(pci_config_take_function_reset(&config));
	write_field(control, 2, 0xa810);
	assert_int_equal(read_field(control, 2), 0x2810); /* reads as zero */
	assert_true(pci_config_take_function_reset(&config));
	assert_false(pci_config_take_function_reset(&config));
	write_field(control + 1, 1, 0x80); /* the byte on its own */
	assert_true(pci_config_take_function_reset(&config));
	write_field(control - 4, 4, ~0U); /* device capabilities: another register */
	assert_false(pci_config_take_function_reset(&config));
}

static void test_power(void **state)
{
	uint32_t control;

	build_express();
	control = find_capability(0x01) + 4;
	assert_int_equal(pci_config_power_state(&config), 0);
	write_field(control, 2, 3);
	assert_int_equal(pci_config_power_state(&config), 3);
	write_field(control, 2, 2); /* not supported: discarded */
	assert_int_equal(pci_config_power_state(&config), 3);
	write_field(control, 2, 0);
	assert_int_equal(pci_config_power_state(&config), 0);
	write_field(control, 2, 0xffff & ~2U);
	assert_int_equal(pci_config_power_state(&config), 0);
	assert_int_equal(read_field(control, 2), 0x0008); /* no reset on the way back */
	write_field(control, 2, 3);
	pci_config_reset(&config);
	assert_int_equal(pci_config_power_state(&config), 0);
}

/* What a model does not have is not there. */
static void test_conventional(void **state)
{
	static const struct pci_identity identity = {
		.vendor = 0x8086, .device = 0x100e, .class_code = 2, .pin = true
	};
	static const struct pci_bar bars[PCI_BARS] = {
		[0] = { .size = 0x20000 },
		[1] = { .size = 0x40, .io = true },
	};

	build(&identity, bars);
	assert_int_equal(config.size, 256);
	assert_int_equal(find_capability(0x05), 0);
	assert_int_equal(find_capability(0x10), 0);
	assert_int_equal(find_capability(0x11), 0);
	assert_true(find_capability(0x01));
	write_field(4, 2, 0xffff);
	assert_int_equal(read_field(4, 2), 0x0557); /* memory write and invalidate, too */
	/* No byte of it is FLR. */
	for (uint32_t offset = 0; offset < 256; offset++)
		write_field(offset, 1, 0xff);
	assert_false(pci_config_take_function_reset(&config));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_header),	       cmocka_unit_test(test_command),
		cmocka_unit_test(test_sizing),	       cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_function_reset), cmocka_unit_test(test_power),
		cmocka_unit_test(test_conventional),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
