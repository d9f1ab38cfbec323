# SPDX-License-Identifier: BSD-3-Clause
"""
A restart of the daemon in place: clients of emulated devices keep their connection and find their device as it was.

The clients here are the drivers of emulated.py. That real drivers do not notice is tests/guest/test_restart.py's.
"""
import os
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from . import emulated, server as daemon
from .emulated import DATA, MEGABYTE, PAGE, Card, Nvme, command, wait_for
from .vfio_user import (ACCESS, CONFIG_REGION, DATA_EVENTFD, DATA_NONE, INTX, MASK, MSIX, TRIGGER, UNMASK, Closed, Command, Connection,
			eventfds, signalled)
from .vhost_user import Closed as FrontEndClosed, Connection as FrontEnd

CARDS = {"igb-net": "model: igb", "e1000e-net": "model: e1000e", "posted-net": "model: igb, doorbells: posted",
	 "e1000-net": "model: e1000", "v-net": ""}
MODELS = {"igb-net": "igb", "e1000e-net": "e1000e", "posted-net": "igb", "e1000-net": "e1000"}
BROADCAST = b"\xff" * 6

ICR, ICS, IMS, IMC = 0xc0, 0xc8, 0xd0, 0xd8
GPTC = 0x4080
# Registers that change when they are read, or by themselves: causes, statistics, semaphores, time.
RESTLESS = (range(0xc0, 0xc4), range(0x1580, 0x1584), range(0x4000, 0x4200), range(0x5b50, 0x5b54), range(0xb600, 0xb620))


class Restarted(daemon.Server):
	"""A daemon with a file as its disk, and restarts."""

	backend = None		# of another disk

	def __init__(self, **keywords):
		self.image = f"/tmp/sidecore-restart-{os.getpid()}-{id(self)}.img"
		with open(self.image, "wb") as image:
			image.truncate(16 * MEGABYTE)
		super().__init__(self.text(**keywords))

	def text(self, cards=None, disk="model: nvme, queues: 4", sidecores=1, image=None, backend=None):
		backend = backend or self.backend or f"type: file, path: {image or self.image}"
		disks = {"n-disk": (backend, disk)} if disk else None
		return daemon.configuration(interfaces=CARDS if cards is None else cards, disks=disks, sidecores=sidecores)

	def configure(self, **keywords):
		(self.directory / "config.yaml").write_text(self.text(**keywords))

	def restart(self):
		"""By the command, which waits until the daemon serves again. Return: clients that it has taken over."""
		done = subprocess.run([daemon.binary().resolve(), "restart", "-c", self.path("ctl.sock")], capture_output=True,
				      text=True, timeout=60)
		assert done.returncode == 0, done.stderr + self.tail()
		return int(done.stdout.split(";")[1].split()[0])

	def logged(self, text):
		return text in self.log.read_text(errors="replace")

	def attempts(self):
		"""Starts that have failed while clients waited."""
		return self.log.read_text(errors="replace").count("starting again in 1 s")

	def __exit__(self, *arguments):
		super().__exit__(*arguments)
		os.unlink(self.image)


def asked(guest):
	"""A question that waits for whoever serves it. Return: what takes the answer."""
	number = guest.connection.send(Command.REGION_READ, ACCESS.pack(8, 0, 4))
	return lambda: guest.connection.reply_to(Command.REGION_READ, number)


@pytest.fixture
def server():
	with Restarted() as running:
		yield running


def registers(guest, size=0x20000):
	"""All of BAR 0 that a look does not change, and the configuration space."""
	bar = b"".join(guest.connection.read(0, offset, PAGE) for offset in range(0, size, PAGE))
	words = {offset: bar[offset:offset + 4] for offset in range(0, size, 4)
		 if not any(offset in restless for restless in RESTLESS)}
	return words, guest.connection.read(CONFIG_REGION, 0, 256)


def frame(number, length=200):
	return BROADCAST + struct.pack("!HI", 0x5254, number) + b"\x88\xb5" + struct.pack("!I", number) + bytes(length - 18)


