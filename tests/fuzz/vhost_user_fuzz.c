/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: a vhost-user connection with a hostile front-end, and a real device behind it.
 *
 * Theory of operation
 * -------------------
 * Input: which device, whether a session is set up first as a front-end would (so that queues run, and what follows
 * meets them running), then steps. A step is a message, a turn of the sidecore, a change of the guest's memory or of
 * the in-flight area, a file that shrinks, or the end of the connection and a new one.
 *
 * A message is built by its row of the message table: its payload has the row's size unless the input says otherwise,
 * and is made of words, each a byte of the input that stands for a value that matters (addresses and sizes of the
 * guest's regions, small numbers, limits) or raw. Its files come from a palette: the guest's memory, a small and a
 * shrinking memfd, eventfds, a pipe, a socket, /dev/null, /dev/zero, an epoll, an in-flight area.
 *
 * Oracles: each message is over in bounded steps; a connection that we end is released, and its device is as it was;
 * no file descriptor is left; error replies are well formed.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/block.h"
#include "device/virtio_blk.h"
#include "device/virtio_net.h"
#include "fuzz_engine.h"
#include "fuzz_guest.h"
#include "transport/vhost_user/connection.h"

#define STEPS	   150U
#define PATIENCE   64U /* turns of the loop that a message may take */
#define AREA_SIZE  0x4000U
#define SMALL_SIZE 0x1000U

enum {
	FILE_GUEST,
	FILE_AREA,
	FILE_EVENT,
	FILE_OTHER_EVENT,
	FILE_SMALL,
	FILE_SHRINKING,
	FILE_PIPE,
	FILE_SOCKET,
	FILE_NULL,
	FILE_ZERO,
	FILE_EPOLL,
	FILE_DIRECTORY,
	FILES,
};

static struct guest guest;
static struct fuzz_engine engine;
static struct event_base *base;
static struct network *network;
static struct virtio_device *devices[3];
static struct disk *disks[2];
static int files[FILES], pipe_end, socket_end;
static uint8_t *area;
static struct vhost_user_connection connection;
static bool closed;
static int front_end = -1;

static void open_files(void)
{
	int pipes[2], sockets[2];

	guest_open(&guest);
	files[FILE_GUEST] = guest.fd;
	files[FILE_AREA] = memfd_create("area", MFD_CLOEXEC);
	files[FILE_SMALL] = memfd_create("small", MFD_CLOEXEC);
	files[FILE_SHRINKING] = memfd_create("shrinking", MFD_CLOEXEC);
	fuzz_require(!ftruncate(files[FILE_AREA], AREA_SIZE) && !ftruncate(files[FILE_SMALL], SMALL_SIZE));
	area = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, files[FILE_AREA], 0);
	fuzz_require(area != MAP_FAILED);
	files[FILE_EVENT] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	files[FILE_OTHER_EVENT] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fuzz_require(!pipe2(pipes, O_CLOEXEC | O_NONBLOCK));
	files[FILE_PIPE] = pipes[1];
	pipe_end = pipes[0];
	fuzz_require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets));
	files[FILE_SOCKET] = sockets[0];
	socket_end = sockets[1];
	files[FILE_NULL] = open("/dev/null", O_RDWR | O_CLOEXEC);
	files[FILE_ZERO] = open("/dev/zero", O_RDWR | O_CLOEXEC);
	files[FILE_EPOLL] = epoll_create1(EPOLL_CLOEXEC);
	files[FILE_DIRECTORY] = open("/", O_RDONLY | O_CLOEXEC);
	for (unsigned i = 0; i < FILES; i++)
		fuzz_require(files[i] >= 0);
}

