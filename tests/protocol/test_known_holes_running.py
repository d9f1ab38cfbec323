# SPDX-License-Identifier: BSD-3-Clause
"""
Holes that others had, rows 15 to 28: loops, fixed arrays, what is shown when, rare modes, quotas. See test_known_holes.py.
"""
import contextlib
import os
import time

import pytest

from . import frames, vhost_user
from .bad_chains import BAD_CHAINS, make_bad
from .devices import (BLK_HEADER, NET_CTRL_RX, NET_CTRL_VQ, NET_HEADER, S_IOERR, S_OK, S_UNSUPP, T_GET_ID, T_IN,
		      BlockDevice, Options)
from .holes import BOTH, CANARY, MAC_TABLE_SET, SECTORS, ControlledNet, controlled, disk_of, memory_of, mend, offer
from .lab import MEGABYTE, REFUSED, close_all, eventfds
from .lan import MAC, neighbours_work, warm
from .memory import PAGE, GuestMemory
from .rings import F_WRITE, Raw
from .vhost_user import CONFIG, LOG, SINGLE_REGION, U64, VRING_ADDRESS, VRING_STATE, Request, pack_table

pytestmark = pytest.mark.deadline(60)

ENDLESS = ["loop of one", "loop of two", "next out of range", "chain without end", "indirect loop", "nested indirect", "indirect with next",
	   "indirect table enormous", "no bytes", "address in a hole"]


@pytest.mark.parametrize("name", ENDLESS)
def test_row_15_control_queue_has_the_same_walker(lab, name):
	"""DPDK 6ec1778134: the walker for control queues knew neither bound nor loop limit, years after the others did."""
	formats, needs, _ = BAD_CHAINS[name]
	for packed in [letter == "p" for letter in formats]:
		net = controlled(lab, packed=packed, indirect=needs > 0)
		assert net.command(MAC_TABLE_SET + bytes(8)) == 0
		offer(net, net.queues[-1], make_bad(net, name, False))
		assert lab.server.wait_broken("interfaces", "a-net", 4)
		assert not any(lab.server.broken("interfaces", "a-net", number) for number in range(4))
		lab.check()
		net.close()
		lab.open.remove(net)


def test_row_16_circular_chains_hold_nobody_up(lab):
	"""CVE-2019-9547: a loop in the chain stopped the reactor. Again and again in all forms; the neighbour is served meanwhile."""
	worst = 0.0
	for name in ("loop of one", "loop of two", "indirect loop", "chain without end"):
		formats, needs, _ = BAD_CHAINS[name]
		for packed in [letter == "p" for letter in formats]:
			with BlockDevice(lab.server.path("a-disk.sock"), Options(packed=packed, indirect=needs > 0)) as disk:
				for _ in range(5):
					offer(disk, disk.queues[0], make_bad(disk, name, False))
					began = time.monotonic()
					for _ in range(5):
						assert lab.neighbour.write(0, bytes(512)).status == S_OK
					worst = max(worst, time.monotonic() - began)
					assert lab.server.wait_broken("disks", "a-disk", 0) in ("chain-too-long", "bad-next")
					mend(disk)
	assert worst < 2, f"five requests of the neighbour took {worst:.1f} s"