# -- Intel's cards

@pytest.mark.parametrize("name", MODELS)
def test_card_is_as_it_was(server, name):
	card = Card(server.path(name + ".sock"), MODELS[name])
	other_name = next(other for other in MODELS if other != name)
	other = Card(server.path(other_name + ".sock"), MODELS[other_name])
	for offset, value in ((0x38, 0x8100), (0x5200, 0x12345678), (0x5600, 0x9abcdef0), (0x5480, 0x11223344), (0xc4, 500)):
		card.write(offset, value)
	for number in range(5):
		card.send(frame(number))
		other.expect(frame(number))
	registers(card)
	before = registers(card)
	card.send(frame(5))
	card.send(frame(6))
	assert server.restart() == 2
	assert card.read(GPTC) == 2
	after = registers(card)
	# The head and tail have moved, by two frames that were sent after the first look.
	changed = {offset for offset in before[0] if before[0][offset] != after[0][offset]}
	assert changed <= {emulated.TRANSMIT + emulated.HEAD, emulated.TRANSMIT + emulated.TAIL, 0xe010, 0xe018}
	assert before[1] == after[1]
	other.expect(frame(5))
	other.expect(frame(6))
	for number in range(10, 100):		# once around the rings
		card.send(frame(number))
		other.expect(frame(number))
		other.send(frame(number + 1000))
		card.expect(frame(number + 1000))
	status = server.status()["interfaces"][name]
	assert status["connected"] and status["refused"] == 0 and status["pci"]["fault"] is None
	card.close()
	other.close()


def test_frames_come_once_and_in_order(server):
	"""
	They are posted while the daemon restarts, and twice more. What is sent in the moment between the two daemons, when the
	one card is there and the other is not, is lost, as it would be by a switch; nothing comes twice.
	"""
	sender, receiver = Card(server.path("igb-net.sock"), "igb", size=8 * MEGABYTE), Card(server.path("e1000e-net.sock"), "e1000e")
	window = sender.open_window()
	stop = threading.Event()

	def restart():
		for _ in range(2):
			assert server.restart() == 2
			time.sleep(0.05)
		stop.set()

	thread = threading.Thread(target=restart)
	thread.start()
	posted, seen, count, last = 0, -1, 0, time.monotonic()
	while not stop.is_set() or seen < posted - 1 and time.monotonic() - last < 0.5:
		done = struct.unpack("<I", sender.peek(emulated.TX_RING + 16 * ((posted - 32) % sender.count) + 12, 4))[0]
		if not stop.is_set() and (posted < 32 or done & 1) and posted - seen <= 32:
			slot = posted % sender.count
			sender.poke(0x400000 + PAGE * slot, frame(posted))
			sender.poke(emulated.TX_RING + 16 * slot, struct.pack("<QII", 0x400000 + PAGE * slot,
									       200 | emulated.EOP | emulated.RS, 0))
			posted += 1
			window.store(emulated.TRANSMIT + emulated.TAIL, posted % sender.count)
		received = receiver.received()
		if received:
			number = struct.unpack("!I", received[14:18])[0]
			assert seen < number < posted and received == frame(number)
			seen, count, last = number, count + 1, time.monotonic()
		elif time.monotonic() - last > 0.3:
			seen = posted - 1		# lost
	thread.join()
	assert count > 100 and posted - count <= 2 * 64, f"{count} of {posted}"
	sender.close()
	receiver.close()


