/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `sidecore run`: starts a daemon and guests on it, for a first look, for tests and for one's own images.
 *
 * Theory of operation
 * -------------------
 * The launcher makes a folder for sockets and logs, writes a configuration into it, starts this same program as
 * `serve`, and a QEMU for each guest. Guests of the image that guest/build.sh makes are driven through their agent,
 * over QEMU's second serial port, and given the *tour* (cli/run_tour.c): every step passes or fails, and all of them
 * must pass. Guests of one's own just run.
 *
 * A daemon that dies by a signal is started again, as systemd would do. The tour goes on then, but has failed.
 *
 * Nothing survives the launcher: children get a signal from the kernel when it dies (prctl PR_SET_PDEATHSIG).
 *
 * Context: one thread, blocking calls with deadlines.
 */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include <jansson.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "control/config.h"

#define RUN_GUESTS_MAX 16

/** run_stopped() - has the user asked us to stop (SIGINT, SIGTERM)? Waits end early then. */
bool run_stopped(void);

/* --- run_process.c --- */

struct process {
	pid_t pid;  /* 0: not running */
	int status; /* as waitpid() tells it, once it has ended */
	const char *name;
	char log[PATH_MAX];
};

/**
 * process_start() - start a child that ends when we end.
 * @argv:	NULL terminated; argv[0] is looked for in PATH
 * @log:	file for its standard output and error; NULL: it keeps ours, and our terminal
 * @cpus:	where it may run; NULL: anywhere
 *
 * Return: 0 or a negative errno, also that of exec.
 */
int process_start(struct process *process, const char *name, const char *const argv[], const char *log,
		  const cpu_set_t *cpus);

/** process_running() - false once it has ended; it is then reaped, and its status set. */
bool process_running(struct process *process);

/** process_stop() - SIGTERM, SIGKILL after @patience_ms, reap. Harmless when it does not run. Return: wait status or 0.
 */
int process_stop(struct process *process, unsigned patience_ms);

/** process_print_log() - the last @lines lines of its log, on standard error: for failures. */
void process_print_log(const struct process *process, unsigned lines);

/* --- run_accelerator.c --- */

/**
 * run_accelerator() - "kvm" where it boots a stock kernel, else "tcg".
 * @reason:	out: one phrase that says why; static
 */
const char *run_accelerator(const char *qemu, const char *kernel, const char **reason);

/* --- run_agent.c: protocol in guest/agent.c --- */

/**
 * struct agent - a guest's agent.
 * @meanwhile:	called several times a second while we wait for the guest, so that nothing else is left alone; or NULL
 */
struct agent {
	int fd;
	void (*meanwhile)(void *context);
	void *context;
	uint64_t next_id;
	char *input; /* received, not yet a whole line */
	size_t input_size, input_capacity;
};

/** struct agent_result - of one command; free @output. */
struct agent_result {
	char *output;
	size_t size;
	int status;    /* exit status; -1: it did not exit by itself */
	char kind[16]; /* "exited", "signal", "timeout", "killed" */
};

/**
 * agent_connect() - to the socket of @qemu, then wait for the guest to be ready.
 *
 * Return: 0; -ECHILD (QEMU has ended), -ETIMEDOUT, -EPIPE, ...
 */
int agent_connect(struct agent *agent, const char *path, struct process *qemu, unsigned timeout_ms);
void agent_close(struct agent *agent);

/** agent_run() - run @command by the guest's shell and wait for its end. Return: 0, whatever its status; -errno. */
int agent_run(struct agent *agent, const char *command, unsigned timeout_ms, struct agent_result *result);

/** agent_poweroff() - ask the guest to go down; does not wait. */
void agent_poweroff(struct agent *agent);

/* --- run.c --- */

struct run_guest {
	char name[16];
	int nic;  /* enum config_nic_model */
	int disk; /* enum config_disk_model */
	char mac[32];
	char address[16]; /* IPv4, from DHCP */
	struct process qemu;
	struct agent agent;
};

#define RUN_TOUR_DISK_MIN (64ULL << 20) /* bytes; what the tour's disk steps use */

struct run_options {
	unsigned guests;
	unsigned memory; /* MiB */
	unsigned cpus;
	unsigned sidecores;
	unsigned queues; /* virtio: NIC queue pairs and disk queues */
	/* What guests see: guest N has entry N modulo the count. */
	int nics[RUN_GUESTS_MAX];  /* enum config_nic_model */
	int disks[RUN_GUESTS_MAX]; /* enum config_disk_model */
	unsigned nic_count, disk_count;
	bool models_chosen; /* by the user, not by us */
	const char *disk_size;
	const char *images[RUN_GUESTS_MAX];
	unsigned image_count;
	const char *kernel, *initrd, *append;
	const char *guest_folder;
	const char *qemu; /* NULL: the system's, or a newer one where that is needed */
	const char *json; /* write results here as well */
	int console;	  /* guest whose console is ours; -1: none */
	bool keep;	  /* boot, then wait; no tour */
	bool packed;
	bool receive_coalescing;
};

