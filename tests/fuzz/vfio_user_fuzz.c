/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fuzz target: a vfio-user connection with a hostile client, and a device behind it: one that does little, and takes its
 * time when the input says so; an NVMe controller; a network card.
 *
 * Theory of operation
 * -------------------
 * Input: which device, whether a session is set up first as a VMM would, then steps. A step is a message, bytes that are
 * none, a turn of the sidecore, a store to a window, a signal of the client's eventfd, a change of the guest's memory, a
 * file that shrinks or grows, the end of something that was deferred, a time limit that has passed, or the end of the
 * connection and a new one. A client may go deaf: replies stay in the socket, which takes few, until it hears again.
 *
 * A message is built by its row of the message table: its payload has the size that belongs to it unless the input says
 * otherwise, and is made of words, each a byte of the input that stands for a value that matters (addresses and sizes of the
 * guest's regions, small numbers, limits) or raw. Its files come from a palette: the guest's memory, a shrinking memfd,
 * eventfds, a pipe, a socket, /dev/null, an epoll.
 *
 * Oracles: each message is over in bounded steps; what is remembered of mappings agrees with itself and with the map that
 * the device has; the device is asked for one thing at a time (fake_pci_device.c); a connection that ends is released, and
 * its device is as it was; no file descriptor is left; replies are well formed.
 */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/block.h"
#include "device/intel/intel_nic.h"
#include "device/nvme/nvme.h"
#include "fake_pci_device.h"
#include "fuzz_engine.h"
#include "fuzz_guest.h"
#include "fuzz_vfio_message.h"
#include "net/network.h"

#define STEPS	 150U
#define PATIENCE 4096U /* turns of the loop that a step may take */

enum {
	FILE_GUEST,
	FILE_SHRINKING,
	FILE_EVENT,
	FILE_OTHER_EVENT,
	FILE_PIPE,
	FILE_SOCKET,
	FILE_NULL,
	FILE_EPOLL,
	FILES,
};

static struct guest guest;
static struct fuzz_engine engine;
static struct event_base *base;
static struct network *network;
static struct fake_pci_device fake;
static struct pci_device *devices[3];
static struct disk *disk;
static int files[FILES], pipe_end, socket_end;
static struct vfio_user_connection connection;
static bool closed, deaf;
static int client = -1;

static void open_files(void)
{
	int pipes[2], sockets[2];

	guest_open(&guest);
	files[FILE_GUEST] = guest.fd;
	files[FILE_SHRINKING] = memfd_create("shrinking", MFD_CLOEXEC);
	files[FILE_EVENT] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	files[FILE_OTHER_EVENT] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fuzz_require(!pipe2(pipes, O_CLOEXEC | O_NONBLOCK));
	files[FILE_PIPE] = pipes[1];
	pipe_end = pipes[0];
	fuzz_require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets));
	files[FILE_SOCKET] = sockets[0];
	socket_end = sockets[1];
	files[FILE_NULL] = open("/dev/null", O_RDWR | O_CLOEXEC);
	files[FILE_EPOLL] = epoll_create1(EPOLL_CLOEXEC);
	for (unsigned i = 0; i < FILES; i++)
		fuzz_require(files[i] >= 0);
}

static void open_once(void)
{
	const struct disk_config config = { .name = "ram", .type = DISK_RAM, .size = 0x10000 };
	struct nvme_options nvme = {
		.name = "nvme", .queues = 2, .queue_entries = 64, .sidecore = -1, .disk_count = 1
	};
	const struct intel_nic_options nic = {
		.name = "nic", .model = INTEL_NIC_IGB, .mac = { 2, 0, 0, 0, 0, 1 }, .sidecore = -1
	};
	const char *error;

	open_files();
	fuzz_engine_open(&engine);
	base = event_base_new();
	network = network_create(&(struct network_config){ .name = "net" });
	fuzz_require(base && network && !disk_open(&config, engine.engine, &disk, &error));
	nvme.disks[0] = disk;
	fake_pci_device_init(&fake, engine.engine);
	devices[0] = &fake.device;
	fuzz_require(!nvme_create(&nvme, engine.engine, &devices[1]));
	fuzz_require(!intel_nic_create(&nic, engine.engine, network, &devices[2]));
}

/* ---- the connection ---------------------------------------------------------------------------------------------- */

static void note_closed(struct vfio_user_connection *which)
{
	closed = true;
}

/* What is remembered of mappings: sorted, apart from each other, and as many that are regions as the device's map has.
 */
static void check_memory(void)
{
	const struct vfio_user_memory *memory = &connection.memory;
	uint64_t shared = 0, translatable = 0, end = 0;
	unsigned regions = 0;

	for (unsigned i = 0; i < memory->map_count; i++) {
		const struct vfio_user_map *map = &memory->maps[i];

		fuzz_require(map->size && (!i || map->address >= end));
		end = map->address + map->size;
		shared += map->size;
		if (!map->translatable)
			continue;
		translatable += map->size;
		fuzz_require(memory->map->regions[regions]->guest_address == map->address);
		fuzz_require(memory->map->regions[regions++]->size == map->size);
	}
	fuzz_require(shared == memory->shared && translatable == memory->translatable);
	fuzz_require(regions == memory->map->region_count);
	fuzz_require(connection.device->memory == memory->map);
	for (unsigned i = 0; i < memory->file_count; i++)
		fuzz_require(memory->files[i].mapping->references > 1 || connection.paused);
}

