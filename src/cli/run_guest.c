/* SPDX-License-Identifier: BSD-3-Clause */
/* One guest: QEMU's command line. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/run.h"

#define ARGUMENTS_MAX 96

/*
 * For emulated CPUs. A host that takes one away at the wrong moment makes the kernel find that its timer does not tick, and
 * panic; so it is not to look.
 */
#define TCG_WORDS " norandmaps no_timer_check"

struct command_line {
	char *arguments[ARGUMENTS_MAX];
	unsigned count;
	bool failed;
};

static __attribute__((format(printf, 2, 3))) void add(struct command_line *line, const char *format, ...)
{
	va_list values;
	char *text;

	va_start(values, format);
	if (vasprintf(&text, format, values) < 0)
		text = NULL;
	va_end(values);
	if (!text || line->count == ARGUMENTS_MAX - 1) {
		free(text);
		line->failed = true;
		return;
	}
	line->arguments[line->count++] = text;
}

static void add_option(struct command_line *line, const char *option, const char *value)
{
	add(line, "%s", option);
	add(line, "%s", value);
}

#if defined(__x86_64__)
/* Cycles and nanoseconds of one moment: again when something came in between. */
static void read_clocks(uint64_t *cycles, uint64_t *nanoseconds)
{
	for (unsigned i = 0; i < 100; i++) {
		uint64_t before = clock_nanoseconds(), after;

		*cycles = clock_cycles();
		after = clock_nanoseconds();
		*nanoseconds = before;
		if (after - before < NANOSECONDS_PER_MICROSECOND)
			return;
	}
}
#endif

/*
 * TCG shows the guest the host's own time stamp counter. A guest finds out its frequency by comparing it with a timer,
 * and when the host takes the emulated CPU away just then, the guest's time runs at a multiple of ours for ever: time
 * limits end early and latencies are wrong. So it is told.
 */
static void describe_clock(char *words, size_t size)
{
	words[0] = '\0';
#if defined(__x86_64__)
	uint64_t cycles[2], nanoseconds[2];

	read_clocks(&cycles[0], &nanoseconds[0]);
	usleep(50000);
	read_clocks(&cycles[1], &nanoseconds[1]);
	snprintf(words, size, " tsc_early_khz=%llu",
		 (unsigned long long)((double)(cycles[1] - cycles[0]) * 1e6 /
				      (double)(nanoseconds[1] - nanoseconds[0])));
#else
	(void)size;
#endif
}

/* An emulated CPU takes seconds to unpack the kernel; it gets the unpacked file when there is one. */
static void add_kernel(struct command_line *line, const struct run *run, unsigned index, bool console)
{
	const struct run_options *options = &run->options;
	char unpacked[PATH_MAX], clock[64] = "";

	if (!options->kernel && options->image_count)
		return; /* boots from its disk */
	add(line, "-kernel");
	snprintf(unpacked, sizeof(unpacked), "%s/vmlinux", options->guest_folder);
	if (options->kernel)
		add(line, "%s", options->kernel);
	else if (!strcmp(run->accelerator, "tcg") && !access(unpacked, R_OK))
		add(line, "%s", unpacked);
	else
		add(line, "%s/vmlinuz", options->guest_folder);
	if (options->initrd)
		add_option(line, "-initrd", options->initrd);
	else if (!options->kernel) {
		add(line, "-initrd");
		add(line, "%s/initrd.img", options->guest_folder);
	}
	if (strcmp(run->accelerator, "kvm"))
		describe_clock(clock, sizeof(clock));
	add(line, "-append");
	if (options->kernel)
		add(line, "console=ttyS0%s %s", clock, options->append ? options->append : "");
	else
		add(line,
		    "console=ttyS0 panic=-1 quiet loglevel=4 random.trust_cpu=on mitigations=off tsc=nowatchdog%s%s "
		    "sidecore.name=%s%s %s",
		    clock, strcmp(run->accelerator, "kvm") ? TCG_WORDS : "", run->guests[index].name,
		    console ? " sidecore.shell" : "", options->append ? options->append : "");
}

/* What makes QEMU find a daemon again that was started anew: its option has another name and unit since QEMU 9.2. */
static const char *reconnect_option(const struct run *run)
{
	unsigned major = 0, minor = 0;

	sscanf(run->qemu_version, "%u.%u", &major, &minor);
	return major > 9 || (major == 9 && minor >= 2) ? "reconnect-ms=1000" : "reconnect=1";
}

