# SPDX-License-Identifier: BSD-3-Clause
"""
vfio-user messages, good and bad. A bad one is answered with an errno and the session goes on; only what cannot be a
message at all ends the connection. Whatever is sent, the server lives and leaks nothing.

The device does little, and that exactly (vfio_lab.FakeServer). What every emulated device must bear as well is in
test_vfio_user_devices.py.
"""
import errno
import os
import random
import socket
import time

import pytest

from .vfio_lab import FakeServer
from .vfio_user import (ACCESS, BITMAP, CONFIG_REGION, DATA_BOOL, DATA_EVENTFD, DATA_NONE, DEVICE_INFO, DMA_MAP, DMA_UNMAP,
			ERR, ERROR, HEADER, INTX, IRQ_AUTOMASKED, IRQ_EVENTFD, IRQ_INFO, IRQ_MASKABLE, IRQ_SET, MASK, MSI,
			MSIX, NO_REPLY, PAGE, READABLE, REGION_INFO, REGION_IO_FDS, REGIONS, REQ, RW, SINGLE_WRITE, TRIGGER,
			TYPE_REPLY, U64, UNMAP_ALL, UNMAP_DIRTY_BITMAP, UNMASK, VERSION_HEADER, WRITEABLE, Closed, Command,
			Connection, Memory, Refused, Window, eventfds, signalled)

pytestmark = pytest.mark.deadline(60)

MEGABYTE = 1 << 20


@pytest.fixture
def lab():
	if not os.access(FakeServer.binary(), os.X_OK):
		pytest.skip(f"no {FakeServer.binary()}: build it")
	server = FakeServer()
	try:
		yield server
		if server.status is None:	# not stopped by the test itself
			assert server.alive()
			server.stop()
	finally:
		server.kill()


@pytest.fixture
def memory():
	memory = Memory(8 * MEGABYTE)
	yield memory
	memory.close()


# -- what the device says of itself


def test_negotiation(lab):
	connection = lab.connect(version=False)
	assert connection.version() == (0, 1)
	offered = connection.capabilities
	assert offered["max_msg_fds"] >= 1 and offered["max_data_xfer_size"] >= 4096 and offered["pgsizes"] & PAGE
	assert offered["write_multiple"] is True and "migration" not in offered
	assert "write_multiple" not in negotiated(lab, {"capabilities": {}})
	assert "write_multiple" not in negotiated(lab, b"")
	assert lab.connect(version=False).version(minor=0) == (0, 0)
	assert lab.connect(version=False).version(minor=9)[1] <= 1


def negotiated(lab, data):
	connection = lab.connect(version=False)
	connection.version(data=data)
	return connection.capabilities


@pytest.mark.parametrize("major, data", [
	(1, b""), (0xffff, b""), (0, b"{}"), (0, b"{}\0{}\0"), (0, b"\0"), (0, b"[" * 2000 + b"\0"), (0, b"null\0"),
	(0, b'{"capabilities":3}\0'), (0, b'{"capabilities":{"max_msg_fds":{}}}\0'), (0, b"\xff" * 100 + b"\0"),
	(0, b'{"capabilities":{"max_data_xfer_size":1e400}}\0'), (0, b'{"capabilities":{"write_multiple":"yes"}}\0'),
], ids=range(12))
def test_bad_versions(lab, major, data):
	connection = lab.connect(version=False)
	assert connection.refused(Command.VERSION, VERSION_HEADER.pack(major, 0) + data) == errno.EINVAL
	assert connection.refused(Command.DEVICE_RESET) == errno.EPROTO
	connection.version()
	assert connection.refused(Command.VERSION, VERSION_HEADER.pack(0, 0)) == errno.EINVAL


def test_description(lab):
	connection = lab.connect()
	flags, regions, irqs = connection.info()
	assert flags & 3 == 3 and regions == REGIONS and irqs == 5
	sizes = [FakeServer.BAR, 0, FakeServer.PORTS, 0, 4096, 0, 0, 4096, 0]
	for index, size in enumerate(sizes):
		region = connection.region_info(index)
		assert region.size == size and bool(region.flags & 3) == bool(size), index
		assert region.areas == (((FakeServer.WINDOW, PAGE),) if index == 0 else ()), index
		if region.fd is not None:
			os.close(region.fd)
	assert connection.irq_info(INTX) == (IRQ_EVENTFD | IRQ_MASKABLE | IRQ_AUTOMASKED, 1)
	assert connection.irq_info(MSI)[1] == 1 and connection.irq_info(MSIX)[1] == FakeServer.VECTORS
	assert connection.irq_info(ERR)[1] == 1 and connection.irq_info(REQ)[1] == 1
	reply = connection.call(Command.DEVICE_GET_REGION_IO_FDS, REGION_IO_FDS.pack(1024, 0, 0, 0))
	assert REGION_IO_FDS.unpack(reply.payload) == (REGION_IO_FDS.size, 0, 0, 0) and not reply.fds


