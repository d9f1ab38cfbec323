/* SPDX-License-Identifier: BSD-3-Clause */
/* `sidecore run`: options, folder, daemon, guests. Theory of operation: cli/run.h. */
#include "cli/run.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/commands.h"

#define DAEMON_TIMEOUT_MS 10000
#define BOOT_TIMEOUT_MS	  120000
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

static int complain(const char *what, const char *why)
{
	fprintf(stderr, "sidecore run: %s: %s\n", what, why);
	return -1;
}

/* --- options --- */

static void print_help(void)
{
	puts("usage: sidecore run [options]\n"
	     "\n"
	     "Starts a sidecore daemon with a switch, a user-mode NAT uplink, and a network card and a disk for each guest; boots\n"
	     "guests on it under QEMU; and shows them at work. Exit status 0: every step passed.\n"
	     "\n"
	     "Guests\n"
	     "  --guests N            how many (default 2, at most 16)\n"
	     "  --memory MIB          of each (default 512)\n"
	     "  --cpus N              of each (default 1)\n"
	     "  --queues N            queue pairs of the network card and queues of the disk (default 1)\n"
	     "  --packed              packed virtqueues\n"
	     "  --guest-folder DIR    built-in guest, as made by guest/build.sh (default build/guest)\n"
	     "\n"
	     "Your own guests: no tour; they run until they power off, or until Ctrl-C\n"
	     "  --image FILE          raw image, the guest's disk, written to; once for each guest. Without --kernel it is booted\n"
	     "                        from. For qcow2: qemu-nbd --socket=/tmp/q.sock --persistent image.qcow2 &\n"
	     "                        and --image nbd+unix:///?socket=/tmp/q.sock\n"
	     "  --kernel FILE         boot this kernel\n"
	     "  --initrd FILE         with this initial RAM disk\n"
	     "  --append TEXT         further words for the kernel's command line\n"
	     "\n"
	     "What to do\n"
	     "  --console N           no tour: stay in the console of guest N (from 0); Ctrl-A X ends its QEMU\n"
	     "  --keep                no tour: leave everything running until Ctrl-C\n"
	     "  --json FILE           write the tour's results as JSON, too\n"
	     "\n"
	     "Host\n"
	     "  --sidecores N         (default 1)\n"
	     "  --disk-size SIZE      of the built-in guests' RAM disks (default 64M)\n"
	     "  --qemu PROGRAM        (default qemu-system-x86_64)\n"
	     "\n"
	     "While it runs: sidecore status --control FOLDER/control.sock --watch");
}

static bool parse_count(const char *text, unsigned maximum, unsigned *count)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || end == text || !value || value > maximum) {
		fprintf(stderr, "sidecore run: '%s': a number from 1 to %u is wanted\n", text, maximum);
		return false;
	}
	*count = (unsigned)value;
	return true;
}

enum option_id { GUESTS = 1, MEMORY, CPUS, QUEUES, PACKED, FOLDER, IMAGE, KERNEL, INITRD, APPEND, CONSOLE, KEEP, JSON,
		 SIDECORES, DISK_SIZE, QEMU, HELP };

static const struct option long_options[] = {
	{ "guests", required_argument, NULL, GUESTS },	   { "memory", required_argument, NULL, MEMORY },
	{ "cpus", required_argument, NULL, CPUS },	   { "queues", required_argument, NULL, QUEUES },
	{ "packed", no_argument, NULL, PACKED },	   { "guest-folder", required_argument, NULL, FOLDER },
	{ "image", required_argument, NULL, IMAGE },	   { "kernel", required_argument, NULL, KERNEL },
	{ "initrd", required_argument, NULL, INITRD },	   { "append", required_argument, NULL, APPEND },
	{ "console", required_argument, NULL, CONSOLE },   { "keep", no_argument, NULL, KEEP },
	{ "json", required_argument, NULL, JSON },	   { "sidecores", required_argument, NULL, SIDECORES },
	{ "disk-size", required_argument, NULL, DISK_SIZE }, { "qemu", required_argument, NULL, QEMU },
	{ "help", no_argument, NULL, HELP },		   { 0 },
};

/* Return: false: a complaint has been printed. */
static bool take_option(struct run_options *options, int option)
{
	char *end;

	switch (option) {
	case GUESTS: return parse_count(optarg, RUN_GUESTS_MAX, &options->guests);
	case MEMORY: return parse_count(optarg, 1U << 20, &options->memory);
	case CPUS: return parse_count(optarg, 256, &options->cpus);
	case QUEUES: return parse_count(optarg, 8, &options->queues);
	case SIDECORES: return parse_count(optarg, 64, &options->sidecores);
	case PACKED: options->packed = true; return true;
	case FOLDER: options->guest_folder = optarg; return true;
	case KERNEL: options->kernel = optarg; return true;
	case INITRD: options->initrd = optarg; return true;
	case APPEND: options->append = optarg; return true;
	case KEEP: options->keep = true; return true;
	case JSON: options->json = optarg; return true;
	case DISK_SIZE: options->disk_size = optarg; return true;
	case QEMU: options->qemu = optarg; return true;
	case IMAGE:
		if (options->image_count == RUN_GUESTS_MAX)
			return !complain("--image", "at most 16");
		options->images[options->image_count++] = optarg;
		return true;
	case CONSOLE:
		options->console = (int)strtol(optarg, &end, 10);
		if (*end || end == optarg || options->console < 0)
			return !complain("--console", "the number of a guest is wanted, from 0");
		return true;
	default: return false;
	}
}

