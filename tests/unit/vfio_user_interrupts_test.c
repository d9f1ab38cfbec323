/* SPDX-License-Identifier: BSD-3-Clause */
/* vfio-user messages about interrupts, good and bad. */
#include "test.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "vfio_user_fixture.h"

/* ---- interrupts -------------------------------------------------------------------------------------------------- */

#define NONE	VFIO_IRQ_SET_DATA_NONE
#define BOOL	VFIO_IRQ_SET_DATA_BOOL
#define EVENTFD VFIO_IRQ_SET_DATA_EVENTFD
#define MASK	VFIO_IRQ_SET_ACTION_MASK
#define UNMASK	VFIO_IRQ_SET_ACTION_UNMASK
#define TRIGGER VFIO_IRQ_SET_ACTION_TRIGGER

static unsigned signals(int event)
{
	uint64_t count = 0;

	return read(event, &count, sizeof(count)) == sizeof(count) ? (unsigned)count : 0;
}

static void make_events(int *events, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		events[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void close_events(const int *events, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		close(events[i]);
}

static void test_bad_interrupts(void **state)
{
	static const struct {
		uint32_t flags, index, start, count;
		unsigned fds, booleans;
		int result;
	} cases[] = {
		/* 0 */ { 0, 0, 0, 1, 0, 0, EINVAL },
		/* 1 */ { NONE, 0, 0, 1, 0, 0, EINVAL },
		/* 2 */ { TRIGGER, 0, 0, 1, 0, 0, EINVAL },
		/* 3 */ { NONE | BOOL | TRIGGER, 0, 0, 1, 0, 0, EINVAL },
		/* 4 */ { NONE | MASK | TRIGGER, 0, 0, 1, 0, 0, EINVAL },
		/* 5 */ { NONE | TRIGGER | 64, 0, 0, 1, 0, 0, EINVAL },
		/* 6 */ { NONE | TRIGGER, 5, 0, 1, 0, 0, EINVAL },
		/* 7 */ { NONE | TRIGGER, UINT32_MAX, 0, 1, 0, 0, EINVAL },
		/* 8 */ { EVENTFD | TRIGGER, 2, 0, 5, 5, 0, EINVAL },
		/* 9 */ { EVENTFD | TRIGGER, 2, 4, 1, 1, 0, EINVAL },
		/* 10 */ { EVENTFD | TRIGGER, 2, UINT32_MAX, 1, 1, 0, EINVAL },
		/* 11 */ { EVENTFD | TRIGGER, 2, 1, UINT32_MAX, 1, 0, EINVAL },
		/* 12 */ { EVENTFD | TRIGGER, 2, 0, 2, 1, 0, EINVAL }, /* neither none nor all */
		/* 13 */ { EVENTFD | TRIGGER, 2, 0, 1, 2, 0, EINVAL },
		/* 14 */ { EVENTFD | TRIGGER, 2, 0, 0, 0, 0, EINVAL },
		/* 15 */ { NONE | TRIGGER, 2, 0, 1, 1, 0, EINVAL },
		/* 16 */ { BOOL | TRIGGER, 2, 0, 2, 0, 1, EINVAL },
		/* 17 */ { BOOL | TRIGGER, 2, 0, 2, 0, 3, EINVAL },
		/* 18 */ { NONE | TRIGGER, 2, 0, 1, 0, 1, EINVAL },
		/* 19 */ { NONE | MASK, 2, 0, 1, 0, 0, ENOTTY },
		/* 20 */ { NONE | UNMASK, 1, 0, 1, 0, 0, ENOTTY },
		/* 21 */ { NONE | MASK, 0, 0, 0, 0, 0, EINVAL },
		/* 22 */ { EVENTFD | TRIGGER, 3, 0, 1, 1, 0, 0 }, /* errors and requests: accepted */
		/* 23 */ { EVENTFD | TRIGGER, 4, 0, 1, 1, 0, 0 },
		/* 24 */ { EVENTFD | TRIGGER, 4, 0, 1, 0, 0, 0 },
		/* 25 */ { NONE | TRIGGER, 3, 0, 0, 0, 0, 0 },
		/* 26 */ { EVENTFD | TRIGGER, 3, 1, 1, 1, 0, EINVAL },
	};
	uint8_t wire[sizeof(struct vfio_user_irq_set) + 8] = { 0 };
	int events[8], others[2], result;
	unsigned before;

	make_events(events, 8);
	before = open_fds();
	for (size_t i = 0; i < array_size(cases); i++) {
		const struct vfio_user_irq_set set = { 20, cases[i].flags, cases[i].index, cases[i].start,
						       cases[i].count };

		memcpy(wire, &set, sizeof(set));
		result = vfio_client_call(client, VFIO_USER_DEVICE_SET_IRQS, wire, 20 + cases[i].booleans, events,
					  cases[i].fds);
		if (result != cases[i].result)
			fail_msg("case %zu: %d", i, result);
	}
	/* Files that are no eventfds. */
	assert_int_equal(pipe(others), 0);
	assert_int_equal(vfio_client_irqs(client, EVENTFD | TRIGGER, 2, 0, 2, NULL, others, 2), EINVAL);
	assert_int_equal(vfio_client_irqs(client, EVENTFD | UNMASK, 0, 0, 1, NULL, others, 1), EINVAL);
	close(others[0]);
	close(others[1]);
	assert_true(settles(before));
	assert_int_equal(pci_interrupts_kind(&fixture.fake.device.interrupts), PCI_INTERRUPT_NONE);
	close_events(events, 8);
}

static void raise_all(void)
{
	assert_int_equal(vfio_client_write32(client, 0, FAKE_PCI_RAISE, 0xff), 0);
}

static void test_messages_signalled(void **state)
{
	static const uint8_t some[4] = { 0, 1, 0, 255 };
	int events[4];

	make_events(events, 4);
	/* As QEMU enables MSI-X: first vector 0 without a file, then one after the other. */
	assert_int_equal(vfio_client_irqs(client, EVENTFD | TRIGGER, 2, 0, 1, NULL, NULL, 0), 0);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(vfio_client_irqs(client, EVENTFD | TRIGGER, 2, i, 1, NULL, &events[i], 1), 0);
	raise_all();
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(signals(events[i]), 1);
	/* By the client itself. */
	assert_int_equal(vfio_client_irqs(client, NONE | TRIGGER, 2, 1, 2, NULL, NULL, 0), 0);
	assert_int_equal(vfio_client_irqs(client, BOOL | TRIGGER, 2, 0, 4, some, NULL, 0), 0);
	assert_int_equal(signals(events[0]), 0);
	assert_int_equal(signals(events[1]), 2);
	assert_int_equal(signals(events[2]), 1);
	assert_int_equal(signals(events[3]), 1);
	/* Taken away: one, then all. */
	assert_int_equal(vfio_client_irqs(client, EVENTFD | TRIGGER, 2, 1, 1, NULL, NULL, 0), 0);
	raise_all();
	assert_int_equal(signals(events[0]), 1);
	assert_int_equal(signals(events[1]), 0);
	assert_int_equal(vfio_client_irqs(client, NONE | TRIGGER, 2, 0, 0, NULL, NULL, 0), 0);
	raise_all();
	assert_int_equal(vfio_client_irqs(client, NONE | TRIGGER, 2, 0, 4, NULL, NULL, 0), 0);
	assert_int_equal(signals(events[0]), 0);
	assert_int_equal(signals(events[2]), 1); /* from before */
	assert_int_equal(signals(events[3]), 1);
	/* All in one message; MSI takes over. */
	assert_int_equal(vfio_client_irqs(client, EVENTFD | TRIGGER, 2, 0, 4, NULL, events, 4), 0);
	assert_int_equal(vfio_client_irqs(client, NONE | TRIGGER, 2, 0, 0, NULL, NULL, 0), 0);
	assert_int_equal(vfio_client_irqs(client, EVENTFD | TRIGGER, 1, 0, 1, NULL, &events[2], 1), 0);
	raise_all();
	assert_int_equal(signals(events[2]), 1);
	assert_int_equal(signals(events[0]), 0);
	/* The end takes all of them. */
	end_session();
	assert_int_equal(pci_interrupts_kind(&fixture.fake.device.interrupts), PCI_INTERRUPT_NONE);
	close_events(events, 4);
}

static void set_pin(uint32_t level)
{
	assert_int_equal(vfio_client_write32(client, 0, FAKE_PCI_PIN, level), 0);
}

static void test_pin(void **state)
{
	static const uint8_t no = 0, yes = 1;
	uint64_t one = 1;
	int events[3];

	make_events(events, 3);
	assert_int_equal(vfio_client_irqs(client, EVENTFD | TRIGGER, 0, 0, 1, NULL, &events[0], 1), 0);
	set_pin(1);
	assert_int_equal(signals(events[0]), 1);
	set_pin(1);
	assert_int_equal(signals(events[0]), 0); /* masked itself */
	assert_int_equal(vfio_client_irqs(client, BOOL | UNMASK, 0, 0, 1, &no, NULL, 0), 0);
	assert_int_equal(signals(events[0]), 0);
	assert_int_equal(vfio_client_irqs(client, BOOL | UNMASK, 0, 0, 1, &yes, NULL, 0), 0);
	assert_int_equal(signals(events[0]), 1); /* still raised */
	assert_int_equal(vfio_client_irqs(client, NONE | UNMASK, 0, 0, 1, NULL, NULL, 0), 0);
	assert_int_equal(signals(events[0]), 1);
	set_pin(0);
	assert_int_equal(vfio_client_irqs(client, NONE | UNMASK, 0, 0, 1, NULL, NULL, 0), 0);
	assert_int_equal(signals(events[0]), 0);
	assert_int_equal(vfio_client_irqs(client, NONE | MASK, 0, 0, 1, NULL, NULL, 0), 0);
	set_pin(1);
	assert_int_equal(signals(events[0]), 0);

	/* By eventfd, as KVM does it, again and again without being read. */
	assert_int_equal(vfio_client_irqs(client, EVENTFD | UNMASK, 0, 0, 1, NULL, &events[1], 1), 0);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(write(events[1], &one, sizeof(one)), sizeof(one));
		vfio_client_pump(client);
		assert_int_equal(signals(events[0]), 1);
	}
	assert_int_equal(signals(events[1]), 5); /* nobody has read it */
	/* Another takes its place; then none. */
	assert_int_equal(vfio_client_irqs(client, EVENTFD | UNMASK, 0, 0, 1, NULL, &events[2], 1), 0);
	assert_int_equal(write(events[1], &one, sizeof(one)), sizeof(one));
	vfio_client_pump(client);
	assert_int_equal(signals(events[0]), 0);
	assert_int_equal(write(events[2], &one, sizeof(one)), sizeof(one));
	vfio_client_pump(client);
	assert_int_equal(signals(events[0]), 1);
	assert_int_equal(vfio_client_irqs(client, EVENTFD | UNMASK, 0, 0, 1, NULL, NULL, 0), 0);
	assert_int_equal(write(events[2], &one, sizeof(one)), sizeof(one));
	vfio_client_pump(client);
	assert_int_equal(signals(events[0]), 0);

	/* And masked by one. */
	set_pin(0);
	assert_int_equal(vfio_client_irqs(client, NONE | UNMASK, 0, 0, 1, NULL, NULL, 0), 0);
	assert_int_equal(signals(events[1]), 1);
	assert_int_equal(vfio_client_irqs(client, EVENTFD | MASK, 0, 0, 1, NULL, &events[1], 1), 0);
	assert_int_equal(write(events[1], &one, sizeof(one)), sizeof(one));
	vfio_client_pump(client);
	set_pin(1);
	assert_int_equal(signals(events[0]), 0);
	close_events(events, 3);
}

/* ---- repetition -------------------------------------------------------------------------------------------------- */

static void test_repetition(void **state)
{
	int events[4];
	unsigned before;

	make_events(events, 4);
	assert_int_equal(vfio_client_irqs(client, EVENTFD | UNMASK, 0, 0, 1, NULL, events, 1), 0);
	assert_int_equal(vfio_client_irqs(client, EVENTFD | MASK, 0, 0, 1, NULL, events, 1), 0);
	before = open_fds();
	for (unsigned i = 0; i < 1000; i++) {
		assert_int_equal(vfio_client_irqs(client, EVENTFD | TRIGGER, 2, 0, 4, NULL, events, 4), 0);
		assert_int_equal(vfio_client_irqs(client, EVENTFD | UNMASK, 0, 0, 1, NULL, events, 1), 0);
		assert_int_equal(vfio_client_irqs(client, EVENTFD | MASK, 0, 0, 1, NULL, events, 1), 0);
		assert_int_equal(region_info(0, 64), 0);
	}
	assert_int_equal(region_info(2, 64), 0); /* takes no file, and the last reply's is closed */
	assert_true(settles(before));
	close_events(events, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SESSION_TEST(test_bad_interrupts),
		SESSION_TEST(test_messages_signalled),
		SESSION_TEST(test_pin),
		SESSION_TEST(test_repetition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
