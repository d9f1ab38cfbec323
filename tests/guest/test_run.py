# SPDX-License-Identifier: BSD-3-Clause
"""`sidecore run` looks after its daemon: one that is killed is started again, one that keeps dying is not."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from guest import IMAGE
from sidecore import NEWER_QEMU, require, server, wait_until


class Run:
    """A `sidecore run` with one guest and no tour."""

    def __init__(self):
        command = [str(server.binary().resolve()), "run", "--guests", "1", "--memory", "192", "--keep", "--guest-folder", str(IMAGE)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.output = ""
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        wait_until(lambda: "Ctrl-C ends it" in self.output or self.process.poll() is not None, "guests are up", timeout=90)
        self.control = re.search(r"--control (\S+)", self.output)[1]

    def read(self):
        for line in self.process.stdout:
            self.output += line

    def status(self):
        with socket.socket(socket.AF_UNIX) as port, port.makefile("rw") as stream:
            port.settimeout(5)
            port.connect(self.control)
            stream.write('{"command":"status"}\n')
            stream.flush()
            return json.loads(stream.readline())

    def daemon(self):
        """Its process id, when all of the guest's devices are connected; else None."""
        try:
            status = self.status()
        except (OSError, ValueError):
            return None
        devices = [*status["interfaces"].values(), *status["disks"].values()]
        return status["pid"] if all(device["connected"] for device in devices) else None

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(10)
        self.process.stdout.close()


@pytest.fixture
def run():
    require()
    running = Run()
    yield running
    running.close()


def test_killed_daemon_is_started_again(run):
    first = wait_until(run.daemon, "the guest is connected", timeout=30)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: run.daemon() not in (None, first), "the guest is connected to another daemon", timeout=30)
    assert "killed by signal 9; starting it again" in run.output
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(30) == 0, run.output


def test_daemon_that_keeps_dying_is_left_alone(run):
    for _ in range(4):
        pid = wait_until(lambda: run.process.poll() is not None or changed(run, None), "a daemon answers")
        if run.process.poll() is not None:
            break
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: run.process.poll() is not None or changed(run, pid), "the launcher has noticed", timeout=10)
    assert run.process.wait(30) == 1
    assert "once too often" in run.output


def changed(run, pid):
    """The process id of a daemon other than @pid, once it answers."""
    try:
        found = run.status()["pid"]
        return found if found != pid else None
    except (OSError, ValueError):
        return None


# A boot sector that writes its last words to the first serial port, and halts.
SECTOR = bytes.fromhex("31c08ed8be147cbaf803ac84c07403eeebf8faf4") + b"booted from the disk\r\n\0"


@pytest.mark.parametrize("model", ["virtio", "nvme"])
def test_boot_from_disk(tmp_path, model):
    """An image of one's own, from either kind of disk, by QEMU's firmware."""
    require()
    if model == "nvme" and not os.access(NEWER_QEMU, os.X_OK):
        pytest.skip("no newer QEMU in build/qemu (make it with: tools/qemu.sh build/qemu)")
    image = tmp_path / "boot.img"
    image.write_bytes((SECTOR.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    command = [str(server.binary().resolve()), "run", "--image", str(image), "--disk", model, "--memory", "128"]
    if model == "nvme":
        command += ["--qemu", str(NEWER_QEMU)]
    with open(tmp_path / "output", "w+", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: "Ctrl-C ends it" in (tmp_path / "output").read_text(), "the guest is started", timeout=30)
            folder = re.search(r"--control (\S+)/control.sock", (tmp_path / "output").read_text())[1]
            console = os.path.join(folder, "guest0.console.log")
            wait_until(lambda: os.path.exists(console) and b"booted from the disk" in Path(console).read_bytes(),
                       "the boot sector runs", timeout=60)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, (tmp_path / "output").read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
