# SPDX-License-Identifier: BSD-3-Clause
"""
sidecore bench against emulated devices: content is verified, nothing is lost, and what the design promises holds: in
steady state the daemon receives no message for a request, a frame or an interrupt of NVMe and igb, and one for each
interrupt of e1000e. Messages are counted by the daemon, at two looks in the middle of a load.
"""
import json
import subprocess
import time

import pytest

from . import server
from .server import Server, configuration

# Two busy programs each; what they do in their time is judged.
pytestmark = [pytest.mark.skipif(bool(server.why_missing()), reason=str(server.why_missing())), pytest.mark.alone]

MACS = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
DISK = {"disk": ("type: ram, size: 64M", "model: nvme")}


def cards(*models):
	"""
	A configuration with interfaces a and b; a model may have more behind a comma, as "igb, doorbells: posted". The
	switch waits for a receiver as long as a busy machine makes it slow.
	"""
	text = configuration({name: f"model: {model}" for name, model in zip("ab", models)})
	return text.replace("uplink: { type: none }", "uplink: { type: none }\n    patience: 5s")


def start(*arguments):
	return subprocess.Popen([server.binary(), "bench", *map(str, arguments), "--json"], stdout=subprocess.PIPE,
				stderr=subprocess.PIPE, text=True)


def finish(process):
	output, errors = process.communicate(timeout=90)
	assert process.returncode == 0, errors or output
	return json.loads(output)


def net(running, *models):
	arguments = ["net", "--mode", "forward"]
	for name, model, mac in zip("ab", models, MACS):
		arguments += ["--socket", running.path(f"{name}.sock"), "--device", model, "--mac", mac]
	return arguments


def block(running, *more):
	return ["block", "--socket", running.path("disk.sock"), "--device", "nvme", *more]


def messages(running):
	"""Of all devices: messages, interrupts, and what passed."""
	status = running.status()
	devices = list(status["interfaces"].values()) + list(status["disks"].values())
	return {
		"messages": sum(device["messages"] for device in devices),
		"interrupts": sum(device["pci"]["interrupts"] for device in devices),
		"operations": sum(device.get("in_frames", 0) + device.get("reads", 0) for device in devices),
	}


def steady(running, arguments):
	"""The difference of messages() over a second in the middle of a load, which must end well."""
	process = start(*arguments, "--interrupts", "--warm-up", 0, "--seconds", 3)
	try:
		deadline = time.monotonic() + 20
		while messages(running)["operations"] == 0:
			assert process.poll() is None and time.monotonic() < deadline, process.communicate()
			time.sleep(0.05)
		time.sleep(0.3)
		before = messages(running)
		time.sleep(1)
		after = messages(running)
		finish(process)
	finally:
		process.kill()
	return {key: after[key] - before[key] for key in before}


@pytest.mark.parametrize("queues,size,depth", [(1, 512, 1), (3, 4096, 16), (1, 8192, 8), (2, 65536, 8)])
@pytest.mark.parametrize("doorbells", ["mapped", "trapped", "posted"])
def test_nvme_returns_what_was_written(doorbells, queues, size, depth):
	disk = {"disk": ("type: ram, size: 64M", "model: nvme" + (", doorbells: posted" if doorbells == "posted" else ""))}
	with Server(configuration(disks=disk)) as running:
		load = block(running, "--verify", "--read-percent", 50, "--span", f"{size // 4}K", "--queues", queues, "--block-size",
			     size, "--depth", depth, "--seconds", 1, "--warm-up", 0)
		result = finish(start(*load, *(["--trapped"] if doorbells == "trapped" else [])))
		assert result["verified"] > 0 and result["errors"] == 0 and result["mismatches"] == 0
		assert (result["kicks"] > 0) == (doorbells != "mapped")