def test_interrupts(server):
	"""A pin that is up stays up, and is told once more when it is unmasked; vectors keep their files."""
	card = Card(server.path("e1000-net.sock"), "e1000")
	pin, = eventfds(1)
	card.connection.set_irqs(DATA_EVENTFD | TRIGGER, INTX, fds=[pin])
	card.read(ICR)
	card.write(IMS, 1 << 2)
	card.write(ICS, 1 << 2)
	assert signalled(pin, 1)
	assert server.restart() == 1
	assert not signalled(pin, 0.2)		# masked by the first one
	card.connection.set_irqs(DATA_NONE | UNMASK, INTX)
	assert signalled(pin, 1)
	assert server.restart() == 1
	assert card.read(ICR) & 1 << 2
	card.connection.set_irqs(DATA_NONE | UNMASK, INTX)
	assert not signalled(pin, 0.2)
	card.close()
	disk = Nvme(server.path("n-disk.sock"))
	vectors = eventfds(2)
	disk.connection.set_irqs(DATA_EVENTFD | TRIGGER, MSIX, 0, 2, fds=vectors)
	assert server.restart() == 1
	disk.admin.run(command(emulated.IDENTIFY, prp1=DATA, dw10=1))
	assert signalled(vectors[0], 1) and not signalled(vectors[1])
	disk.close()


def test_pin_masked_by_eventfd(server):
	"""Signals that the daemon before has seen mask nothing now."""
	card = Card(server.path("e1000-net.sock"), "e1000")
	pin, mask, unmask = eventfds(3)
	card.connection.set_irqs(DATA_EVENTFD | TRIGGER, INTX, fds=[pin])
	card.connection.set_irqs(DATA_EVENTFD | MASK, INTX, fds=[mask])
	card.connection.set_irqs(DATA_EVENTFD | UNMASK, INTX, fds=[unmask])
	os.eventfd_write(mask, 1)
	time.sleep(0.1)
	os.eventfd_write(unmask, 1)
	time.sleep(0.1)
	assert server.restart() == 1
	card.read(ICR)
	card.write(IMS, 1 << 2)
	card.write(ICS, 1 << 2)
	assert signalled(pin, 1)
	os.eventfd_write(mask, 1)
	time.sleep(0.1)
	os.eventfd_write(unmask, 1)
	assert signalled(pin, 1)
	card.close()


# -- NVMe

def test_controller_is_as_it_was(server):
	disk = Nvme(server.path("n-disk.sock"))
	queue = disk.create(2)
	for number in range(40):		# once around
		disk.poke(DATA, struct.pack("<I", number) * 1024)
		assert queue.run(command(emulated.WRITE, 1, DATA, dw10=8 * number, dw12=7)) == 0
	assert disk.admin.run(command(emulated.SET_FEATURES, dw10=0x0b, dw11=1 << 8)) == 0	# namespace attributes
	assert disk.admin.run(command(0x7f)) == emulated.INVALID_OPCODE
	waiting = [disk.admin.add(command(emulated.EVENT)) for _ in range(2)]
	assert disk.admin.run(command(emulated.GET_LOG, prp1=DATA, dw10=15 << 16 | 1)) == 0
	log = disk.peek(DATA, 64)
	before = registers(disk, PAGE)
	assert server.restart() == 1
	assert registers(disk, PAGE) == before
	for number in range(40):
		assert queue.run(command(emulated.READ, 1, DATA, dw10=8 * number, dw12=7)) == 0
		assert disk.peek(DATA, PAGE) == struct.pack("<I", number) * 1024
	assert disk.admin.run(command(emulated.GET_LOG, prp1=DATA, dw10=15 << 16 | 1)) == 0
	assert disk.peek(DATA, 64) == log
	assert disk.create(1)
	os.truncate(server.image, 32 * MEGABYTE)
	assert server.control(command="resize", disk="n-disk")["size"] == 32 * MEGABYTE
	event = wait_for(disk.admin.take, "the event")
	assert event[0] in waiting and event[2] & 0xff == 2
	assert disk.untouched()
	disk.close()


