#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Everything that can go wrong, at random, for a given time; and what must not happen, looked for all along.

    soak.py [--minutes N] [--quick] [--seed N] [--json FILE]

Two daemons. One is killed every few seconds while two guests verify their disks with fio and send a stream through it.
The other is never killed; it serves a guest whose QEMU is killed and started again, clients that break every rule
(actors.py), an NBD disk whose server errs, stalls and dies, a disk that grows, and a probe that wants to be left alone.
A third daemon belongs to a native client that counts every request over its crashes.

Every period (a minute; 9 s with --quick) the rule breakers rest, and the second daemon must hold exactly as many
descriptors and mappings of guest memory as at the first rest, and hardly more memory. A line is printed, a row of a
Markdown table. At the end a JSON summary follows. The status is 0 only if nothing was violated:

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
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "guest"))

from guest import Guest, GuestError, build_image  # noqa: E402
from protocol import child  # noqa: E402
from sidecore import Daemon, configuration, guests, server, wait_until  # noqa: E402

ACTORS = ("probe", "mutator", "garbage", "storm", "resizer", "nbd", "crash")
FIO = ("fio --name=job --filename=/dev/vda --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --rw=randwrite "
       "--bsrange=4k-32k --iodepth=32 --size=8M --minimal")
TROUBLE = re.compile(r"I/O error|blocked for more than|Call Trace|BUG:|WARNING:|reset|timed out|error", re.IGNORECASE)
MEMORY_ALLOWANCE = 16 << 20
LOG_ALLOWANCE = 16 << 20
STALL_US = 2_000_000
COMMAND_SECONDS = 120   # what a guest does in 20 s at most, unless something is stuck
FIO_BYTES = 8 << 20
EVENTS = ("kills", "fio", "streams", "stream MB", "QEMUs")
DONE = {"crashes": "crash", "mutations": "mutator", "garbage": "garbage", "connects": "storm", "resizes": "resizer", "NBD": "nbd"}
COLUMNS = ("minute", *EVENTS, *DONE, "errors", "requests", "replayed", "verified MB", "probe p50", "p99", "max", "own p50",
           "own max µs", "fds", "maps", "MiB")


class Violation(Exception):
    pass


