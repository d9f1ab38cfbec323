/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * File disks: images on file systems and block devices. This file opens, locks and measures them; block/file_io.c
 * serves their requests.
 *
 * Opening
 * -------
 * - An image that does not exist is made (sparse) when the configuration gives a size.
 * - The file is locked as a whole with an open-file-description lock: exclusive for a disk that writes, shared for a
 *   read-only one. Two daemons, two disks of one daemon, or QEMU and we cannot write the same image by accident. A
 *   block device that is written is also opened with O_EXCL, which refuses a mounted one.
 * - Live migration has two daemons on one image: the destination's must have it open before the guest leaves the
 *   source's. With "handover" an image is therefore locked only while a guest's queues run (and a block device not
 *   opened with O_EXCL, which cannot be given up without closing). It is a key and not the rule, because the early lock
 *   tells the operator of a mistake when the daemon starts; the late one can only refuse the guest. The order is right
 *   by itself: a front-end stops the queues of the source (GET_VRING_BASE, which drains) before it has the destination
 *   start them. The page cache is one for both daemons on a host; between hosts the file system must see to it when
 *   locks are taken and released, as NFS does, or the disk uses direct I/O.
 * - The size is what the file has, rounded down to the block size (disk_open()): its ragged end is never touched.
 * - Direct I/O is used when asked for and when the kernel says that the guest's block size is aligned enough for it;
 *   otherwise the page cache is used, and disk_state() says why.
 * - Discard is offered when hole punching works: tried with a hole past the end of a regular file, which changes
 *   nothing; looked up in sysfs for a block device.
 */
#include "block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "block/worker.h"

#define DISCARD_MAX	 (1ULL << 30)
#define WRITE_ZEROES_MAX (64ULL << 20)
#define PROBE_LENGTH	 4096

/* ns; as long as a slow disk may take for requests in flight, and a person for an answer. */
#define PREDECESSOR_PATIENCE 2000000000ULL

static int file_error(const struct disk *disk, const char *path, const char *doing)
{
	int error = errno;

	return disk_error(-error, "disk %s: cannot %s %s: %s", disk->name, doing, path, strerror(error));
}

static int create_image(struct file_disk *file, const struct disk_config *config)
{
	file->fd = open(config->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (file->fd < 0)
		return file_error(&file->disk, config->path, "create");
	if (ftruncate(file->fd, (off_t)config->size)) {
		int rc = file_error(&file->disk, config->path, "set the size of");

		unlink(config->path);
		return rc;
	}
	return 0;
}

/*
 * Somebody has the image. It may be our predecessor: a daemon that was killed is gone before its files are, which the
 * kernel closes with its io_uring, when the requests in flight have come back. This is before we serve anybody.
 */
static bool worth_another_try(uint64_t began)
{
	if (clock_nanoseconds() - began > PREDECESSOR_PATIENCE)
		return false;
	nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	return true;
}

static int open_image(struct file_disk *file, const struct disk_config *config)
{
	int access = config->read_only ? O_RDONLY : O_RDWR;
	uint64_t began = clock_nanoseconds();
	struct stat status;
	int error;

	/* O_NONBLOCK: a FIFO named by mistake must not hang us; it means nothing to files and block devices. */
	if (!stat(config->path, &status) && S_ISBLK(status.st_mode) && !config->read_only && !config->handover)
		access |= O_EXCL;
	do {
		file->fd = open(config->path, access | O_CLOEXEC | O_NONBLOCK);
		if (file->fd >= 0)
			return 0;
		error = errno;
	} while (error == EBUSY && worth_another_try(began));
	errno = error;
	if (errno == ENOENT && config->size && !config->read_only)
		return create_image(file, config);
	if (errno == ENOENT)
		return disk_error(-ENOENT, "disk %s: there is no %s; give the disk a size and it will be made",
				  file->disk.name, config->path);
	if (errno == EBUSY)
		return disk_error(-EBUSY, "disk %s: %s is mounted or in use; unmount it, or make the disk read_only",
				  file->disk.name, config->path);
	return file_error(&file->disk, config->path, "open");
}

/*
 * @patient:	wait a little for a predecessor's; before the daemon serves anybody
 *
 * Return: 0, also where locks are not to be had, which the operator is told; -EBUSY without a sentence.
 */
static int set_lock(const struct file_disk *file, short type, bool patient, const char *path)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET };
	uint64_t began = clock_nanoseconds();
	bool held;

	do {
		if (!fcntl(file->fd, F_OFD_SETLK, &lock))
			return 0;
		held = errno == EAGAIN || errno == EACCES;
	} while (held && patient && worth_another_try(began));
	if (held)
		return -EBUSY;
	log_warning("disk %s: %s cannot be locked (%s); see to it that nobody else writes it", file->disk.name, path,
		    strerror(errno));
	return 0;
}

