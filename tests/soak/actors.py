#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The native clients of the soak test, each a process of its own so that none waits for another's interpreter.

    actors.py KIND FOLDER SEED

FOLDER is where the daemon's sockets are. A line "rest" on standard input makes an actor let go of the daemon and print a
JSON object of what it has done and seen since the last time; the next line sets it to work again; end of file ends it. An actor
that sees what must not be prints {"violation": "..."} and ends with status 1.

    probe     one small request at a time on a RAM disk, verified: what the others do must not show in its latency
    mutator   a NIC and a disk whose rings and requests change while they are read, and memory that goes away
    garbage   messages with wrong payloads, sizes, flags and descriptors
    hostile   the same two things done to an emulated disk and an emulated card, over vfio-user
    storm     connections by the hundred: empty, half a message, slow
    resizer   a disk that grows while it is used
    nbd       verified requests on a disk whose server errs, stalls and dies; an error is an answer, a wrong sector is not
    crash     a daemon of its own, killed again and again (protocol/crash_client.py)
"""

import contextlib
import faulthandler
import json
import os
import pathlib
import random
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from protocol import emulated, vfio_user, vhost_user  # noqa: E402
from protocol.crash_client import CrashClient, create_image, sector_of  # noqa: E402
from protocol.devices import S_IOERR, S_OK, T_IN, T_OUT, BlockDevice, NetDevice, NetHeader, Options  # noqa: E402
from protocol.lab import GOOD, close_all, eventfds  # noqa: E402
from protocol.memory import GuestMemory  # noqa: E402
from protocol.server import Server, configuration  # noqa: E402
from protocol.vhost_user import Closed, Connection, Late, Protocol, ProtocolError, pack_table  # noqa: E402

KIBIBYTE, MEGABYTE = 1 << 10, 1 << 20
# What a client that breaks the rules has to expect. A refused connection is not among it: Connection waits 10 s.
EXPECTED = (Closed, ProtocolError, OSError, IndexError, KeyError, MemoryError, struct.error)


class Violation(AssertionError):
    pass


class Actor:
    def __init__(self, folder, seed):
        self.folder = pathlib.Path(folder)
        self.random = random.Random(seed)
        self.done = 0
        self.requests = self.verified = 0   # requests that were answered as they should; bytes that were compared

    def path(self, name):
        return str(self.folder / f"{name}.sock")

    def start(self):
        pass

    def step(self):
        raise NotImplementedError

    def rest(self):
        """Let go of everything that the daemon has for us."""

    def close(self):
        """Leave nothing behind."""

    def good(self, requests, verified):
        self.requests += requests
        self.verified += verified

    def report(self):
        seen = {"done": self.done, "requests": self.requests, "verified": self.verified}
        self.done = self.requests = self.verified = 0
        return seen


class Probe(Actor):
    PACE = 0.004

    def start(self):
        self.disk = BlockDevice(self.path("probe"))
        self.content, self.times, self.own = {}, [], []
        pid, _, _ = struct.unpack("3i", self.disk.connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.tasks = dict.fromkeys([pathlib.Path("/proc/self/schedstat"), *pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")], 0)

    def waited(self):
        """Seconds that we and the daemon's threads have been ready to run and had no CPU: the machine's fault, not the daemon's."""
        for task in self.tasks:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that closed something, and has ended
                self.tasks[task] = int(task.read_text().split()[1])
        return sum(self.tasks.values()) / 1e9

    def step(self):
        block = self.random.randrange(256)
        data = self.content.get(block)
        waited, started = self.waited(), time.perf_counter()
        if data is None or self.random.random() < 0.5:
            data = self.content[block] = self.random.randbytes(4096)
            result, compared = self.disk.write(block * 8, data), 0
        else:
            result, compared = self.disk.read(block * 8, 4096), 4096
            if result.data != data:
                raise Violation(f"block {block} of the probe's disk is not what was written")
        self.times.append(time.perf_counter() - started)
        self.own.append(max(self.times[-1] - (self.waited() - waited), 0))
        if result.status != S_OK:
            raise Violation(f"status {result.status} for the probe")
        self.good(1, compared)
        self.done += 1
        time.sleep(self.PACE)

    def report(self):
        times, own, self.times, self.own = sorted(self.times), sorted(self.own), [], []

        def quantile(share, taken=times):
            return round(taken[min(int(share * len(taken)), len(taken) - 1)] * 1e6) if taken else 0

        return {**super().report(), "p50_us": quantile(0.5), "p99_us": quantile(0.99), "max_us": quantile(1),
                "own_p50_us": quantile(0.5, own), "own_max_us": quantile(1, own)}


