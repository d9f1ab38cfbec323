/* SPDX-License-Identifier: BSD-3-Clause */
/* What the steps of the tour share. Theory of operation: cli/run_tour.c. */
#ifndef CLI_RUN_TOUR_H
#define CLI_RUN_TOUR_H

#include "cli/run.h"

/** struct tour_calls - how often guests and the sidecore had to tell each other, and for how much work. */
struct tour_calls {
	double kicks, virtio_units;	 /* of paravirtual devices, and their packets or requests */
	double messages, emulated_units; /* of emulated ones */
	double interrupts;		 /* of both */
};

/** struct tour_sample - what the daemon had done and used at one moment. */
struct tour_sample {
	double clock;			/* seconds */
	double cpu;			/* seconds of CPU time of the daemon, all its threads */
	double packets, bytes;		/* delivered to guests plus sent by guests */
	double sent_frames, sent_bytes; /* sent by guests alone */
	double requests;		/* of disks */
	struct tour_calls net, disk;
};

struct tour {
	struct run *run;
	struct report report;
	struct report_row *row;	     /* the step under way */
	struct report_row none;	     /* ... which it is when the user has asked us to stop */
	enum report_section section; /* of the steps that follow */
	struct tour_sample start;
};

/** tour_step() - begin a step. tour_pass(), tour_fail(), tour_skip(): end it; every step that was begun is ended once, with a verdict. */
void tour_step(struct tour *tour, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool tour_pass(struct tour *tour);
bool tour_fail(struct tour *tour, const char *format, ...) __attribute__((format(printf, 2, 3)));
void tour_skip(struct tour *tour, const char *reason);

/** tour_measure() - look again, and fill in the row's figures of the daemon for the time since the step began. */
void tour_measure(struct tour *tour, bool disk, struct tour_sample *difference);

/**
 * tour_guest() - run a command in guest @index; fails the step when it cannot be run or its status is not 0.
 *
 * Return: its output, to be freed, or NULL when the step has failed.
 */
char *tour_guest(struct tour *tour, unsigned index, unsigned timeout_s, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/** tour_guest_json() - the same for a command that prints JSON (after anything else that it prints). */
json_t *tour_guest_json(struct tour *tour, unsigned index, unsigned timeout_s, const char *command);

/** tour_number() - a number deep in @json by a path like "end/sum_received/bits_per_second"; -1 when it is not there.
 */
double tour_number(const json_t *json, const char *path);

/* run_tour_network.c; Return: false: no sense in going on. */
bool tour_network(struct tour *tour);

/* run_tour_disk.c */
void tour_disks(struct tour *tour);

#endif