static int lock_image(const struct file_disk *file, const struct disk_config *config)
{
	if (file->handover || !set_lock(file, config->read_only ? F_RDLCK : F_WRLCK, true, config->path))
		return 0;
	return disk_error(-EBUSY, "disk %s: %s is locked by another disk or program; stop that first%s",
			  file->disk.name, config->path,
			  config->read_only ? ""
					    : ", make both read_only, or give both \"handover\" for a live migration");
}

static int read_size(struct file_disk *file, const char *path, uint64_t *size)
{
	struct stat status;

	if (fstat(file->fd, &status))
		return file_error(&file->disk, path, "look at");
	if (S_ISREG(status.st_mode)) {
		*size = (uint64_t)status.st_size;
		return 0;
	}
	if (!S_ISBLK(status.st_mode))
		return disk_error(-EINVAL, "disk %s: %s is neither a file nor a block device", file->disk.name, path);
	file->block_device = true;
	if (ioctl(file->fd, BLKGETSIZE64, size))
		return file_error(&file->disk, path, "get the size of");
	return 0;
}

static void use_direct_io(struct file_disk *file)
{
	int rc = direct_io_alignment(file->fd, &file->memory_alignment, &file->length_alignment);
	int sector, flags;

	if (rc == -ENOSYS && file->block_device && !ioctl(file->fd, BLKSSZGET, &sector)) {
		/* What block devices needed before they could tell. */
		file->memory_alignment = file->length_alignment = (unsigned)sector;
		rc = 0;
	}
	if (rc) {
		file->state = rc == -ENOSYS ? "buffered: alignment of direct I/O unknown"
					    : "buffered: no direct I/O in this file system";
		return;
	}
	if (file->length_alignment > file->disk.limits.block_size) {
		file->state = "buffered: direct I/O needs block_size 4096";
		return;
	}
	flags = fcntl(file->fd, F_GETFL);
	if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_DIRECT)) {
		file->state = "buffered: direct I/O refused";
		return;
	}
	file->direct = true;
	file->state = "direct I/O";
}

static uint64_t read_queue_limit(const struct stat *status, const char *name)
{
	/* A partition's queue is its disk's. */
	static const char *const places[] = { "queue", "../queue" };
	unsigned long long value = 0;
	char path[128];
	FILE *stream;

	for (unsigned i = 0; i < array_size(places); i++) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s/%s", major(status->st_rdev),
			 minor(status->st_rdev), places[i], name);
		stream = fopen(path, "re");
		if (!stream)
			continue;
		if (fscanf(stream, "%llu", &value) != 1)
			value = 0;
		fclose(stream);
		break;
	}
	return value;
}

static void read_device_limits(struct file_disk *file, const struct stat *status)
{
	struct disk_limits *limits = &file->disk.limits;
	uint64_t zeroes_max = read_queue_limit(status, "write_zeroes_max_bytes");
	unsigned value;

	if (!ioctl(file->fd, BLKPBSZGET, &value) && value > limits->physical_block_size)
		limits->physical_block_size = value;
	if (!ioctl(file->fd, BLKIOMIN, &value))
		limits->io_minimum = value;
	if (!ioctl(file->fd, BLKIOOPT, &value))
		limits->io_optimal = value;
	/* fallocate() on a block device zeroes in the device: without that command it does nothing for us. */
	if (!zeroes_max) {
		atomic_store(&file->cannot_punch, true);
		atomic_store(&file->cannot_zero, true);
	}
	limits->discard = zeroes_max && read_queue_limit(status, "discard_max_bytes");
	limits->discard_alignment = (uint32_t)max((uint64_t)limits->block_size,
						  min(read_queue_limit(status, "discard_granularity"), 1ULL << 20));
}

static void read_file_limits(struct file_disk *file, const struct stat *status, uint64_t size)
{
	struct disk_limits *limits = &file->disk.limits;

	if (status->st_blksize > (blksize_t)limits->block_size)
		limits->physical_block_size = 4096;
	limits->discard_alignment = limits->physical_block_size;
	limits->discard = !limits->read_only &&
			  !fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)size, PROBE_LENGTH);
	atomic_store(&file->cannot_punch, !limits->discard);
}

