/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which accelerator QEMU gets. /dev/kvm alone proves nothing (there are software KVMs that boot no stock kernel), so
 * KVM is tried: the kernel without a root file system must get as far as its panic for want of one.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/run.h"

#define TRIAL_SECONDS 15

static bool cpu_virtualizes(void)
{
	bool found = false;
	char *line = NULL;
	size_t size = 0;
	FILE *file = fopen("/proc/cpuinfo", "r");

	if (!file)
		return false;
	while (!found && getline(&line, &size, file) > 0) {
		if (!strncmp(line, "flags", 5))
			found = strstr(line, " svm") || strstr(line, " vmx");
	}
	free(line);
	fclose(file);
	return found;
}

static bool file_contains(const char *path, const char *text)
{
	char *content = NULL;
	size_t size = 0;
	bool found = false;
	FILE *file = fopen(path, "r");

	if (!file)
		return false;
	if (getdelim(&content, &size, '\0', file) > 0)
		found = strstr(content, text);
	free(content);
	fclose(file);
	return found;
}

static bool kernel_boots(const char *qemu, const char *kernel)
{
	char log[] = "/tmp/sidecore-kvm-XXXXXX";
	const char *const argv[] = { qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
				     "-machine", "q35,accel=kvm", "-cpu", "host", "-m", "256", "-kernel", kernel,
				     "-append", "console=ttyS0 panic=-1", "-serial", "stdio", NULL };
	struct process process = { 0 };
	uint64_t deadline = clock_nanoseconds() + TRIAL_SECONDS * NANOSECONDS_PER_SECOND;
	bool booted;
	int fd = mkstemp(log);

	if (fd < 0)
		return false;
	close(fd);
	if (process_start(&process, "KVM trial", argv, log, NULL) < 0) {
		unlink(log);
		return false;
	}
	while (process_running(&process) && clock_nanoseconds() < deadline && !run_stopped())
		usleep(20000);
	process_stop(&process, 0);
	booted = file_contains(log, "Unable to mount root fs");
	unlink(log);
	return booted;
}

/* A guest's own image brings no kernel that we could start by itself: then the host's is as good for the trial. */
static const char *trial_kernel(const char *kernel, char host_kernel[PATH_MAX])
{
	struct utsname host;

	if (!access(kernel, R_OK))
		return kernel;
	if (uname(&host))
		return NULL;
	snprintf(host_kernel, PATH_MAX, "/boot/vmlinuz-%s", host.release);
	return access(host_kernel, R_OK) ? NULL : host_kernel;
}

const char *run_accelerator(const char *qemu, const char *kernel, const char **reason)
{
	char host_kernel[PATH_MAX];

	kernel = trial_kernel(kernel, host_kernel);
	if (!cpu_virtualizes())
		*reason = "the CPU offers no hardware virtualization";
	else if (access("/dev/kvm", R_OK | W_OK) < 0)
		*reason = "/dev/kvm is missing or not accessible";
	else if (!kernel)
		*reason = "there is no kernel to try /dev/kvm with; guest/build.sh makes one";
	else if (!kernel_boots(qemu, kernel))
		*reason = "a trial kernel does not boot under /dev/kvm";
	else {
		*reason = "a trial kernel booted under /dev/kvm";
		return "kvm";
	}
	return "tcg";
}