def test_row_17_counts_and_the_arrays_that_they_fill(lab):
	"""CVE-2025-57275: sixteen places, filled with as many as the wire said."""
	fd = lab.memory.regions[0].fd
	entries = [(number * PAGE, PAGE, number * PAGE, 0) for number in range(16)]
	for count, given in ((9, 9), (16, 16), (9, 8), (255, 8), (0x10001, 1), (0xffffffff, 8), (0x80000000, 8)):
		assert lab.connect().refused(Request.SET_MEM_TABLE, pack_table(entries[:given], count), [fd] * min(given, 8)) in REFUSED
	for count in (9, 16, 64, vhost_user.MAX_FDS):
		assert lab.connect().refused(Request.SET_MEM_TABLE, pack_table(entries[:8]), [fd] * count) in REFUSED, f"{count} descriptors"
	for size in (257, 1000, 4000):
		assert lab.connect("a-disk").refused(Request.GET_CONFIG, CONFIG.pack(0, size, 0) + bytes(size)) in REFUSED
		assert lab.connect("a-disk").refused(Request.GET_CONFIG, CONFIG.pack(0, size, 0) + bytes(256)) in REFUSED
	disk = disk_of(lab, queue_size=1024, region_size=4 * MEGABYTE)
	for count in (disk.config.max_discard_seg + 1, 17, 64, 1000):
		assert disk.discard(*[(0, 1)] * count).status in (S_IOERR, S_UNSUPP)
	for count in (disk.config.max_write_zeroes_seg + 1, 17, 64, 1000):
		assert disk.write_zeroes(*[(0, 1)] * count).status in (S_IOERR, S_UNSUPP)
	scatter(lab, disk)
	lab.check()


def scatter(lab, disk):
	"""As many buffers as the ring has room for: served or broken by name, and more than any array of ours."""
	place = disk.memory.allocate(512)
	for count in (126, 127, 128, 500, 1000, 1022):
		header, status = disk.lay_out(BLK_HEADER.pack(T_IN, 0, 0), [], False), disk.lay_out(1, [], True)
		identity = disk.queues[0].add(header + [(place, 512, True)] * count + status)
		disk.publish()
		try:
			disk.queues[0].wait_for(identity, 2)
		except TimeoutError:
			assert lab.server.wait_broken("disks", "a-disk", 0)
			mend(disk)


# -- what is shown and when

@BOTH
def test_row_18_used_buffers_are_shown_all_or_none(lan, packed):
	"""CVE-2021-3748 and its mending: num_buffers was written late, and an error in the middle left elements behind."""
	a, b = lan.plug("a"), lan.plug("b", packed=packed)
	b.fill_receive(8)
	warm(a, b)
	b.close()
	lan.devices.remove(b)
	b = lan.plug("b", packed=packed)
	b.fill_receive(2, size=1024, cuts=[])
	queue = b.receive_queue()
	offer(b, queue, [Raw(b.memory.hole(), 1024, F_WRITE)])
	before = lan.server.status()["interfaces"]["b-net"]
	sent = frames.plain(MAC["b"], MAC["a"], 2500)
	deadline = time.monotonic() + 10
	while not lan.server.broken("interfaces", "b-net", 0):	# three buffers are needed, the third one is bad
		a.send(sent)
		assert time.monotonic() < deadline
	assert not b.ready(), "a part of a frame was shown"
	assert lan.server.status()["interfaces"]["b-net"]["out_frames"] == before["out_frames"]
	again = lan.plug("c", packed=packed)
	again.fill_receive(8, size=1024, cuts=[])
	warm(a, again)
	a.send(frames.plain(MAC["c"], MAC["a"], 2500))
	header, got = again.receive()
	assert header.num_buffers == 3 and got == frames.plain(MAC["c"], MAC["a"], 2500)


@BOTH
def test_row_20_descriptors_that_make_no_progress(lan, packed):
	"""CVE-2021-20257: a descriptor of nothing kept the loop going. Frames of no bytes are used up, each one; nobody waits."""
	a, b, c = lan.plug("a", packed=packed), lan.plug("b"), lan.plug("c")
	c.fill_receive(64)
	warm(b, c)
	empty = a.lay_out(NET_HEADER.pack(0, 0, 0, 0, 0, 0, 0), [], False)
	queue = a.transmit_queue()
	for _ in range(20):
		for _ in range(queue.room()):
			queue.add(empty)
		queue.publish()
		queue.kick()
		while queue.outstanding:
			queue.poll(timeout=5, what="frames of no bytes")
	assert lan.server.broken("interfaces", "a-net", 1) is None
	b.send(frames.plain(MAC["c"], MAC["b"], 100))
	assert c.receive()[1] == frames.plain(MAC["c"], MAC["b"], 100)
	offer(a, queue, [Raw(a.memory.allocate(16), 0)])
	assert lan.server.wait_broken("interfaces", "a-net", 1) == "zero-length"
	neighbours_work(lan)