/* Is there a ring to serve it with? Tells before the first guest comes. */
static int check_workers(const struct disk *disk, struct engine *engine)
{
	for (unsigned i = 0; i < engine_sidecore_count(engine); i++) {
		const struct block_worker *worker = sidecore_slot(engine_sidecore(engine, i), SIDECORE_SLOT_BLOCK);

		if (!worker)
			return disk_error(-EINVAL, "disk %s: sidecore %u has no block worker", disk->name, i);
		if (worker->ring_error)
			return disk_error(worker->ring_error,
					  "disk %s: the kernel refuses io_uring (%s); allow it (sysctl "
					  "kernel.io_uring_disabled=0, the container's seccomp profile)",
					  disk->name, strerror(-worker->ring_error));
	}
	return 0;
}

static int file_open(struct disk *disk, const struct disk_config *config, struct engine *engine)
{
	struct file_disk *file = container_of(disk, struct file_disk, disk);
	struct disk_limits *limits = &disk->limits;
	struct stat status;
	uint64_t size;
	int rc;

	file->fd = -1;
	file->state = "buffered";
	file->handover = config->handover && !config->read_only;
	if (!config->path)
		return disk_error(-EINVAL, "disk %s: no path given", disk->name);
	rc = check_workers(disk, engine);
	if (!rc)
		rc = open_image(file, config);
	if (!rc)
		rc = read_size(file, config->path, &size);
	if (!rc)
		rc = lock_image(file, config);
	if (rc)
		return rc;
	if (fstat(file->fd, &status))
		return file_error(disk, config->path, "look at");
	if (size > INT64_MAX - PROBE_LENGTH)
		return disk_error(-EFBIG, "disk %s: %s is larger than files can be", disk->name, config->path);

	atomic_store(&disk->size, size);
	if (file->block_device)
		read_device_limits(file, &status);
	else
		read_file_limits(file, &status, size);
	if (config->direct)
		use_direct_io(file);

	limits->flush_needed = true;
	limits->discard = limits->discard && !limits->read_only;
	limits->discard_max = DISCARD_MAX;
	limits->write_zeroes = !limits->read_only;
	limits->write_zeroes_unmap = limits->discard;
	limits->write_zeroes_max = WRITE_ZEROES_MAX;
	return 0;
}

static void file_close(struct disk *disk)
{
	struct file_disk *file = container_of(disk, struct file_disk, disk);

	/* Closing also unlocks. */
	if (file->fd >= 0)
		close(file->fd);
}

static int file_resize(struct disk *disk, uint64_t size)
{
	struct file_disk *file = container_of(disk, struct file_disk, disk);
	uint64_t now;
	int rc = read_size(file, "the image", &now);

	if (rc)
		return rc;
	if (size && (file->block_device || size < now))
		return disk_error(-EINVAL,
				  "disk %s: only a file can be resized, and only to grow; resize it by its own "
				  "tools, then ask without a size",
				  disk->name);
	if (size && disk->limits.read_only)
		return disk_error(-EROFS, "disk %s: it is read_only", disk->name);
	if (size > now && ftruncate(file->fd, (off_t)size))
		return file_error(disk, "the image", "grow");
	now = max(now, size);
	now -= now % disk->limits.block_size;
	if (!now)
		return disk_error(-EINVAL, "disk %s: the image is empty now", disk->name);
	atomic_store(&disk->size, now);
	return 0;
}

static int file_acquire(struct disk *disk)
{
	struct file_disk *file = container_of(disk, struct file_disk, disk);
	int rc;

	if (!file->handover)
		return 0;
	if (set_lock(file, F_WRLCK, false, "the image"))
		return disk_error(-EBUSY,
				  "disk %s: the image is in use by another disk or program; this guest waits until "
				  "that lets go of it",
				  disk->name);
	/* Whoever had it until now may have grown it. */
	rc = file_resize(disk, 0);
	if (rc)
		set_lock(file, F_UNLCK, false, "the image");
	return rc;
}

static void file_release(struct disk *disk)
{
	struct file_disk *file = container_of(disk, struct file_disk, disk);

	if (file->handover)
		set_lock(file, F_UNLCK, false, "the image");
}

static const char *file_state(const struct disk *disk)
{
	return container_of(disk, struct file_disk, disk)->state;
}

const struct disk_ops file_disk_ops = {
	.kind = "file",
	.disk_size = sizeof(struct file_disk),
	.channel_size = sizeof(struct block_channel),
	.open = file_open,
	.close = file_close,
	.resize = file_resize,
	.acquire = file_acquire,
	.release = file_release,
	.state = file_state,
	.submit = file_submit,
	.flush_submissions = file_flush_submissions,
	.prepare = file_prepare,
	.kernel_done = file_kernel_done,
};