struct run {
	struct run_options options;
	char folder[80]; /* sockets, configuration, logs: short, paths of unix sockets have at most 107 bytes */
	char control[108];
	const char *accelerator, *accelerator_reason; /* NULL: not yet known */
	char qemu[PATH_MAX];
	char qemu_version[32];			      /* "7.2.22" */
	char kernel[80];			      /* of the built-in guests: "Linux 6.1.0-56-amd64" */
	struct process daemon;
	uint64_t daemon_start; /* when it was started last */
	unsigned daemon_deaths;
	unsigned hasty_deaths; /* one soon after the other */
	cpu_set_t guest_cpus;
	struct run_guest guests[RUN_GUESTS_MAX];
};

/** run_complain() - print what went wrong, and why. Return: -1. */
int run_complain(const char *what, const char *why);

/* --- run_daemon.c --- */

/** run_image_is_nbd() - is this --image the URI of an NBD export, rather than a file? */
bool run_image_is_nbd(const char *image);

/**
 * run_start_daemon() - write its configuration, start it, and wait until it answers.
 * Return: 0; -ECHILD: it has ended; another negative errno.
 */
int run_start_daemon(struct run *run);

/** run_status() - the daemon's status, or NULL. The caller's to json_decref(). */
json_t *run_status(const struct run *run);

/**
 * run_tend_daemon() - start the daemon again when a signal has ended it, and say so; to be called now and then.
 *
 * Guests find the new one by themselves (QEMU's reconnect) and go on. What was in RAM disks is gone.
 *
 * Return: false: there is no daemon, and no sense in starting another; the reason has been printed.
 */
bool run_tend_daemon(struct run *run);

/* --- run_options.c --- */

/**
 * run_parse_options() - the command line, checked as a whole; what is wrong with it has been printed.
 * @status:	out, when there is nothing to run: the exit status
 *
 * Return: true: go ahead.
 */
bool run_parse_options(int argc, char **argv, struct run_options *options, int *status);

/** run_own_guests() - a kernel or images of the user's, which have no agent. */
bool run_own_guests(const struct run_options *options);

/** run_tour_wanted() - the built-in guests are to be driven, not just started. */
bool run_tour_wanted(const struct run_options *options);

/* --- run_qemu.c --- */

/**
 * run_find_qemu() - fill in run->qemu and run->qemu_version: the one that the user named, else the system's; where guests
 * have emulated devices and that is too old for them, a newer one in build/qemu, which is made there if need be.
 *
 * Return: false: there is none; the reason and the remedy have been printed.
 */
bool run_find_qemu(struct run *run);

/** run_any_emulated() - has any guest an emulated device? */
bool run_any_emulated(const struct run *run);

/* --- run_guest.c --- */

/** run_guest_start() - start QEMU for guest @index. @console: it has our terminal. Return: 0 or -errno. */
int run_guest_start(struct run *run, unsigned index, bool console);

/* --- run_tour.c --- */

/** run_tour() - all steps with the built-in guests. Return: true when every step passed. */
bool run_tour(struct run *run);

/* --- run_report.c --- */

#define REPORT_ROWS_MAX 64

/** enum report_section - what a step looks at; its figures are per packet, or per disk request. */
enum report_section {
	SECTION_UPLINK,
	SECTION_GUESTS,
	SECTION_DISKS,
	SECTION_IDLE,
};

/** struct report_row - one step. Figures that do not apply are negative. */
struct report_row {
	enum report_section section;
	char name[48];
	enum { STEP_PASSED, STEP_FAILED, STEP_SKIPPED } result;
	char detail[160];				    /* why it failed or was skipped */
	double throughput;				    /* per second, of @unit */
	enum { UNIT_BITS, UNIT_BYTES, UNIT_REQUESTS } unit; /* bits: throughput is in bytes, shown in bits */
	double p50_us, p99_us;
	double sidecore_cpu;	  /* 1.0: one CPU fully used */
	double kicks;	   /* per packet or request of paravirtual devices */
	double messages;   /* the same of emulated ones */
	double interrupts; /* of both */
	double seconds;
};

struct report {
	struct report_row rows[REPORT_ROWS_MAX];
	unsigned count;
};

void report_print(const struct report *report, const struct run *run, double seconds);
json_t *report_json(const struct report *report);

#endif
