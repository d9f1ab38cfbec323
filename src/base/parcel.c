/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Parcels.
 *
 * Theory of operation
 * -------------------
 * A parcel is the receiving end of a unix socket pair, with messages in its queue and nobody at the other end any more.
 * The first message tells what it is for and brings the bytes, as a sealed memfd; each one after it brings files. The
 * kernel keeps what is in a socket's queue for as long as somebody has the socket. So whoever keeps one descriptor (a
 * program that is executed in our place; systemd's store of file descriptors) keeps all of it, in order, whatever it
 * does with several descriptors (systemd throws out those that are the same file as another one, and guarantees no
 * order).
 *
 * Bytes are sections: tag, length, content. There is one version for everything that a parcel may contain: a daemon
 * reads what a daemon of the same version of the format wrote, or nothing.
 *
 * Trust boundary. Who has given us the descriptor is not known for certain: everything is bounded and checked as it is
 * read, the bytes are read from a file that its seals keep from changing, and reading never waits. What the sections
 * say is checked by those who know what they mean.
 */
#include "base/parcel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/disposal.h"

/* What follows the name in the first message changes with everything that is in any section. */
#define PARCEL_MAGIC   0x4c435250454449ULL /* "IDEPRCL" */
#define PARCEL_VERSION 1U

#define FILES_PER_MESSAGE 128U
#define SEALS		  (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

struct label {
	uint64_t magic;
	uint32_t version, length, file_count, reserved;
	char kind[PARCEL_KIND_SIZE], name[PARCEL_NAME_SIZE];
};

struct section {
	uint32_t tag, length;
};

/** struct rights - room for the files of a message. */
union rights {
	char bytes[CMSG_SPACE(sizeof(int) * FILES_PER_MESSAGE)];
	struct cmsghdr alignment;
};

int parcel_fail(struct parcel *parcel, const char *reason)
{
	if (!parcel->failed)
		parcel->reason = reason;
	parcel->failed = true;
	return -EBADMSG;
}

/* ---- filling ----------------------------------------------------------------------------------------------------- */

static bool make_room(struct parcel *parcel, size_t more)
{
	size_t wanted, capacity = parcel->capacity ? parcel->capacity : 4096;
	uint8_t *larger;

	if (!checked_add(parcel->length, more, &wanted) || wanted > PARCEL_BYTES_MAX)
		return false;
	while (capacity < wanted)
		capacity *= 2;
	if (capacity == parcel->capacity)
		return true;
	larger = realloc(parcel->bytes, capacity);
	if (!larger)
		return false;
	parcel->bytes = larger;
	parcel->capacity = capacity;
	return true;
}

void parcel_put(struct parcel *parcel, uint32_t tag, const void *bytes, size_t length)
{
	struct section section = { tag, (uint32_t)length };

	if (parcel->failed)
		return;
	if (length > PARCEL_BYTES_MAX || !make_room(parcel, sizeof(section) + length)) {
		parcel_fail(parcel, "more state than there is room for");
		return;
	}
	memcpy(parcel->bytes + parcel->length, &section, sizeof(section));
	parcel->length += sizeof(section);
	if (length)
		memcpy(parcel->bytes + parcel->length, bytes, length);
	parcel->length += length;
}

void parcel_put_file(struct parcel *parcel, int fd)
{
	if (parcel->failed)
		return;
	if (!parcel->files)
		parcel->files = calloc(PARCEL_FILES_MAX, sizeof(*parcel->files));
	if (!parcel->files || parcel->file_count == PARCEL_FILES_MAX) {
		parcel_fail(parcel, "more files than there is room for");
		return;
	}
	parcel->files[parcel->file_count++] = fd;
}

static int make_memory(const struct parcel *parcel)
{
	int fd = memfd_create("parcel", MFD_CLOEXEC | MFD_ALLOW_SEALING), error;
	size_t written = 0;

	if (fd < 0)
		return -errno;
	while (written < parcel->length) {
		ssize_t more = write(fd, parcel->bytes + written, parcel->length - written);

		if (more <= 0)
			goto close_fd;
		written += (size_t)more;
	}
	if (!fcntl(fd, F_ADD_SEALS, SEALS))
		return fd;

close_fd:
	error = errno ? -errno : -EIO;
	close(fd);
	return error;
}