class Mutator(Actor):
    def options(self):
        choose = self.random.choice
        return Options(packed=choose((False, True)), indirect=choose((False, True)), event_idx=choose((False, True)),
                       in_order=choose((False, True)), region_size=4 * MEGABYTE, regions=choose((1, 2)), strict=False, timeout=2,
                       inflight=choose((False, True)))

    def step(self):
        kind = self.random.choice((self.net, self.disk))
        try:
            kind()
        except (*EXPECTED, Late):
            pass
        self.done += 1

    def spoil(self, device, queue):
        """Change something that the device may be reading just now."""
        start = self.random.choice(queue.addresses())
        place = start + self.random.randrange(16 * queue.size if start == queue.addresses()[0] else 6 + 2 * queue.size)
        for _ in range(self.random.choice((1, 1, 20))):
            device.memory.write(place, self.random.randbytes(self.random.choice((1, 2, 8))))
            place += self.random.randrange(8)

    def vanish(self, device):
        """Memory that goes away; after that it is the device's alone, we would be killed, too."""
        for region in device.memory.regions:
            os.ftruncate(region.fd, 0)
        for queue in device.queues:
            os.eventfd_write(queue.kick_fd, 1)
        time.sleep(0.02)

    def net(self):
        with NetDevice(self.path("mutator-net"), self.options()) as net:
            net.fill_receive(32)
            for _ in range(self.random.randrange(50)):
                net.transmit(b"\xff" * 6 + self.random.randbytes(self.random.randrange(8, 1400)), NetHeader(*(
                    self.random.choice((0, 0, 1, 3, 40, 1400, 65535)) & (255 if number < 2 else 65535) for number in range(7))))
                if self.random.random() < 0.5:
                    self.spoil(net, self.random.choice(net.queues))
                if self.random.random() < 0.3:
                    net.reap()
            if self.random.random() < 0.2:
                self.vanish(net)

    def disk(self):
        with BlockDevice(self.path("mutator-disk"), self.options()) as disk:
            for _ in range(self.random.randrange(50)):
                kind = self.random.choice((T_IN, T_OUT, T_OUT, self.random.randrange(20)))
                sector = self.random.choice((self.random.randrange(8192), self.random.getrandbits(64)))
                disk.submit(kind, sector, out=bytes(4096) if kind == T_OUT else b"", into=4096 if kind == T_IN else 0)
                if self.random.random() < 0.5:
                    self.spoil(disk, disk.queues[0])
                if self.random.random() < 0.3:
                    for used in disk.queues[0].collect():
                        disk.finish((0, used.identity), used.length)
            if self.random.random() < 0.2:
                self.vanish(disk)


