/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asks what direct I/O needs. In a file of its own because the kernel's struct statx, which has the fields, and the C
 * library's, which on Debian 12 has not, cannot be seen together.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int direct_io_alignment(int fd, unsigned *memory, unsigned *length);

int direct_io_alignment(int fd, unsigned *memory, unsigned *length)
{
	struct statx status = { 0 };

	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) || !(status.stx_mask & STATX_DIOALIGN))
		return -ENOSYS;
	if (!status.stx_dio_mem_align || !status.stx_dio_offset_align)
		return -EOPNOTSUPP;
	*memory = status.stx_dio_mem_align;
	*length = status.stx_dio_offset_align;
	return 0;
}
