# SPDX-License-Identifier: BSD-3-Clause
"""
The daemon is killed at random moments under a native client with requests in flight: no request is lost, none completes
twice, none is acknowledged before it is done (see crash_client.py for what is checked).

SIDECORE_KILLS tells how many times in each form of ring; SIDECORE_SEED repeats a run's choices (not its timing).
"""
import os
import time

import pytest

from .crash_client import CrashClient, IntegrityError, create_image, sector_of
from .devices import S_OK, Options

KILLS = int(os.environ.get("SIDECORE_KILLS", 13))
SEED = int(os.environ.get("SIDECORE_SEED", time.time_ns() % 1000000))

FORMS = {
	"split": {},
	"split-event-indirect": {"event_idx": True, "indirect": True, "queues": 2},
	"packed": {"packed": True},
	"packed-event-indirect": {"packed": True, "event_idx": True, "indirect": True, "queues": 2},
}


@pytest.fixture
def crashing(serve, tmp_path):
	image = create_image(tmp_path / "disk.raw")
	server = serve(networks=(), disks={"disk": (f"type: file, path: {image}", "queues: 2")})
	return server, image


@pytest.mark.deadline(60 + 2 * KILLS)
@pytest.mark.parametrize("form", FORMS)
def test_killed_at_random_moments(crashing, form):
	server, image = crashing
	with CrashClient(server.path("disk.sock"), image, Options(**FORMS[form]), seed=SEED) as client:
		client.fill()
		caught = sum(bool(client.survive(server)) for _ in range(KILLS))
		client.settle()
	print(f"seed {SEED}: {KILLS} kills, {caught} with requests in flight; {client.replayed} of {client.submitted} requests"
	      f" were in flight at a kill")
	# Or the test would not have tested anything.
	assert caught > KILLS // 4


def test_the_oracle_sees_a_lost_write(crashing):
	"""An acknowledged write that is taken back behind the daemon's back is found by the check of the image."""
	server, image = crashing
	with CrashClient(server.path("disk.sock"), image, seed=SEED) as client:
		client.fill()
		client.work(0.05)
		client.drain()
		block = max(range(client.blocks), key=lambda block: client.numbers[block])
		assert client.numbers[block] and client.check_image("image") is None
		before = bytes(client.read(block * 16, 512).data)
		for content in (sector_of(block, 0), sector_of(block, client.numbers[block] + 1), before[:496] + bytes(16)):
			with open(image, "r+b", buffering=0) as file:
				file.seek(block * client.block_size)
				file.write(content)
			with pytest.raises(IntegrityError):
				client.check_image("image")
			with pytest.raises(IntegrityError):
				client.settle()
		assert client.write(block * 16, before).status == S_OK
