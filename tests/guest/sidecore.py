# SPDX-License-Identifier: BSD-3-Clause
"""A daemon for guests to use, and the arguments that give a QEMU its devices.

    with Daemon(configuration(interfaces=["a-net"], disks={"a-disk": "type: ram, size: 64M"})) as daemon:
        with Guest("a", devices=daemon.nic("a-net") + daemon.disk("a-disk")) as guest:
            change = daemon.change()
            guest.run("...")
            assert change("interfaces", "a-net", "in_frames") > 0

The daemon itself is the protocol tests' Server; configuration() comes from there, too.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from guest import QEMU, REPOSITORY, Guest, accelerator, build_image  # noqa: E402
from protocol import server  # noqa: E402
from protocol.server import ServerFailure, configuration  # noqa: E402, F401

NEWER_QEMU = REPOSITORY / "build" / "qemu" / "qemu-system-x86_64"


def require():
    """Skips the test when there is no daemon to test; makes the guest's image."""
    reason = server.why_missing()
    if reason:
        pytest.skip(reason)
    build_image()


@functools.lru_cache(maxsize=None)
def qemu_version(qemu=QEMU):
    text = subprocess.run([str(qemu), "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(int(number) for number in re.search(r"version (\d+)\.(\d+)", text).groups())


def msix_works(qemu=QEMU):
    """QEMU 7.2 under TCG crashes when it masks a vector of a vhost-user NIC: it looks for an irqfd, which is KVM's."""
    return accelerator()[0] == "kvm" or qemu_version(qemu) >= (8, 0)


def processor_seconds(pid):
    """What the process has used so far, all threads, user and system."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until(condition, what, timeout=10.0):
    """Polls condition() until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def guests(**devices):
    """Boots guests side by side: guests(a=[arguments], b={"devices": [arguments], "cpus": 2}). Yields a list."""
    with contextlib.ExitStack() as stack:
        started = []
        for name, given in devices.items():
            keywords = given if isinstance(given, dict) else {"devices": given}
            started.append(stack.enter_context(Guest(name, wait=False, **keywords)))
        for guest in started:
            guest.wait_ready()
        yield started


class Daemon(server.Server):
    """A running `sidecore serve`."""

    # --- Arguments for QEMU ---

    def chardev(self, name, reconnect=False, client=False, qemu=QEMU):
        """The socket of a device. @client: the daemon connects, QEMU listens."""
        options = f"socket,id={name}-socket,path={self.path(name + '.sock')}"
        if client:
            options += ",server=on"
        elif reconnect:
            # In seconds until 9.1, in milliseconds since.
            options += ",reconnect-ms=100" if qemu_version(qemu) >= (9, 2) else ",reconnect=1"
        return ["-chardev", options]

    def mac(self, name):
        return self.status()["interfaces"][name]["mac"]

    def nic(self, name, queues=1, mac=None, options="", qemu=QEMU, **chardev):
        """A virtio-net-pci card. @options: further properties, as "packed=on,host_mtu=9000"."""
        device = f"virtio-net-pci,id={name},netdev={name}-netdev,mac={mac or self.mac(name)}"
        if queues > 1:
            device += ",mq=on"
        if not msix_works(qemu):
            device += ",vectors=0"
        elif queues > 1:
            device += f",vectors={2 * queues + 2}"
        return [*self.chardev(name, qemu=qemu, **chardev),
                "-netdev", f"vhost-user,id={name}-netdev,chardev={name}-socket,queues={queues}",
                "-device", ",".join(filter(None, [device, options]))]

    def disk(self, name, queues=1, options="", qemu=QEMU, **chardev):
        """A vhost-user-blk-pci disk."""
        device = f"vhost-user-blk-pci,id={name},chardev={name}-socket,num-queues={queues}"
        return [*self.chardev(name, qemu=qemu, **chardev), "-device", ",".join(filter(None, [device, options]))]

    def emulated(self, name, options=None):
        """An emulated card or disk over vfio-user, for NEWER_QEMU. @options: further properties, as a dictionary."""
        device = {"driver": "vfio-user-pci", "id": name, "socket": {"path": str(self.path(name + ".sock")), "type": "unix"}}
        return ["-device", json.dumps(device | (options or {}))]

    # --- Looking at it ---

    def change(self):
        """Returns a function that tells how much a number of the status has changed since: f("disks", "d", "reads")."""
        before = self.status()

        def number(status, path):
            for key in path:
                status = status.get(key, 0) if isinstance(status, dict) else status[key]
            return status

        return lambda *path: number(self.status(), path) - number(before, path)

    def connected(self, kind, name):
        return self.status()[kind][name]["connected"]

    def broken_queues(self):
        """{"name/index": reason} of all queues that are broken now."""
        status = self.status()
        return {f"{name}/{queue['index']}": queue["broken"] for kind in ("interfaces", "disks")
                for name, device in status[kind].items() for queue in device["queues"] if queue["broken"]}

    # --- Its life ---

    def crash_and_restart(self, pause=0.0):
        """SIGKILL, then start again with all that was left lying about: sockets, above all."""
        self.process.kill()
        self.process.wait()
        time.sleep(pause)
        self.start(wait=False)
        wait_until(self.answers, "the daemon answers again")

    def answers(self):
        if self.process.poll() is not None:
            raise ServerFailure(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")
        try:
            return self.status()["pid"] == self.pid
        except (OSError, ServerFailure):
            return False
