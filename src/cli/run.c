/* SPDX-License-Identifier: BSD-3-Clause */
/* `sidecore run`: folder, guests, and the order of it all. Theory of operation: cli/run.h. */
#include "cli/run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/commands.h"

#define BOOT_TIMEOUT_MS	    120000
#define AGENT_TIMEOUT_MS    10000
#define POWEROFF_TIMEOUT_MS 8000

/* A signal handler has nowhere else to leave its message. */
static volatile sig_atomic_t stopped;

static void handle_signal(int number)
{
	(void)number;
	stopped = 1;
}

bool run_stopped(void)
{
	return stopped;
}

int run_complain(const char *what, const char *why)
{
	fflush(stdout); /* so that what is said stays in order where both go to one file */
	fprintf(stderr, "sidecore run: %s: %s\n", what, why);
	return -1;
}

/* --- guests --- */

/* The last CPU is the sidecore's; guests get the others, where there are any. */
static void choose_guest_cpus(struct run *run)
{
	unsigned left = run->options.sidecores;
	cpu_set_t allowed;

	CPU_ZERO(&run->guest_cpus);
	if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		return;
	run->guest_cpus = allowed;
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0 && left; cpu--) {
		if (CPU_ISSET(cpu, &run->guest_cpus) && CPU_COUNT(&run->guest_cpus) > 1) {
			CPU_CLR(cpu, &run->guest_cpus);
			left--;
		}
	}
}

