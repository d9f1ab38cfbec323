/* SPDX-License-Identifier: BSD-3-Clause */
/* Accesses as a guest makes them (any width, any alignment, across the borders of windows), deferred writes, what is
 * behind a window, configuration space, faults. The model notes what reaches it. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/pci/pci_device.h"
#include "fake_engine.h"

#define PAGE 4096U

struct model {
	struct pci_device device;
	char log[4096]; /* "w2@1006=beef ..." */
	unsigned defer; /* this many writes are deferred */
	unsigned commands, faulted, done;
};

static struct model model;

static void note(const char *kind, uint32_t offset, unsigned size, uint32_t value)
{
	size_t used = strlen(model.log);

	assert_int_equal(offset % size, 0);
	snprintf(model.log + used, sizeof(model.log) - used, "%s%s%u@%x=%x", used ? " " : "", kind, size, offset,
		 value);
}

static uint32_t model_read(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= ((offset + i) & 0xff) << (8 * i);
	note("r", offset, size, value);
	return value;
}

static enum pci_result model_write(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size,
				   uint32_t value)
{
	note("w", offset, size, value);
	if (!model.defer)
		return PCI_DONE;
	model.defer--;
	return PCI_DEFERRED;
}

static void model_doorbell(struct pci_device *device, unsigned bar, uint32_t offset, unsigned size)
{
	uint32_t value = 0;

	/* The memory holds it already. */
	guest_read(&value, device->bars[bar].shared + offset, size);
	note("d", offset, size, value);
}

static enum pci_result model_rest(struct pci_device *device)
{
	return PCI_DONE;
}

static void model_resume(struct pci_device *device)
{
}

static void model_command_changed(struct pci_device *device)
{
	model.commands++;
}

static const struct pci_device_ops ops = {
	.type = "model",
	.read = model_read,
	.write = model_write,
	.doorbell = model_doorbell,
	.pause = model_rest,
	.resume = model_resume,
	.reset = model_rest,
	.command_changed = model_command_changed,
};

static void host_done(struct pci_device *device)
{
	model.done++;
}

static void host_faulted(struct pci_device *device)
{
	model.faulted++;
}

static const struct pci_device_host host = { .done = host_done, .faulted = host_faulted };

static void describe(void)
{
	memset(&model, 0, sizeof(model));
	fake_engine_reset();
	model.device.ops = &ops;
	model.device.name = "test";
	model.device.engine = fake_engine_get();
	model.device.config.identity = (struct pci_identity){ .vendor = 0x1234,
							      .device = 0x5678,
							      .express = true,
							      .pin = true,
							      .msi = true,
							      .msix_count = 2,
							      .msix_bar = 4 };
	model.device.bars[0] = (struct pci_bar){
		.size = 8 * PAGE,
		.window_count = 2,
		.windows = { { PAGE, PAGE }, { 4 * PAGE, 2 * PAGE } },
	};
	model.device.bars[2] = (struct pci_bar){ .size = 8, .io = true };
}

static int set_up(void **state)
{
	describe();
	assert_int_equal(pci_device_init(&model.device), 0);
	model.device.host = &host;
	return 0;
}

static int tear_down(void **state)
{
	pci_device_release(&model.device);
	return 0;
}

static enum pci_result write_bytes(uint64_t offset, const void *data, uint32_t length)
{
	struct pci_access access = {
		.write = true, .offset = offset, .length = length, .data = (uint8_t *)(uintptr_t)data
	};
	enum pci_result result;

	model.log[0] = 0;
	while ((result = pci_device_access(&model.device, &access)) == PCI_DEFERRED) {
		note("later", 0, 1, access.position);
		model.done++;
	}
	assert_int_equal(access.position, length);
	return result;
}

static void read_bytes(uint64_t offset, void *data, uint32_t length)
{
	struct pci_access access = { .offset = offset, .length = length, .data = data };

	model.log[0] = 0;
	assert_int_equal(pci_device_access(&model.device, &access), PCI_DONE);
}