static bool check_options(struct run_options *options)
{
	if (options->image_count && !options->kernel && options->guests != options->image_count) {
		options->guests = options->image_count; /* a guest for each image */
	}
	if (options->image_count > options->guests)
		return !complain("--image", "more images than guests");
	if (options->console >= (int)options->guests)
		return !complain("--console", "there is no such guest");
	if (options->initrd && !options->kernel)
		return !complain("--initrd", "only together with --kernel");
	return true;
}

static bool own_guests(const struct run_options *options)
{
	return options->kernel || options->image_count;
}

/* --- daemon --- */

/* The guest's disk, as a backend of the configuration. */
static void write_backend(FILE *file, const struct run_options *options, unsigned index)
{
	const char *image = index < options->image_count ? options->images[index] : NULL;
	char *path;

	if (!image) {
		fprintf(file, "    backend: { type: ram, size: %s }\n", options->disk_size);
		return;
	}
	if (!strncmp(image, "nbd", 3) && strstr(image, "://")) {
		fprintf(file, "    backend: { type: nbd, uri: \"%s\" }\n", image);
		return;
	}
	path = realpath(image, NULL);
	fprintf(file, "    backend: { type: file, path: \"%s\" }\n", path ? path : image);
	free(path);
}

static int write_configuration(const struct run *run, const char *path)
{
	const struct run_options *options = &run->options;
	FILE *file = fopen(path, "w");

	if (!file)
		return -errno;
	fprintf(file, "control: control.sock\nsidecores:\n");
	for (unsigned i = 0; i < options->sidecores; i++)
		fprintf(file, "  - {}\n");
	fprintf(file, "networks:\n  - name: lan\n    uplink: { type: slirp }\ninterfaces:\n");
	for (unsigned i = 0; i < options->guests; i++)
		fprintf(file, "  - name: %s-net\n    network: lan\n    socket: %s-net.sock\n    mac: \"%s\"\n    queue_pairs: %u\n",
			run->guests[i].name, run->guests[i].name, run->guests[i].mac, options->queues);
	fprintf(file, "disks:\n");
	for (unsigned i = 0; i < options->guests; i++) {
		fprintf(file, "  - name: %s-disk\n    socket: %s-disk.sock\n    queues: %u\n", run->guests[i].name,
			run->guests[i].name, options->queues);
		write_backend(file, options, i);
	}
	return fclose(file) ? -errno : 0;
}

static int connect_control(const struct run *run)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval limit = { .tv_sec = 5 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", run->control);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		int error = -errno;

		close(fd);
		return error;
	}
	return fd;
}

json_t *run_status(const struct run *run)
{
	static const char request[] = "{\"command\":\"status\"}\n";
	json_t *status = NULL;
	json_error_t error;
	int fd = connect_control(run);

	if (fd < 0)
		return NULL;
	if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) == sizeof(request) - 1)
		status = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, &error);
	close(fd);
	return status;
}