static bool quiet(void)
{
	char byte;

	if (connection.state == CONNECTION_CLOSED)
		return true;
	if (fake.waiting)
		return true; /* a later step ends it */
	if (connection.state == CONNECTION_REPLYING)
		return deaf;
	return connection.state == CONNECTION_READING && recv(connection.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       !event_pending(connection.more, EV_TIMEOUT, NULL);
}

static void pump(void)
{
	for (unsigned i = 0;; i++) {
		fuzz_require(i < PATIENCE);
		event_base_loop(base, EVLOOP_NONBLOCK);
		fuzz_engine_settle(&engine);
		if (!deaf)
			fuzz_vfio_take_replies(client);
		if (!quiet())
			continue;
		if (connection.state != CONNECTION_CLOSED && connection.state != CONNECTION_CLOSING)
			check_memory();
		return;
	}
}

static void open_connection(struct pci_device *device)
{
	int sockets[2], room = 1; /* the kernel's least: some replies */

	fuzz_require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets));
	fuzz_require(!setsockopt(sockets[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)));
	fuzz_require(!vfio_user_connection_init(&connection, device, base));
	connection.closed = note_closed;
	connection.memory_max = 1 << 20;
	client = sockets[0];
	closed = deaf = false;
	fuzz_vfio_forget_replies();
	fake.defer_pause = fake.defer_reset = false;
	fuzz_require(!vfio_user_connection_open(&connection, sockets[1]));
	pump();
}