static void add_virtio_nic(struct command_line *line, const struct run *run, const struct run_guest *guest)
{
	unsigned queues = run->options.queues;

	add(line, "-chardev");
	add(line, "socket,id=net0,path=%s/%s-net.sock,%s", run->folder, guest->name, reconnect_option(run));
	add(line, "-netdev");
	add(line, "vhost-user,id=nic0,chardev=net0,queues=%u", queues);
	add(line, "-device");
	/*
	 * QEMU 7.2 without KVM crashes when a vhost-user network card uses MSI-X (it sets up KVM's irqfds regardless);
	 * with no vectors the guest uses the pin.
	 */
	add(line, "virtio-net-pci,netdev=nic0,mac=%s,mq=%s,vectors=%u,rx_queue_size=1024,tx_queue_size=1024%s", guest->mac,
	    queues > 1 ? "on" : "off", strcmp(run->accelerator, "kvm") ? 0 : 2 * queues + 2,
	    run->options.packed ? ",packed=on" : "");
}

static void add_virtio_disk(struct command_line *line, const struct run *run, const struct run_guest *guest, bool boot)
{
	add(line, "-chardev");
	add(line, "socket,id=disk0,path=%s/%s-disk.sock,%s", run->folder, guest->name, reconnect_option(run));
	add(line, "-device");
	add(line, "vhost-user-blk-pci,chardev=disk0,num-queues=%u,queue-size=256%s%s", run->options.queues,
	    run->options.packed ? ",packed=on" : "", boot ? ",bootindex=1" : "");
}

/* A socket's address is an object, which QEMU takes as JSON only. It cannot connect again when the daemon is another. */
static void add_emulated(struct command_line *line, const struct run *run, const struct run_guest *guest,
			 const char *kind, bool boot)
{
	add(line, "-device");
	add(line, "{\"driver\":\"vfio-user-pci\",\"id\":\"%s\",\"socket\":{\"type\":\"unix\",\"path\":\"%s/%s-%s.sock\"}%s}",
	    kind, run->folder, guest->name, kind, boot ? ",\"bootindex\":1" : "");
}

static void add_devices(struct command_line *line, const struct run *run, unsigned index)
{
	const struct run_guest *guest = &run->guests[index];
	bool boot = run->options.image_count && !run->options.kernel;

	if (guest->nic == CONFIG_NIC_VIRTIO)
		add_virtio_nic(line, run, guest);
	else
		add_emulated(line, run, guest, "net", false);
	if (guest->disk == CONFIG_DISK_VIRTIO)
		add_virtio_disk(line, run, guest, boot);
	else
		add_emulated(line, run, guest, "disk", boot);
}

static void add_machine(struct command_line *line, const struct run *run, unsigned index)
{
	const struct run_options *options = &run->options;

	add(line, "%s", run->qemu);
	add_option(line, "-name", run->guests[index].name);
	add(line, "-nodefaults");
	add(line, "-no-user-config");
	add_option(line, "-display", "none");
	add(line, "-no-reboot");
	add(line, "-machine");
	add(line, "q35,accel=%s", run->accelerator);
	add_option(line, "-cpu", strcmp(run->accelerator, "kvm") ? "max" : "host");
	add(line, "-smp");
	add(line, "%u", options->cpus);
	add(line, "-m");
	add(line, "%u", options->memory);
	/* The daemon reads and writes this memory: it must be a file, and shared. */
	add(line, "-object");
	add(line, "memory-backend-memfd,id=memory,size=%uM,share=on", options->memory);
	add_option(line, "-numa", "node,memdev=memory");
}

static void add_ports(struct command_line *line, const struct run *run, unsigned index, bool console)
{
	const char *name = run->guests[index].name;

	if (console) {
		add_option(line, "-serial", "mon:stdio");
	} else {
		add(line, "-serial");
		add(line, "file:%s/%s.console.log", run->folder, name);
	}
	add(line, "-chardev");
	add(line, "socket,id=agent,path=%s/%s-agent.sock,server=on,wait=off", run->folder, name);
	add_option(line, "-serial", "chardev:agent");
	add(line, "-qmp");
	add(line, "unix:%s/%s-qmp.sock,server=on,wait=off", run->folder, name);
}

int run_guest_start(struct run *run, unsigned index, bool console)
{
	struct command_line line = { .count = 0 };
	struct run_guest *guest = &run->guests[index];
	char log[PATH_MAX];
	int error = -ENOMEM;

	add_machine(&line, run, index);
	add_kernel(&line, run, index, console);
	add_ports(&line, run, index, console);
	add_devices(&line, run, index);
	snprintf(log, sizeof(log), "%s/%s.qemu.log", run->folder, guest->name);
	if (!line.failed)
		error = process_start(&guest->qemu, guest->name, (const char *const *)line.arguments,
				      console ? NULL : log, &run->guest_cpus);
	for (unsigned i = 0; i < line.count; i++)
		free(line.arguments[i]);
	return error;
}
