# SPDX-License-Identifier: BSD-3-Clause
"""
virtio-net: guests with malformed rings. The offender's queue is broken and named in the status; its neighbours go on.
"""
import os
import random
import time

import pytest

from . import frames, vhost_user
from .bad_chains import BAD_CHAINS, CASES, CASE_IDS, make_bad
from .devices import NetDevice, Options
from .lan import MAC, neighbours_work, pass_frames, warm
from .rings import Raw

pytestmark = pytest.mark.deadline(60)


def bad_guest(lan, name, packed):
	needs = BAD_CHAINS[name][1]
	return lan.plug("a", Options(packed=packed, indirect=needs > 0, without=vhost_user.F_RING_INDIRECT_DESC if needs < 0 else 0))


@pytest.mark.parametrize("name, packed", CASES, ids=CASE_IDS)
def test_malformed_transmit_chain(lan, name, packed):
	a, b = bad_guest(lan, name, packed), lan.plug("b")
	b.fill_receive(8)
	queue = a.transmit_queue()
	queue.add_raw(make_bad(a, name, False))
	queue.publish()
	queue.kick(force=True)
	assert lan.server.wait_broken("interfaces", "a-net", 1)
	assert lan.server.broken("interfaces", "a-net", 0) is None, "the receive queue did nothing wrong"
	assert b.silent(0.1)
	neighbours_work(lan)


@pytest.mark.parametrize("name, packed", CASES, ids=CASE_IDS)
def test_malformed_receive_chain(lan, name, packed):
	a, b = bad_guest(lan, name, packed), lan.plug("b", mergeable=False)
	queue = a.receive_queue()
	queue.add_raw(make_bad(a, name, True))
	queue.publish()
	queue.kick(force=True)
	deadline = time.monotonic() + 10
	while not lan.server.broken("interfaces", "a-net", 0):	# buffers are looked at when a frame comes
		b.send(frames.plain(frames.BROADCAST, MAC["b"], 64))
		assert time.monotonic() < deadline, "the receive queue is not broken"
		time.sleep(0.02)
	neighbours_work(lan)


@pytest.mark.parametrize("head", [256, 257, 0xffff])
def test_head_out_of_range(lan, head):
	a = lan.plug("a")
	queue = a.transmit_queue()
	queue.write_avail(0, head)
	queue.write_avail_idx(1)
	queue.kick(force=True)
	assert lan.server.wait_broken("interfaces", "a-net", 1)
	neighbours_work(lan)


@pytest.mark.parametrize("idx", [257, 0x8000, 0xffff])
def test_available_index_runs_ahead(lan, idx):
	a = lan.plug("a")
	queue = a.transmit_queue()
	queue.write_avail_idx(idx)
	queue.kick(force=True)
	assert lan.server.wait_broken("interfaces", "a-net", 1)
	neighbours_work(lan)


@pytest.mark.parametrize("packed", (False, True))
def test_enormous_frame(lan, packed):
	"""More than any frame can be: dropped or broken, never delivered in part."""
	a, b = lan.plug("a", packed=packed), lan.plug("b")
	b.fill_receive(200, size=4096, cuts=[])
	queue = a.transmit_queue()
	identity = queue.add([(a.memory.allocate(400_000), 400_000, False)])
	queue.publish()
	queue.kick(force=True)
	try:
		queue.wait_for(identity, 1)
	except TimeoutError:
		assert lan.server.wait_broken("interfaces", "a-net", 1)
	assert b.silent(0.2)
	neighbours_work(lan)


@pytest.mark.parametrize("packed", (False, True))
def test_broken_queue_is_named_and_signalled_and_mended(lan, packed):
	a = lan.plug("a", packed=packed)
	queue = a.transmit_queue()
	queue.add_raw([Raw(a.memory.hole(), 100)])
	queue.publish()
	queue.kick(force=True)
	reason = lan.server.wait_broken("interfaces", "a-net", 1)
	assert isinstance(reason, str) and "address" in reason.lower()
	deadline = time.monotonic() + 2
	while True:
		try:
			assert os.eventfd_read(queue.err_fd)
			break
		except BlockingIOError:
			assert time.monotonic() < deadline, "SET_VRING_ERR's descriptor was not signalled"
			time.sleep(0.02)
	a.close()
	again, b = lan.pair(Options(packed=packed))
	pass_frames(again, b, frames.BROADCAST, 4)
	assert lan.server.broken("interfaces", "a-net", 1) is None


def test_guest_that_rewrites_its_ring_all_the_time(lan):
	"""A storm of random descriptors and indices on one interface, frames between two others meanwhile."""
	generator = random.Random(4)
	b, c = lan.plug("b"), lan.plug("c")
	c.fill_receive(64)
	warm(b, c)
	for _ in range(12):
		with NetDevice(lan.server.path("a-net.sock"), Options(packed=generator.random() < 0.5)) as a:
			queue = a.transmit_queue()
			for _ in range(300):
				position = generator.randrange(queue.size)
				address = generator.choice([a.memory.regions[0].guest_address, a.memory.hole(), 0, generator.getrandbits(64)])
				queue.write_descriptor(position, address, generator.choice([0, 11, 64, 4096, 0xffffffff]),
						       generator.getrandbits(16), generator.getrandbits(16))
				if not queue.packed:
					queue.write_avail(position, generator.randrange(queue.size + 2))
					queue.write_avail_idx(generator.choice([1, position, queue.size, generator.getrandbits(16)]))
				queue.kick(force=True)
			sent = frames.plain(MAC["c"], MAC["b"], 777)
			b.send(sent)
			while c.receive()[1] != sent:	# what the storm sends may be valid by chance
				c.fill_receive(1)
		while not c.silent(0.1):
			pass
		c.fill_receive(64 - len(c.receive_queue().outstanding) // 2)