class Garbage(Actor):
    def step(self):
        device = self.random.choice(("garbage-net", "garbage-disk"))
        try:
            with Connection(self.path(device), timeout=2) as connection, GuestMemory(2, MEGABYTE) as memory:
                features = connection.get_features()
                if self.random.random() < 0.9:
                    connection.set_protocol_features(connection.get_protocol_features() & ~Protocol.INBAND_NOTIFICATIONS)
                    connection.set_owner()
                    connection.set_features(features & (vhost_user.F_VERSION_1 | vhost_user.F_PROTOCOL_FEATURES))
                    if self.random.random() < 0.7:
                        connection.set_mem_table(*memory.table())
                for _ in range(self.random.randrange(30)):
                    self.message(connection, memory)
        except (*EXPECTED, Late):
            pass
        self.done += 1

    def message(self, connection, memory):
        request, payload, fds, _ = self.random.choice(GOOD)
        if not isinstance(payload, bytes):
            payload = pack_table([region.entry() for region in memory.regions])
        payload = bytearray(payload)
        for _ in range(self.random.choice((0, 0, 1, 3))):
            if payload:
                payload[self.random.randrange(len(payload))] = self.random.choice((0, 1, 0x7f, 0x80, 0xff))
        count = self.random.choice((len(fds), len(fds), len(fds), self.random.randrange(10)))
        made = eventfds(count)
        size = self.random.choice((None,) * 8 + (0, len(payload) + 1, 1 << 31))
        flags = self.random.choice((None,) * 8 + (9, 9, 0, 5, 0xffffffff))
        offered = [self.random.choice((memory.regions[0].fd, fd)) for fd in made]
        try:
            connection.send(request, bytes(payload), offered, flags=flags, size=size)
            if self.random.random() < 0.5:
                connection.recv(timeout=0.05).close()
        except Late:
            pass
        finally:
            close_all(made)


class Hostile(Actor):
    """
    Each client begins as one should, and must find a disk that keeps data, and a card that sends; then anything goes: registers,
    doorbells by message and in the mapped page, descriptors and commands, memory that changes, is unmapped, or goes away.
    """
    REGISTERS = (*range(0, 0x48, 4), 0xc0, 0xc4, 0xc8, 0xd0, 0xd8, 0x100, 0x400, *range(0x1000, 0x1080, 4), *range(0x1500, 0x1530, 4),
                 *range(0x2800, 0x2830, 4), *range(0x3800, 0x3830, 4), 0x5818, *range(0x5c00, 0x5c20, 4))
    VALUES = (0, 1, 2, 3, 31, 64, 0xffff, 0x10000, emulated.ENABLE, emulated.RST, 1 << 25, 0xffffffff)

    def step(self):
        if self.random.random() < 0.5:
            guest = emulated.Nvme(self.path("hostile-disk"))
        else:
            guest = emulated.Card(self.path("hostile-net"), "igb")
        try:
            self.behave(guest)
            guest.open_window()
            guest.connection.timeout = 0.5      # there may be no answer, and it is not waited for
            with contextlib.suppress(*EXPECTED, Late, vfio_user.Refused):
                for _ in range(self.random.randrange(60)):
                    self.random.choice((self.register, self.register, self.scribble, self.offer, self.ring, self.remap, self.message))(guest)
                if self.random.random() < 0.2:
                    os.ftruncate(guest.memory.fd, 0)    # from now on it is the device's alone, we would be killed, too
                    self.register(guest)
        finally:
            guest.close()
        self.done += 1

    def behave(self, guest):
        if isinstance(guest, emulated.Nvme):
            guest.works()
            self.good(2, emulated.PAGE)
            self.places = (0x1000, 0x1020, 0x1040, 0x1060)
        else:
            guest.send(b"\xff" * 6 + b"\x52\x54\0\0\0\x05" + self.random.randbytes(60))
            self.good(1, 0)
            self.places = (emulated.TRANSMIT + emulated.TAIL, emulated.RECEIVE + emulated.TAIL, 0x1520, 0x1524, 0x1528)

    def value(self):
        return self.random.choice((self.random.choice(self.VALUES), self.random.getrandbits(32)))

    def register(self, guest):
        writes = [(0, self.random.choice(self.REGISTERS), struct.pack("<I", self.value())) for _ in range(self.random.choice((1, 1, 8)))]
        guest.connection.write_multi(writes)

    def scribble(self, guest):
        for _ in range(self.random.choice((1, 10))):
            data = self.random.randbytes(self.random.choice((1, 8, 64)))
            guest.poke(self.random.choice((0x1000, 0x2000, 0xc000, 0x10000, 0x20000)) + self.random.randrange(0x800), data)

    def offer(self, guest):
        """Commands or descriptors, by chance such that can be done."""
        for _ in range(self.random.randrange(1, 20)):
            length, address = self.random.choice((0, 60, 1514, 4096, 65535)), self.random.choice((emulated.DATA, self.random.getrandbits(64)))
            if isinstance(guest, emulated.Nvme):
                text = emulated.command(self.random.choice((*range(10), self.random.randrange(256))), self.random.choice((0, 1, 1, 0xffffffff)),
                                        address, emulated.DATA, self.random.choice((0, self.value())), dw12=length & 0xff)
                guest.admin.add(text, ring=False)
                guest.poke(0xc000 + 64 * self.random.randrange(32), text)
            else:
                flags = self.random.choice((0, emulated.EOP | emulated.RS, emulated.SEND["igb"] | emulated.TSE["igb"], emulated.CONTEXT["igb"]))
                guest.post([(address, length | flags, self.random.choice((0, 0x300, self.value())))])

    def ring(self, guest):
        for _ in range(self.random.choice((1, 100))):
            guest.window.store(self.random.choice(self.places), self.random.choice((self.random.randrange(64), self.value())))

    def remap(self, guest):
        guest.connection.dma_unmap(0, guest.size)
        if self.random.random() < 0.5:
            self.ring(guest)
        guest.connection.dma_map(0, guest.size, 0, guest.memory.fd)

    def message(self, guest):
        made = vfio_user.eventfds(self.random.choice((0, 0, 1, 4)))
        payload = struct.pack("<IIIII", *(self.random.choice((0, 1, 2, 20, 24, 33, 36, self.value())) for _ in range(5)))
        try:
            guest.connection.refused(self.random.choice((*range(1, 19), 0, 99)), payload[:self.random.choice((20, 16, 0))], made,
                                     self.random.choice((0,) * 6 + (16, 0xffffffff)))
        finally:
            close_all(made)


