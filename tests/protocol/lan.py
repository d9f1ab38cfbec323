# SPDX-License-Identifier: BSD-3-Clause
"""A network of the daemon and the guests that a test plugs in."""
import time

from . import frames
from .devices import GSO_NONE, NetDevice, Options

MAC = {name: frames.mac(f"52:54:00:00:00:0{number}") for number, name in enumerate("abc", 1)}


class Lan:
	"""A daemon with three interfaces on one network, and the devices that a test plugs in."""

	def __init__(self, server):
		self.server = server
		self.devices = []

	def plug(self, name, options=None, **choices):
		device = NetDevice(self.server.path(f"{name}-net.sock"), options or Options(**choices))
		self.devices.append(device)
		return device

	def pair(self, options):
		a, b = self.plug("a", options), self.plug("b", options)
		for device in (a, b):
			device.fill_receive(32 if options.queue_size >= 128 else 24)
		warm(a, b)
		warm(b, a)
		return a, b

	def close(self):
		for device in self.devices:
			device.close()


def warm(source, *targets):
	"""
	A ring starts upon a kick, that is some time after it: send until the first frame arrives, and throw away what
	was sent for that. Needs a few receive buffers.
	"""
	probe = frames.ethernet(frames.BROADCAST, frames.mac("02:00:00:00:00:99"), 0x88b6, bytes(50))
	for target in targets:
		deadline = time.monotonic() + 10
		while True:
			source.send(probe)
			if any(not target.silent(0.03, pair) for pair in range(target.options.queues)):
				break
			assert time.monotonic() < deadline, "no frame arrives"
	for target in targets:
		while any(not target.silent(0.02, pair) for pair in range(target.options.queues)):
			pass


def pass_frames(source, target, destination, count=8, size=200, refill=True):
	"""Send @count different frames one by one and see each arrive, unchanged and alone."""
	for number in range(count):
		sent = frames.plain(destination, MAC["a"], size + number * 13 % 1000, fill=number)
		source.send(sent)
		header, frame = target.receive()
		assert frame == sent
		assert header.gso_type == GSO_NONE and header.num_buffers == 1
		if refill:
			target.fill_receive(1)


def neighbours_work(lan):
	"""Two more interfaces, plugged in anew: frames cross between them."""
	for device in lan.devices[1:]:
		device.close()
	del lan.devices[1:]
	b, c = lan.plug("b"), lan.plug("c")
	c.fill_receive(32)
	warm(b, c)
	pass_frames(b, c, frames.BROADCAST, 4)