def test_window(lab):
	connection = lab.connect()
	window = Window(connection.region_info(0))
	window.store(FakeServer.WINDOW + 8, 0x12345678)
	assert connection.read32(0, FakeServer.WINDOW + 8) == 0x12345678
	connection.write32(0, FakeServer.WINDOW + 12, 0x9abcdef0)
	assert window.load(FakeServer.WINDOW + 12) == 0x9abcdef0
	# The file cannot be made smaller under the device.
	region = connection.region_info(0)
	with pytest.raises(OSError):
		os.ftruncate(region.fd, 0)
	os.close(region.fd)
	connection.reset()
	assert window.load(FakeServer.WINDOW + 8) == 0
	window.close()


def test_no_windows():
	with FakeServer("trap") as server:
		connection = server.connect()
		assert not connection.region_info(0).areas
		connection.write32(0, FakeServer.WINDOW, 7)
		assert connection.read32(0, FakeServer.WINDOW) == 7


# -- messages that are wrong in themselves

GOOD = {
	Command.DMA_MAP: DMA_MAP.pack(32, RW, 0, 0x100000, 4096),
	Command.DMA_UNMAP: DMA_UNMAP.pack(24, 0, 0x100000, 4096),
	Command.DEVICE_GET_INFO: DEVICE_INFO.pack(16, 0, 0, 0),
	Command.DEVICE_GET_REGION_INFO: REGION_INFO.pack(32, 0, 7, 0, 0, 0),
	Command.DEVICE_GET_REGION_IO_FDS: REGION_IO_FDS.pack(16, 0, 0, 0),
	Command.DEVICE_GET_IRQ_INFO: IRQ_INFO.pack(16, 0, 0, 0),
	Command.DEVICE_SET_IRQS: IRQ_SET.pack(20, DATA_NONE | TRIGGER, MSIX, 0, 0),
	Command.REGION_READ: ACCESS.pack(0x40, 0, 4),
	Command.REGION_WRITE: ACCESS.pack(0x40, 0, 4) + bytes(4),
	Command.REGION_WRITE_MULTI: U64.pack(1) + SINGLE_WRITE.pack(0x40, 0, 4, bytes(8)),
	Command.DEVICE_RESET: b"",
}
COMMANDS = pytest.mark.parametrize("command", GOOD, ids=lambda command: command.name)


@COMMANDS
def test_good_message(lab, command):
	connection = lab.connect()
	if command == Command.DMA_UNMAP:
		connection.call(Command.DMA_MAP, GOOD[Command.DMA_MAP])
	connection.call(command, GOOD[command]).close()


