# SPDX-License-Identifier: BSD-3-Clause
"""
Live migration: a guest moves between two QEMUs, each with a daemon of its own, and back again, while it writes to its
disk and to the network. The daemons share the disk's image ("handover") and join their networks by an uplink; the
partner of the network traffic stays where it is.

SIDECORE_MIGRATIONS tells how often it moves with split rings (5); with packed ones it is half of that.

How the guest's memory moves: moving.py.
"""
import os
import re
import statistics
import tempfile
import time

import pytest

from guest import Guest
from moving import COPIED, MEMORY, MovingGuest, memory_backend
from sidecore import Daemon, configuration, require, wait_until

MIGRATIONS = int(os.environ.get("SIDECORE_MIGRATIONS", "5"))
DISK_SIZE = 64 << 20
MOVING, PARTNER = "10.0.0.1", "10.0.0.2"
F_RING_PACKED = 1 << 34
RECOVERY = 5.0  # the network answers again so many seconds after the new QEMU runs

FIO = ("fio --name=job --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k --size=16M "
       "--verify=crc32c --verify_backlog=256 --verify_fatal=1 --do_verify=1 --time_based --runtime={seconds}")


def make_daemon(interfaces, image, uplink):
    """One of the two ends. @uplink: of its network."""
    text = configuration(interfaces=interfaces, disks={"a-disk": f"type: file, path: {image}, handover: true"})
    return Daemon(text.replace("{ type: none }", f"{{ type: stream, {uplink} }}"))


def healthy(daemon):
    status = daemon.status()
    for device in [*status["interfaces"].values(), *status["disks"].values()]:
        assert device["refused"] == 0 and device["log_missed"] == 0, device
    assert not daemon.broken_queues()
    assert daemon.alive()


@pytest.fixture(scope="module", autouse=True)
def program():
    require()


@pytest.fixture
def places(tmp_path):
    """The daemon where the guest starts, with its partner, and the one that it moves to."""
    disk = tmp_path / "disk.raw"
    with open(disk, "wb") as file:
        file.truncate(DISK_SIZE)
    with tempfile.TemporaryDirectory(prefix="sidecore-test-") as folder:
        mac = 'mac: "52:54:00:00:00:01"'
        with make_daemon({"a-net": mac, "b-net": ""}, disk, f"address: {folder}/uplink, listen: true") as first, \
                make_daemon({"a-net": mac}, disk, f"address: {folder}/uplink") as second:
            yield first, second


@pytest.fixture
def backend():
    with memory_backend() as made:
        yield made


def devices(place, options):
    return [*place.nic("a-net", options=options), *place.disk("a-disk", options=options)]


class Ping:
    """The partner asks twenty times a second, without end."""

    INTERVAL = 0.05

    def __init__(self, partner):
        self.command = partner.spawn(f"ping -n -D -O -i {self.INTERVAL} {MOVING}")

    def answers(self):
        return self.command.output.count("bytes from")

    def wait_answer(self, since):
        """Seconds from @since until the next answer."""
        before = self.answers()
        while self.answers() == before:
            assert time.monotonic() - since < RECOVERY, "the guest is not reached at its new place"
            time.sleep(0.01)
        return time.monotonic() - since

    def longest_gap(self):
        """Between two answers, in seconds of the partner."""
        times = [float(stamp) for stamp in re.findall(r"\[([\d.]+)\] \d+ bytes from", self.command.output)]
        return max(later - earlier for earlier, later in zip(times, times[1:]))


@pytest.mark.parametrize("options", ["", "packed=on"], ids=["split", "packed"])
def test_moves_under_load(places, backend, options):
    report = []
    moves = MIGRATIONS if not options else (MIGRATIONS + 1) // 2
    seconds = 5 * moves
    with Guest("b", devices=places[0].nic("b-net"), memory=224) as partner:
        guest = MovingGuest("a", devices(places[0], options), memory=MEMORY, backend=backend)
        try:
            partner.run(f"ip addr add {PARTNER}/24 dev eth0 && ip link set eth0 up")
            guest.run(f"ip addr add {MOVING}/24 dev eth0 && ip link set eth0 up")
            server = partner.spawn("iperf3 -s -1")
            ping = Ping(partner)
            ping.wait_answer(time.monotonic())
            fio = guest.spawn(FIO.format(seconds=seconds), timeout=6 * seconds)
            iperf = guest.spawn(f"iperf3 -c {PARTNER} -t {seconds} -i 1 -f m --forceflush", timeout=3 * seconds)
            iperf.wait_output(r" sec ", timeout=20)
            for kind, name in (("interfaces", "a-net"), ("disks", "a-disk")):
                features = int(places[0].status()[kind][name]["features"], 16)
                assert bool(features & F_RING_PACKED) == bool(options), "the guest has another kind of ring"

            for number in range(1, moves + 1):
                place = places[number % 2]
                successor = MovingGuest("a", devices(place, options), memory=MEMORY, backend=backend,
                                        incoming=True)
                change = place.change()
                try:
                    info = guest.migrate(successor)
                except BaseException:
                    successor.kill()
                    raise
                guest, moved = successor, time.monotonic()
                report.append((info["downtime"], info["total-time"], ping.wait_answer(moved)))
                wait_until(lambda: change("disks", "a-disk", "writes") > 0 or not fio.running, "the disk is written to")
                assert iperf.running and fio.running, f"the load ended early:\n{iperf.output}\n{fio.output}"
                for daemon in places:
                    healthy(daemon)

            result = iperf.wait(3 * seconds + 30)
            assert result.ok, result.output
            rates = [float(rate) for rate in re.findall(r"([\d.]+) Mbits/sec +\d+ +[\d.]+ [KM]?Bytes", result.output)]
            assert rates[-1] > 0, f"the connection stood still after the last move:\n{result.output}"
            assert server.wait(30).ok, server.output
            result = fio.wait(6 * seconds + 30)
            assert result.ok and "err= 0" in result.output, result.output
            ping.command.kill()
            guest.close()
        finally:
            guest.kill()
    downtimes = [downtime for downtime, _, _ in report]
    print(f"\n{len(report)} moves, memory {'copied' if COPIED else 'shared'}:"
          f" downtime {min(downtimes)} to {max(downtimes)} ms, median"
          f" {statistics.median(downtimes):.0f} ms; whole migration"
          f" {statistics.median(total for _, total, _ in report):.0f} ms; longest time without an answer to ping"
          f" {ping.longest_gap():.2f} s; iperf3 {statistics.mean(rates):.0f} Mbit/s")