static void test_pieces(void **state)
{
	static const struct {
		uint64_t offset;
		uint32_t length;
		const char *log;
	} cases[] = {
		{ 0x10, 4, "w4@10=4030201" },
		{ 0x10, 8, "w4@10=4030201 w4@14=8070605" },
		{ 0x11, 1, "w1@11=1" },
		{ 0x12, 2, "w2@12=201" },
		{ 0x11, 2, "w1@11=1 w1@12=2" },
		{ 0x11, 4, "w1@11=1 w2@12=302 w1@14=4" },
		{ 0x13, 8, "w1@13=1 w4@14=5040302 w2@18=706 w1@1a=8" },
		{ 0x10, 3, "w2@10=201 w1@12=3" },
		{ 0x10, 0, "" },
		/* Into a window, through it, and out. */
		{ 0xffe, 8, "w2@ffe=201 d4@1000=6050403 d2@1004=807" },
		{ 0x1ffe, 4, "d2@1ffe=201 w2@2000=403" },
		{ 0x1fff, 3, "d1@1fff=1 w2@2000=302" },
		/* The border inside a window of two pages is none. */
		{ 0x4ffc, 8, "d4@4ffc=4030201 d4@5000=8070605" },
		{ 0x5ffc, 8, "d4@5ffc=4030201 w4@6000=8070605" },
		{ 0x7ffc, 4, "w4@7ffc=4030201" },
	};
	static const uint8_t data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

	for (size_t i = 0; i < array_size(cases); i++) {
		write_bytes(cases[i].offset, data, cases[i].length);
		if (strcmp(model.log, cases[i].log))
			fail_msg("case %zu: \"%s\" instead of \"%s\"", i, model.log, cases[i].log);
	}
	assert_int_equal(model.device.writes, array_size(cases));
	assert_int_equal(model.device.reads, 0);
}

/* Every offset and length around the borders of a window reads what is there. */
static void test_reads_everywhere(void **state)
{
	struct pci_bar *bar = &model.device.bars[0];

	for (uint32_t i = 0; i < PAGE; i++)
		guest_write(bar->shared + PAGE + i, &(uint8_t){ (uint8_t)(i * 3 + 1) }, 1);
	for (uint32_t offset = PAGE - 9; offset < PAGE + 9; offset++) {
		for (uint32_t length = 1; length <= 17; length++) {
			uint8_t data[17] = { 0 };

			read_bytes(offset, data, length);
			for (uint32_t k = 0; k < length; k++) {
				uint32_t at = offset + k;
				uint8_t wanted = (uint8_t)(at < PAGE ? at : (at - PAGE) * 3 + 1);

				if (data[k] != wanted)
					fail_msg("%u bytes at %x: byte %u is %x", length, offset, k, data[k]);
			}
		}
	}
	assert_int_equal(model.device.reads, 18 * 17);
}

static void test_deferred(void **state)
{
	static const uint8_t data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

	model.defer = 2;
	assert_int_equal(write_bytes(0x10, data, 8), PCI_DONE);
	assert_string_equal(model.log, "w4@10=4030201 later1@0=4 w4@14=8070605 later1@0=8");
	assert_int_equal(model.device.writes, 1); /* one access of the guest's */
}