@COMMANDS
def test_wrong_size(lab, command):
	connection = lab.connect()
	payload = GOOD[command]
	for wrong in {payload + b"\0", payload + bytes(64), payload[:-1], payload[:len(payload) // 2], b""} - {payload}:
		assert connection.refused(command, wrong) == errno.EINVAL, len(wrong)
	connection.info()


@COMMANDS
def test_no_room_for_the_answer(lab, command):
	connection = lab.connect()
	payload = GOOD[command]
	if command in (Command.REGION_READ, Command.REGION_WRITE, Command.REGION_WRITE_MULTI, Command.DEVICE_RESET):
		return		# these have no argsz
	assert connection.refused(command, bytes(4) + payload[4:]) == errno.EINVAL
	assert connection.refused(command, (len(payload) - 1).to_bytes(4, "little") + payload[4:]) == errno.EINVAL


@COMMANDS
def test_surplus_descriptors(lab, command):
	connection = lab.connect()
	before = lab.descriptors()
	[event] = eventfds(1)
	for count in (1, 2, 17, 252, 253):
		if count == 1 and command == Command.DMA_MAP:
			continue
		assert connection.refused(command, GOOD[command], [event] * count) == errno.EINVAL, count
	os.close(event)
	assert lab.settled(lab.descriptors, before) == before
	connection.info()


def test_descriptors_of_any_kind(lab):
	"""Files that are not what the message is about, some of which may never let go."""
	connection = lab.connect()
	before = lab.descriptors()
	ends = socket.socketpair()
	pipes = os.pipe()
	files = [os.open(name, os.O_RDWR) for name in ("/dev/null", "/dev/zero")] + [os.open("/", os.O_RDONLY)]
	files += [*pipes, *(end.fileno() for end in ends)]
	for fd in files:
		assert connection.refused(Command.DMA_MAP, GOOD[Command.DMA_MAP], [fd]) == errno.EMEDIUMTYPE
		request = IRQ_SET.pack(20, DATA_EVENTFD | TRIGGER, MSIX, 0, 1)
		assert connection.refused(Command.DEVICE_SET_IRQS, request, [fd]) == errno.EINVAL
	for fd in files[:5]:
		os.close(fd)
	for end in ends:
		end.close()
	assert lab.settled(lab.descriptors, before) == before


@pytest.mark.parametrize("command, expected", [
	(0, errno.EINVAL), (19, errno.EINVAL), (255, errno.EINVAL), (0xffff, errno.EINVAL),
	(Command.DMA_READ, errno.ENOTTY), (Command.DMA_WRITE, errno.ENOTTY), (Command.DIRTY_PAGES, errno.ENOTTY),
	(Command.DEVICE_FEATURE, errno.ENOTTY), (Command.MIG_DATA_READ, errno.ENOTTY),
	(Command.MIG_DATA_WRITE, errno.ENOTTY),
])
def test_commands_not_served(lab, command, expected):
	connection = lab.connect()
	for payload in (b"", bytes(8), bytes(4000)):
		assert connection.refused(command, payload) == expected
	connection.info()


@pytest.mark.parametrize("flags", [ERROR, 1 << 6, 1 << 31, NO_REPLY | 1 << 8])
def test_flags_of_no_command(lab, flags):
	connection = lab.connect()
	expected = "silent" if flags & NO_REPLY else errno.EINVAL
	connection.timeout = 0.5 if flags & NO_REPLY else 10
	assert connection.refused(Command.DEVICE_RESET, flags=flags) == expected
	connection.timeout = 10
	connection.info()


# -- framing


@pytest.mark.parametrize("header", [
	HEADER.pack(1, Command.DEVICE_RESET, 15, 0, 0), HEADER.pack(1, Command.DEVICE_RESET, 0, 0, 0),
	HEADER.pack(1, Command.REGION_WRITE, 1 << 20, 0, 0), HEADER.pack(1, Command.REGION_WRITE, 0xffffffff, 0, 0),
	HEADER.pack(1, Command.DEVICE_RESET, 16, TYPE_REPLY, 0), HEADER.pack(1, Command.DMA_READ, 16, TYPE_REPLY, 0),
	HEADER.pack(1, Command.DEVICE_RESET, 16, 0xf, 0), b"\xff" * 16,
], ids=range(8))
def test_what_is_no_message(lab, header):
	connection = lab.connect()
	connection.send_raw(header)
	assert connection.closed()
	lab.connect().info()


def test_truncated_messages(lab):
	lab.connect().close()
	before = lab.settled(lab.descriptors, None, 0.3)
	[event] = eventfds(1)
	message = HEADER.pack(1, Command.DMA_MAP, HEADER.size + 32, 0, 0) + GOOD[Command.DMA_MAP]
	for length in range(1, len(message)):
		with Connection(lab.socket) as connection:
			connection.send_raw(message[:length], [event])
	os.close(event)
	assert lab.settled(lambda: lab.descriptors() <= before, True)


def test_byte_by_byte(lab):
	connection = lab.connect()
	for byte in connection.pack(Command.REGION_READ, GOOD[Command.REGION_READ]):
		assert connection.silent(0.001)
		connection.send_raw(bytes([byte]))
	connection.reply_to(Command.REGION_READ)


def test_pipelined(lab):
	"""Many messages at once, some with descriptors, are done in their order and with their own descriptors."""
	connection = lab.connect()
	events = eventfds(FakeServer.VECTORS)
	sent = []
	for vector, event in enumerate(events):
		for i in range(10):
			message = connection.pack(Command.REGION_WRITE, ACCESS.pack(0x40, 0, 4) + bytes([vector, i, 0, 0]))
			connection.send_raw(message)
			sent.append((Command.REGION_WRITE, connection.identifier))
		request = IRQ_SET.pack(20, DATA_EVENTFD | TRIGGER, MSIX, vector, 1)
		connection.send_raw(connection.pack(Command.DEVICE_SET_IRQS, request), [event])
		sent.append((Command.DEVICE_SET_IRQS, connection.identifier))
	for command, identifier in sent:
		connection.reply_to(command, identifier)
	assert connection.read(0, 0x40, 2) == bytes([FakeServer.VECTORS - 1, 9])
	for vector, event in enumerate(events):
		connection.write32(0, FakeServer.RAISE, 1 << vector)
		assert [signalled(each) for each in events] == [int(each == event) for each in events]
	for event in events:
		os.close(event)


def test_reader_that_never_reads(lab):
	connection = lab.connect()
	connection.sock.setblocking(False)
	data = b"".join(connection.pack(Command.REGION_READ, ACCESS.pack(0, CONFIG_REGION, 4096)) for _ in range(100))
	deadline = time.monotonic() + 2
	while time.monotonic() < deadline:
		try:
			connection.sock.send(data)
		except BlockingIOError:
			time.sleep(0.05)
	assert lab.alive()
	size = int(next(line.split()[1] for line in open(f"/proc/{lab.pid}/status") if line.startswith("VmRSS")))
	assert size < 512 << 10, "KiB"
	lab.connect().info()


def test_noise(lab):
	generator = random.Random(3)
	for _ in range(200):
		with Connection(lab.socket, version=generator.random() < 0.5) as connection:
			try:
				connection.send_raw(generator.randbytes(generator.randrange(1, 400)))
			except Closed:
				pass
	lab.connect().info()


def test_second_client(lab):
	first = lab.connect()
	second = Connection(lab.socket, version=False)
	assert second.closed()
	first.info()
	second.close()


# -- memory


def test_map_and_unmap(lab, memory):
	connection = lab.connect()
	connection.dma_map(0, MEGABYTE, 0, memory.fd)
	connection.dma_map(16 * MEGABYTE, MEGABYTE, MEGABYTE, memory.fd)
	assert lab.mappings() == 1 and lab.mapped() == memory.size, "the file is mapped once"
	for address, size in ((0, PAGE), (PAGE, MEGABYTE), (0, 2 * MEGABYTE), (8 * MEGABYTE, MEGABYTE), (0, 0)):
		with pytest.raises(Refused) as refusal:
			connection.dma_unmap(address, size)
		assert refusal.value.errno == errno.ENOENT, (address, size)
	connection.dma_unmap(0, MEGABYTE)
	connection.dma_unmap(16 * MEGABYTE, MEGABYTE)
	assert lab.settled(lab.mappings, 0) == 0, "let go soon"
	assert connection.refused(Command.DMA_UNMAP, DMA_UNMAP.pack(24, 0, 0, MEGABYTE)) == errno.ENOENT


@pytest.mark.parametrize("address, size, offset, flags, expected", [
	(0, 0, 0, RW, errno.EINVAL), (0, 9 * MEGABYTE, 0, RW, errno.EINVAL), (0, MEGABYTE, 8 * MEGABYTE, RW, errno.EINVAL),
	(0, PAGE, (1 << 64) - PAGE, RW, errno.EINVAL), (0, PAGE, 1 << 63, RW, errno.EINVAL),
	((1 << 64) - PAGE, 2 * PAGE, 0, RW, errno.EINVAL), (1, PAGE, 0, RW, errno.EINVAL), (0, 100, 0, RW, errno.EINVAL),
	(0, PAGE, 7, RW, errno.EINVAL), (0, PAGE, 0, 0, errno.EINVAL), (0, PAGE, 0, 0xffffffff, errno.EINVAL),
	(64 * MEGABYTE, PAGE, 0, RW, errno.EEXIST), (64 * MEGABYTE - PAGE, 2 * PAGE, 0, RW, errno.EEXIST),
	(0, 65 * MEGABYTE, 0, READABLE, errno.EEXIST), (65 * MEGABYTE - PAGE, MEGABYTE, 0, RW, errno.EEXIST),
	(96 * MEGABYTE, PAGE, 0, RW, errno.EEXIST),
])
def test_impossible_maps(lab, memory, address, size, offset, flags, expected):
	connection = lab.connect()
	connection.dma_map(64 * MEGABYTE, MEGABYTE, 0, memory.fd)
	connection.dma_map(96 * MEGABYTE, MEGABYTE)
	assert connection.refused(Command.DMA_MAP, DMA_MAP.pack(32, flags, offset, address, size), [memory.fd]) == expected
	connection.dma_unmap(64 * MEGABYTE, MEGABYTE)
	connection.dma_unmap(96 * MEGABYTE, MEGABYTE)


@pytest.mark.parametrize("flags, file", [(RW, False), (READABLE, False), (READABLE, True), (WRITEABLE, True)])
def test_maps_that_cannot_be_reached(lab, memory, flags, file):
	"""Without a file, or not for reading and writing: accepted, remembered, and not mapped."""
	connection = lab.connect()
	connection.dma_map(0, MEGABYTE, 0, memory.fd if file else None, flags)
	assert lab.mappings() == 0
	again = DMA_MAP.pack(32, RW, 0, 0, MEGABYTE)
	assert connection.refused(Command.DMA_MAP, again, [memory.fd]) == errno.EEXIST
	connection.dma_unmap(0, MEGABYTE)


def test_unmap_flags(lab, memory):
	connection = lab.connect()
	for i in range(4):
		connection.dma_map(i * MEGABYTE, MEGABYTE, 0, memory.fd if i % 2 else None)
	for flags, address, size, more in [(UNMAP_DIRTY_BITMAP, 0, MEGABYTE, b""),
					   (UNMAP_DIRTY_BITMAP, 0, MEGABYTE, BITMAP.pack(PAGE, 32)),
					   (4, 0, MEGABYTE, b""), (UNMAP_ALL, 0, MEGABYTE, b""), (UNMAP_ALL, PAGE, 0, b""),
					   (UNMAP_ALL | UNMAP_DIRTY_BITMAP, 0, 0, b"")]:
		request = DMA_UNMAP.pack(24 + len(more), flags, address, size) + more
		assert connection.refused(Command.DMA_UNMAP, request) == errno.EINVAL, (flags, address, size)
	connection.dma_unmap(0, 0, UNMAP_ALL)
	connection.dma_unmap(0, 0, UNMAP_ALL)
	assert lab.settled(lab.mappings, 0) == 0
	connection.dma_map(0, 4 * MEGABYTE, 0, memory.fd)


def test_file_that_grows(lab, memory):
	connection = lab.connect()
	connection.dma_map(0, 8 * MEGABYTE, 0, memory.fd)
	beyond = DMA_MAP.pack(32, RW, 8 * MEGABYTE, 64 * MEGABYTE, MEGABYTE)
	assert connection.refused(Command.DMA_MAP, beyond, [memory.fd]) == errno.EINVAL
	os.ftruncate(memory.fd, 9 * MEGABYTE)
	connection.call(Command.DMA_MAP, beyond, [memory.fd])


def test_many_maps(lab, memory):
	"""More than there may be; everything goes on, and all can be taken back."""
	connection = lab.connect()
	count = 0
	while count < 5000:
		try:
			connection.dma_map(count * MEGABYTE, PAGE, 0, memory.fd)
		except Refused as refusal:
			assert refusal.errno == errno.ENOSPC
			break
		count += 1
	assert connection.capabilities["max_dma_maps"] <= count < 5000
	assert lab.mappings() == 1
	for i in range(count):
		connection.dma_unmap((count - 1 - i) * MEGABYTE, PAGE)


@pytest.mark.deadline(120)
def test_ten_thousand_bursts(lab, memory):
	"""What firmware and reboots do: the file stays mapped, nothing grows."""
	connection = lab.connect()
	connection.dma_map(0, memory.size, 0, memory.fd)
	before = lab.descriptors(), lab.mappings()
	for _ in range(10000):
		connection.dma_unmap(0, memory.size)
		connection.dma_map(0, memory.size, 0, memory.fd)
	assert (lab.descriptors(), lab.mappings()) == before
	assert lab.mapped() == memory.size


def test_disconnected_in_the_middle(lab, memory):
	"""A client that goes takes all with it, whatever state it left."""
	before = lab.descriptors()
	for flags in (RW, READABLE):
		connection = lab.connect()
		events = eventfds(2)
		connection.set_irqs(DATA_EVENTFD | TRIGGER, INTX, fds=events[:1])
		connection.set_irqs(DATA_EVENTFD | UNMASK, INTX, fds=events[1:])
		connection.dma_map(0, memory.size, 0, memory.fd, flags)
		connection.dma_map(memory.size, memory.size)
		if flags == RW:
			connection.dma_unmap(0, memory.size)
		connection.close()
		for event in events:
			os.close(event)
		assert lab.settled(lambda: (lab.descriptors(), lab.mappings()), (before, 0)) == (before, 0)


# -- accesses


def test_every_width_and_offset(lab):
	connection = lab.connect()
	places = [(0, 0x80), (0, FakeServer.WINDOW - 8), (0, FakeServer.WINDOW + PAGE - 8), (2, 0), (CONFIG_REGION, 0xf0)]
	generator = random.Random(1)
	for region, begin in places:
		expected = bytearray(connection.read(region, begin, 16))
		for offset in range(16):
			for length in range(1, 17 - offset):
				data = generator.randbytes(length)
				connection.write(region, begin + offset, data)
				if region != CONFIG_REGION:
					expected[offset:offset + length] = data
				assert connection.read(region, begin, 16) == expected, (region, offset, length)


def test_out_of_bounds(lab):
	connection = lab.connect()
	sizes = {0: FakeServer.BAR, 2: FakeServer.PORTS, 4: 4096, CONFIG_REGION: 4096}
	for region in list(range(REGIONS)) + [REGIONS, 255, 0xffffffff]:
		size = sizes.get(region, 0)
		for offset, count in [(size, 1), (size - 1, 2), (size - 3, 4), (1 << 32, 4), ((1 << 64) - 4, 8), ((1 << 64) - 1, 1),
				      (0, 0), (0, 4097), (0, 0xffffffff)] + ([] if size else [(0, 1), (0, 4)]):
			request = ACCESS.pack(offset & (1 << 64) - 1, region, count)
			assert connection.refused(Command.REGION_READ, request) == errno.EINVAL, (region, offset, count)
			data = bytes(min(count, 4096))
			assert connection.refused(Command.REGION_WRITE, request + data) == errno.EINVAL, (region, offset, count)
	assert connection.refused(Command.REGION_WRITE, ACCESS.pack(0x40, 0, 4) + bytes(8)) == errno.EINVAL
	assert connection.refused(Command.REGION_WRITE, ACCESS.pack(0x40, 0, 8) + bytes(4)) == errno.EINVAL


def test_posted_writes(lab):
	connection = lab.connect()
	for value in range(1000):
		connection.post_write(0, 0x40, value.to_bytes(4, "little"))
	for region, offset in [(0, FakeServer.BAR), (1, 0), (99, 0)]:
		connection.post_write(region, offset, bytes(4))		# errors: never told
	assert connection.silent()
	assert connection.read32(0, 0x40) == 999


def test_several_writes(lab):
	connection = lab.connect()
	connection.write_multi([(0, 0x40 + 4 * i, bytes([i] * 4)) for i in range(200)])
	assert connection.read(0, 0x40, 800) == b"".join(bytes([i] * 4) for i in range(200))
	connection.write_multi([])
	good = SINGLE_WRITE.pack(0x40, 0, 4, b"\xee" * 8)
	for count, writes in [(2, [good]), (0, [good]), (1, [good] * 2), (1 << 61, [good]), (201, [good] * 201),
			      (2, [good, SINGLE_WRITE.pack(0, 0, 9, bytes(8))]), (2, [good, SINGLE_WRITE.pack(0, 1, 4, bytes(8))]),
			      (2, [good, SINGLE_WRITE.pack(0x4000, 0, 1, bytes(8))])]:
		assert connection.refused(Command.REGION_WRITE_MULTI, U64.pack(count) + b"".join(writes)) in (errno.EINVAL, "closed")
		if count == 201:
			connection = lab.connect()		# larger than any message may be
	assert connection.read32(0, 0x40) != 0xeeeeeeee, "refused as a whole"


def test_reset(lab):
	connection = lab.connect()
	connection.write32(0, 0x40, 5)
	connection.write(CONFIG_REGION, 4, b"\6\0")
	connection.write32(CONFIG_REGION, 0x10, 0xfeb00000)
	connection.reset()
	assert connection.read32(0, 0x40) == 0
	assert connection.read(CONFIG_REGION, 4, 2) == b"\0\0"
	assert connection.read32(CONFIG_REGION, 0x10) & ~15 == 0


# -- interrupts


def pin(connection, level):
	connection.write32(0, FakeServer.PIN, level)


@pytest.mark.parametrize("way", ["message", "boolean", "eventfd"])
def test_pin(lab, way):
	connection = lab.connect()
	interrupt, unmask = eventfds(2)
	connection.set_irqs(DATA_EVENTFD | TRIGGER, INTX, fds=[interrupt])
	if way == "eventfd":
		connection.set_irqs(DATA_EVENTFD | UNMASK, INTX, fds=[unmask])

	def unmask_it():
		if way == "message":
			connection.set_irqs(DATA_NONE | UNMASK, INTX)
		elif way == "boolean":
			connection.set_irqs(DATA_BOOL | UNMASK, INTX, booleans=b"\0")
			connection.set_irqs(DATA_BOOL | UNMASK, INTX, booleans=b"\1")
		else:
			os.eventfd_write(unmask, 1)

	for _ in range(100):
		pin(connection, 1)
		assert signalled(interrupt) == 1
		pin(connection, 1)
		assert signalled(interrupt) == 0, "masked itself"
		unmask_it()
		assert signalled(interrupt, 5) == 1, "still raised"
		pin(connection, 0)
		unmask_it()
		assert signalled(interrupt, 0.001) == 0
	connection.set_irqs(DATA_NONE | MASK, INTX)
	pin(connection, 1)
	assert signalled(interrupt) == 0
	os.close(interrupt)
	os.close(unmask)


def test_unmask_eventfd_that_is_full(lab):
	"""Nobody reads it, and a client that fills it up harms only itself."""
	connection = lab.connect()
	interrupt, unmask = eventfds(2)
	connection.set_irqs(DATA_EVENTFD | TRIGGER, INTX, fds=[interrupt])
	os.eventfd_write(unmask, (1 << 64) - 2)
	os.set_blocking(unmask, True)
	connection.set_irqs(DATA_EVENTFD | UNMASK, INTX, fds=[unmask])
	pin(connection, 1)
	assert signalled(interrupt, 1) in (1, 2)	# what is in it already may count as one unmasking
	connection.info()
	connection.set_irqs(DATA_EVENTFD | UNMASK, INTX)
	os.close(interrupt)
	os.close(unmask)


def test_messages(lab):
	connection = lab.connect()
	events = eventfds(FakeServer.VECTORS)
	connection.set_irqs(DATA_EVENTFD | TRIGGER, MSIX, count=len(events), fds=events)
	connection.write32(0, FakeServer.RAISE, 0b1011)
	assert [signalled(event) for event in events] == [1, 1, 0, 1]
	connection.set_irqs(DATA_NONE | TRIGGER, MSIX, start=1, count=2)
	connection.set_irqs(DATA_BOOL | TRIGGER, MSIX, count=4, booleans=b"\0\0\1\1")
	assert [signalled(event) for event in events] == [0, 1, 2, 1]
	connection.set_irqs(DATA_EVENTFD | TRIGGER, MSIX, start=1, count=2)
	connection.write32(0, FakeServer.RAISE, 0xf)
	assert [signalled(event) for event in events] == [1, 0, 0, 1]
	connection.set_irqs(DATA_NONE | TRIGGER, MSIX, count=0)
	connection.write32(0, FakeServer.RAISE, 0xffffffff)
	assert not any(signalled(event) for event in events)
	for event in events:
		os.close(event)


@pytest.mark.parametrize("flags, index, start, count, booleans, fds, expected", [
	(TRIGGER, MSIX, 0, 1, b"", 0, errno.EINVAL), (DATA_NONE, MSIX, 0, 1, b"", 0, errno.EINVAL),
	(0xffffffff, MSIX, 0, 1, b"", 0, errno.EINVAL), (DATA_NONE | DATA_BOOL | TRIGGER, MSIX, 0, 1, b"\1", 0, errno.EINVAL),
	(DATA_NONE | MASK | UNMASK, INTX, 0, 1, b"", 0, errno.EINVAL), (DATA_NONE | TRIGGER, 5, 0, 1, b"", 0, errno.EINVAL),
	(DATA_NONE | TRIGGER, 0xffffffff, 0, 0, b"", 0, errno.EINVAL), (DATA_EVENTFD | TRIGGER, MSIX, 0, 5, b"", 5, errno.EINVAL),
	(DATA_EVENTFD | TRIGGER, MSIX, 3, 2, b"", 2, errno.EINVAL),
	(DATA_EVENTFD | TRIGGER, MSIX, 0xffffffff, 1, b"", 1, errno.EINVAL),
	(DATA_EVENTFD | TRIGGER, MSIX, 1, 0xffffffff, b"", 0, errno.EINVAL),
	(DATA_EVENTFD | TRIGGER, MSIX, 0, 3, b"", 2, errno.EINVAL), (DATA_EVENTFD | TRIGGER, MSIX, 0, 0, b"", 0, errno.EINVAL),
	(DATA_EVENTFD | TRIGGER, MSIX, 0, 1, b"\1", 1, errno.EINVAL), (DATA_BOOL | TRIGGER, MSIX, 0, 4, b"\1", 0, errno.EINVAL),
	(DATA_BOOL | TRIGGER, MSIX, 0, 1, b"\1", 1, errno.EINVAL), (DATA_NONE | MASK, MSIX, 0, 1, b"", 0, errno.ENOTTY),
	(DATA_EVENTFD | UNMASK, MSI, 0, 1, b"", 1, errno.ENOTTY), (DATA_EVENTFD | UNMASK, INTX, 0, 1, b"", 2, errno.EINVAL),
	(DATA_EVENTFD | TRIGGER, ERR, 0, 1, b"", 1, "accepted"), (DATA_EVENTFD | TRIGGER, REQ, 0, 1, b"", 1, "accepted"),
	(DATA_NONE | TRIGGER, ERR, 0, 0, b"", 0, "accepted"), (DATA_EVENTFD | TRIGGER, REQ, 0, 2, b"", 2, errno.EINVAL),
])
def test_sets_of_interrupts(lab, flags, index, start, count, booleans, fds, expected):
	connection = lab.connect()
	before = lab.descriptors()
	events = eventfds(fds)
	request = IRQ_SET.pack(20 + len(booleans), flags, index, start, count) + booleans
	assert connection.refused(Command.DEVICE_SET_IRQS, request, events) == expected
	for event in events:
		os.close(event)
	assert lab.settled(lab.descriptors, before) == before


# -- repetition: nothing may grow


@pytest.mark.deadline(120)
@COMMANDS
def test_ten_thousand_times(lab, memory, command):
	connection = lab.connect()
	[event] = eventfds(1)
	payload, fds = GOOD[command], ()
	if command == Command.DMA_MAP:
		payload, fds = payload, [memory.fd]
	elif command == Command.DEVICE_SET_IRQS:
		payload, fds = IRQ_SET.pack(20, DATA_EVENTFD | UNMASK, INTX, 0, 1), [event]
	elif command == Command.DEVICE_GET_REGION_INFO:
		payload = REGION_INFO.pack(64, 0, 0, 0, 0, 0)
	before = None
	for i in range(10000):
		connection.send(command, payload, fds)
		try:
			connection.reply_to(command).close()
		except Refused as refusal:
			assert i and command == Command.DMA_MAP or command == Command.DMA_UNMAP, refusal
		if i == 0:
			before = lab.descriptors(), lab.mappings()
	assert lab.settled(lambda: (lab.descriptors(), lab.mappings()), before) == before
	os.close(event)


def test_two_hundred_connections(lab, memory):
	before = lab.descriptors()
	for _ in range(200):
		connection = lab.connect()
		connection.dma_map(0, memory.size, 0, memory.fd)
		connection.set_irqs(DATA_NONE | TRIGGER, MSIX, count=0)
	connection.close()
	assert lab.settled(lambda: (lab.descriptors(), lab.mappings()), (before, 0)) == (before, 0)


def test_counters(lab):
	connection = lab.connect()
	connection.read32(0, 0x40)
	connection.write32(0, 0x40, 0)
	connection.post_write(0, 0x40, bytes(4))
	connection.set_irqs(DATA_NONE | TRIGGER, MSIX, count=0)
	connection.dma_map(0, PAGE)
	connection.refused(Command.REGION_READ, ACCESS.pack(0, 1, 4))
	connection.info()
	status = lab.stop()
	assert (status["messages"], status["region_reads"], status["region_writes"]) == (8, 2, 2)
	assert (status["memory_messages"], status["interrupt_messages"], status["posted"]) == (1, 1, 1)
	assert (status["errors"], status["refused"], status["connections"]) == (1, 0, 1)
