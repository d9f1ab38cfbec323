# SPDX-License-Identifier: BSD-3-Clause
"""Processes of the soak test beside daemons and guests: its native clients (actors.py), and an NBD server with faults."""

import contextlib
import json
import pathlib
import select
import signal
import subprocess
import sys
import time

from protocol import child
from sidecore import wait_until


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
