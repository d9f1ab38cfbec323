# SPDX-License-Identifier: BSD-3-Clause
"""
A guest that moves between two QEMUs on one machine and goes on with the commands that it runs.

    with memory_backend() as backend:
        guest = MovingGuest("m", devices, memory=MEMORY, backend=backend)
        successor = MovingGuest("m", devices_there, memory=MEMORY, backend=backend, incoming=True)
        guest.migrate(successor)

How its memory moves:
- copied, as between two hosts: with KVM, and wherever SIDECORE_MIGRATION_MEMORY says "copied".
- shared by both QEMUs (x-ignore-shared): under TCG, because copying loses stores of the emulated CPU there on a busy
  machine. With QEMU 7.2's own devices, and no sidecore at all, two of five guests were dead after some tens of moves.
  The messages of a migration are the same, logging included; that what devices write is logged is shown by
  tests/protocol/test_dirty_log.py.
"""
import contextlib
import os
import threading
import time

from guest import Guest, GuestError, accelerator

COPIED = os.environ.get("SIDECORE_MIGRATION_MEMORY", "copied" if accelerator()[0] == "kvm" else "shared") == "copied"
MIGRATION_TIMEOUT = 60
MEMORY = 256  # MiB


@contextlib.contextmanager
def memory_backend():
    """What the moving guest's memory is made of. All QEMUs must find the same where it is shared."""
    if COPIED:
        yield "memory-backend-memfd,share=on"
        return
    fd = os.memfd_create("guest")
    os.ftruncate(fd, MEMORY << 20)
    yield f"memory-backend-file,share=on,mem-path=/proc/{os.getpid()}/fd/{fd}"
    os.close(fd)


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