static void open_once(void)
{
	const struct virtio_net_config_options nic = {
		.name = "nic", .mac = { 2, 0, 0, 0, 0, 1 }, .queue_pairs = 2, .sidecore = -1, .queue_size_max = 64
	};
	const struct virtio_blk_options blk = { .name = "disk", .queues = 2, .sidecore = -1, .queue_size_max = 64 };
	const struct disk_config configs[2] = { { .name = "ram", .type = DISK_RAM, .size = 0x10000 },
						{ .name = "null", .type = DISK_NULL, .size = 0x10000 } };
	const char *error;

	open_files();
	fuzz_engine_open(&engine);
	base = event_base_new();
	network = network_create(&(struct network_config){ .name = "net" });
	fuzz_require(base && network && !virtio_net_create(&nic, engine.engine, network, &devices[0]));
	for (unsigned i = 0; i < 2; i++) {
		fuzz_require(!disk_open(&configs[i], engine.engine, &disks[i], &error));
		fuzz_require(!virtio_blk_create(&blk, engine.engine, disks[i], &devices[1 + i]));
	}
}

/* ---- the connection ---------------------------------------------------------------------------------------------- */

static void note_closed(struct vhost_user_connection *which)
{
	closed = true;
}

/* Take what the back-end sent; its files are closed. */
static void drain_front_end(void)
{
	char bytes[512];
	union {
		char bytes[CMSG_SPACE(sizeof(int) * 8)];
		struct cmsghdr alignment;
	} control;

	for (;;) {
		struct iovec part = { bytes, sizeof(bytes) };
		struct msghdr header = {
			.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
		};
		struct cmsghdr *message;

		if (recvmsg(front_end, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
			return;
		message = CMSG_FIRSTHDR(&header);
		if (message && message->cmsg_type == SCM_RIGHTS) {
			int fd;

			fuzz_require(message->cmsg_len == CMSG_LEN(sizeof(int)));
			memcpy(&fd, CMSG_DATA(message), sizeof(fd));
			close(fd);
		}
	}
}

static void pump(void)
{
	for (unsigned i = 0;; i++) {
		fuzz_require(i < PATIENCE);
		event_base_loop(base, EVLOOP_NONBLOCK);
		fuzz_engine_settle(&engine);
		drain_front_end();
		if (connection.state == CONNECTION_CLOSED || connection.state == CONNECTION_READING) {
			int left = 0;

			/* Nothing more to be read: what came is handled. */
			event_base_loop(base, EVLOOP_NONBLOCK);
			left = (int)recv(connection.fd, &left, 1, MSG_PEEK | MSG_DONTWAIT);
			if (connection.state == CONNECTION_CLOSED || left < 0)
				return;
		}
	}
}

static void open_connection(struct virtio_device *device)
{
	int sockets[2];

	fuzz_require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets));
	fuzz_require(!vhost_user_connection_init(&connection, device, base));
	connection.closed = note_closed;
	connection.memory_max = 1 << 20;
	front_end = sockets[0];
	closed = false;
	fuzz_require(!vhost_user_connection_open(&connection, sockets[1]));
}