static int send_message(int to, const void *bytes, size_t length, const int *files, unsigned count)
{
	union rights rights = { 0 };
	struct iovec part = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = length };
	struct msghdr header = { .msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = &rights,
				 .msg_controllen = CMSG_SPACE(count * sizeof(int)) };

	rights.alignment.cmsg_level = SOL_SOCKET;
	rights.alignment.cmsg_type = SCM_RIGHTS;
	rights.alignment.cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(&rights.alignment), files, count * sizeof(int));
	return sendmsg(to, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int send_all(int to, const struct parcel *parcel, int memory)
{
	struct label label = {
		.magic = PARCEL_MAGIC,
		.version = PARCEL_VERSION,
		.length = (uint32_t)parcel->length,
		.file_count = parcel->file_count,
	};
	int error;

	memcpy(label.kind, parcel->kind, sizeof(label.kind));
	memcpy(label.name, parcel->name, sizeof(label.name));
	error = send_message(to, &label, sizeof(label), &memory, 1);
	for (unsigned i = 0; i < parcel->file_count && !error; i += FILES_PER_MESSAGE) {
		uint32_t count = min(parcel->file_count - i, FILES_PER_MESSAGE);

		error = send_message(to, &count, sizeof(count), parcel->files + i, count);
	}
	return error;
}

int parcel_seal(const struct parcel *parcel)
{
	int ends[2], memory, error;

	if (parcel->failed)
		return -EBADMSG;
	memory = make_memory(parcel);
	if (memory < 0)
		return memory;
	error = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) ? -errno : 0;
	if (!error) {
		error = send_all(ends[0], parcel, memory);
		close(ends[0]);
		if (error)
			close(ends[1]);
	}
	close(memory);
	return error ? error : ends[1];
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* Take one message with its files. Return: bytes; negative errno. All files are in @files, whatever is returned. */
static ssize_t take_message(int from, void *bytes, size_t length, int files[FILES_PER_MESSAGE], unsigned *count)
{
	union rights rights;
	struct iovec part = { .iov_base = bytes, .iov_len = length };
	struct msghdr header = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof(rights)
	};
	ssize_t got = recvmsg(from, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *control;

	*count = 0;
	if (got < 0)
		return -errno;
	for (control = CMSG_FIRSTHDR(&header); control; control = CMSG_NXTHDR(&header, control)) {
		size_t more = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS ||
		    more > FILES_PER_MESSAGE - *count)
			continue; /* what does not fit into the room for it was not given to us */
		memcpy(files + *count, CMSG_DATA(control), more * sizeof(int));
		*count += (unsigned)more;
	}
	return header.msg_flags & (MSG_CTRUNC | MSG_TRUNC) ? -EMSGSIZE : got;
}

static int read_memory(struct parcel *parcel, int fd, size_t length)
{
	struct stat status;
	size_t done = 0;

	/* Sealed: it is memory, and nobody changes it any more. */
	if ((fcntl(fd, F_GET_SEALS) & SEALS) != SEALS || fstat(fd, &status) || status.st_size != (off_t)length)
		return parcel_fail(parcel, "its bytes are not those that were sealed");
	parcel->bytes = malloc(length ? length : 1);
	if (!parcel->bytes)
		return -ENOMEM;
	parcel->length = parcel->capacity = length;
	while (done < length) {
		ssize_t more = pread(fd, parcel->bytes + done, length - done, (off_t)done);

		if (more <= 0)
			return more ? -errno : -EIO;
		done += (size_t)more;
	}
	return 0;
}

static int check_label(struct parcel *parcel, const struct label *label, ssize_t got, unsigned files)
{
	if (got != (ssize_t)sizeof(*label) || label->magic != PARCEL_MAGIC || files != 1)
		return parcel_fail(parcel, "it is nothing that a daemon has left");
	if (label->kind[sizeof(label->kind) - 1] || label->name[sizeof(label->name) - 1])
		return parcel_fail(parcel, "its name does not end");
	memcpy(parcel->kind, label->kind, sizeof(parcel->kind));
	memcpy(parcel->name, label->name, sizeof(parcel->name));
	if (label->version != PARCEL_VERSION)
		return parcel_fail(parcel, "it was left by a version of the daemon that has another format");
	if (label->length > PARCEL_BYTES_MAX || label->file_count > PARCEL_FILES_MAX)
		return parcel_fail(parcel, "it is too large");
	return 0;
}