def test_row_22_nothing_that_a_guest_does_ends_the_daemon(lab):
	"""CVE-2020-16092: an assertion that the guest could reach. Every malformed chain, on every kind of queue, one after another."""
	pid = lab.server.pid
	for name, (formats, needs, _) in BAD_CHAINS.items():
		for packed in [letter == "p" for letter in formats]:
			choices = {"packed": packed, "indirect": needs > 0, "region_size": 2 * MEGABYTE,
				   "without": vhost_user.F_RING_INDIRECT_DESC if needs < 0 else 0}
			with BlockDevice(lab.server.path("a-disk.sock"), Options(**choices)) as disk:
				offer(disk, disk.queues[0], make_bad(disk, name, False))
				if name not in ("shorter than its header", "wrong direction"):	# those may be answered
					assert lab.server.wait_broken("disks", "a-disk", 0), name
			choices["features"] = NET_CTRL_VQ | NET_CTRL_RX
			with ControlledNet(lab.server.path("a-net.sock"), Options(queues=2, **choices)) as net:
				for number, queue in enumerate(net.queues):
					writable = number in (0, 2)
					offer(net, queue, make_bad(net, name, writable))
				for number in (1, 3):
					assert lab.server.wait_broken("interfaces", "a-net", number), name
	assert lab.server.pid == pid
	lab.check()


def test_row_25_lengths_of_source_and_destination_differ(lab):
	"""CVE-2023-3180: as many bytes were copied as the source had. Buffers that are shorter or longer than what goes into them."""
	disk = disk_of(lab)
	area = disk.memory.allocate(4096)
	for kind, sector in ((T_GET_ID, 0), (T_IN, 0), (T_IN, SECTORS - 1)):
		for length in (1, 5, 19, 20, 21, 40, 511, 512, 513, 1024):
			disk.memory.write(area, b"\xaa" * 4096)
			header, status = disk.lay_out(BLK_HEADER.pack(kind, 0, sector), [], False), disk.lay_out(b"\xff", [], True)
			identity = disk.queues[0].add(header + [(area + 1000, length, True)] + status)
			disk.publish()
			disk.queues[0].wait_for(identity)
			assert disk.memory.read(status[0][0], 1)[0] in (S_OK, S_IOERR)
			got = disk.memory.read(area, 4096)
			assert got[:1000] == b"\xaa" * 1000 and got[1000 + length:] == b"\xaa" * (3096 - length), (kind, length)
	# And a source that is shorter than the sectors it claims to be.
	before = disk.read(0, 4096).data
	for length in (1, 511, 513):
		assert disk.write(0, b"\x55" * length).status == S_IOERR
	assert disk.read(0, 4096).data == before


@BOTH
def test_row_26_dirty_log_has_the_same_bounds(lab, packed):
	"""CVE-2019-14835: what only a migration does had weaker checks. A log that is too small, and indirect chains through it."""
	log = GuestMemory(1, MEGABYTE)
	fd, small = log.regions[0].fd, PAGE		# says of 128 MiB which pages are dirty; guest memory lies above
	os.pwrite(fd, CANARY[:PAGE], small)
	memory = GuestMemory(1, 2 * MEGABYTE, base=0x1_0000_0000)
	with BlockDevice(connection=lab.connect("a-disk"), options=Options(packed=packed, indirect=True), start=False) as disk:
		disk.memory.close()
		disk.memory = memory
		connection = disk.connection
		disk.features = connection.get_features() & disk.wanted()
		connection.set_features(disk.features)
		disk.share_memory()
		disk.make_queues()
		disk.start_queues()
		connection.set_log_base(small, 0, fd)
		connection.set_features(disk.features | vhost_user.F_LOG_ALL)
		queue = disk.queues[0]
		addresses = [memory.user(address) for address in queue.addresses()]
		for logged in (queue.addresses()[0 if packed else 1], (1 << 64) - 1, (1 << 64) - PAGE, small * 8 * PAGE, 0):
			outcome = connection.refused(Request.SET_VRING_ADDR, VRING_ADDRESS.pack(0, vhost_user.VRING_ADDRESS_F_LOG, *addresses, logged))
			if outcome == "closed":
				break
			with contextlib.suppress(TimeoutError):
				assert disk.execute(T_IN, 0, into=3 * PAGE, timeout=2).status == S_OK
	assert os.pread(fd, PAGE, small) == CANARY[:PAGE], "written behind the log's end"
	assert not any(os.pread(fd, small - 2, 2)), "a page was marked that nobody wrote"
	log.close()
	lab.check()


