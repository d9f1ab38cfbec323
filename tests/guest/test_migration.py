# SPDX-License-Identifier: BSD-3-Clause
"""
Live migration: a guest moves between two QEMUs, each with a daemon of its own, and back again, while it writes to its
disk and to the network. The daemons share the disk's image ("handover") and join their networks by an uplink; the
partner of the network traffic stays where it is.

SIDECORE_MIGRATIONS tells how often it moves with split rings (5); with packed ones it is half of that.

How the guest's memory moves:
- copied, as between two hosts: with KVM, and wherever SIDECORE_MIGRATION_MEMORY says "copied".
- shared by both QEMUs (x-ignore-shared): under TCG, because copying loses stores of the emulated CPU there on a busy
  machine. With QEMU 7.2's own devices, and no sidecore at all, two of five guests were dead after some tens of moves.
  The messages of a migration are the same, logging included; that what devices write is logged is shown by
  tests/protocol/test_dirty_log.py.
"""
import os
import re
import statistics
import tempfile
import threading
import time

import pytest

from guest import Guest, GuestError, accelerator
from sidecore import Daemon, configuration, require, wait_until

COPIED = os.environ.get("SIDECORE_MIGRATION_MEMORY", "copied" if accelerator()[0] == "kvm" else "shared") == "copied"
MIGRATIONS = int(os.environ.get("SIDECORE_MIGRATIONS", "5"))
MIGRATION_TIMEOUT = 60
DISK_SIZE = 64 << 20
MEMORY = 256  # MiB
MOVING, PARTNER = "10.0.0.1", "10.0.0.2"
F_RING_PACKED = 1 << 34
RECOVERY = 5.0  # the network answers again so many seconds after the new QEMU runs

FIO = ("fio --name=job --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k --size=16M "
       "--verify=crc32c --verify_backlog=256 --verify_fatal=1 --do_verify=1 --time_based --runtime={seconds}")


class Port:
    """
    The agent's socket. Lines that began at the old QEMU end at the new one: @owed is what came of such a line. Nothing
    is let through before the commands under way have been handed over.
    """

    def __init__(self, port):
        self.port, self.tail, self.owed = port, b"", b""
        self.released, self.at_end = threading.Event(), lambda: None

    def recv(self, size):
        data = self.port.recv(size)
        self.released.wait()
        if not data:
            self.at_end()
            return data
        data, self.owed = self.owed + data, b""
        self.tail = (self.tail + data).rpartition(b"\n")[2]
        return data

    def __getattr__(self, name):
        return getattr(self.port, name)


class MovingGuest(Guest):
    """A guest that goes on in another QEMU, with the commands that it runs: successor = guest.migrate(...)."""

    def __init__(self, name, devices, incoming=False, **keywords):
        self._incoming = incoming
        super().__init__(name, devices=[*devices, *(["-incoming", "defer"] if incoming else [])], wait=not incoming,
                         **keywords)

    def _open_socket(self, name):
        port = super()._open_socket(name)
        if name != "agent":
            return port
        port = Port(port)
        if not self._incoming:
            port.released.set()
        return port

    def migrate(self, successor):
        """Moves to @successor, a QEMU that waits. Returns what query-migrate said; this one is gone then."""
        address = f"unix:{self._sockets}/migration"
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 30})
        for guest in (self, successor):
            guest.qmp("migrate-set-capabilities",
                      capabilities=[{"capability": "x-ignore-shared", "state": not COPIED}])
        successor.qmp("migrate-incoming", uri=address)
        self.qmp("migrate", uri=address)
        deadline = time.monotonic() + MIGRATION_TIMEOUT
        while True:
            info = self.qmp("query-migrate")
            if info["status"] == "completed":
                break
            if info["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise GuestError(f"{self.name}: migration {info}{self.tail()}{successor.tail()}")
            time.sleep(0.02)
        # The old one is done when all is sent; whether the new one could make use of it, only that one knows.
        while successor.qmp("query-status")["status"] != "running":
            if time.monotonic() > deadline:
                raise GuestError(f"{self.name}: the successor does not run{successor.tail()}")
            time.sleep(0.02)
        self._hand_over(successor)
        return info

    def _hand_over(self, successor):
        commands = {}

        def take():
            commands.update(self._commands)
            self._commands = {}

        # All that the old QEMU wrote is in its socket; reading ends with its end.
        self._port.at_end = take
        self.process.kill()
        self._reader.join()
        for command in commands.values():
            command._guest = successor
        successor._commands, successor._next = commands, self._next
        successor._port.owed = self._port.tail
        successor._hello.set()
        successor._port.released.set()
        self.kill()


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
    """What the moving guest's memory is made of. All QEMUs must find the same where it is shared."""
    if COPIED:
        yield "memory-backend-memfd,share=on"
        return
    fd = os.memfd_create("guest")
    os.ftruncate(fd, MEMORY << 20)
    yield f"memory-backend-file,share=on,mem-path=/proc/{os.getpid()}/fd/{fd}"
    os.close(fd)


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