class ActorProcess:
    def __init__(self, kind, folder, seed):
        self.kind = kind
        self.process = child.start([sys.executable, str(pathlib.Path(__file__).with_name("actors.py")), kind, str(folder), str(seed)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def say(self, word):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(word.encode() + b"\n")

    def answer(self, timeout=60):
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(1)
            raise Violation(f"{self.kind}: does not come to rest in {timeout} s; standard error tells where it is")
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"violation": f"{self.kind}: ended with {self.process.wait()}"}
        if "violation" in answer:
            raise Violation(answer["violation"])
        return answer

    def check(self):
        if self.process.poll() is not None:
            self.answer(1)

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class NbdServer:
    """nbdkit on a file, so that what it acknowledged outlives it; each life with other faults."""

    def __init__(self, folder, chance):
        self.socket, self.image, self.random = folder / "nbd", folder / "nbd.img", chance
        self.image.write_bytes(bytes(1 << 20))
        self.process = None
        self.start([])

    def start(self, faults=None):
        if faults is None:
            faults = self.random.choice(([], ["error=EIO", "error-rate=2%"], ["error=ENOSPC", "error-pwrite-rate=5%"],
                                         ["rdelay=20ms", "wdelay=20ms"]))
        filters = [f"--filter={name}" for name in ("error", "delay") if any(name in word for word in faults)]
        self.socket.unlink(missing_ok=True)
        self.process = child.start(["nbdkit", "-f", "-U", str(self.socket), *filters, "file", str(self.image), *faults],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # It replaces the signal that child.start() asks for by SIGTERM, which one that is stopped does not see.
        self.watch = subprocess.Popen(["sh", "-c", f"read word; kill -KILL {self.process.pid}"], stdin=subprocess.PIPE)
        wait_until(self.socket.exists, "nbdkit listens")

    def disturb(self):
        if self.random.random() < 0.5:
            self.process.send_signal(signal.SIGSTOP)
            time.sleep(self.random.random() * 3)
            self.process.send_signal(signal.SIGCONT)
            return
        self.close()
        time.sleep(self.random.random())
        self.start()

    def close(self):
        self.watch.kill()
        self.watch.wait()
        self.watch.stdin.close()
        self.process.kill()
        self.process.wait()


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
        self.rows, self.baseline = [], None
        self.calm = threading.Lock()    # held by what must not happen while the daemon is measured

    # --- What there is ---

    def set_up(self):
        enter = self.stack.enter_context
        self.nbd = NbdServer(self.folder, random.Random(self.random.random()))
        self.stack.callback(self.nbd.close)
        self.steady = enter(Daemon(configuration(
            interfaces=["c-net", "mutator-net", "garbage-net"],
            disks={"probe": "type: ram, size: 1M", "c-disk": "type: ram, size: 16M", "mutator-disk": "type: ram, size: 4M",
                   "garbage-disk": "type: ram, size: 4M", "grow": "type: file, path: grow.img, size: 1M",
                   "nbd": f"type: nbd, uri: \"nbd+unix:///?socket={self.nbd.socket}\""})))
        self.crashing = enter(Daemon(configuration(interfaces=["a-net", "b-net"], disks={
            f"{name}-disk": f"type: file, path: {name}.img, size: 32M" for name in "ab"})))
        self.a, self.b = enter(guests(
            a={"devices": [*self.crashing.nic("a-net", reconnect=True), *self.crashing.disk("a-disk", reconnect=True)], "memory": 256},
            b={"devices": [*self.crashing.nic("b-net", options="packed=on", reconnect=True),
                           *self.crashing.disk("b-disk", options="packed=on", reconnect=True)], "memory": 256}))
        for number, guest in enumerate((self.a, self.b), 1):
            guest.run(f"ip addr add 10.0.0.{number}/24 dev eth0 && ip link set eth0 up")
        self.b.run("iperf3 -s -D")
        self.messages = {guest.name: self.complaints(guest) for guest in (self.a, self.b)}
        self.c = None
        self.boot_c()
        self.stack.callback(lambda: self.c.kill())
        self.actors = []
        for kind in ACTORS:
            self.actors.append(ActorProcess(kind, self.steady.directory, self.random.getrandbits(31)))
            self.stack.callback(self.actors[-1].close)

    def boot_c(self):
        devices = [*self.steady.nic("c-net"), *self.steady.disk("c-disk")]
        self.c = Guest("c", devices=devices, memory=192)
        self.c.run("ip addr add 10.0.1.3/24 dev eth0 && ip link set eth0 up && dd if=/dev/zero of=/dev/vda bs=1M count=16")
        self.c_fio = self.c.spawn(f"while {FIO} --rate=2m; do :; done")

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

    def verify_disk(self, guest):
        result = guest.spawn(FIO).wait(COMMAND_SECONDS)
        if not result.ok:
            raise Violation(f"fio in {guest.name}: {result.output}")
        self.counts["fio"] += 1

    def stream(self):
        # A server whose last client's farewell was lost with a daemon is busy until TCP has sent it again: it answers
        # with "busy", or resets the connection. A stream that has begun must come to its end.
        deadline, result = time.monotonic() + COMMAND_SECONDS, None
        while result is None or not result.ok and " sec " not in result.output and time.monotonic() < deadline:
            self.ending.wait(2 if result else 0)
            result = self.a.spawn("iperf3 -c 10.0.0.2 -t 10 --forceflush").wait(COMMAND_SECONDS)
        if not result.ok:
            raise Violation(f"iperf3: {result.output}")
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

    def disturb_nbd(self):
        self.pause(2, 10)
        with self.calm:
            self.nbd.disturb()

    # --- What must be ---

    def measure(self):
        status = pathlib.Path(f"/proc/{self.steady.pid}/status").read_text()
        return {"fds": self.steady.descriptors(), "maps": self.steady.mappings(),
                "bytes": int(re.search(r"RssAnon:\s+(\d+)", status)[1]) << 10}

    def check_steady(self):
        if self.steady.process.poll() is not None:
            raise Violation(f"the daemon died with {self.steady.process.returncode}:\n{self.steady.tail()}")
        if self.steady.complaint():
            raise Violation(f"a sanitizer has spoken:\n{self.steady.tail(80)}")
        broken = {name: why for name, why in self.steady.broken_queues().items() if not name.startswith(("mutator", "garbage"))}
        if broken:
            raise Violation(f"queues of those who keep the rules are broken: {broken}")
        if self.steady.log.stat().st_size > LOG_ALLOWANCE:
            raise Violation(f"the log has grown to {self.steady.log.stat().st_size} bytes")

    def settled(self):
        """The end of a connection, or the NBD disk's next attempt to get one, may take a moment."""
        now, since, deadline = self.measure(), time.monotonic(), time.monotonic() + 15
        while time.monotonic() < deadline:
            time.sleep(0.1)
            before, now = now, self.measure()
            if any(now[key] != before[key] for key in ("fds", "maps")):
                since = time.monotonic()
            if self.baseline is None and time.monotonic() > since + 4:
                break
            if self.baseline and all(now[key] == self.baseline[key] for key in ("fds", "maps")):
                break
        return now

    def rest(self):
        """All rule breakers have let go; then the daemon has what it had. Return: the actors' reports and the measure."""
        with self.calm:
            for actor in self.actors:
                actor.say("rest")
            reports = {actor.kind: actor.answer() for actor in self.actors}
            self.check_steady()
            if self.nbd.process.poll() is not None:
                raise Violation("nbdkit is gone")
            now = self.settled()
            for actor in self.actors:
                actor.say("go on")
        self.compare(now)
        return reports, now

    def compare(self, now):
        if self.baseline is None:
            self.baseline = now
        for key, what in (("fds", "descriptors"), ("maps", "mappings of guest memory")):
            if now[key] != self.baseline[key]:
                raise Violation(f"{now[key]} {what} at rest, {self.baseline[key]} at the first rest")
        if now["bytes"] > self.baseline["bytes"] + MEMORY_ALLOWANCE:
            raise Violation(f"{now['bytes'] >> 20} MiB of memory at rest, {self.baseline['bytes'] >> 20} at the first rest")

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
        for guest in (self.a, self.b):
            new = [line for line in self.complaints(guest) if line not in self.messages[guest.name]]
            if new:
                raise Violation(f"the kernel of {guest.name} says: {new[:5]}")

    # --- All of it ---

    def run(self):
        self.set_up()
        threads = [self.background(self.kill_daemon, "killer"), self.background(self.kill_qemu, "QEMU killer"),
                   self.background(self.disturb_nbd, "NBD"), self.background(self.stream, "stream"),
                   *(self.background(lambda guest=guest: self.verify_disk(guest), f"fio {guest.name}") for guest in (self.a, self.b))]
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
            if not self.c_fio.running:
                raise Violation(f"fio in c: {self.c_fio.wait().output}")

    def summary(self, seconds, violation):
        totals = {key: sum(row[key] for row in self.rows) for key in COLUMNS[1:COLUMNS.index("probe p50")]}
        return {"seed": self.seed, "seconds": round(seconds), "version": self.version(), "cpus": len(os.sched_getaffinity(0)),
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
    violation, start = None, time.monotonic()
    with contextlib.ExitStack() as stack:
        soak = Soak(arguments, stack)
        try:
            soak.run()
        except (Violation, GuestError, AssertionError, KeyboardInterrupt) as error:
            soak.ending.set()
            violation = f"{type(error).__name__}: {error}"
            for daemon in ("steady", "crashing"):
                if hasattr(soak, daemon):
                    print(f"\n--- log of the {daemon} daemon ---\n{getattr(soak, daemon).tail()}", file=sys.stderr)
    summary = json.dumps(soak.summary(time.monotonic() - start, violation), ensure_ascii=False)
    print("\n" + summary)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(summary + "\n")
    sys.exit(1 if violation else 0)


if __name__ == "__main__":
    main()