static void close_connection(void)
{
	struct virtio_device *device = connection.device;

	close(front_end);
	front_end = -1;
	for (unsigned i = 0; !closed; i++) {
		fuzz_require(i < PATIENCE);
		event_base_loop(base, EVLOOP_NONBLOCK);
		fuzz_engine_settle(&engine);
	}
	vhost_user_connection_release(&connection);
	fuzz_require(!device->acked_features && !device->transport);
	for (unsigned i = 0; i < device->queue_count; i++)
		fuzz_require(device->queues[i].state == VIRTIO_QUEUE_STOPPED && !device->queues[i].model);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static void send_message(uint32_t request, uint32_t flags, const void *payload, uint32_t length, uint32_t size,
			 const int *fds, unsigned fd_count)
{
	struct vhost_user_header head = { request, flags, size };
	struct iovec parts[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)payload, length } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = length ? 2 : 1 };
	union {
		char bytes[CMSG_SPACE(sizeof(int) * 16)];
		struct cmsghdr alignment;
	} control = { 0 };

	if (fd_count) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		control.alignment.cmsg_level = SOL_SOCKET;
		control.alignment.cmsg_type = SCM_RIGHTS;
		control.alignment.cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(&control.alignment), fds, sizeof(int) * fd_count);
	}
	/* A connection that is closed already: nothing to say any more. */
	if (sendmsg(front_end, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
	pump();
}

/* One byte stands for a number that matters. */
static uint64_t read_word(struct fuzz_input *input)
{
	static const uint64_t values[] = {
		GUEST_LOW,
		GUEST_SEAM,
		GUEST_APART,
		GUEST_LOW_SIZE,
		GUEST_HIGH_SIZE,
		GUEST_APART_SIZE,
		GUEST_FILE_SIZE,
		GUEST_LOW + GUEST_DRIVER_AREA,
		GUEST_LOW + GUEST_DEVICE_AREA,
		GUEST_LOW + GUEST_QUEUE(1),
		GUEST_LOW + GUEST_QUEUE(1) + GUEST_DRIVER_AREA,
		GUEST_LOW + GUEST_QUEUE(1) + GUEST_DEVICE_AREA,
		GUEST_SEAM - 16,
		GUEST_SEAM - 1,
		UINT64_MAX,
		UINT64_MAX - 4095,
		INT64_MAX,
		UINT32_MAX,
		1ULL << 32,
		0xffff,
		0x8000,
		0x80008000,
		4096,
		AREA_SIZE,
		0x10000,
		1U << 20,
		256,
		257,
		1ULL << VIRTIO_F_VERSION_1,
		1ULL << VIRTIO_F_RING_PACKED,
		VHOST_USER_LOG_ALL,
		VHOST_USER_PROTOCOL_FEATURES,
	};
	uint8_t form = fuzz_u8(input);

	if (form < 0x80)
		return form % 72U;
	if (form < 0xe0)
		return values[(form - 0x80U) % array_size(values)];
	return form < 0xf0 ? fuzz_u16(input) : fuzz_u64(input);
}

/* Words in the order and of the widths that the message has. */
static void fill_payload(uint32_t request, union vhost_user_payload *payload, struct fuzz_input *input)
{
	uint64_t *words = (uint64_t *)(void *)payload;

	switch (request) {
	case VHOST_USER_SET_VRING_NUM:
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_SET_VRING_ENABLE:
		payload->state.index = (uint32_t)read_word(input);
		payload->state.num = (uint32_t)read_word(input);
		break;
	case VHOST_USER_SET_VRING_ADDR:
		payload->address.index = (uint32_t)read_word(input);
		payload->address.flags = (uint32_t)read_word(input);
		payload->address.descriptor = read_word(input);
		payload->address.used = read_word(input);
		payload->address.available = read_word(input);
		break;
	case VHOST_USER_SET_MEM_TABLE:
		payload->table.count = (uint32_t)read_word(input);
		for (unsigned i = 0; i < min(payload->table.count, 8U) * 4; i++)
			words[1 + i] = read_word(input);
		break;
	case VHOST_USER_GET_CONFIG:
	case VHOST_USER_SET_CONFIG:
		payload->config.offset = (uint32_t)read_word(input);
		payload->config.size = (uint32_t)read_word(input);
		payload->config.flags = (uint32_t)read_word(input);
		fuzz_bytes(input, payload->config.bytes, 4);
		break;
	case VHOST_USER_GET_INFLIGHT_FD:
	case VHOST_USER_SET_INFLIGHT_FD:
		payload->inflight.mmap_size = read_word(input);
		payload->inflight.mmap_offset = read_word(input);
		payload->inflight.num_queues = (uint16_t)read_word(input);
		payload->inflight.queue_size = (uint16_t)read_word(input);
		break;
	case VHOST_USER_SET_FEATURES:
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		payload->u64 = fuzz_u8(input) & 1 ? read_word(input) : fuzz_u64(input);
		if (request == VHOST_USER_SET_FEATURES)
			payload->u64 &= vhost_user_features_offered(connection.device) | fuzz_u8(input) % 2U;
		break;
	default:
		for (unsigned i = 0; i < 5; i++)
			words[i] = read_word(input);
	}
}

static uint32_t natural_size(const struct vhost_user_row *row, uint32_t request,
			     const union vhost_user_payload *payload)
{
	if (request == VHOST_USER_SET_MEM_TABLE)
		return 8 + min(payload->table.count, 8U) * 32U;
	if (request == VHOST_USER_GET_CONFIG || request == VHOST_USER_SET_CONFIG)
		return VHOST_USER_CONFIG_HEADER_SIZE + min(payload->config.size, 256U);
	return min(row->size_max, (uint32_t)sizeof(*payload));
}

static void any_message(struct fuzz_input *input)
{
	static const struct vhost_user_row unknown = { .size_max = 8 };
	uint8_t form = fuzz_u8(input);
	uint32_t request = fuzz_u8(input) % (VHOST_USER_REQUESTS + 2U), flags = VHOST_USER_VERSION, size, length;
	const struct vhost_user_row *row = vhost_user_row(request);
	union vhost_user_payload payload = { 0 };
	unsigned fd_count;
	int fds[16];

	if (!row)
		row = &unknown;
	fill_payload(request, &payload, input);
	if (!(form & 1))
		flags |= VHOST_USER_NEED_REPLY;
	if (form & 2 && form & 4)
		flags = fuzz_u8(input);
	length = size = natural_size(row, request, &payload);
	if (form & 8 && form & 4) {
		size = (uint32_t)read_word(input);
		length = min(fuzz_u16(input), (uint16_t)sizeof(payload));
	}
	/* As many files as fit the message, unless told otherwise. */
	fd_count = request == VHOST_USER_SET_MEM_TABLE ? min(payload.table.count, 8U)
		   : row->fds_min		       ? row->fds_min
		   : row->fds_max == 1 && request != VHOST_USER_REM_MEM_REG && !(payload.u64 & VHOST_USER_VRING_NO_FD)
			   ? 1
			   : 0;
	if (form & 0x10)
		fd_count = fuzz_u8(input) % 17U;
	for (unsigned i = 0; i < fd_count; i++)
		fds[i] = files[form & 0x20 ? fuzz_u8(input) % FILES
			       : request == VHOST_USER_SET_VRING_CALL || request == VHOST_USER_SET_VRING_KICK ||
					       request == VHOST_USER_SET_VRING_ERR
				       ? FILE_EVENT
			       : request == VHOST_USER_SET_INFLIGHT_FD	  ? FILE_AREA
			       : request == VHOST_USER_SET_BACKEND_REQ_FD ? FILE_SOCKET
									  : FILE_GUEST];
	send_message(request, flags, &payload, length, size, fds, fd_count);
}

static void send_u64(uint32_t request, uint64_t value, int fd)
{
	send_message(request, VHOST_USER_VERSION, &value, sizeof(value), sizeof(value), &fd, fd >= 0 ? 1 : 0);
}

static void send_state(uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state state = { index, num };

	send_message(request, VHOST_USER_VERSION, &state, sizeof(state), sizeof(state), NULL, 0);
}

/* A session as a front-end makes it; @form: bit 0 packed, 1 in-flight area, 2 dirty log, 3 event index, 4 legacy. */
static void set_up(uint8_t form)
{
	struct virtio_device *device = connection.device;
	uint64_t features = device->features | VHOST_USER_PROTOCOL_FEATURES;
	struct vhost_user_memory_table table = {
		.count = 3,
		.regions = { { GUEST_LOW, GUEST_LOW_SIZE, GUEST_LOW, 0 },
			     { GUEST_SEAM, GUEST_HIGH_SIZE, GUEST_SEAM, GUEST_LOW_SIZE },
			     { GUEST_APART, GUEST_APART_SIZE, GUEST_APART, GUEST_LOW_SIZE + GUEST_HIGH_SIZE } }
	};
	const int fds[3] = { guest.fd, guest.fd, guest.fd };
	struct vhost_user_log log = { .size = SMALL_SIZE };
	struct inflight_description inflight = { .mmap_size = AREA_SIZE, .num_queues = 2, .queue_size = 64 };

	features &= ~((form & 1 ? 0ULL : 1ULL << VIRTIO_F_RING_PACKED) | (form & 8 ? 0ULL : 1ULL << 29) |
		      (form & 16 ? 1ULL << VIRTIO_F_VERSION_1 : 0ULL) | 1ULL << 17);
	send_u64(VHOST_USER_SET_PROTOCOL_FEATURES, vhost_user_protocol_features_offered(device), -1);
	send_u64(VHOST_USER_SET_FEATURES, features | (form & 4 ? VHOST_USER_LOG_ALL : 0), -1);
	send_message(VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, &table, 8 + 3 * 32, 8 + 3 * 32, fds, 3);
	if (form & 2)
		send_message(VHOST_USER_SET_INFLIGHT_FD, VHOST_USER_VERSION, &inflight, sizeof(inflight),
			     sizeof(inflight), &files[FILE_AREA], 1);
	if (form & 4)
		send_message(VHOST_USER_SET_LOG_BASE, VHOST_USER_VERSION, &log, sizeof(log), sizeof(log),
			     &files[FILE_SMALL], 1);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t place = GUEST_LOW + GUEST_QUEUE(i);
		struct vhost_user_vring_address address = {
			i, form >> 5 & 1, place, place + GUEST_DEVICE_AREA, place + GUEST_DRIVER_AREA, 0
		};

		send_state(VHOST_USER_SET_VRING_NUM, i, 16);
		send_state(VHOST_USER_SET_VRING_BASE, i, form & 1 ? 0x80008000 : 0);
		send_message(VHOST_USER_SET_VRING_ADDR, VHOST_USER_VERSION, &address, sizeof(address), sizeof(address),
			     NULL, 0);
		send_u64(VHOST_USER_SET_VRING_CALL, i, files[FILE_EVENT]);
		send_u64(VHOST_USER_SET_VRING_KICK, i, files[FILE_OTHER_EVENT]);
		send_state(VHOST_USER_SET_VRING_ENABLE, i, 1);
	}
}

