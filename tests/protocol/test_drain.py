# SPDX-License-Identifier: BSD-3-Clause
"""
GET_VRING_BASE drains: its reply comes when all that was taken from the ring is answered, and from then on the device
writes nothing. The disk is an NBD server that takes its time.
"""
import os
import select
import subprocess
import time

import pytest

from . import frames
from .devices import S_OK, T_IN, T_OUT, BlockDevice, NetDevice, Options
from .dirty_log import DirtyLog, Logged
from .lan import MAC, warm
from .vhost_user import VRING_STATE, Request

DELAY = 0.8	# seconds; a busy machine must not take that long for a few messages
REQUESTS = 8
LENGTH = 4096


class SlowDisk(Logged, BlockDevice):
	pass


@pytest.fixture
def slow(serve, tmp_path):
	"""slow(**options): a disk whose requests take DELAY each, all at the same time."""
	address = str(tmp_path / "nbd")
	process = subprocess.Popen(["nbdkit", "-f", "--exit-with-parent", "--threads=32", "-U", address,
				    "--filter=delay", "memory", "16M", f"delay-read={int(DELAY * 1000)}ms",
				    f"delay-write={int(DELAY * 1000)}ms"])
	devices = []
	while not os.path.exists(address):
		assert process.poll() is None, "nbdkit ended"
		time.sleep(0.02)

	def plug(**options):
		server = serve(networks=(), disks={
			"slow": (f'type: nbd, uri: "nbd+unix:///?socket={address}"', "queues: 2"),
			"neighbour": "type: ram, size: 1M",
		})
		devices.append(SlowDisk(server.path("slow.sock"), Options(queues=2, **options)))
		devices.append(BlockDevice(server.path("neighbour.sock")))
		return devices

	yield plug
	for device in devices:
		device.close()
	process.kill()	# it would wait for the daemon to leave
	process.wait()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("logging", [False, True], ids=["plain", "logging"])
def test_get_vring_base_waits_for_requests_in_flight(slow, packed, logging):
	device, neighbour = slow(packed=packed)
	log = DirtyLog(device.memory)
	if logging:
		device.start_logging(log)
	for number in range(REQUESTS):
		device.submit(T_IN, 8 * number, into=LENGTH, kick=False)
	device.publish()
	other = device.submit(T_OUT, 0, out=os.urandom(LENGTH), queue=1)
	time.sleep(DELAY / 8)		# they are taken now, and with the server
	assert not device.queues[0].collect(), "the disk is not slow"

	base = device.connection.get_vring_base(0)
	at_reply = device.memory.device_wrote()
	marked = log.take()
	done = device.queues[0].collect()
	assert len(done) == REQUESTS, "the reply came before the answers"
	for used in done:
		assert device.finish((0, used.identity), used.length).status == S_OK
	if logging:
		assert at_reply <= marked
	# All that was made available was taken and used: the base is behind it. A read takes three descriptors.
	position = 3 * REQUESTS | 1 << 15
	assert base == (position | position << 16 if packed else REQUESTS)
	assert device.complete(1)[other].status == S_OK, "another queue was stopped, too"

	# A stopped queue takes nothing, though there is more and kicks come.
	device.memory.device_wrote()
	late = device.submit(T_IN, 0, into=LENGTH)
	device.queues[0].kick(force=True)
	time.sleep(1.5 * DELAY)
	assert not device.memory.device_wrote()

	# It goes on from where it was.
	device.start_queue(device.queues[0], base)
	device.queues[0].kick(force=True)
	assert device.complete(0)[late].status == S_OK
	assert neighbour.write(0, bytes(512)).status == S_OK
	log.close()


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_bases_are_known_after_a_reset(serve, packed):
	"""QEMU 7.2 stops network cards by SET_STATUS 0, and only then asks where their rings are to go on."""
	server = serve(interfaces=["a-net", "b-net"])
	options = Options(packed=packed, status=True, layout="together")
	with NetDevice(server.path("a-net.sock"), options) as a, NetDevice(server.path("b-net.sock"), options) as b:
		a.fill_receive(8)
		b.fill_receive(8)
		warm(b, a)
		warm(a, b)
		a.connection.set_status(0)
		bases = a.stop_queues()
		assert 0 not in bases
		a.negotiate()
		a.start_queues(bases)
		warm(b, a)
		warm(a, b)


def test_addresses_of_a_stopped_card_are_forgotten(lan):
	"""A guest that has moved is reached at its new place at once, not when it has sent from there."""
	a, b, c = (lan.plug(name) for name in "abc")
	for device in (a, b, c):
		device.fill_receive(24)
	warm(a, b, c)
	b.send(frames.plain(frames.BROADCAST, MAC["b"], 60))
	a.receive()
	c.receive()
	to_b = frames.plain(MAC["b"], MAC["a"], 60, fill=1)
	a.send(to_b)
	assert b.receive()[1] == to_b and c.silent(0.1), "the address was not learned"
	b.stop_queues()
	a.send(to_b)
	assert c.receive()[1] == to_b


def test_a_drain_does_not_delay_other_disks(slow):
	device, neighbour = slow()
	for number in range(REQUESTS):
		device.submit(T_IN, 8 * number, into=LENGTH, kick=False)
	device.publish()
	time.sleep(DELAY / 8)
	device.connection.send(Request.GET_VRING_BASE, VRING_STATE.pack(0, 0))	# its reply is not awaited
	started, count = time.monotonic(), 0
	while time.monotonic() - started < DELAY / 2:
		assert neighbour.read(0, 512).status == S_OK
		count += 1
	assert count > 20, "the neighbour waited with it"
	assert not select.select([device.connection.sock], [], [], 0)[0], "the reply did not wait"
	device.connection.reply_to(Request.GET_VRING_BASE).close()
	assert len(device.queues[0].collect()) == REQUESTS
