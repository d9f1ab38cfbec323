# SPDX-License-Identifier: BSD-3-Clause
"""
The client tested against back-ends that are not ours: QEMU's storage daemon (vhost-user-blk) and DPDK's testpmd
(vhost-user-net). A test that fails against sidecore and passes here accuses sidecore.
"""
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from . import frames, vhost_user
from .devices import (BLK_DISCARD, BLK_WRITE_ZEROES, S_IOERR, S_OK, S_UNSUPP, SECTOR, T_IN, T_OUT, BlockDevice, NetDevice,
		      Options)
from .memory import PAGE, GuestMemory
from .rings import F_NEXT, Raw, make_queue, need_event
from .vhost_user import Connection, Protocol, ProtocolError, Request

pytestmark = pytest.mark.xdist_group("huge_pages")

DISK_SIZE = 8 << 20
TESTPMD = shutil.which("dpdk-testpmd") or shutil.which("testpmd")


class Process:
	"""A back-end as a child process, ended by its pid."""

	def __init__(self, command, wait_for, directory):
		self.log = Path(directory) / "log"
		with open(self.log, "wb") as log:
			self.process = subprocess.Popen(command, cwd=directory, stdin=subprocess.PIPE, stdout=log,
							stderr=subprocess.STDOUT)
		deadline = time.monotonic() + 30
		while not os.path.exists(wait_for):
			if self.process.poll() is not None or time.monotonic() > deadline:
				self.close()
				raise AssertionError(f"{command[0]} did not make {wait_for}:\n{self.log.read_text()}")
			time.sleep(0.05)

	def close(self):
		if self.process.poll() is None:
			self.process.terminate()
			try:
				self.process.wait(10)
			except subprocess.TimeoutExpired:
				self.process.kill()
				self.process.wait()


@pytest.fixture
def storage_daemon(tmp_path):
	daemon = shutil.which("qemu-storage-daemon")
	if not daemon:
		pytest.skip("qemu-storage-daemon is not installed")
	running = []

	def start(blockdev=None, options="writable=on"):
		image = tmp_path / "disk.raw"
		with open(image, "wb") as file:
			file.truncate(DISK_SIZE)
		path = str(tmp_path / "qsd.sock")
		blockdev = blockdev or f"driver=file,node-name=disk,filename={image},discard=unmap"
		running.append(Process([daemon, "--blockdev", blockdev, "--export", "type=vhost-user-blk,id=export,"
					f"node-name=disk,addr.type=unix,addr.path={path},{options}"], path, tmp_path))
		return path

	yield start
	for process in running:
		process.close()


def test_messages(storage_daemon):
	path = storage_daemon()
	with Connection(path) as connection:
		assert connection.get_features() & vhost_user.F_VERSION_1
		offered = connection.get_protocol_features()
		assert offered & Protocol.REPLY_ACK and offered & Protocol.CONFIG
		connection.set_protocol_features(offered & (Protocol.REPLY_ACK | Protocol.CONFIG | Protocol.MQ))
		connection.set_owner()
		assert connection.get_queue_num() == 1
		capacity = connection.get_config(8)
		assert int.from_bytes(capacity, "little") == DISK_SIZE // SECTOR


def test_late_answer_is_named(storage_daemon):
	with Connection(storage_daemon(), timeout=0.3) as connection:
		connection.send(Request.SET_OWNER)
		with pytest.raises(vhost_user.Late, match="reply to SET_OWNER"):
			connection.reply_to(Request.SET_OWNER)


@pytest.mark.parametrize("indirect, event_idx, layout", itertools.product(
	(False, True), (False, True), ("separate", "together", "scattered")))
