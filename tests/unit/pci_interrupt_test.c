/* SPDX-License-Identifier: BSD-3-Clause */
/* Interrupts: who gets a signal, what the pin does, and both while several threads are at it. */
#include "test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/notifier.h"
#include "device/pci/pci_interrupt.h"

static struct pci_interrupts interrupts;
static struct notifier *notifier;

static int set_up(void **state)
{
	static const uint16_t counts[PCI_INTERRUPT_KINDS] = { 1, 1, 3 };

	assert_int_equal(notifier_create(&notifier), 0);
	interrupts.notifier = notifier;
	assert_int_equal(pci_interrupts_init(&interrupts, counts), 0);
	return 0;
}

static int tear_down(void **state)
{
	pci_interrupts_release(&interrupts);
	notifier_destroy(notifier);
	return 0;
}

static int new_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_true(fd >= 0);
	return fd;
}

/* Signals since the last look. */
static uint64_t take(int fd)
{
	uint64_t count = 0;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void give(enum pci_interrupt_kind kind, unsigned vector, int fd)
{
	assert_int_equal(pci_interrupts_set(&interrupts, kind, vector, fd), 0);
}

static void test_messages(void **state)
{
	int a = new_eventfd(), b = new_eventfd();

	pci_interrupt_message(&interrupts, 0, notifier); /* nothing is enabled */
	assert_int_equal(atomic_load(&interrupts.signals), 0);
	assert_int_equal(pci_interrupts_kind(&interrupts), PCI_INTERRUPT_NONE);

	/* As QEMU does: the first message enables MSI-X and brings no file. */
	give(PCI_INTERRUPT_MSIX, 0, -1);
	assert_int_equal(pci_interrupts_kind(&interrupts), PCI_INTERRUPT_MSIX);
	give(PCI_INTERRUPT_MSIX, 0, a);
	give(PCI_INTERRUPT_MSIX, 2, b);
	pci_interrupt_message(&interrupts, 0, notifier);
	pci_interrupt_message(&interrupts, 2, notifier);
	pci_interrupt_message(&interrupts, 2, notifier);
	pci_interrupt_message(&interrupts, 1, notifier); /* goes to nobody */
	pci_interrupt_message(&interrupts, 3, notifier); /* is not there */
	pci_interrupt_message(&interrupts, 0xffffffff, notifier);
	assert_int_equal(take(a), 1);
	assert_int_equal(take(b), 2);

	/* Exchanged, and taken away: the old file is not signalled any more, and the kind stays. */
	give(PCI_INTERRUPT_MSIX, 0, b);
	pci_interrupt_message(&interrupts, 0, notifier);
	assert_int_equal(take(a), 0);
	assert_int_equal(take(b), 1);
	give(PCI_INTERRUPT_MSIX, 0, -1);
	pci_interrupt_message(&interrupts, 0, notifier);
	assert_int_equal(take(b), 0);
	assert_int_equal(pci_interrupts_kind(&interrupts), PCI_INTERRUPT_MSIX);

	pci_interrupts_disable(&interrupts, PCI_INTERRUPT_MSIX);
	assert_int_equal(pci_interrupts_kind(&interrupts), PCI_INTERRUPT_NONE);
	pci_interrupt_message(&interrupts, 2, notifier);
	assert_int_equal(take(b), 0);
	close(a);
	close(b);
}

static void test_kind_in_use(void **state)
{
	int pin = new_eventfd(), msi = new_eventfd();

	give(PCI_INTERRUPT_PIN, 0, pin);
	assert_int_equal(pci_interrupts_kind(&interrupts), PCI_INTERRUPT_PIN);
	pci_interrupt_message(&interrupts, 0, notifier); /* not by the pin */
	assert_int_equal(take(pin), 0);
	give(PCI_INTERRUPT_MSI, 0, msi);
	pci_interrupt_message(&interrupts, 0, notifier);
	assert_int_equal(take(msi), 1);
	pci_interrupt_pin(&interrupts, true, notifier); /* nobody hears it */
	assert_int_equal(take(pin), 0);
	/* Disabling what is not in use changes nothing; after that what is left is in use, and still raised. */
	pci_interrupts_disable(&interrupts, PCI_INTERRUPT_MSIX);
	assert_int_equal(pci_interrupts_kind(&interrupts), PCI_INTERRUPT_MSI);
	pci_interrupts_disable(&interrupts, PCI_INTERRUPT_MSI);
	assert_int_equal(pci_interrupts_kind(&interrupts), PCI_INTERRUPT_PIN);
	assert_int_equal(take(pin), 1);
	pci_interrupts_disable(&interrupts, PCI_INTERRUPT_PIN);
	assert_int_equal(pci_interrupts_kind(&interrupts), PCI_INTERRUPT_NONE);
	close(pin);
	close(msi);
}

static void test_pin(void **state)
{
	int fd = new_eventfd();

	/* Raised before anybody listens: told when somebody does. */
	pci_interrupt_pin(&interrupts, true, notifier);
	give(PCI_INTERRUPT_PIN, 0, fd);
	assert_int_equal(take(fd), 1);
	assert_true(pci_interrupt_pin_asserted(&interrupts));

	/* Masked by its signal. */
	pci_interrupt_pin(&interrupts, true, notifier);
	pci_interrupt_pin(&interrupts, false, notifier);
	pci_interrupt_pin(&interrupts, true, notifier);
	assert_int_equal(take(fd), 0);
	/* Still raised: again. */
	pci_interrupt_pin_unmask(&interrupts, notifier);
	assert_int_equal(take(fd), 1);
	pci_interrupt_pin(&interrupts, false, notifier);
	pci_interrupt_pin_unmask(&interrupts, notifier);
	assert_int_equal(take(fd), 0);
	assert_false(pci_interrupt_pin_asserted(&interrupts));
	pci_interrupt_pin(&interrupts, true, notifier);
	assert_int_equal(take(fd), 1);

	/* Masked by the VMM, disabled by the guest: both must let go. */
	pci_interrupt_pin(&interrupts, false, notifier);
	pci_interrupt_pin_unmask(&interrupts, notifier);
	pci_interrupt_pin_mask(&interrupts);
	pci_interrupt_pin_disable(&interrupts, true, notifier);
	pci_interrupt_pin(&interrupts, true, notifier);
	pci_interrupt_pin_unmask(&interrupts, notifier);
	assert_int_equal(take(fd), 0);
	pci_interrupt_pin_disable(&interrupts, false, notifier);
	assert_int_equal(take(fd), 1);
	pci_interrupts_disable(&interrupts, PCI_INTERRUPT_PIN);
	pci_interrupt_pin_unmask(&interrupts, notifier);
	assert_int_equal(take(fd), 0);
	close(fd);
}

/* A full counter, which its owner has made a blocking one, holds nobody up. */
static void test_full_counter(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	uint64_t most = UINT64_MAX - 1;

	assert_int_equal(write(fd, &most, sizeof(most)), sizeof(most));
	give(PCI_INTERRUPT_MSIX, 0, fd);
	pci_interrupt_message(&interrupts, 0, notifier);
	pci_interrupt_message(&interrupts, 0, notifier);
	close(fd);
}

/* ---- stress ------------------------------------------------------------------------------------------------------ */

#ifdef __SANITIZE_THREAD__
#define ROUNDS 20000U
#else
#define ROUNDS 200000U
#endif

/*
 * The driver of a level interrupt and its device. The device has causes; it raises the pin when there is one. The
 * driver's handler takes all causes, lowers the pin under the lock that both agree on, and unmasks. If a signal is ever
 * lost, causes stay, and the handler waits for ever.
 */
struct level {
	pthread_mutex_t agree; /* cause and level change together */
	unsigned cause, handled;
	int fd;
	atomic_bool over;
	atomic_uint seen; /* causes that the handler has taken */
};

static void *level_device(void *argument)
{
	struct level *level = argument;
	struct notifier *own;

	if (notifier_create(&own))
		return argument;
	for (unsigned i = 1; i <= ROUNDS; i++) {
		pthread_mutex_lock(&level->agree);
		level->cause = i;
		pci_interrupt_pin(&interrupts, true, own);
		pthread_mutex_unlock(&level->agree);
		/* Half of the time the handler is waited for, so that each signal counts. */
		for (unsigned spin = 0; i % 2 && atomic_load(&level->seen) != i; spin++) {
			if (spin > 1000000000U) {
				notifier_destroy(own);
				return argument;
			}
			if (!(spin % 100))
				sched_yield();
		}
	}
	notifier_destroy(own);
	return NULL;
}

static void *level_handler(void *argument)
{
	struct level *level = argument;
	struct notifier *own;

	if (notifier_create(&own))
		return argument;
	while (!atomic_load(&level->over)) {
		if (!take(level->fd)) {
			sched_yield();
			continue;
		}
		pthread_mutex_lock(&level->agree);
		level->handled = level->cause;
		pci_interrupt_pin(&interrupts, false, own);
		pthread_mutex_unlock(&level->agree);
		atomic_store(&level->seen, level->handled);
		pci_interrupt_pin_unmask(&interrupts, own);
	}
	notifier_destroy(own);
	return NULL;
}

static void test_no_level_is_lost(void **state)
{
	struct level level = { .agree = PTHREAD_MUTEX_INITIALIZER, .fd = new_eventfd() };
	pthread_t device, handler;
	void *failed;

	give(PCI_INTERRUPT_PIN, 0, level.fd);
	assert_int_equal(pthread_create(&handler, NULL, level_handler, &level), 0);
	assert_int_equal(pthread_create(&device, NULL, level_device, &level), 0);
	pthread_join(device, &failed);
	/* The last causes were not waited for. */
	for (unsigned wait = 0; wait < 60000 && !failed && atomic_load(&level.seen) != ROUNDS; wait++)
		usleep(1000);
	atomic_store(&level.over, true);
	pthread_join(handler, NULL);
	if (failed || atomic_load(&level.seen) != ROUNDS)
		fail_msg("a signal was lost: %u of %u, pin %u", atomic_load(&level.seen), ROUNDS,
			 atomic_load(&interrupts.pin));
	print_message("%u causes, %lu signals\n", ROUNDS, atomic_load(&interrupts.signals));
	assert_in_range(atomic_load(&interrupts.signals), 1, ROUNDS + 1);
	close(level.fd);
}

struct storm {
	atomic_bool over;
	uint64_t signals;
};

static void *storm_run(void *argument)
{
	struct storm *storm = argument;
	struct notifier *own;

	if (notifier_create(&own))
		return argument;
	while (!atomic_load(&storm->over)) {
		pci_interrupt_message(&interrupts, 1, own);
		storm->signals++;
	}
	notifier_destroy(own);
	return NULL;
}

/*
 * Files are exchanged while a sidecore signals: each signal arrives at one of the files that were given, none is lost
 * to a closed number, none reaches a file that was opened meanwhile.
 */
static void test_exchange_under_signals(void **state)
{
	int given[2] = { new_eventfd(), new_eventfd() }, bystander;
	struct storm storm = { 0 };
	uint64_t arrived = 0, strayed = 0;
	pthread_t thread;

	give(PCI_INTERRUPT_MSIX, 1, given[0]);
	assert_int_equal(pthread_create(&thread, NULL, storm_run, &storm), 0);
	for (unsigned i = 0; i < ROUNDS / 10; i++) {
		give(PCI_INTERRUPT_MSIX, 1, given[i % 2]);
		bystander = new_eventfd(); /* takes the lowest number that is free */
		if (i % 64 == 0)
			sched_yield();
		strayed += take(bystander);
		close(bystander);
	}
	atomic_store(&storm.over, true);
	pthread_join(thread, NULL);
	arrived = take(given[0]) + take(given[1]);
	print_message("%u exchanges under %lu signals\n", ROUNDS / 10, storm.signals);
	assert_int_equal(strayed, 0);
	assert_int_equal(arrived, storm.signals);
	assert_int_equal(atomic_load(&interrupts.signals), storm.signals);
	close(given[0]);
	close(given[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_messages, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_kind_in_use, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_pin, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_full_counter, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_no_level_is_lost, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_exchange_under_signals, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