class Storm(Actor):
    def step(self):
        opened = []
        # The control socket has room for 64 clients, and others want to get a word in.
        operators = self.random.randrange(16)
        for _ in range(self.random.choice((10, 100, 300))):
            name = self.random.choice(("garbage-net", "garbage-disk", "mutator-disk", "ctl"))
            if name == "ctl":
                operators -= 1
                if operators < 0:
                    continue
            port = socket.socket(socket.AF_UNIX)
            port.settimeout(1)
            try:
                port.connect(self.path(name))
                port.sendall(self.random.choice((b"", b"", b"\1", struct.pack("<III", 1, 1, 0)[:7], b'{"command":', b"\n", b"x" * 500)))
            except OSError:
                port.close()
                continue
            opened.append(port)
            self.done += 1
            if self.random.random() < 0.8:
                opened.pop(self.random.randrange(len(opened))).close()
        for port in opened:
            port.close()
        time.sleep(self.random.random())


class Resizer(Actor):
    MOST = 512 * MEGABYTE

    def start(self):
        self.disk = BlockDevice(self.path("grow"))
        self.size = os.path.getsize(self.folder / "grow.img")

    def step(self):
        if self.size < self.MOST:
            self.size += 64 * KIBIBYTE
        with socket.socket(socket.AF_UNIX) as port, port.makefile("rw") as stream:
            port.settimeout(10)
            port.connect(self.path("ctl"))
            stream.write(json.dumps({"command": "resize", "disk": "grow", "size": self.size}) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
        if answer.get("size") != self.size:
            raise Violation(f"resize to {self.size}: {answer}")
        deadline = time.monotonic() + 10
        while struct.unpack("<Q", self.disk.connection.get_config(8))[0] * 512 != self.size:
            if time.monotonic() > deadline:
                raise Violation(f"the configuration does not tell the new size {self.size}")
            time.sleep(0.05)
        data = self.random.randbytes(4096)
        sector = self.size // 512 - 8
        if self.disk.write(sector, data).status != S_OK or self.disk.read(sector, 4096).data != data:
            raise Violation(f"the end of a disk of {self.size} bytes does not work")
        self.good(2, len(data))
        self.done += 1
        time.sleep(0.5)


class Nbd(Actor):
    """Errors are counted; what an erroneous write leaves is any of the writes since the last good one."""

    def start(self):
        self.disk = BlockDevice(self.path("nbd"), Options(timeout=60))
        self.known = {block: {0} for block in range(64)}
        self.number = self.errors = 0
        for block in self.known:
            self.known[block] = None

    def step(self):
        block = self.random.randrange(64)
        known = self.known[block]
        if known is None or self.random.random() < 0.5:
            self.number += 1
            result = self.disk.write(block, sector_of(block, self.number))
            if result.status == S_OK:
                self.known[block] = {self.number}
            elif known is not None:
                known.add(self.number)
        else:
            result = self.disk.read(block, 512)
            if result.status == S_OK and result.data not in [sector_of(block, number) for number in known]:
                raise Violation(f"sector {block} of the NBD disk: {result.data[:16].hex()}, not a write of {sorted(known)}")
            self.good(0, 512 if result.status == S_OK else 0)
        if result.status not in (S_OK, S_IOERR):
            raise Violation(f"status {result.status} of an NBD disk")
        self.errors += result.status == S_IOERR
        self.good(result.status == S_OK, 0)
        self.done += 1
        time.sleep(0.005)

    def report(self):
        errors, self.errors = self.errors, 0
        return {**super().report(), "errors": errors}


class Crash(Actor):
    ROUNDS = 20

    def start(self):
        self.server = self.client = None
        self.replayed = 0
        self.image = pathlib.Path(tempfile.mkdtemp(prefix="sidecore-soak-")) / "disk.raw"

    def step(self):
        if self.client is None:
            create_image(self.image)
            choose = self.random.choice
            self.server = Server(configuration(networks=(), disks={"disk": (f"type: file, path: {self.image}", "queues: 2")}))
            options = Options(packed=choose((False, True)), event_idx=choose((False, True)), indirect=choose((False, True)),
                              queues=choose((1, 2)))
            self.client = CrashClient(self.server.path("disk.sock"), self.image, options, seed=self.random.getrandbits(32))
            self.client.fill()
            self.left = self.ROUNDS
        self.client.survive(self.server)
        self.done += 1
        self.left -= 1
        if not self.left:
            self.rest()
        # A share of a CPU, not all of one.
        time.sleep(0.3)

    def rest(self):
        if self.client is not None:
            self.client.settle()
            self.good(self.client.completed, self.client.verified)
            self.replayed += self.client.replayed
            self.client.close()
            self.server.stop()
            self.client = None

    def close(self):
        shutil.rmtree(self.image.parent)

    def report(self):
        replayed, self.replayed = self.replayed, 0
        return {**super().report(), "replayed": replayed}


KINDS = {kind.__name__.lower(): kind for kind in (Probe, Mutator, Garbage, Storm, Resizer, Nbd, Crash, Hostile)}


def main(kind, folder, seed):
    faulthandler.register(signal.SIGUSR1)
    actor = KINDS[kind](folder, int(seed))
    try:
        actor.start()
        while True:
            if select.select([sys.stdin], [], [], 0)[0]:
                if not sys.stdin.buffer.raw.readline():
                    actor.rest()
                    actor.close()
                    return 0
                actor.rest()
                print(json.dumps(actor.report()), flush=True)
                if not sys.stdin.buffer.raw.readline():
                    actor.close()
                    return 0
            actor.step()
    except Exception as error:  # noqa: BLE001: whatever it was, it must not have been
        print(json.dumps({"violation": f"{kind}, seed {seed}: {type(error).__name__}: {error}"}), flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