def test_storage_daemon_matrix(storage_daemon, indirect, event_idx, layout):
	options = Options(indirect=indirect, event_idx=event_idx, layout=layout)
	with BlockDevice(storage_daemon(), options) as disk:
		assert disk.config.capacity == DISK_SIZE // SECTOR
		data = os.urandom(16 << 10)
		assert disk.write(8, data).status == S_OK
		result = disk.read(8, len(data))
		assert result.status == S_OK and result.data == data and result.length == len(data) + 1
		assert disk.flush().status == S_OK
		assert disk.get_id().status == S_OK
		assert disk.read(DISK_SIZE // SECTOR, SECTOR).status == S_IOERR
		assert disk.execute(99).status == S_UNSUPP
		for kind, feature in (("discard", BLK_DISCARD), ("write_zeroes", BLK_WRITE_ZEROES)):
			assert disk.features & feature
			assert getattr(disk, kind)((8, 16)).status == S_OK
		assert disk.read(8, len(data)).data == bytes(8 << 10) + data[8 << 10:]


@pytest.mark.parametrize("options", [
	Options(regions=4, region_size=4 << 20),
	Options(regions=3, region_size=1 << 20, region_gap=0, file_offset=64 << 10),
	Options(regions=3, region_size=4 << 20, memory_slots=True),
], ids=["four", "adjacent-offset", "slots"])
def test_memory_of_several_regions(storage_daemon, options):
	with BlockDevice(storage_daemon(), options) as disk:
		for number in range(8):
			data = os.urandom(4096)
			assert disk.write(number * 8, data).status == S_OK
			assert disk.read(number * 8, 4096).data == data


def test_huge_pages(storage_daemon, huge_pages):
	with BlockDevice(storage_daemon(), Options(huge_pages=True, regions=2, region_size=4 << 20, file_offset=2 << 20)) as disk:
		data = os.urandom(4096)
		assert disk.write(0, data).status == S_OK and disk.read(0, 4096).data == data


@pytest.mark.parametrize("event_idx", (False, True))
def test_depth_and_ring_wrap(storage_daemon, event_idx):
	path = storage_daemon("driver=null-co,node-name=disk,read-zeroes=on,size=1073741824", "writable=on,num-queues=2")
	with BlockDevice(path, Options(event_idx=event_idx, queue_size=64, queues=2)) as disk:
		for queue in (0, 1):
			done = 0
			for _ in range(20):
				for sector in range(16):
					disk.submit(T_IN, sector, into=512, queue=queue, kick=False)
				disk.publish(queue)
				results = disk.complete(queue, 16, by_call=True)
				done += sum(result == (S_OK, bytes(512), 513) for result in results.values())
			assert done == 320


def test_reconnect(storage_daemon):
	with BlockDevice(storage_daemon()) as disk:
		data = os.urandom(4096)
		assert disk.write(0, data).status == S_OK
		disk.reconnect()
		assert disk.read(0, 4096).data == data


def test_stop_and_start(storage_daemon):
	with BlockDevice(storage_daemon()) as disk:
		for _ in range(3):
			assert disk.execute(T_OUT, 0, out=bytes(512)).status == S_OK
		assert disk.stop_queues() == [3]
		disk.start_queues()
		assert disk.read(0, 512).status == S_OK


# -- DPDK


@pytest.fixture(scope="module")
def running_testpmd(tmp_path_factory, huge_pages):
	"""One process for all tests: guests come and go, which is a test of its own. Two ports forward to each other."""
	if not TESTPMD:
		pytest.skip("dpdk-testpmd is not installed")
	if len(os.sched_getaffinity(0)) < 2:
		pytest.skip("dpdk-testpmd needs two CPUs")
	directory = tmp_path_factory.mktemp("testpmd")
	sockets = [str(directory / f"pmd{number}.sock") for number in range(2)]
	cpus = sorted(os.sched_getaffinity(0))[:2]
	command = [TESTPMD, "-l", f"{cpus[0]},{cpus[1]}", "--no-pci", "--in-memory", "--single-file-segments", "-m", "128"]
	for number, path in enumerate(sockets):
		command += ["--vdev", f"net_vhost{number},iface={path},queues=2"]
	command += ["--", "--forward-mode=io", "--auto-start", "--total-num-mbufs=16384", "--no-mlockall", "--rxq=2", "--txq=2",
		    "--stats-period=60"]
	process = Process(command, sockets[1], directory)
	yield process, sockets
	process.close()


@pytest.fixture
def testpmd(running_testpmd):
	process, sockets = running_testpmd
	assert process.process.poll() is None, f"testpmd died:\n{process.log.read_text()[-2000:]}"
	return sockets


def pair_of(sockets, options):
	return NetDevice(sockets[0], options), NetDevice(sockets[1], options)


def exchange(left, right, frame, tries=40):
	"""Send until it arrives: testpmd needs a moment to see that its ports are up."""
	for _ in range(tries):
		left.send(frame)
		try:
			return right.receive(0.25)
		except TimeoutError:
			continue
	raise AssertionError("no frame came through testpmd")


@pytest.mark.parametrize("packed, indirect, in_order, mergeable", itertools.product((False, True), repeat=4))
def test_testpmd_matrix(testpmd, packed, indirect, in_order, mergeable):
	# DPDK 22.11 leaves num_buffers 0 without mergeable buffers, against 5.1.6.4.1.
	options = Options(packed=packed, indirect=indirect, in_order=in_order, mergeable=mergeable, region_size=32 << 20,
			  strict=False)
	a, b = pair_of(testpmd, options)
	with a, b:
		for device in (a, b):
			device.fill_receive(64, size=2048)
		first = frames.plain(frames.BROADCAST, frames.mac("52:54:00:00:00:01"), 128)
		header, frame = exchange(a, b, first)
		assert frame == first and header.num_buffers == (1 if mergeable else 0)
		while not b.silent(0.1):
			pass
		for number in range(300):	# around both rings
			sent = frames.plain(frames.BROADCAST, frames.mac("52:54:00:00:00:01"), 60 + number % 900, fill=number)
			a.send(sent)
			assert b.receive()[1] == sent
			b.fill_receive(1, size=2048)


@pytest.mark.parametrize("packed, event_idx, layout", itertools.product(
	(False, True), (False, True), ("together", "scattered")))
def test_testpmd_batches(testpmd, packed, event_idx, layout):
	options = Options(packed=packed, event_idx=event_idx, layout=layout, region_size=32 << 20)
	a, b = pair_of(testpmd, options)
	with a, b:
		b.fill_receive(24, size=2048)
		exchange(a, b, frames.plain(frames.BROADCAST, bytes(6), 64))
		while not b.silent(0.1):
			pass
		b.fill_receive(20, size=2048)
		sent = [frames.plain(frames.BROADCAST, bytes(6), 300 + number, fill=number) for number in range(16)]
		for frame in sent:
			a.transmit(frame, kick=False)
		a.transmit_queue().kick()
		assert [b.receive(by_call=True)[1] for _ in sent] == sent


@pytest.mark.parametrize("packed", (False, True))
def test_testpmd_queue_pairs_and_status(testpmd, packed):
	options = Options(packed=packed, queues=2, status=True, region_size=32 << 20)
	a, b = pair_of(testpmd, options)
	with a, b:
		assert a.connection.get_status() & vhost_user.S_DRIVER_OK
		for pair in (0, 1):
			b.fill_receive(60, size=2048, pair=pair)
		exchange(a, b, frames.plain(frames.BROADCAST, bytes(6), 64))
		for number in range(40):
			sent = frames.plain(frames.BROADCAST, bytes(6), 200 + number)
			a.send(sent, pair=1)
			assert b.receive(pair=1)[1] == sent
		bases = b.stop_queues()
		if not packed:
			assert bases[3] == 0 and bases[2] == 40


def test_testpmd_merges_receive_buffers(testpmd):
	options = Options(region_size=32 << 20)
	a, b = pair_of(testpmd, options)
	with a, b:
		b.fill_receive(60, size=256)
		sent = frames.plain(frames.BROADCAST, bytes(6), 1200)
		header, frame = exchange(a, b, sent)
		assert frame == sent and header.num_buffers == 5


# -- without any back-end


def test_packed_driver_by_hand():
	"""The packed ring's bytes after one chain, worked out from virtio 1.3, 2.8.1 to 2.8.6."""
	with GuestMemory() as memory:
		queue = make_queue(True, memory, size=4)
		identity = queue.add([(0x1000, 10, False), (0x2000, 20, True)])
		ring = memory.read(queue.ring, 32)
		assert ring[14:16] == b"\0\0", "the head must not be available before publish()"
		queue.publish()
		ring = memory.read(queue.ring, 32)
		assert int.from_bytes(ring[14:16], "little") == 0x80 | 1
		assert int.from_bytes(ring[30:32], "little") == 0x80 | 2
		assert int.from_bytes(ring[28:30], "little") == identity
		queue.write_descriptor(0, 0, 5, 0x8000 | 0x80 | 2, identity)
		assert queue.collect() == [(identity, 5)]
		queue.write_descriptor(2, 0, 5, 0x8000 | 0x80 | 2, 3)
		with pytest.raises(ProtocolError, match="not outstanding"):
			queue.collect()
		queue.close()


@pytest.mark.parametrize("packed", (False, True))
def test_in_order_batch_skip(packed):
	"""One used entry that names the third of four buffers stands for three (2.7.13, 2.8.12)."""
	with GuestMemory() as memory:
		queue = make_queue(packed, memory, size=8, in_order=True)
		identities = [queue.add([(0x1000, 10, False), (0x2000, 20, True)]) for _ in range(4)]
		queue.publish()
		if packed:
			queue.write_descriptor(0, 0, 7, 0x8000 | 0x80 | 2, identities[2])
		else:
			memory.write(queue.used + 4, identities[2].to_bytes(4, "little") + (7).to_bytes(4, "little"))
			memory.store16(queue.used + 2, 3)
		assert queue.collect() == [(identities[0], 20), (identities[1], 20), (identities[2], 7)]
		assert len(queue.outstanding) == 1 and queue.room() == 6
		queue.close()


def test_driver_notices_a_bad_device():
	with GuestMemory() as memory:
		queue = make_queue(False, memory, size=8)
		identity = queue.add([(0x1000, 10, True)])
		queue.publish()
		memory.write(queue.used + 4, identity.to_bytes(4, "little") + (11).to_bytes(4, "little"))
		memory.store16(queue.used + 2, 1)
		with pytest.raises(ProtocolError, match="only 10 bytes were writable"):
			queue.collect()
		queue.close()


def test_raw_descriptors():
	with GuestMemory() as memory:
		queue = make_queue(False, memory, size=8)
		head = queue.add_raw([Raw(1, 2, F_NEXT), Raw(3, 4, F_NEXT, next=0)])
		assert memory.read(queue.table + 16 * head, 8) == (1).to_bytes(8, "little")
		loop = memory.read(queue.table + 16 * queue.outstanding[head].descriptors[1] + 14, 2)
		assert int.from_bytes(loop, "little") == head
		queue.close()


def test_need_event_table():
	for event, new, old, expected in ((0, 1, 0, True), (1, 1, 0, False), (0xffff, 0, 0xffff, True), (5, 10, 6, False),
					  (9, 10, 6, True), (6, 10, 6, True)):
		assert need_event(event, new, old) == expected, (event, new, old)


def test_memory_is_shared_at_the_offset():
	with GuestMemory(2, 1 << 20, 0, offset=PAGE) as memory:
		first, second = memory.regions
		address = second.guest_address - 3
		memory.write(address, b"abcdef")
		assert memory.read(address, 6) == b"abcdef"
		assert os.pread(second.fd, 3, PAGE) == b"def" and os.pread(first.fd, 3, PAGE + first.size - 3) == b"abc"


@pytest.mark.parametrize("addresses", [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")], ids=["IPv4", "IPv6"])
def test_frames_verify_themselves(addresses):
	flow = frames.Flow(bytes(6), bytes(6), *addresses)
	for make in (frames.tcp, frames.udp):
		good = make(flow, b"some payload, odd")
		assert frames.parse(good).payload == b"some payload, odd"
		with pytest.raises(AssertionError, match="transport checksum"):
			frames.parse(good[:-1] + b"X")
		with pytest.raises(AssertionError, match="transport checksum"):
			frames.parse(make(flow, b"some payload, odd", partial=True))


def test_checksum_of_rfc_1071():
	assert frames.fold(bytes.fromhex("0001f203f4f5f6f7")) == 0xddf2