/* What a guest left when its QEMU ended by itself. Return: 0, or -1 when it did not end well. */
static int guest_ended(const struct run_guest *guest)
{
	int status = guest->qemu.status;

	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	fflush(stdout);
	fprintf(stderr, "sidecore run: QEMU of %s ended with %s %d\n", guest->name,
		WIFSIGNALED(status) ? "signal" : "status",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	process_print_log(&guest->qemu, 20);
	return -1;
}

static void tend_meanwhile(void *context)
{
	run_tend_daemon(context); /* what it could not mend, the step under way finds out */
}

/* Until the built-in guest's agent answers; asks it for the kernel's version. */
static int wait_for_agent(struct run *run, struct run_guest *guest, uint64_t start)
{
	struct agent_result result = { 0 };
	char path[PATH_MAX];
	int error;

	snprintf(path, sizeof(path), "%s/%s-agent.sock", run->folder, guest->name);
	printf("  booting %s (%s, %s) ... ", guest->name, config_nic_model_name(guest->nic),
	       config_disk_model_name(guest->disk));
	fflush(stdout);
	guest->agent.meanwhile = tend_meanwhile;
	guest->agent.context = run;
	error = agent_connect(&guest->agent, path, &guest->qemu, BOOT_TIMEOUT_MS);
	if (!error)
		error = agent_run(&guest->agent, "uname -sr", AGENT_TIMEOUT_MS, &result);
	if (!error) {
		snprintf(run->kernel, sizeof(run->kernel), "%.*s", (int)strcspn(result.output, "\n"), result.output);
		printf("%s, up after %.1f s\n", run->kernel, (double)(clock_nanoseconds() - start) / 1e9);
	}
	free(result.output);
	if (!error)
		return 0;
	if (run_stopped()) {
		printf("interrupted\n");
		return error;
	}
	printf("FAILED: %s\n", error == -ETIMEDOUT ? "no sign of life in time" : "QEMU has ended");
	if (error == -ETIMEDOUT)
		process_print_log(&guest->qemu, 20);
	else if (!guest->qemu.pid)
		guest_ended(guest);
	return error;
}

static int start_guests(struct run *run)
{
	uint64_t start = clock_nanoseconds();
	int error;

	for (unsigned i = 0; i < run->options.guests; i++) {
		error = run_guest_start(run, i, (int)i == run->options.console);
		if (error)
			return run_complain(run->qemu, strerror(-error));
	}
	if (run_own_guests(&run->options) || run->options.console >= 0)
		return 0;
	for (unsigned i = 0; i < run->options.guests; i++) {
		error = wait_for_agent(run, &run->guests[i], start);
		if (error)
			return error;
	}
	return 0;
}

static void print_hints(const struct run *run)
{
	const struct run_options *options = &run->options;

	printf("  look: sidecore status --control %s --watch\n", run->control);
	if (options->console >= 0)
		printf("  the console of guest%d follows; Ctrl-A X ends it, and all\n", options->console);
	else
		printf("  consoles: %s/guest*.console.log\n  running; Ctrl-C ends it\n", run->folder);
	fflush(stdout);
}

/* Until all guests have gone, or the user has had enough. Return: 0; -1 when a QEMU or the daemon did not end well. */
static int wait_for_guests(struct run *run)
{
	unsigned running = run->options.guests;
	int result = 0;

	while (running && !run_stopped()) {
		running = 0;
		usleep(100000);
		for (unsigned i = 0; i < run->options.guests; i++) {
			struct run_guest *guest = &run->guests[i];
			bool was_running = guest->qemu.pid;

			if (process_running(&guest->qemu))
				running++;
			else if (was_running && guest_ended(guest))
				result = -1;
		}
		if (run->options.console >= 0 && !run->guests[run->options.console].qemu.pid)
			break;
		if (!run_tend_daemon(run))
			return -1;
	}
	return result;
}

static void stop_guests(struct run *run)
{
	uint64_t deadline = clock_nanoseconds() + POWEROFF_TIMEOUT_MS * NANOSECONDS_PER_MILLISECOND;

	for (unsigned i = 0; i < run->options.guests; i++) {
		if (run->guests[i].agent.fd > 0)
			agent_poweroff(&run->guests[i].agent);
	}
	for (unsigned i = 0; i < run->options.guests; i++) {
		struct run_guest *guest = &run->guests[i];

		while (guest->agent.fd > 0 && process_running(&guest->qemu) && clock_nanoseconds() < deadline)
			usleep(20000);
		process_stop(&guest->qemu, 2000);
		agent_close(&guest->agent);
	}
}

/* --- all of it --- */

static int make_folder(struct run *run)
{
	/* Paths of unix sockets have at most 107 bytes: a short place. */
	const char *base = getenv("XDG_RUNTIME_DIR");

	if (!base || strlen(base) > 50 || access(base, W_OK))
		base = "/tmp";
	snprintf(run->folder, sizeof(run->folder), "%.50s/sidecore-run-XXXXXX", base);
	if (!mkdtemp(run->folder))
		return -errno;
	snprintf(run->control, sizeof(run->control), "%s/control.sock", run->folder);
	return 0;
}

static void remove_folder(const char *folder)
{
	const char *const argv[] = { "rm", "-rf", folder, NULL };
	struct process process = { 0 };

	if (!process_start(&process, "rm", argv, NULL, NULL)) {
		while (process_running(&process))
			usleep(1000);
	}
}

static void name_guests(struct run *run)
{
	const struct run_options *options = &run->options;

	for (unsigned i = 0; i < options->guests; i++) {
		run->guests[i].nic = options->nics[i % options->nic_count];
		run->guests[i].disk = options->disks[i % options->disk_count];
		snprintf(run->guests[i].name, sizeof(run->guests[i].name), "guest%u", i);
		snprintf(run->guests[i].mac, sizeof(run->guests[i].mac), "52:54:00:5c:00:%02x", (i + 1) & 0xff);
	}
}

static int run_all(struct run *run)
{
	const struct run_options *options = &run->options;
	char kernel[PATH_MAX];
	int error;

	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", options->guest_folder);
	run->accelerator =
		run_accelerator(run->qemu, options->kernel ? options->kernel : kernel, &run->accelerator_reason);
	printf("sidecore %s, QEMU %s: %u guest%s under %s (%s)\n", SIDECORE_VERSION, run->qemu_version, options->guests,
	       options->guests == 1 ? "" : "s", strcmp(run->accelerator, "kvm") ? "TCG" : "KVM",
	       run->accelerator_reason);
	fflush(stdout);
	error = run_start_daemon(run);
	if (error) {
		if (run_stopped())
			return -1;
		run_complain("the daemon did not start", error == -ECHILD ? "this is what it says" : strerror(-error));
		process_print_log(&run->daemon, 20);
		return -1;
	}
	if (options->console >= 0)
		print_hints(run); /* afterwards the terminal is the guest's */
	if (start_guests(run))
		return -1;
	if (run_tour_wanted(options))
		return run_tour(run) ? 0 : -1;
	if (options->console < 0)
		print_hints(run);
	return wait_for_guests(run);
}

/* A guest that went away in the middle of the tour is the reason of what failed: its last words. */
static void print_lost_guests(struct run *run)
{
	usleep(100000); /* one may be on its way out */
	for (unsigned i = 0; i < run->options.guests; i++) {
		struct run_guest *guest = &run->guests[i];

		if (guest->qemu.pid && !process_running(&guest->qemu))
			guest_ended(guest);
	}
}

/* In order: guests first, so that the daemon sees them go. A daemon that does not end well is a failure. */
static int stop_all(struct run *run)
{
	int status;

	stop_guests(run);
	if (!run->daemon.pid)
		return 0;
	status = process_stop(&run->daemon, 5000);
	if (!status)
		return 0;
	fflush(stdout);
	fprintf(stderr, "sidecore run: the daemon ended with %s %d\n", WIFSIGNALED(status) ? "signal" : "status",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	process_print_log(&run->daemon, 20);
	return -1;
}

int cli_run(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = handle_signal };
	struct run *run = calloc(1, sizeof(*run));
	int error, status = EXIT_FAILURE;
	bool keep_logs;

	if (!run)
		return EXIT_FAILURE;
	if (!run_parse_options(argc, argv, &run->options, &status)) {
		free(run);
		return status;
	}
	name_guests(run);
	error = make_folder(run);
	if (error) {
		run_complain("cannot make a folder for sockets and logs", strerror(-error));
		free(run);
		return EXIT_FAILURE;
	}
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	choose_guest_cpus(run);

	error = run_find_qemu(run) ? 0 : -1;
	if (!error) {
		error = run_all(run);
		if (error && !run_stopped())
			print_lost_guests(run);
	}
	keep_logs = error && !run_stopped() && run->accelerator;
	if (stop_all(run)) {
		error = -1;
		keep_logs = true;
	}
	fflush(stdout);
	if (keep_logs)
		fprintf(stderr, "logs are kept in %s\n", run->folder);
	else
		remove_folder(run->folder);
	if (error && run_stopped())
		fprintf(stderr, "sidecore run: interrupted; guests and daemon are gone\n");
	free(run);
	return error ? EXIT_FAILURE : EXIT_SUCCESS;
}