def test_requests_are_done_once(server):
	"""Writes to one block after another, and restarts meanwhile: each command is completed once, and its data are there."""
	disk = Nvme(server.path("n-disk.sock"), size=8 * MEGABYTE)
	window = disk.open_window()
	queue = disk.create(1)
	stop = threading.Event()

	def restart():
		for _ in range(2):
			assert server.restart() == 1
			time.sleep(0.05)
		stop.set()

	thread = threading.Thread(target=restart)
	thread.start()
	flying, total = {}, 0
	while not stop.is_set() or flying:
		# Commands complete in any order: no buffer is used again while its last one is under way.
		while not stop.is_set() and len(flying) < 31 and total - 64 not in flying.values():
			block = total % 1024
			buffer = 0x400000 + PAGE * (total % 64)
			disk.poke(buffer, struct.pack("<QQ", total, block) * 256)
			flying[queue.add(command(emulated.WRITE, 1, buffer, dw10=8 * block, dw12=7), ring=False)] = total
			window.store(0x1000 + 64, queue.tail)
			total += 1
		done = queue.take()
		if done:
			assert done[1] == 0
			del flying[done[0]]		# KeyError: it was completed before
			window.store(0x1020 + 64, queue.head)
	thread.join()
	assert total > 100
	time.sleep(0.1)
	assert queue.take() is None
	with open(server.image, "rb") as image:
		for number in range(max(0, total - 1024), total):
			image.seek(PAGE * (number % 1024))
			assert struct.unpack("<QQ", image.read(16)) == (number, number % 1024)
	disk.close()


# -- the stream of messages

def test_message_in_halves(server):
	card = Card(server.path("igb-net.sock"), "igb")
	text = card.connection.pack(Command.REGION_READ, ACCESS.pack(8, 0, 4))
	for cut in (1, 16, len(text) - 1):
		text = card.connection.pack(Command.REGION_READ, ACCESS.pack(8, 0, 4))
		card.connection.send_raw(text[:cut])
		time.sleep(0.05)
		assert server.restart() == 1
		card.connection.send_raw(text[cut:])
		card.connection.reply_to(Command.REGION_READ)
	card.close()


def test_file_of_half_a_message(server):
	"""It came with the first bytes, to the daemon before."""
	disk = Nvme(server.path("n-disk.sock"))
	vector, = eventfds(1)
	text = disk.connection.pack(Command.DEVICE_SET_IRQS, struct.pack("<IIIII", 20, DATA_EVENTFD | TRIGGER, MSIX, 0, 1))
	disk.connection.send_raw(text[:20], [vector])
	time.sleep(0.05)
	assert server.restart() == 1
	disk.connection.send_raw(text[20:])
	disk.connection.reply_to(Command.DEVICE_SET_IRQS)
	disk.admin.run(command(emulated.IDENTIFY, prp1=DATA, dw10=1))
	assert signalled(vector, 1)
	disk.close()


def test_messages_wait(server):
	"""Sent without a pause while the daemon restarts: each is answered once and in order."""
	connection = Connection(server.path("igb-net.sock"), timeout=20)
	thread = threading.Thread(target=server.restart)
	thread.start()
	waiting = []
	while thread.is_alive() or waiting:
		while thread.is_alive() and len(waiting) < 64:
			waiting.append(connection.send(Command.REGION_READ, ACCESS.pack(8, 0, 4)))
		connection.reply_to(Command.REGION_READ, waiting.pop(0))
	thread.join()
	assert connection.silent()
	connection.close()


def test_client_that_takes_no_answer(server):
	"""It is let go after a second; its neighbour stays."""
	deaf = Connection(server.path("igb-net.sock"))
	neighbour = Card(server.path("e1000-net.sock"), "e1000")
	deaf.sock.settimeout(0.5)
	text = b"".join(deaf.pack(Command.REGION_READ, ACCESS.pack(0, 0, PAGE)) for _ in range(1000))
	try:
		for _ in range(100):
			deaf.sock.sendall(text)
	except TimeoutError:
		pass
	assert server.restart() == 1
	assert neighbour.read(8)
	assert deaf.closed()
	deaf.close()
	neighbour.close()


# -- what does not fit

