/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Null disk: takes every request and does nothing. Reads leave the guest's buffer as it was. For measuring what a
 * request costs on its way, never for data.
 */
#include <errno.h>

#include "block/disk.h"

static int null_open(struct disk *disk, const struct disk_config *config, struct engine *engine)
{
	struct disk_limits *limits = &disk->limits;

	atomic_store(&disk->size, config->size);
	limits->discard = !limits->read_only;
	limits->write_zeroes = !limits->read_only;
	limits->write_zeroes_unmap = limits->write_zeroes;
	limits->discard_alignment = limits->block_size;
	limits->discard_max = 1ULL << 30;
	limits->write_zeroes_max = 1ULL << 30;
	return 0;
}

static void null_close(struct disk *disk)
{
}

static int null_resize(struct disk *disk, uint64_t size)
{
	if (!size)
		return disk_error(-EINVAL, "disk %s: a null disk needs a size", disk->name);
	atomic_store(&disk->size, size);
	return 0;
}

static void null_submit(struct block_channel *channel, struct block_request *request)
{
	block_finish(request, 0);
}

const struct disk_ops null_disk_ops = {
	.kind = "null",
	.disk_size = sizeof(struct disk),
	.channel_size = sizeof(struct block_channel),
	.open = null_open,
	.close = null_close,
	.resize = null_resize,
	.submit = null_submit,
};
