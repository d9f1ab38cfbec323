/* SPDX-License-Identifier: BSD-3-Clause */
/* The tour's disk steps: data that are verified, flush, discard, zeroes, a file system, and latency. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/run_tour.h"

/* As the guest names it. */
static const char *disk_path(const struct tour *tour, unsigned index)
{
	return tour->run->guests[index].disk == CONFIG_DISK_NVME ? "/dev/nvme0n1" : "/dev/vda";
}

/* fio's own verification of everything that it wrote, with flushes in between. */
static void verify_step(struct tour *tour, unsigned index)
{
	struct tour_sample difference;
	char command[320];
	double written;
	json_t *json;

	tour_step(tour, "%s: fio verifies 24 MiB, with flushes", tour->run->guests[index].name);
	snprintf(command, sizeof(command),
		 "fio --name=verify --filename=%s --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite "
		 "--bsrange=4k-64k --size=24M --fdatasync=32 --verify=crc32c --verify_fatal=1 --do_verify=1 "
		 "--output-format=json 2>&1",
		 disk_path(tour, index));
	json = tour_guest_json(tour, index, 60, command);
	if (!json)
		return;
	tour_measure(tour, true, &difference);
	written = tour_number(json, "jobs/0/write/io_bytes");
	tour->row->throughput = 2 * written / difference.clock;
	tour->row->unit = UNIT_BYTES;
	if (written < 24 << 20 || tour_number(json, "jobs/0/error") != 0)
		tour_fail(tour, "fio wrote %.0f bytes, error %.0f", written, tour_number(json, "jobs/0/error"));
	else
		tour_pass(tour);
	json_decref(json);
}

static void discard_step(struct tour *tour, unsigned index)
{
	const char *disk = disk_path(tour, index);
	struct tour_sample difference;
	char *output;

	tour_step(tour, "%s: discard and write zeroes", tour->run->guests[index].name);
	output = tour_guest(tour, index, 30,
			    "blkdiscard -o 1M -l 8M %s && blkdiscard -z -o 4M -l 16M %s && "
			    "cmp -n 16777216 %s /dev/zero 4194304 0",
			    disk, disk, disk);
	if (!output)
		return;
	free(output);
	tour_measure(tour, true, &difference);
	tour_pass(tour);
}

static void file_system_step(struct tour *tour, unsigned index)
{
	struct tour_sample difference;
	char *output;

	tour_step(tour, "%s: ext4, written, unmounted, checked", tour->run->guests[index].name);
	output = tour_guest(
		tour, index, 60,
		"disk=%s && modprobe ext4 && mkfs.ext4 -q -F $disk && mkdir -p /mnt && mount $disk /mnt && "
		"head -c 4194304 /dev/urandom >/tmp/data && cp /tmp/data /mnt/data && sync && umount /mnt && "
		"echo 3 >/proc/sys/vm/drop_caches && e2fsck -f -n $disk >/dev/null 2>&1 && mount -o ro $disk "
		"/mnt && cmp /tmp/data /mnt/data && umount /mnt && rm /tmp/data",
		disk_path(tour, index));
	if (!output)
		return;
	free(output);
	tour_measure(tour, true, &difference);
	tour_pass(tour);
}

static void latency_step(struct tour *tour, unsigned index, unsigned depth)
{
	struct tour_sample difference;
	char command[256];
	json_t *json;

	tour_step(tour, "%s: 4 KiB random reads, depth %u", tour->run->guests[index].name, depth);
	snprintf(command, sizeof(command),
		 "fio --name=read --filename=%s --direct=1 --ioengine=libaio --iodepth=%u --rw=randread --bs=4k "
		 "--size=48M --runtime=2 --time_based --output-format=json 2>&1",
		 disk_path(tour, index), depth);
	json = tour_guest_json(tour, index, 30, command);
	if (!json)
		return;
	tour_measure(tour, true, &difference);
	tour->row->unit = UNIT_REQUESTS;
	tour->row->throughput = tour_number(json, "jobs/0/read/iops");
	tour->row->p50_us = tour_number(json, "jobs/0/read/clat_ns/percentile/50.000000") / 1000;
	tour->row->p99_us = tour_number(json, "jobs/0/read/clat_ns/percentile/99.000000") / 1000;
	if (tour->row->throughput <= 0 || tour_number(json, "jobs/0/error") != 0)
		tour_fail(tour, "fio read nothing");
	else
		tour_pass(tour);
	json_decref(json);
}

/* Is guest @index the first one with its model of a disk? */
static bool first_of_its_kind(const struct tour *tour, unsigned index)
{
	for (unsigned i = 0; i < index; i++) {
		if (tour->run->guests[i].disk == tour->run->guests[index].disk)
			return false;
	}
	return true;
}

void tour_disks(struct tour *tour)
{
	tour->section = SECTION_DISKS;
	for (unsigned i = 0; i < tour->run->options.guests; i++) {
		verify_step(tour, i);
		discard_step(tour, i);
		if (!first_of_its_kind(tour, i))
			continue;
		file_system_step(tour, i);
		latency_step(tour, i, 1);
		latency_step(tour, i, 32);
	}
}