@pytest.mark.parametrize("change, said", [
	({"cards": {}}, "its client is let go: the configuration has no such device"),
	({"cards": {"igb-net": "model: e1000e"}}, "its client is let go: the configuration has no such device"),
	({"cards": {"igb-net": "model: igb, doorbells: posted"}}, "cannot be served: its doorbells are offered in another way now"),
	({"disk": "model: nvme, queues: 8"}, "cannot be served: it has another number of queues or interrupts now"),
	({"disk": "model: nvme, queues: 4, block_size: 4096"}, "cannot be served: a namespace has blocks of another size now"),
	({"disk": "model: nvme, queues: 4, serial: other"}, "cannot be served: a namespace is another disk now"),
	({"disk": "model: virtio"}, "its client is let go: the configuration has no such device"),
])
def test_other_configuration(server, change, said):
	"""The client of what has changed is let go with a reason, the other one stays."""
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	leaves, stays = (disk, card) if "disk" in change else (card, disk)
	server.configure(**{"cards": {"igb-net": "model: igb"}} | change)
	assert server.restart() == 1
	assert leaves.connection.closed()
	assert stays.read(8) is not None and not server.complaint()
	assert server.logged(said), server.tail()
	if stays is disk:
		assert disk.works()
	leaves.close()
	stays.close()
	if "virtio" not in str(change) and change != {"cards": {}}:
		again = Connection(server.path("n-disk.sock" if "disk" in change else "igb-net.sock"))	# another one may come
		assert again.read32(0, 8) is not None
		again.close()
	server.configure()
	server.restart()


def test_more_sidecores_and_fewer(server):
	"""Queues go where they were, as far as there is such a place."""
	cards = [Card(server.path(name + ".sock"), MODELS[name]) for name in ("igb-net", "e1000e-net")]
	disk = Nvme(server.path("n-disk.sock"))
	queues = [disk.create(number) for number in (1, 2, 3)]
	for number, sidecores in enumerate((2, 1)):
		server.configure(sidecores=sidecores)
		assert server.restart() == 3
		assert len(server.status()["sidecores"]) == sidecores
		for queue in queues:
			assert queue.run(command(emulated.READ, 1, DATA, dw10=0, dw12=7)) == 0
		for sender, receiver in (cards, cards[::-1]):
			sender.send(frame(number))
			receiver.expect(frame(number))
	for guest in (*cards, disk):
		guest.close()


def test_device_that_has_stopped(server):
	"""It is still stopped, and its driver can reset it."""
	card, disk = Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))
	card.write(emulated.TRANSMIT + emulated.BASE, 0x40000000)	# no memory there
	card.post([(emulated.TX_BUFFER, 60 | emulated.EOP, 0)])
	disk.admin.ring(1000)
	for name, kind in (("igb-net", "interfaces"), ("n-disk", "disks")):
		wait_for(lambda: server.status()[kind][name]["pci"]["fault"], "a fault")
	before = server.status()["interfaces"]["igb-net"]["pci"]["faults"]
	assert server.restart() == 2
	for name, kind in (("igb-net", "interfaces"), ("n-disk", "disks")):
		assert server.status()[kind][name]["pci"]["fault"] == "before the daemon was restarted"
	assert server.settled(lambda: server.status()["interfaces"]["igb-net"]["pci"]["faults"], before) == before
	assert disk.read(emulated.CSTS) & emulated.FATAL
	assert disk.works()
	card.reset()
	card.send(frame(1))
	card.close()
	disk.close()


def test_configuration_that_is_wrong(server):
	card = Card(server.path("igb-net.sock"), "igb")
	(server.directory / "config.yaml").write_text("nonsense: 1\n")
	answer = server.control(command="restart")
	assert answer["error"] == "not restarted: the program does not take the configuration as it is now"
	assert card.read(8) and server.status()["taken_over"] == 0
	server.process.send_signal(signal.SIGUSR2)
	time.sleep(0.5)
	assert card.read(8) and server.status()["taken_over"] == 0
	server.configure()
	card.close()