/* What the VMM gets is the memory that we look at, cannot shrink, and has pages where windows are only. */
static void test_shared_memory(void **state)
{
	struct pci_bar *bar = &model.device.bars[0];
	struct stat status;
	uint8_t *other;

	assert_int_equal(model.device.bars[2].shared_fd, -1);
	assert_null(model.device.bars[2].shared);
	assert_int_equal(fstat(bar->shared_fd, &status), 0);
	assert_int_equal(status.st_size, 8 * PAGE);
	assert_int_equal(status.st_blocks, 3 * PAGE / 512);
	assert_int_equal(ftruncate(bar->shared_fd, 0), -1);
	assert_int_equal(ftruncate(bar->shared_fd, 64 * PAGE), -1);
	assert_int_equal(fcntl(bar->shared_fd, F_ADD_SEALS, F_SEAL_WRITE), -1);

	other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, bar->shared_fd, 4 * PAGE);
	assert_ptr_not_equal(other, MAP_FAILED);
	*(uint32_t *)(void *)(other + 0x18) = 77;
	assert_int_equal(pci_window_load(bar, 4 * PAGE + 0x18), 77);
	assert_int_equal(pci_window_exchange(bar, 4 * PAGE + 0x18, 0), 77);
	assert_int_equal(*(uint32_t *)(void *)(other + 0x18), 0);
	write_bytes(4 * PAGE + 0x18, &(uint32_t){ 78 }, 4);
	assert_int_equal(*(uint32_t *)(void *)(other + 0x18), 78);
	assert_string_equal(model.log, "d4@4018=4e");
	munmap(other, PAGE);
}

/* A model that describes itself wrongly is not made. */
static void test_impossible_descriptions(void **state)
{
	static const struct {
		unsigned index;
		struct pci_bar bar;
	} cases[] = {
		/* 0 */ { 1, { .size = 3 * PAGE } },
		/* 1 */ { 1, { .size = PAGE / 2 } },
		/* 2 */ { 5, { .size = PAGE, .wide = true } },
		/* 3 */ { 1, { .size = PAGE, .wide = true } }, /* BAR 2 is in use */
		/* 4 */ { 1, { .size = PAGE, .window_count = 1, .windows = { { PAGE, PAGE } } } },
		/* 5 */ { 1, { .size = PAGE, .window_count = 1, .windows = { { 0, 2 * PAGE } } } },
		/* 6 */ { 1, { .size = PAGE, .window_count = 1, .windows = { { 0, 0 } } } },
		/* 7 */ { 1, { .size = 4 * PAGE, .window_count = 1, .windows = { { 512, PAGE } } } },
		/* 8 */
		{ 1, { .size = 4 * PAGE, .window_count = 2, .windows = { { PAGE, 2 * PAGE }, { 2 * PAGE, PAGE } } } },
		/* 9 */ { 1, { .size = 4 * PAGE, .window_count = 2, .windows = { { 2 * PAGE, PAGE }, { 0, PAGE } } } },
		/* 10 */ { 1, { .size = PAGE, .io = true, .window_count = 1, .windows = { { 0, PAGE } } } },
		/* 11 */ { 1, { .window_count = 1, .windows = { { 0, PAGE } } } },
		/* 12 */ { 4, { .size = 1ULL << 32, .wide = true } },
	};

	for (size_t i = 0; i < array_size(cases); i++) {
		describe();
		model.device.bars[cases[i].index] = cases[i].bar;
		if (pci_device_init(&model.device) != -EINVAL)
			fail_msg("case %zu was accepted", i);
	}
	describe();
	model.device.config.identity.msix_count = PCI_VECTORS_MAX + 1;
	assert_int_equal(pci_device_init(&model.device), -EINVAL);
}

