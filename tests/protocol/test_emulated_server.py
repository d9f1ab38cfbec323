# SPDX-License-Identifier: BSD-3-Clause
"""The daemon with emulated devices: what status tells of them, link and resize, and that they come and go with it."""
import re
import subprocess

import pytest

from . import server as daemon
from .vfio_user import Connection

CARDS = {"virtio-net": "", "igb-net": "model: igb", "e1000e-net": "model: e1000e, doorbells: posted", "e1000-net": "model: e1000"}
DISKS = {"v-disk": "type: ram, size: 64M", "n-disk": ("type: ram, size: 64M", "model: nvme, serial: sn")}
NAMESPACE = "  - name: n-more\n    controller: n-disk\n    block_size: 4096\n    backend: { type: ram, size: 32M }\n"

# STATUS, link up: bit 1 of the register at 8 (82540EM, 82574L, 82576 data sheets).
STATUS, LINK_UP = 8, 2


@pytest.fixture
def server():
	with daemon.Server(daemon.configuration(interfaces=CARDS, disks=DISKS, extra=NAMESPACE)) as running:
		yield running


def test_models(server):
	status = server.status()
	assert {name: card["model"] for name, card in status["interfaces"].items()} == {
		"virtio-net": "virtio", "igb-net": "igb", "e1000e-net": "e1000e", "e1000-net": "e1000"}
	for name in ("igb-net", "e1000e-net", "e1000-net"):
		card = status["interfaces"][name]
		assert card["queues"] == [] and card["connected"] is False and card["in_frames"] == 0
		assert card["pci"] == {
			"fault": None, "faults": 0, "resets": card["pci"]["resets"], "interrupt": "none", "interrupts": 0,
			"trapped_reads": 0, "trapped_writes": 0,
			"messages": {"region_reads": 0, "region_writes": 0, "interrupts": 0, "memory": 0}}
	assert "pci" not in status["interfaces"]["virtio-net"]
	disks = status["disks"]
	assert (disks["v-disk"]["model"], disks["n-disk"]["model"], disks["n-more"]["model"]) == ("virtio", "nvme", "nvme")
	assert disks["n-disk"]["namespaces"] == ["n-disk", "n-more"] and disks["n-disk"]["controller"] is None
	assert (disks["n-more"]["controller"], disks["n-more"]["namespace"]) == ("n-disk", 2)
	assert (disks["n-more"]["size"], disks["n-more"]["block_size"]) == (32 << 20, 4096)
	assert "socket" not in disks["n-more"]


@pytest.mark.parametrize("name", ["igb-net", "e1000e-net", "e1000-net"])
def test_link(server, name):
	with Connection(server.path(name + ".sock")) as guest:
		before = server.status()["interfaces"][name]
		assert before["connected"] is True
		assert guest.read32(0, STATUS) & LINK_UP
		for state, up in (("down", 0), ("down", 0), ("up", LINK_UP)):
			assert server.control(command="link", interface=name, state=state) == {"interface": name, "link": state}
			assert guest.read32(0, STATUS) & LINK_UP == up
		after = server.status()["interfaces"][name]
		assert after["pci"]["trapped_reads"] - before["pci"]["trapped_reads"] == 4
		assert after["pci"]["messages"]["region_reads"] - before["pci"]["messages"]["region_reads"] == 4
		assert after["messages"] - before["messages"] == 4
	assert server.settled(lambda: server.status()["interfaces"][name]["connected"], False) is False


def test_commands_for_the_other_kind(server):
	answer = server.control(command="link", interface="virtio-net", state="down")
	assert answer == {"error": "the link of virtio-net is up to its virtual machine monitor", "remedy": "use QEMU's command set_link"}
	answer = server.control(command="announce", interface="igb-net")
	assert answer["error"] == "cannot announce igb-net: it is an emulated card (igb)"
	answer = server.control(command="link", interface="none", state="up")
	assert answer["error"] == 'there is no interface "none"'


def test_resize_a_namespace(server):
	assert server.control(command="resize", disk="n-more", size="48M") == {"disk": "n-more", "size": 48 << 20}
	assert server.control(command="resize", disk="n-disk", size="80M") == {"disk": "n-disk", "size": 80 << 20}
	assert server.control(command="resize", disk="n-more", size=(48 << 20) + 512)["error"] == \
		"size must be a multiple of the block size of 4096 bytes"
	disks = server.status()["disks"]
	assert (disks["n-disk"]["size"], disks["n-more"]["size"]) == (80 << 20, 48 << 20)


def test_table(server):
	with Connection(server.path("n-disk.sock")) as guest:
		guest.read32(0, 0)
		result = subprocess.run([daemon.binary().resolve(), "status", "-c", server.path("ctl.sock")], capture_output=True,
					text=True, timeout=20, check=True)
	rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line}
	assert rows["n-more"][1:4] == ["of", "n-disk", "nvme"]
	emulated = re.search(r"^EMULATED.*", result.stdout, re.MULTILINE | re.DOTALL)[0].splitlines()
	assert [line.split()[0] for line in emulated[1:]] == ["igb-net", "e1000e-net", "e1000-net", "n-disk"]
	assert emulated[0].split() == ["EMULATED", "MODEL", "BY", "INTERRUPTS", "MESSAGES", "READS", "WRITES", "RESETS", "FAULTS"]
	assert emulated[4].split()[:3] == ["n-disk", "nvme", "none"] and emulated[4].split()[5] == "1"


def test_stop_with_guests_connected(server):
	"""SIGTERM while each device has a guest: the fixture's end fails when the daemon does not end well."""
	names = ["igb-net", "e1000e-net", "e1000-net", "n-disk"]
	for name in names:
		guest = Connection(server.path(name + ".sock"))
		guest.read32(0, STATUS)