static int start_daemon(struct run *run)
{
	uint64_t deadline = clock_nanoseconds() + DAEMON_TIMEOUT_MS * NANOSECONDS_PER_MILLISECOND;
	char program[PATH_MAX], configuration[PATH_MAX], log[PATH_MAX];
	const char *const argv[] = { program, "serve", configuration, NULL };
	ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
	int error, fd;

	if (length < 0)
		return -errno;
	program[length] = '\0';
	snprintf(configuration, sizeof(configuration), "%s/sidecore.yaml", run->folder);
	snprintf(log, sizeof(log), "%s/daemon.log", run->folder);
	error = write_configuration(run, configuration);
	if (!error)
		error = process_start(&run->daemon, "daemon", argv, log, NULL);
	if (error)
		return error;
	while ((fd = connect_control(run)) < 0) {
		if (!process_running(&run->daemon, NULL))
			return -ECHILD;
		if (clock_nanoseconds() > deadline || run_stopped())
			return -ETIMEDOUT;
		usleep(10000);
	}
	close(fd);
	return 0;
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

static int start_guests(struct run *run)
{
	uint64_t start = clock_nanoseconds();
	char path[PATH_MAX];
	int error;

	for (unsigned i = 0; i < run->options.guests; i++) {
		error = run_guest_start(run, i, (int)i == run->options.console);
		if (error) {
			fprintf(stderr, "sidecore run: cannot start %s: %s%s\n", run->options.qemu, strerror(-error),
				error == -ENOENT ? "; install it with tools/setup.sh run, or name it with --qemu" : "");
			return error;
		}
	}
	if (own_guests(&run->options) || run->options.console >= 0)
		return 0;
	for (unsigned i = 0; i < run->options.guests; i++) {
		snprintf(path, sizeof(path), "%s/%s-agent.sock", run->folder, run->guests[i].name);
		printf("  booting %s ... ", run->guests[i].name);
		fflush(stdout);
		error = agent_connect(&run->guests[i].agent, path, BOOT_TIMEOUT_MS);
		if (error) {
			printf("FAILED: %s\n", strerror(-error));
			process_print_log(&run->guests[i].qemu, 20);
			return error;
		}
		printf("up after %.1f s\n", (double)(clock_nanoseconds() - start) / 1e9);
	}
	return 0;
}

/* Until all guests have gone, or the user has had enough. */
static int wait_for_guests(struct run *run)
{
	unsigned running = run->options.guests;

	printf("  running; folder %s\n  Ctrl-C ends it\n", run->folder);
	while (running && !run_stopped()) {
		running = 0;
		usleep(100000);
		for (unsigned i = 0; i < run->options.guests; i++)
			running += process_running(&run->guests[i].qemu, NULL);
		if (run->options.console >= 0 && !process_running(&run->guests[run->options.console].qemu, NULL))
			break;
		if (!process_running(&run->daemon, NULL))
			return complain("the daemon", "ended unexpectedly");
	}
	return 0;
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

		while (guest->agent.fd > 0 && process_running(&guest->qemu, NULL) && clock_nanoseconds() < deadline)
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
		while (process_running(&process, NULL))
			usleep(1000);
	}
}

static int check_guest_image(const struct run *run)
{
	char path[PATH_MAX];

	if (own_guests(&run->options))
		return 0;
	snprintf(path, sizeof(path), "%s/initrd.img", run->options.guest_folder);
	if (!access(path, R_OK))
		return 0;
	fprintf(stderr, "sidecore run: there is no guest image in %s\n"
			"make it with guest/build.sh %s, or bring your own: --kernel, --image (see --help)\n",
		run->options.guest_folder, run->options.guest_folder);
	return -1;
}

static void name_guests(struct run *run)
{
	for (unsigned i = 0; i < run->options.guests; i++) {
		snprintf(run->guests[i].name, sizeof(run->guests[i].name), "guest%u", i);
		snprintf(run->guests[i].mac, sizeof(run->guests[i].mac), "52:54:00:5c:00:%02x", (i + 1) & 0xff);
	}
}

static int run_all(struct run *run)
{
	char kernel[PATH_MAX];
	bool tour = !own_guests(&run->options) && !run->options.keep && run->options.console < 0;
	int error;

	snprintf(kernel, sizeof(kernel), "%s/vmlinuz", run->options.guest_folder);
	run->accelerator = run_accelerator(run->options.qemu, run->options.kernel ? run->options.kernel : kernel,
					   &run->accelerator_reason);
	printf("sidecore %s: %u guest%s under %s (%s)\n", SIDECORE_VERSION, run->options.guests,
	       run->options.guests == 1 ? "" : "s", strcmp(run->accelerator, "kvm") ? "TCG" : "KVM",
	       run->accelerator_reason);
	error = start_daemon(run);
	if (error) {
		complain("the daemon did not start", strerror(-error));
		process_print_log(&run->daemon, 20);
		return -1;
	}
	if (start_guests(run))
		return -1;
	if (!tour)
		return wait_for_guests(run);
	return run_tour(run) ? 0 : -1;
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
	fprintf(stderr, "sidecore run: the daemon ended with %s %d\n", WIFSIGNALED(status) ? "signal" : "status",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	process_print_log(&run->daemon, 20);
	return -1;
}

int cli_run(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = handle_signal };
	struct run *run = calloc(1, sizeof(*run));
	int option, error;

	if (!run)
		return EXIT_FAILURE;
	run->options = (struct run_options){ .guests = 2, .memory = 512, .cpus = 1, .sidecores = 1, .queues = 1,
					     .disk_size = "64M", .guest_folder = "build/guest",
					     .qemu = "qemu-system-x86_64", .console = -1 };
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (option == HELP) {
			print_help();
			free(run);
			return EXIT_SUCCESS;
		}
		if (!take_option(&run->options, option)) {
			fprintf(stderr, "see sidecore run --help\n");
			free(run);
			return EXIT_FAILURE;
		}
	}
	name_guests(run);
	if (!check_options(&run->options) || check_guest_image(run) || make_folder(run)) {
		free(run);
		return EXIT_FAILURE;
	}
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	choose_guest_cpus(run);

	error = run_all(run);
	if (stop_all(run))
		error = -1;
	if (error)
		fprintf(stderr, "logs are kept in %s\n", run->folder);
	else
		remove_folder(run->folder);
	free(run);
	return error ? EXIT_FAILURE : EXIT_SUCCESS;
}