def test_row_27_configuration_space_and_indices(lab):
	"""CVE-2021-45464: offsets into the configuration space, and queue indices, that were not compared with anything."""
	connection = lab.connect("a-disk")
	whole = connection.get_config(256)
	assert whole[:60].strip(b"\0") and not any(whole[128:])
	for offset in (0, 1, 7, 59, 95, 128, 255, 256, 4095, 0x7fffffff, 0xfffffff0, 0xffffffff):
		for size in (1, 2, 8, 60, 200, 256):
			connection = lab.connect("a-disk") if connection is None else connection
			connection.send(Request.GET_CONFIG, CONFIG.pack(offset, size, 0) + bytes(size))
			try:
				reply = connection.reply_to(Request.GET_CONFIG)
			except vhost_user.Closed:
				connection = None
				continue
			assert not reply.payload or reply.payload[CONFIG.size:] == (whole + bytes(256))[offset:offset + size], (offset, size)
			assert not reply.payload or offset + size <= 256
	for offset, size in ((0xffffffff, 1), (0xfffffffc, 8), (256, 1), (255, 2), (0x80000000, 4), (33, 256)):
		assert lab.connect("a-disk").refused(Request.SET_CONFIG, CONFIG.pack(offset, size, 0) + bytes(size)) in REFUSED
	for index in (5, 16, 31, 32, 63, 64, 255):
		assert lab.connect("a-net").refused(Request.SET_VRING_ENABLE, VRING_STATE.pack(index, 1)) in REFUSED
		assert lab.connect("a-net").refused(Request.GET_VRING_BASE, VRING_STATE.pack(index, 0)) in REFUSED


def test_row_28_what_one_guest_can_use_up(lab):
	"""
	CVE-2021-3544, CVE-2020-10717 and others: a guest took descriptors and memory until there were none for anybody. The most of
	everything, from one connection: regions, files, queues, memory, log lines. (test_quotas.py has the figures of each.)
	"""
	connection = lab.connect("a-net")
	descriptors, resident, lines = lab.server.descriptors(), memory_of(lab.server), len(lab.server.log.read_text().splitlines())
	fd, events = lab.memory.regions[0].fd, eventfds(3)
	taken = sum(connection.command(Request.ADD_MEM_REG, SINGLE_REGION.pack(0, number * PAGE, PAGE, number * PAGE, 0), [fd]) == 0
		    for number in range(1000))
	assert taken == connection.get_max_mem_slots()
	for index in range(256):
		for request, event in zip((Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR), events):
			connection.command(request, U64.pack(index), [event])
	for _ in range(20):
		connection.call(Request.SET_LOG_BASE, LOG.pack(MEGABYTE, 0), [fd]).close()
	assert lab.server.descriptors() <= descriptors + 3 * 5, "five queues have a kick, a call and an error descriptor each"
	assert memory_of(lab.server) < resident + (8 << 20)
	assert len(lab.server.log.read_text().splitlines()) < lines + 200
	close_all(events)
	connection.close()
	assert lab.server.settled(lambda: lab.server.descriptors() <= descriptors, True)