/* The front-end may write to the area at any time. */
static void scribble_area(struct fuzz_input *input)
{
	uint32_t place = fuzz_u16(input) % (AREA_SIZE - 16);

	fuzz_bytes(input, area + place, fuzz_u8(input) % 16U);
}

static void step(struct fuzz_input *input, struct guest_queue *drivers)
{
	switch (fuzz_u8(input) % 16) {
	default:
		any_message(input);
		break;
	case 10:
		guest_queue_offer(&drivers[fuzz_u8(input) & 1], input);
		break;
	case 11:
		guest_scribble(&guest, input);
		break;
	case 12:
		fuzz_engine_round(&engine);
		fuzz_engine_arm(&engine);
		break;
	case 13:
		scribble_area(input);
		break;
	case 14:
		fuzz_require(!ftruncate(files[FILE_SHRINKING], fuzz_u8(input) % 32U * 4096));
		break;
	case 15:
		close_connection();
		open_connection(devices[fuzz_u8(input) % array_size(devices)]);
		break;
	}
}

static void clean(void)
{
	uint64_t count;
	char bytes[256];

	guest_clear(&guest);
	memset(area, 0, AREA_SIZE);
	fuzz_require(!ftruncate(files[FILE_SHRINKING], 0) && !ftruncate(files[FILE_SHRINKING], GUEST_FILE_SIZE));
	while (read(files[FILE_EVENT], &count, sizeof(count)) > 0 ||
	       read(files[FILE_OTHER_EVENT], &count, sizeof(count)) > 0)
		;
	while (read(pipe_end, bytes, sizeof(bytes)) > 0 || recv(socket_end, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = { data, size };
	struct guest_queue drivers[2];
	struct fuzz_fds before, after;
	uint8_t form, session;

	if (!base)
		open_once();
	clean();
	before = fuzz_open_fds();
	form = fuzz_u8(&input);
	session = fuzz_u8(&input);
	for (unsigned i = 0; i < 2; i++)
		guest_queue_init(&drivers[i], &guest, i, (uint8_t)((session & 1) | 2));
	open_connection(devices[form % array_size(devices)]);
	if (form & 0x80)
		set_up(session);
	for (unsigned i = 0; i < STEPS && input.left; i++)
		step(&input, drivers);
	close_connection();
	/* Files are closed by a thread of the disposal's own when they might wait (base/disposal.h): soon, not at once. */
	for (unsigned i = 0; i < 2000; i++) {
		after = fuzz_open_fds();
		if (before.bits[0] == after.bits[0] && before.bits[1] == after.bits[1])
			break;
		usleep(1000);
	}
	fuzz_require(before.bits[0] == after.bits[0] && before.bits[1] == after.bits[1]);
	return 0;
}