static void test_config_space(void **state)
{
	uint16_t command = 0x0406, status = 0;

	assert_false(pci_device_config_write(&model.device, 4, &command, 2));
	assert_int_equal(model.commands, 1);
	assert_false(pci_device_config_write(&model.device, 4, &command, 2));
	assert_int_equal(model.commands, 1); /* nothing has changed */
	pci_interrupt_pin(&model.device.interrupts, true, engine_notifier(model.device.engine));
	pci_device_config_read(&model.device, 6, &status, 2);
	assert_int_equal(status & 8, 8);

	/* The pin is disabled: a file that is given is not signalled until it is enabled. */
	assert_int_equal(
		pci_interrupts_set(&model.device.interrupts, PCI_INTERRUPT_PIN, 0, model.device.interrupts.nobody), 0);
	assert_int_equal(atomic_load(&model.device.interrupts.signals), 0);
	command = 0x0006;
	pci_device_config_write(&model.device, 4, &command, 2);
	assert_int_equal(atomic_load(&model.device.interrupts.signals), 1);
	assert_int_equal(model.commands, 2);

	/* Function level reset, where the capability is. */
	for (unsigned offset = 0x40; offset < 0x100; offset += 4) {
		uint8_t id;

		pci_device_config_read(&model.device, offset, &id, 1);
		if (id != 0x10)
			continue;
		command = 0x8000;
		assert_true(pci_device_config_write(&model.device, offset + 8, &command, 2));
		break;
	}
	pci_device_fault(&model.device, "nonsense");
	pci_device_config_reset(&model.device);
	assert_int_equal(model.commands, 3);
	assert_false(pci_config_bus_master(&model.device.config));
	assert_false(pci_interrupt_pin_asserted(&model.device.interrupts));
	assert_null(atomic_load(&model.device.fault));
	fake_engine_run();
	assert_int_equal(model.faulted, 0); /* cleared before anybody was told */
}

static void test_faults(void **state)
{
	pci_device_fault(&model.device, "first");
	pci_device_fault(&model.device, "second");
	assert_string_equal(atomic_load(&model.device.fault), "first");
	assert_int_equal(fake_engine.waiting, 1);
	fake_engine_run();
	assert_int_equal(model.faulted, 1);
	assert_int_equal(model.device.faults, 1);
	pci_device_fault(&model.device, "third");
	assert_int_equal(fake_engine.waiting, 0);

	/* Cleared, it can be told of again; even while the first one is on its way. */
	pci_device_clear_fault(&model.device);
	pci_device_fault(&model.device, "fourth");
	pci_device_clear_fault(&model.device);
	pci_device_fault(&model.device, "fifth");
	assert_int_equal(fake_engine.waiting, 1);
	fake_engine_run();
	assert_int_equal(model.faulted, 2);
	assert_string_equal(atomic_load(&model.device.fault), "fifth");
}

/* Another memory, where the one before was: who was given that one shares nothing any more. */
static void test_renewed_windows(void **state)
{
	struct pci_bar *bar = &model.device.bars[0];
	int kept = fcntl(bar->shared_fd, F_DUPFD_CLOEXEC, 0), next;
	struct rlimit limit, none;
	guest_byte *at = bar->shared;
	struct stat before, after;
	uint32_t value = 0;

	assert_true(kept >= 0);
	pci_window_store(bar, bar->windows[0].offset, 0x1234);
	assert_int_equal(fstat(kept, &before), 0);
	assert_int_equal(pci_device_renew_windows(&model.device), 0);
	assert_ptr_equal(bar->shared, at);
	assert_int_equal(fstat(bar->shared_fd, &after), 0);
	assert_int_not_equal(before.st_ino, after.st_ino);
	assert_int_equal(before.st_size, after.st_size);
	assert_int_equal(fcntl(bar->shared_fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	assert_int_equal(pci_window_load(bar, bar->windows[0].offset), 0);
	pci_window_store(bar, bar->windows[0].offset, 0x5678);
	assert_int_equal(pread(kept, &value, sizeof(value), bar->windows[0].offset), sizeof(value));
	assert_int_equal(value, 0x1234);

	/* Nothing is lost when there is no descriptor for it. */
	next = fcntl(kept, F_DUPFD_CLOEXEC, 0);
	close(next);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){ (rlim_t)next, limit.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(pci_device_renew_windows(&model.device), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(pci_window_load(bar, bar->windows[0].offset), 0x5678);
	close(kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pieces, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_reads_everywhere, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_deferred, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_renewed_windows, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_shared_memory, set_up, tear_down),
		cmocka_unit_test(test_impossible_descriptions),
		cmocka_unit_test_setup_teardown(test_config_space, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_faults, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