static void close_connection(void)
{
	struct pci_device *device = connection.device;

	close(client);
	client = -1;
	for (unsigned i = 0; !closed; i++) {
		fuzz_require(i < PATIENCE);
		event_base_loop(base, EVLOOP_NONBLOCK);
		fuzz_engine_settle(&engine);
		if (fake.waiting)
			fake_pci_device_finish(&fake);
	}
	vfio_user_connection_release(&connection);
	fuzz_require(!device->memory && !device->transport && !device->host);
	fuzz_require(pci_interrupts_kind(&device->interrupts) == PCI_INTERRUPT_NONE);
	fuzz_require(fake.resting);
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

static void send_bytes(const void *bytes, size_t length, const int *fds, unsigned fd_count)
{
	struct iovec part = { (void *)(uintptr_t)bytes, length };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	union {
		char bytes[CMSG_SPACE(sizeof(int) * 32)];
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
	if (sendmsg(client, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
	pump();
}

static void send_message(uint16_t command, uint32_t flags, const void *payload, uint32_t length, uint32_t size,
			 const int *fds, unsigned fd_count)
{
	struct {
		struct vfio_user_header header;
		uint8_t payload[VFIO_USER_PAYLOAD_MAX];
	} wire = { .header = { 0x1234, command, (uint32_t)sizeof(wire.header) + size, flags, 0 } };

	memcpy(wire.payload, payload, length);
	send_bytes(&wire, sizeof(wire.header) + length, fds, fd_count);
}

static int natural_file(uint16_t command)
{
	return files[command == VFIO_USER_DMA_MAP ? FILE_GUEST : FILE_EVENT];
}

static void any_message(struct fuzz_input *input)
{
	union vfio_user_payload payload;
	uint8_t form = fuzz_u8(input);
	uint16_t command = fuzz_u8(input) % (VFIO_USER_COMMANDS + 1U);
	uint32_t flags = form & 1 ? VFIO_USER_NO_REPLY : 0, size, length;
	unsigned fd_count = 0;
	int fds[32];

	memset(&payload, 0, sizeof(payload));
	length = size = fuzz_vfio_payload(command, &payload, &connection.memory, input);
	if (form & 2 && form & 4)
		flags = fuzz_u8(input);
	if (form & 8 && form & 4) {
		size = (uint32_t)fuzz_vfio_word(input);
		length = min(fuzz_u16(input), (uint16_t)sizeof(payload));
	}
	if (command == VFIO_USER_DMA_MAP)
		fd_count = 1;
	else if (command == VFIO_USER_DEVICE_SET_IRQS && payload.irqs.flags & VFIO_IRQ_SET_DATA_EVENTFD)
		fd_count = payload.irqs.count;
	if (form & 0x10)
		fd_count = fuzz_u8(input);
	fd_count %= 32;
	for (unsigned i = 0; i < fd_count; i++)
		fds[i] = form & 0x20 ? files[fuzz_u8(input) % FILES] : natural_file(command);
	send_message(command, flags, &payload, length, size, fds, fd_count);
}

static void map(uint64_t address, uint64_t size, uint64_t offset)
{
	struct vfio_user_dma_map wanted = { 32, 3, offset, address, size };

	send_message(VFIO_USER_DMA_MAP, 0, &wanted, sizeof(wanted), sizeof(wanted), &files[FILE_GUEST], 1);
}

static void set_irqs(uint32_t flags, uint32_t index, int fd)
{
	struct vfio_user_irq_set set = { 20, flags, index, 0, 1 };

	send_message(VFIO_USER_DEVICE_SET_IRQS, 0, &set, sizeof(set), sizeof(set), &fd, 1);
}

/* A session as a VMM makes it; @form: bits 0-2 without a map, 3 the pin rather than a message. */
static void set_up(uint8_t form)
{
	struct {
		struct vfio_user_region_access access;
		uint32_t command;
	} master = { { 4, VFIO_PCI_CONFIG_REGION_INDEX, 4 }, 6 };
	uint16_t version[2] = { 0, 1 };

	send_message(VFIO_USER_VERSION, 0, version, sizeof(version), sizeof(version), NULL, 0);
	if (!(form & 1))
		map(GUEST_LOW, GUEST_LOW_SIZE, 0);
	if (!(form & 2))
		map(GUEST_SEAM, GUEST_HIGH_SIZE, GUEST_LOW_SIZE);
	if (!(form & 4))
		map(GUEST_APART, GUEST_APART_SIZE, GUEST_LOW_SIZE + GUEST_HIGH_SIZE);
	set_irqs(VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		 form & 8 ? VFIO_PCI_INTX_IRQ_INDEX : VFIO_PCI_MSIX_IRQ_INDEX, files[FILE_EVENT]);
	set_irqs(VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX,
		 files[FILE_OTHER_EVENT]);
	send_message(VFIO_USER_REGION_WRITE, 0, &master, 20, 20, NULL, 0);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

/* What a guest stores without our being told. */
static void store_window(struct fuzz_input *input)
{
	const struct pci_bar *bar = &connection.device->bars[0];
	const struct pci_window *window;
	uint32_t offset;

	if (!bar->window_count)
		return;
	window = &bar->windows[fuzz_u8(input) % bar->window_count];
	offset = fuzz_u16(input) % window->length & ~3U;
	pci_window_store(bar, window->offset + offset, (uint32_t)fuzz_vfio_word(input));
}

static void send_noise(struct fuzz_input *input)
{
	uint8_t bytes[64];
	unsigned length = 1 + fuzz_u8(input) % 64U;

	fuzz_bytes(input, bytes, length);
	send_bytes(bytes, length, &files[FILE_EVENT], length & 1);
}

/* As if their time had come: memory that was taken away is not given back, the operator is told whom a message waits for. */
static void pass_time(void)
{
	if (event_pending(connection.memory_due, EV_TIMEOUT, NULL))
		event_active(connection.memory_due, EV_TIMEOUT, 1);
	if (event_pending(connection.overdue, EV_TIMEOUT, NULL))
		event_active(connection.overdue, EV_TIMEOUT, 1);
	pump();
	fuzz_require(connection.state != CONNECTION_READING || !event_pending(connection.memory_due, EV_TIMEOUT, NULL));
}

static void step(struct fuzz_input *input)
{
	uint64_t one = 1;

	switch (fuzz_u8(input) % 24) {
	default:
		any_message(input);
		break;
	case 11:
		store_window(input);
		break;
	case 12:
		guest_scribble(&guest, input);
		break;
	case 13:
		fuzz_engine_round(&engine);
		fuzz_engine_arm(&engine);
		break;
	case 14:
		fuzz_require(!ftruncate(files[FILE_SHRINKING], fuzz_u8(input) % 32U * 4096));
		break;
	case 15:
		fuzz_require(write(files[FILE_OTHER_EVENT], &one, sizeof(one)) == sizeof(one));
		pump();
		break;
	case 16:
		if (fake.waiting)
			fake_pci_device_finish(&fake);
		pump();
		break;
	case 17:
		fake.defer_pause = fuzz_u8(input) & 1;
		fake.defer_reset = fuzz_u8(input) & 1;
		break;
	case 18:
		send_noise(input);
		break;
	case 19:
		close_connection();
		open_connection(devices[fuzz_u8(input) % array_size(devices)]);
		set_up(fuzz_u8(input));
		break;
	case 20:
		deaf = true;
		break;
	case 21:
		deaf = false;
		pump();
		break;
	case 22:
		pass_time();
		break;
	}
}

static void clean(void)
{
	uint64_t count;
	char bytes[256];

	guest_clear(&guest);
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
	struct fuzz_fds before, after;
	uint8_t form;

	if (!base)
		open_once();
	clean();
	before = fuzz_open_fds();
	form = fuzz_u8(&input);
	open_connection(devices[form % array_size(devices)]);
	if (form & 0x80)
		set_up(fuzz_u8(&input));
	for (unsigned i = 0; i < STEPS && input.left; i++)
		step(&input);
	close_connection();
	/* Files are closed by a thread of the disposal's own when they might wait (base/disposal.h): soon, not at once.
	 */
	for (unsigned i = 0; i < 2000; i++) {
		after = fuzz_open_fds();
		if (before.bits[0] == after.bits[0] && before.bits[1] == after.bits[1])
			break;
		usleep(1000);
	}
	fuzz_require(before.bits[0] == after.bits[0] && before.bits[1] == after.bits[1]);
	return 0;
}
