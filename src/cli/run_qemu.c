/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which QEMU. Paravirtual devices work with any; emulated ones come by vfio-user, which QEMU speaks since 10.1, and well
 * since 10.1.1. Where the system's is older, tools/qemu.sh unpacks a newer one beside the build, once.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/run.h"

#define SYSTEM_QEMU   "qemu-system-x86_64"
#define NEWER_FOLDER  "build/qemu"
#define NEWER_QEMU    NEWER_FOLDER "/" SYSTEM_QEMU
#define NEWER_MAKER   "tools/qemu.sh"
#define EMULATED_NEED "10.1.1"

static bool complain(const char *what, const char *why)
{
	fflush(stdout); /* so that what is said stays in order where both go to one file */
	fprintf(stderr, "sidecore run: %s: %s\n", what, why);
	return false;
}

bool run_any_emulated(const struct run *run)
{
	for (unsigned i = 0; i < run->options.guests; i++) {
		if (run->guests[i].nic != CONFIG_NIC_VIRTIO || run->guests[i].disk != CONFIG_DISK_VIRTIO)
			return true;
	}
	return false;
}

/* "QEMU emulator version 7.2.22 (Debian ...)": the number. Return: 0; -EPROTO: it tells none; errno of exec. */
static int read_version(struct run *run)
{
	const char *const argv[] = { run->qemu, "--version", NULL };
	struct process process = { 0 };
	char log[PATH_MAX], line[256] = "";
	const char *version;
	FILE *file;
	int error;

	snprintf(log, sizeof(log), "%s/qemu-version", run->folder);
	unlink(log); /* another one's answer: children append */
	error = process_start(&process, "qemu", argv, log, NULL);
	if (error)
		return error;
	while (process_running(&process))
		usleep(1000);
	file = fopen(log, "r");
	if (file && !fgets(line, sizeof(line), file))
		line[0] = '\0';
	if (file)
		fclose(file);
	version = strstr(line, "version ");
	if (!version || strncmp(line, "QEMU", 4))
		return -EPROTO;
	version += strlen("version ");
	snprintf(run->qemu_version, sizeof(run->qemu_version), "%.*s", (int)strcspn(version, " \n"), version);
	return 0;
}

static int try_qemu(struct run *run, const char *program)
{
	snprintf(run->qemu, sizeof(run->qemu), "%s", program);
	return read_version(run);
}

/* Is run->qemu_version new enough for vfio-user? */
static bool serves_emulated(const struct run *run)
{
	unsigned major = 0, minor = 0, patch = 0;

	sscanf(run->qemu_version, "%u.%u.%u", &major, &minor, &patch);
	return major > 10 || (major == 10 && (minor > 1 || (minor == 1 && patch >= 1)));
}

/* Minutes of downloading, with what it says on our terminal. */
static bool make_newer(const char *what)
{
	const char *const argv[] = { NEWER_MAKER, NEWER_FOLDER, NULL };
	struct process process = { 0 };
	int error;

	if (access(NEWER_MAKER, X_OK))
		return complain(what, "emulated devices need QEMU " EMULATED_NEED " or newer; name one with --qemu, make one "
				      "with tools/qemu.sh of the sources, or go without: --nic virtio --disk virtio");
	printf("emulated devices need QEMU " EMULATED_NEED " or newer, and %s; making one in " NEWER_FOLDER "\n", what);
	fflush(stdout);
	error = process_start(&process, NEWER_MAKER, argv, NULL, NULL);
	if (error)
		return complain(NEWER_MAKER, strerror(-error));
	while (process_running(&process)) {
		if (run_stopped()) {
			process_stop(&process, 2000);
			return false;
		}
		usleep(20000);
	}
	if (process.status)
		return complain(NEWER_MAKER, "failed; go without emulated devices: --nic virtio --disk virtio");
	return true;
}

static bool find_newer(struct run *run, int error)
{
	char what[128];

	if (!try_qemu(run, NEWER_QEMU) && serves_emulated(run))
		return true;
	if (error)
		snprintf(what, sizeof(what), "%s is not there", SYSTEM_QEMU);
	else
		snprintf(what, sizeof(what), "%s is older", SYSTEM_QEMU);
	if (!make_newer(what))
		return false;
	error = try_qemu(run, NEWER_QEMU);
	if (error)
		return complain(NEWER_QEMU, strerror(-error));
	return serves_emulated(run) || complain(NEWER_QEMU, "is too old for emulated devices; remove " NEWER_FOLDER);
}

/* Nobody asked for emulated devices in so many words: better a tour without them than none. */
static bool go_without(struct run *run)
{
	if (run->options.models_chosen || try_qemu(run, SYSTEM_QEMU))
		return false;
	for (unsigned i = 0; i < run->options.guests; i++) {
		run->guests[i].nic = CONFIG_NIC_VIRTIO;
		run->guests[i].disk = CONFIG_DISK_VIRTIO;
	}
	printf("going on without emulated devices: all guests get paravirtual ones\n");
	return true;
}

bool run_find_qemu(struct run *run)
{
	const char *program = run->options.qemu ? run->options.qemu : SYSTEM_QEMU;
	bool emulated = run_any_emulated(run);
	int error = try_qemu(run, program);

	if (!run->options.qemu && emulated && (error || !serves_emulated(run)))
		return find_newer(run, error) || go_without(run);
	if (error == -ENOENT)
		return complain(program, "not found; install it with \"tools/setup.sh run\", or name it with --qemu");
	if (error)
		return complain(program, error == -EPROTO ? "does not tell a version as QEMU does" : strerror(-error));
	if (emulated && !serves_emulated(run))
		return complain(program, "is too old for emulated devices, which need QEMU " EMULATED_NEED
					 " or newer; leave out --qemu to have one made");
	return true;
}
