#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Everything that can go wrong, at random, for a given time; and what must not happen, looked for all along.

    soak.py [--minutes N] [--quick] [--seed N] [--json FILE]

The daemons: "crashing" is killed every few seconds while two guests verify their disks with fio and send a stream through
it. "steady" is never killed; it serves a guest whose QEMU is killed and started again, with paravirtual devices or with
emulated ones, another with emulated ones, clients that break every rule (actors.py), an NBD disk whose server errs, stalls
and dies, a disk that grows, and a probe that wants to be left alone. Between "steady" and "other", a guest moves there and
back by live migration, while it verifies its disk and sends a stream to the guest with emulated devices. A fourth daemon
belongs to a native client that counts every request over its crashes.

Every period (a minute; 9 s with --quick) the rule breakers rest, and the steady daemon must hold exactly as many descriptors
and mappings of guest memory as at the first rest with the same guests on it, and hardly more memory. A line is printed, a row
of a Markdown table. At the end a JSON summary follows. The status is 0 only if nothing was violated:

    integrity   fio finds no error, streams go on, the guests' kernels do not complain, no actor reads what it must not
    damage      no queue of those who keep the rules is broken, no daemon dies by itself
    leaks       descriptors, mappings, memory, log
    latency     no request of the probe takes longer than 2 s, and their median does not drift; both without the time that
                it and the daemon have waited for a CPU ("own")
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "guest"))

from guest import Guest, GuestError, build_image  # noqa: E402
from moving import MEMORY, MovingGuest, memory_backend  # noqa: E402
from processes import ActorProcess, NbdServer, Violation  # noqa: E402
from sidecore import NEWER_QEMU, Daemon, configuration, guests, server, wait_until  # noqa: E402

ACTORS = ("probe", "mutator", "garbage", "storm", "resizer", "nbd", "crash", "hostile")
FIO = ("fio --name=job --filename=$(ls -d /dev/vda /dev/nvme0n1 2>/dev/null) --direct=1 --ioengine=libaio --verify=crc32c "
       "--verify_fatal=1 --rw=randwrite --bsrange=4k-32k --iodepth=32 --size=8M --minimal")
# What a guest with emulated devices has to load first.
DRIVERS = "modprobe -a igb nvme && until [ -b /dev/nvme0n1 ] && [ -e /sys/class/net/eth0 ]; do sleep 0.1; done && "
MOVING_MAC = 'mac: "52:54:00:00:01:01"'
BREAKERS = ("mutator", "garbage", "hostile")    # of rules: their queues may be broken, their devices stopped
TROUBLE = re.compile(r"I/O error|blocked for more than|Call Trace|BUG:|WARNING:|reset|timed out|error", re.IGNORECASE)
MEMORY_ALLOWANCE = 16 << 20
LOG_ALLOWANCE = 16 << 20
STALL_US = 2_000_000
COMMAND_SECONDS = 120   # what a guest does in 20 s at most, unless something is stuck
FIO_BYTES = 8 << 20
EVENTS = ("kills", "fio", "streams", "stream MB", "QEMUs", "moves")
DONE = {"crashes": "crash", "mutations": "mutator", "garbage": "garbage", "hostile": "hostile", "connects": "storm",
        "resizes": "resizer", "NBD": "nbd"}
COLUMNS = ("minute", *EVENTS, *DONE, "errors", "requests", "replayed", "verified MB", "probe p50", "p99", "max", "own p50",
           "own max µs", "fds", "maps", "MiB")