static int take_files(struct parcel *parcel, int from, unsigned count)
{
	parcel->files = calloc(count + FILES_PER_MESSAGE, sizeof(*parcel->files));
	if (!parcel->files)
		return -ENOMEM;
	while (parcel->file_count < count) {
		uint32_t announced;
		unsigned more;
		ssize_t got =
			take_message(from, &announced, sizeof(announced), parcel->files + parcel->file_count, &more);

		parcel->file_count += more;
		if (got != (ssize_t)sizeof(announced) || !more || announced != more || parcel->file_count > count)
			return parcel_fail(parcel, "its files are not all there");
	}
	return 0;
}

int parcel_open(struct parcel *parcel, int fd)
{
	int files[FILES_PER_MESSAGE], error;
	struct label label;
	unsigned count;
	ssize_t got = take_message(fd, &label, sizeof(label), files, &count);

	error = got < 0 ? parcel_fail(parcel, "there is nothing in it") : check_label(parcel, &label, got, count);
	if (!error)
		error = read_memory(parcel, files[0], label.length);
	if (!error)
		error = take_files(parcel, fd, label.file_count);
	while (count)
		close(files[--count]);
	if (error)
		parcel_fail(parcel, strerrordesc_np(-error));
	return error;
}

/* The next section's bytes. Return: NULL, and parcel->failed. */
static const uint8_t *next_section(struct parcel *parcel, uint32_t tag, size_t *length)
{
	struct section section;
	const uint8_t *bytes;

	if (parcel->failed)
		return NULL;
	if (!range_inside(parcel->position, sizeof(section), parcel->length)) {
		parcel_fail(parcel, "a section is missing");
		return NULL;
	}
	memcpy(&section, parcel->bytes + parcel->position, sizeof(section));
	if (section.tag != tag || !range_inside(parcel->position + sizeof(section), section.length, parcel->length)) {
		parcel_fail(parcel, "a section is missing");
		return NULL;
	}
	bytes = parcel->bytes + parcel->position + sizeof(section);
	parcel->position += sizeof(section) + section.length;
	*length = section.length;
	return bytes;
}

int parcel_get(struct parcel *parcel, uint32_t tag, void *bytes, size_t length)
{
	size_t present;
	const uint8_t *from = next_section(parcel, tag, &present);

	if (!from)
		return -EBADMSG;
	if (present != length)
		return parcel_fail(parcel, "a section has another size");
	if (length)
		memcpy(bytes, from, length);
	return 0;
}

size_t parcel_get_array(struct parcel *parcel, uint32_t tag, void *entries, size_t entry, size_t max)
{
	size_t present;
	const uint8_t *from = next_section(parcel, tag, &present);

	if (!from)
		return 0;
	if (present % entry || present / entry > max) {
		parcel_fail(parcel, "a section has another size");
		return 0;
	}
	if (present)
		memcpy(entries, from, present);
	return present / entry;
}

int parcel_get_file(struct parcel *parcel)
{
	int fd;

	if (parcel->failed)
		return -1;
	if (parcel->file_position == parcel->file_count) {
		parcel_fail(parcel, "a file is missing");
		return -1;
	}
	fd = parcel->files[parcel->file_position];
	parcel->files[parcel->file_position++] = -1;
	return fd;
}

void parcel_release(struct parcel *parcel, struct disposal *disposal)
{
	/* What is being filled does not own its files. */
	for (unsigned i = parcel->file_position; disposal && i < parcel->file_count; i++)
		disposal_close(disposal, parcel->files[i]);
	free(parcel->files);
	free(parcel->bytes);
	*parcel = (struct parcel){ .failed = true, .reason = "it was released" };
}

int parcel_move_file(int *fd, int above)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, above);

	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}
