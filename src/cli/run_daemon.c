/* SPDX-License-Identifier: BSD-3-Clause */
/* The daemon of `sidecore run`: its configuration, its start, and starting it again. Theory of operation: cli/run.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/run.h"

#define DAEMON_TIMEOUT_MS 10000

/* A daemon that dies this soon after its start, so many times in a row, is not started again. */
#define HASTY_DEATH_MS	 5000
#define HASTY_DEATHS_MAX 3

bool run_image_is_nbd(const char *image)
{
	return !strncmp(image, "nbd", 3) && strstr(image, "://");
}

/* The guest's disk, as a backend of the configuration. */
static void write_backend(FILE *file, const struct run_options *options, unsigned index)
{
	const char *image = index < options->image_count ? options->images[index] : NULL;
	char *path;

	if (!image) {
		fprintf(file, "    backend: { type: ram, size: %s }\n", options->disk_size);
		return;
	}
	if (run_image_is_nbd(image)) {
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
	for (unsigned i = 0; i < options->guests; i++) {
		const struct run_guest *guest = &run->guests[i];

		fprintf(file,
			"  - name: %s-net\n    network: lan\n    model: %s\n    socket: %s-net.sock\n    mac: \"%s\"\n",
			guest->name, config_nic_model_name(guest->nic), guest->name, guest->mac);
		if (guest->nic == CONFIG_NIC_VIRTIO)
			fprintf(file, "    queue_pairs: %u\n", options->queues);
		if (guest->nic == CONFIG_NIC_IGB && options->receive_coalescing)
			fprintf(file, "    receive_coalescing: true\n");
		/* Without KVM nothing exits, and what counts is that no message of it is waited for: docs/performance.md. */
		if (guest->nic == CONFIG_NIC_E1000E && strcmp(run->accelerator, "kvm") != 0)
			fprintf(file, "    doorbells: posted\n");
	}
	fprintf(file, "disks:\n");
	for (unsigned i = 0; i < options->guests; i++) {
		const struct run_guest *guest = &run->guests[i];

		fprintf(file, "  - name: %s-disk\n    model: %s\n    socket: %s-disk.sock\n", guest->name,
			config_disk_model_name(guest->disk), guest->name);
		if (guest->disk == CONFIG_DISK_VIRTIO)
			fprintf(file, "    queues: %u\n", options->queues);
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

/* Return: 0 when it answers; -ECHILD: it has ended; another negative errno. */
static int launch_daemon(struct run *run)
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
	run->daemon_start = clock_nanoseconds();
	error = process_start(&run->daemon, "daemon", argv, log, NULL);
	if (error)
		return error;
	while ((fd = connect_control(run)) < 0) {
		if (!process_running(&run->daemon))
			return -ECHILD;
		if (clock_nanoseconds() > deadline || run_stopped())
			return -ETIMEDOUT;
		usleep(10000);
	}
	close(fd);
	return 0;
}

int run_start_daemon(struct run *run)
{
	char configuration[PATH_MAX];
	int error;

	snprintf(configuration, sizeof(configuration), "%s/sidecore.yaml", run->folder);
	error = write_configuration(run, configuration);
	return error ? error : launch_daemon(run);
}

/* Is there sense in another attempt? Says what has happened. */
static bool may_restart(struct run *run)
{
	bool hasty = clock_nanoseconds() - run->daemon_start < HASTY_DEATH_MS * NANOSECONDS_PER_MILLISECOND;
	char why[64];

	if (!WIFSIGNALED(run->daemon.status)) {
		run_complain("the daemon", "ended unexpectedly");
		process_print_log(&run->daemon, 20);
		return false;
	}
	run->daemon_deaths++;
	run->hasty_deaths = hasty ? run->hasty_deaths + 1 : 0;
	snprintf(why, sizeof(why), "killed by signal %d%s", WTERMSIG(run->daemon.status),
		 run->hasty_deaths < HASTY_DEATHS_MAX ? "; starting it again" : " once too often");
	run_complain("the daemon", why);
	process_print_log(&run->daemon, 20);
	if (run_any_emulated(run))
		run_complain("emulated devices", "QEMU cannot connect them again; their guests must be started anew");
	return run->hasty_deaths < HASTY_DEATHS_MAX;
}

bool run_tend_daemon(struct run *run)
{
	int error;

	while (run->daemon.pid && !process_running(&run->daemon)) {
		if (!may_restart(run))
			return false;
		error = launch_daemon(run);
		if (error && error != -ECHILD)
			run_complain("the daemon did not start again", strerror(-error));
	}
	return run->daemon.pid;
}