class Soak:
    def __init__(self, arguments, stack):
        self.seed, self.quick = arguments.seed, arguments.quick
        self.seconds = 36 if arguments.quick else arguments.minutes * 60
        self.period = 9 if arguments.quick else 60
        self.random = random.Random(self.seed)
        self.stack = stack
        self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecore-soak-")))
        self.ending = threading.Event()
        self.failures = []
        self.counts = dict.fromkeys(EVENTS, 0)
        self.rows, self.baselines = [], {}     # of the steady daemon at rest, by who is on it
        self.calm = threading.Lock()    # held by what must not happen while the daemon is measured
        self.moving = threading.Lock()  # while commands are handed over, none may be started
        # Without a newer QEMU there is no guest with emulated devices; the native clients of such are there all the same.
        self.emulated = os.access(NEWER_QEMU, os.X_OK)

    # --- What there is ---

    def set_up(self):
        enter = self.stack.enter_context
        self.nbd = NbdServer(self.folder, random.Random(self.random.random()))
        self.stack.callback(self.nbd.close)
        with open(self.folder / "moving.img", "wb") as image:
            image.truncate(16 << 20)
        self.steady = enter(self.start_steady())
        self.crashing = enter(Daemon(configuration(interfaces=["a-net", "b-net"], disks={
            f"{name}-disk": f"type: file, path: {name}.img, size: 32M" for name in "ab"})))
        self.other = enter(Daemon(self.moving_network(configuration(
            networks=["moving"], interfaces={"m-net": MOVING_MAC}, disks={"m-disk": self.moving_disk()}), "")))
        backend = enter(memory_backend())
        self.a, self.b, self.e = enter(guests(
            a={"devices": [*self.crashing.nic("a-net", reconnect=True), *self.crashing.disk("a-disk", reconnect=True)], "memory": 256},
            b={"devices": [*self.crashing.nic("b-net", options="packed=on", reconnect=True),
                           *self.crashing.disk("b-disk", options="packed=on", reconnect=True)], "memory": 256},
            e=self.devices("e", self.emulated)))
        for guest, address in ((self.a, "10.0.0.1"), (self.b, "10.0.0.2"), (self.e, "10.0.2.2")):
            self.configure(guest, address)
        for guest in (self.b, self.e):
            guest.run("iperf3 -s -D")
        self.c = None
        self.boot_c()
        self.stack.callback(lambda: self.c.kill())
        self.places, self.place = (self.steady, self.other), 0

        def moving_guest(place, **keywords):
            daemon = self.places[place]
            devices = [*daemon.nic("m-net"), *daemon.disk("m-disk")]
            return MovingGuest("m", devices, memory=MEMORY, backend=backend, **keywords)
        self.moving_guest = moving_guest
        self.m = moving_guest(0)
        self.stack.callback(lambda: self.m.kill())
        self.configure(self.m, "10.0.2.1")
        self.messages = {guest.name: self.complaints(guest) for guest in self.lasting()}
        self.actors = []
        for kind in ACTORS:
            self.actors.append(ActorProcess(kind, self.steady.directory, self.random.getrandbits(31)))
            self.stack.callback(self.actors[-1].close)

    def start_steady(self):
        nvme = ("type: ram, size: 16M", "model: nvme")
        return Daemon(self.moving_network(configuration(
            networks=["lan", "moving"],
            interfaces={"c-net": "", "c-igb": "model: igb", "mutator-net": "", "garbage-net": "", "hostile-net": "model: igb",
                        "e-net": "network: moving", "e-igb": "network: moving, model: igb",
                        "m-net": f"network: moving, {MOVING_MAC}"},
            disks={"probe": "type: ram, size: 1M", "c-disk": "type: file, path: c.img, size: 16M",
                   "c-nvme": ("type: file, path: c-nvme.img, size: 16M", "model: nvme"), "e-disk": "type: ram, size: 16M",
                   "e-nvme": nvme, "m-disk": self.moving_disk(), "mutator-disk": "type: ram, size: 4M",
                   "garbage-disk": "type: ram, size: 4M", "hostile-disk": ("type: ram, size: 4M", "model: nvme"),
                   "grow": "type: file, path: grow.img, size: 1M",
                   "nbd": f"type: nbd, uri: \"nbd+unix:///?socket={self.nbd.socket}\""}), ", listen: true"))

    def moving_network(self, text, further):
        """The network that both ends of a migration have in common: joined by an uplink."""
        plain = "  - name: moving\n    uplink: { type: none }"
        assert plain in text
        return text.replace(plain, f"  - name: moving\n    uplink: {{ type: stream, address: {self.folder}/uplink{further} }}")

    def moving_disk(self):
        return f"type: file, path: {self.folder}/moving.img, handover: true"

    def devices(self, name, emulated):
        """A guest of the steady daemon, for Guest() or guests()."""
        if emulated:
            devices = [*self.steady.emulated(f"{name}-igb"), *self.steady.emulated(f"{name}-nvme")]
            return {"devices": devices, "memory": 256, "qemu": NEWER_QEMU}
        return {"devices": [*self.steady.nic(f"{name}-net"), *self.steady.disk(f"{name}-disk")], "memory": 192}

    @staticmethod
    def configure(guest, address):
        drivers = DRIVERS if not guest.run("ls /dev/vda", check=False).ok else ""
        guest.run(f"{drivers}ip addr add {address}/24 dev eth0 && ip link set eth0 up", timeout=COMMAND_SECONDS)

    def boot_c(self):
        self.c_fio = None       # if something goes wrong until it runs, it is that which is told
        self.c_emulated = self.emulated and self.random.random() < 0.5
        self.c = Guest("c", **self.devices("c", self.c_emulated))
        self.configure(self.c, "10.0.1.3")
        self.c.run("dd if=/dev/zero of=$(ls -d /dev/vda /dev/nvme0n1 2>/dev/null) bs=1M count=16", timeout=COMMAND_SECONDS)
        self.c_fio = self.c.spawn(f"while {FIO} --rate=2m; do :; done")

    def lasting(self):
        """The guests that see the end."""
        return self.a, self.b, self.e, self.m

    @staticmethod
    def complaints(guest):
        return [line for line in guest.run("dmesg").splitlines() if TROUBLE.search(line)]

    # --- What happens ---

    def background(self, action, name):
        """action() again and again in a thread; what it raises is a violation."""
        def run():
            try:
                while not self.ending.is_set():
                    action()
            except Exception as error:  # noqa: BLE001: whatever it was, it must not have been
                self.failures.append(f"{name}: {type(error).__name__}: {error}")
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def pause(self, least, most):
        self.ending.wait(least + self.random.random() * (most - least))

    def kill_daemon(self):
        self.pause(1, 4 if self.quick else 10)
        if self.crashing.process.poll() is not None:
            raise Violation(f"the daemon died by itself:\n{self.crashing.tail()}")
        broken = self.crashing.broken_queues()
        if broken:
            raise Violation(f"queues of good guests are broken: {broken}")
        self.crashing.crash_and_restart(pause=self.random.choice((0, 0, 0.1, 1)))
        self.counts["kills"] += 1
        wait_until(lambda: all(self.crashing.connected("interfaces", f"{name}-net") and self.crashing.connected("disks", f"{name}-disk")
                               for name in "ab"), "both guests are back after a crash", timeout=30)

    def spawn(self, name, text):
        """Starts a command in a guest that may be about to move."""
        with self.moving:
            return getattr(self, name).spawn(text)

    def verify_disk(self, name):
        # a and b do as much as they can; all of them would be more than a machine without hardware virtualization has.
        rate = "" if name in "ab" else " --rate=4m"
        result = self.spawn(name, FIO + rate).wait(COMMAND_SECONDS)
        if not result.ok:
            raise Violation(f"fio in {name}: {result.output}")
        self.counts["fio"] += 1

    def stream(self, name, server):
        # A server whose last client's farewell was lost with a daemon is busy until TCP has sent it again: it answers
        # with "busy", or resets the connection. A stream that has begun must come to its end.
        deadline, result = time.monotonic() + COMMAND_SECONDS, None
        while result is None or not result.ok and " sec " not in result.output and time.monotonic() < deadline:
            self.ending.wait(2 if result else 0)
            result = self.spawn(name, f"iperf3 -c {server} -t 10 --forceflush").wait(COMMAND_SECONDS)
        if not result.ok:
            raise Violation(f"iperf3 in {name}: {result.output}")
        self.counts["streams"] += 1
        received = re.search(r"([\d.]+) ([KMG]?)Bytes .* receiver", result.output)
        if received:
            unit = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[received[2]]
            self.counts["stream MB"] += round(float(received[1]) * unit / 1e6)

    def kill_qemu(self):
        self.pause(5, 10 if self.quick else 60)
        with self.calm:
            if self.ending.is_set():
                return
            if self.c.process.poll() is not None:
                raise Violation(f"QEMU of c ended by itself{self.c.tail()}")
            self.c.kill()
            self.boot_c()
            self.counts["QEMUs"] += 1

    def move(self):
        """The guest m goes on at the other daemon, with all that it is doing."""
        self.pause(2, 4 if self.quick else 20)
        with self.calm:
            if self.ending.is_set():
                return
            successor = self.moving_guest(1 - self.place, incoming=True)
            try:
                with self.moving:
                    self.m.migrate(successor)
            except BaseException:
                successor.kill()
                raise
            self.m, self.place = successor, 1 - self.place
            self.counts["moves"] += 1

    def disturb_nbd(self):
        self.pause(2, 10)
        with self.calm:
            self.nbd.disturb()

    # --- What must be ---

    def measure(self):
        status = pathlib.Path(f"/proc/{self.steady.pid}/status").read_text()
        return {"fds": self.steady.descriptors(), "maps": self.steady.mappings(),
                "bytes": int(re.search(r"RssAnon:\s+(\d+)", status)[1]) << 10}

    def check(self, daemon):
        if daemon.process.poll() is not None:
            raise Violation(f"the daemon died with {daemon.process.returncode}:\n{daemon.tail()}")
        if daemon.complaint():
            raise Violation(f"a sanitizer has spoken:\n{daemon.tail(80)}")
        broken = {name: why for name, why in daemon.broken_queues().items() if not name.startswith(BREAKERS)}
        if broken:
            raise Violation(f"queues of those who keep the rules are broken: {broken}")
        status = daemon.status()
        for name, device in {**status["interfaces"], **status["disks"]}.items():
            # Neither a device that has stopped, nor a message that was refused, nor a write that migration has missed.
            wrong = [device.get("pci", {}).get("fault"), device["refused"], device.get("log_missed")]
            if any(wrong) and not name.startswith(BREAKERS):
                raise Violation(f"{name}: stopped, refused, not logged: {wrong}")
        if daemon.log.stat().st_size > LOG_ALLOWANCE:
            raise Violation(f"the log has grown to {daemon.log.stat().st_size} bytes")

    def company(self):
        """Who is on the steady daemon."""
        return self.place, self.c_emulated

    def settled(self):
        """The end of a connection, or the NBD disk's next attempt to get one, may take a moment."""
        now, since, deadline = self.measure(), time.monotonic(), time.monotonic() + 15
        baseline = self.baselines.get(self.company())
        while time.monotonic() < deadline:
            time.sleep(0.1)
            before, now = now, self.measure()
            if any(now[key] != before[key] for key in ("fds", "maps")):
                since = time.monotonic()
            if baseline is None and time.monotonic() > since + 4:
                break
            if baseline and all(now[key] == baseline[key] for key in ("fds", "maps")):
                break
        return now

    def rest(self):
        """All rule breakers have let go; then the daemon has what it had. Return: the actors' reports and the measure."""
        with self.calm:
            for actor in self.actors:
                actor.say("rest")
            reports = {actor.kind: actor.answer() for actor in self.actors}
            for daemon in self.places:
                self.check(daemon)
            if self.nbd.process.poll() is not None:
                raise Violation("nbdkit is gone")
            now = self.settled()
            for actor in self.actors:
                actor.say("go on")
        self.compare(now)
        return reports, now

    def compare(self, now):
        baseline = self.baselines.setdefault(self.company(), now)
        for key, what in (("fds", "descriptors"), ("maps", "mappings of guest memory")):
            if now[key] != baseline[key]:
                raise Violation(f"{now[key]} {what} at rest, {baseline[key]} at the first rest")
        if now["bytes"] > baseline["bytes"] + MEMORY_ALLOWANCE:
            raise Violation(f"{now['bytes'] >> 20} MiB of memory at rest, {baseline['bytes'] >> 20} at the first rest")

    def row(self, minute, reports, now):
        probe = reports["probe"]
        if probe["own_max_us"] > STALL_US:
            raise Violation(f"a request of the probe took {probe['own_max_us'] / 1e6:.1f} s, without what it waited for a CPU")
        counts, self.counts = self.counts, dict.fromkeys(EVENTS, 0)
        verified = sum(report["verified"] for report in reports.values()) + counts["fio"] * FIO_BYTES
        row = (round(minute, 2), *counts.values(), *(reports[kind]["done"] for kind in DONE.values()), reports["nbd"]["errors"],
               sum(report["requests"] for report in reports.values()), reports["crash"]["replayed"], round(verified / 1e6),
               *(probe[key] for key in ("p50_us", "p99_us", "max_us", "own_p50_us", "own_max_us")),
               now["fds"], now["maps"], round(now["bytes"] / (1 << 20), 1))
        self.rows.append(dict(zip(COLUMNS, row)))
        print("| " + " | ".join(str(value) for value in row) + " |", flush=True)

    def check_drift(self):
        medians = [row["own p50"] for row in self.rows]
        third = len(medians) // 3
        if third >= 3:      # a few seconds tell more of the machine than of the daemon
            early, late = statistics.median(medians[:third]), statistics.median(medians[-third:])
            if late > 3 * early and late > early + 500:
                raise Violation(f"the probe's median went from {early} to {late} us")

    def check_guests(self):
        for guest in self.lasting():
            new = [line for line in self.complaints(guest) if line not in self.messages[guest.name]]
            if new:
                raise Violation(f"the kernel of {guest.name} says: {new[:5]}")

    # --- All of it ---

    def run(self):
        self.set_up()
        threads = [self.background(self.kill_daemon, "killer"), self.background(self.kill_qemu, "QEMU killer"),
                   self.background(self.disturb_nbd, "NBD"), self.background(self.move, "mover"),
                   *(self.background(lambda name=name, server=server: self.stream(name, server), f"stream {name}")
                     for name, server in (("a", "10.0.0.2"), ("m", "10.0.2.2"))),
                   *(self.background(lambda name=name: self.verify_disk(name), f"fio {name}") for name in "abem")]
        start = time.monotonic()
        print("| " + " | ".join(COLUMNS) + " |\n|" + " --: |" * len(COLUMNS), flush=True)
        end = start + self.seconds
        while time.monotonic() < end:
            due = min(time.monotonic() + self.period, end)
            while time.monotonic() < due:
                time.sleep(0.5)
                self.look()
            self.row((time.monotonic() - start) / 60, *self.rest())
        self.ending.set()
        for thread in threads:
            thread.join(COMMAND_SECONDS + 30)
            if thread.is_alive():
                raise Violation(f"{thread.name}: no end")
        self.look()
        self.check_guests()
        self.check_drift()

    def look(self):
        if self.failures:
            raise Violation(self.failures[0])
        for actor in self.actors:
            actor.check()
        with self.calm:     # not while its QEMU is killed
            if self.c_fio and not self.c_fio.running:
                raise Violation(f"fio in c: {self.c_fio.wait().output}")

    def summary(self, seconds, violation):
        totals = {key: sum(row[key] for row in self.rows) for key in COLUMNS[1:COLUMNS.index("probe p50")]}
        return {"seed": self.seed, "seconds": round(seconds), "version": self.version(), "cpus": len(os.sched_getaffinity(0)),
                "emulated": self.emulated,
                "totals": totals, "worst_us": max((row["max"] for row in self.rows), default=None),
                "own_worst_us": max((row["own max µs"] for row in self.rows), default=None),
                "p50_us": [row["probe p50"] for row in self.rows], "own_p50_us": [row["own p50"] for row in self.rows],
                "memory_mib": [row["MiB"] for row in self.rows], "violation": violation}

    @staticmethod
    def version():
        return subprocess.run([str(server.binary()), "--version"], capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description="Everything that can go wrong, at random, for a given time.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--quick", action="store_true", help="36 seconds, in short periods")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1000000, help="repeats the choices, not their timing")
    parser.add_argument("--json", help="write the summary here, too")
    arguments = parser.parse_args()
    reason = server.why_missing()
    if reason:
        sys.exit(reason)
    build_image()
    if not os.access(NEWER_QEMU, os.X_OK):
        print(f"There is no {NEWER_QEMU} (tools/qemu.sh makes it): no guest has emulated devices.\n", flush=True)
    violation, start = None, time.monotonic()
    with contextlib.ExitStack() as stack:
        soak = Soak(arguments, stack)
        try:
            soak.run()
        except (Violation, GuestError, AssertionError, KeyboardInterrupt) as error:
            soak.ending.set()
            violation = f"{type(error).__name__}: {error}"
            for daemon in ("steady", "crashing", "other"):
                if hasattr(soak, daemon):
                    print(f"\n--- log of the {daemon} daemon ---\n{getattr(soak, daemon).tail()}", file=sys.stderr)
    summary = json.dumps(soak.summary(time.monotonic() - start, violation), ensure_ascii=False)
    print("\n" + summary)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(summary + "\n")
    sys.exit(1 if violation else 0)


if __name__ == "__main__":
    main()