@pytest.mark.parametrize("size", [64, 1518, 9000])
@pytest.mark.parametrize("models", [("igb", "igb"), ("igb", "e1000e"), ("e1000e", "virtio"), ("virtio", "igb")])
def test_frames_arrive_whole_and_in_order(models, size):
	with Server(cards(*models)) as running:
		result = finish(start(*net(running, *models), "--both", "--size", size, "--window", 16, "--seconds", 0.3))
		assert result["checked"] > 0 and result["corrupt"] == 0 and result["reordered"] == 0
		assert result["lost"] == 0 and result["frames"] > 0


@pytest.mark.parametrize("models", [("e1000", "e1000"), ("e1000", "virtio")])
def test_cards_without_mapped_doorbells(models):
	"""Receive buffers come by message, so that a slow control thread may cost frames: few at a time."""
	with Server(cards(*models)) as running:
		result = finish(start(*net(running, *models), "--both", "--window", 16, "--batch", 8, "--seconds", 0.3))
		assert result["checked"] > 0 and result["corrupt"] == 0 and result["reordered"] == 0 and result["kicks"] > 0


def test_e1000_with_mapped_doorbells():
	"""If the operator wants it: no message for a frame, and none is lost."""
	with Server(cards("e1000, doorbells: mapped", "e1000, doorbells: mapped")) as running:
		result = finish(start(*net(running, "e1000", "e1000"), "--both", "--window", 16, "--seconds", 0.3))
		assert result["checked"] > 0 and result["corrupt"] == 0 and result["reordered"] == 0
		assert result["lost"] == 0 and result["kicks"] == 0


@pytest.mark.parametrize("models", [("igb", "virtio"), ("virtio", "igb"), ("e1000e", "e1000e"), ("e1000", "virtio")])
def test_long_segments_cross(models):
	"""Whole to a virtio card, cut to an Intel one, of which the pieces make the same frame."""
	with Server(cards(*models)) as running:
		result = finish(start(*net(running, *models), "--gso", "--window", 4, "--batch", 2, "--seconds", 0.3))
		assert result["frames"] > 0 and result["checked"] > 0 and result["corrupt"] == 0 and result["reordered"] == 0


@pytest.mark.parametrize("sender", ["virtio", "igb"])
def test_long_segments_come_coalesced(sender):
	"""Three packets each, of 18 segments in 16 descriptors; to a driver that did not ask for it, 45."""
	for option, packets in (("", 45), (", receive_coalescing: true", 3)):
		with Server(cards(sender, "igb" + option)) as running:
			result = finish(start(*net(running, sender, "igb"), "--gso", "--window", 4, "--batch", 2, "--seconds", 0.3))
			assert result["frames"] > 0 and result["checked"] > 0 and result["corrupt"] == 0 and result["reordered"] == 0
			card = running.status()["interfaces"]["b"]
			# And those by which the cards were learned; a ring that is nearly empty gets shorter packets.
			assert packets <= card["out_frames"] / card["segmented"] < packets * 1.2, card
			assert (card["coalesced"] > 0) == (packets == 3)
			# Flooded ones wait for nobody.
			assert sum(card["drops"].values()) < 10 and set(card["drops"]) <= {"full"}, card["drops"]


@pytest.mark.parametrize("depth", [1, 32])
def test_nvme_is_silent_in_steady_state(depth):
	with Server(configuration(disks=DISK)) as running:
		change = steady(running, block(running, "--depth", depth))
		assert change["operations"] > 20 and change["interrupts"] > 0 and change["messages"] == 0, change


def test_igb_is_silent_in_steady_state():
	with Server(cards("igb", "igb")) as running:
		change = steady(running, [*net(running, "igb", "igb"), "--window", 1, "--batch", 1])
		assert change["operations"] > 20 and change["interrupts"] > 0 and change["messages"] == 0, change


def test_e1000e_sends_one_message_for_each_interrupt():
	with Server(cards("e1000e", "e1000e")) as running:
		change = steady(running, [*net(running, "e1000e", "e1000e"), "--window", 1, "--batch", 1])
		# The two counters are not read at the same moment: an interrupt or two may be under way at either look.
		assert change["operations"] > 20 and abs(change["messages"] - change["interrupts"]) <= 8, change