def test_ram_disk_is_not_thrown_away():
	with daemon.Server(daemon.configuration(disks={"n-disk": ("type: ram, size: 16M", "model: nvme")})) as server:
		assert server.control(command="restart") == {"restart": "begun"}
		wait_for(lambda: server.settled(server.process.poll, None) is None and (server.directory / "ctl.sock").exists() and
			 server.log.read_text().count("\nready\n") >= 1 and server.log.read_text().count("ready") >= 2, "a restart")
		disk = Nvme(server.path("n-disk.sock"))
		answer = server.control(command="restart")
		assert answer["error"] == "not restarted: a guest uses disk n-disk of type ram, whose content would be lost"
		assert disk.works()
		disk.close()


def test_by_signal(server):
	card = Card(server.path("igb-net.sock"), "igb")
	server.process.send_signal(signal.SIGUSR2)
	wait_for(lambda: server.logged("client taken over"), "a restart")
	assert card.read(8)
	for _ in range(8):		# in the middle of whatever it does
		server.process.send_signal(signal.SIGUSR2)
		time.sleep(0.03)
		assert card.read(8)
	card.close()


# -- sockets

def test_nobody_is_refused(server):
	"""Who connects in the moment of a restart waits, on sockets of both kinds, and is served."""
	card = Card(server.path("igb-net.sock"), "igb")
	stop, served, failures = threading.Event(), dict.fromkeys(("e1000-net", "v-net"), 0), []

	def connect(name):
		while not stop.is_set():
			try:
				if name == "v-net":
					with FrontEnd(server.path("v-net.sock")) as front_end:
						front_end.get_features()
				else:
					Connection(server.path("e1000-net.sock")).close()
				served[name] += 1
			except (Closed, FrontEndClosed, BrokenPipeError, ConnectionResetError):
				pass		# it was accepted by the daemon that went
			except OSError as error:
				failures.append((name, error))
			time.sleep(0.001)

	threads = [threading.Thread(target=connect, args=(name,)) for name in served]
	inodes = {name: os.stat(server.path(name + ".sock")).st_ino for name in CARDS}
	for thread in threads:
		thread.start()
	try:
		for _ in range(5):
			assert server.restart() >= 1
	finally:
		stop.set()
		for thread in threads:
			thread.join()
	assert not failures and min(served.values()) > 10
	assert inodes == {name: os.stat(server.path(name + ".sock")).st_ino for name in CARDS}
	card.close()


def test_sockets_of_another_configuration(server):
	"""One whose device has gone is removed; one that somebody else has put there is his."""
	os.unlink(server.path("e1000-net.sock"))
	with socket.socket(socket.AF_UNIX) as theirs:
		theirs.bind(server.path("e1000-net.sock"))
		theirs.listen()
		server.configure(cards={"igb-net": "model: igb", "e1000e-net": "model: e1000e, socket: other.sock"})
		server.restart()
		there = {name for name in os.listdir(server.directory) if name.endswith(".sock")}
		assert there == {"igb-net.sock", "other.sock", "n-disk.sock", "ctl.sock", "e1000-net.sock"}
		with socket.socket(socket.AF_UNIX) as client:
			client.connect(server.path("e1000-net.sock"))
			theirs.accept()[0].close()
	os.unlink(server.path("e1000-net.sock"))
	server.configure()
	server.restart()
	for name in MODELS:
		Connection(server.path(name + ".sock")).close()


def test_nothing_is_left_behind(server):
	"""Files and mappings are as many after several restarts as after one."""
	guests = [Card(server.path("igb-net.sock"), "igb"), Nvme(server.path("n-disk.sock"))]
	guests[0].connection.set_irqs(DATA_EVENTFD | TRIGGER, MSIX, 0, 3, fds=eventfds(3))
	assert server.restart() == 2
	time.sleep(0.5)			# threads that closed something have gone
	before = server.descriptors(), server.mappings()
	for _ in range(3):
		assert server.restart() == 2
	assert server.settled(lambda: (server.descriptors(), server.mappings()), before) == before
	for guest in guests:
		guest.close()
