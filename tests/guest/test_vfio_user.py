# SPDX-License-Identifier: BSD-3-Clause
"""Emulated devices over vfio-user in a guest of the newer QEMU: what the transport has to bear from a machine's life.

Memory is mapped anew by firmware in each boot; a machine resets; a card is plugged and pulled. What the devices do is tested
elsewhere. Skipped when there is no newer QEMU.
"""

import os
import time

import pytest

from guest import Guest
from sidecore import NEWER_QEMU, Daemon, configuration, require, wait_until


@pytest.fixture(scope="module")
def machine():
    if not os.access(NEWER_QEMU, os.X_OK):
        pytest.skip("no newer QEMU in build/qemu (make it with: tools/qemu.sh build/qemu)")
    require()
    text = configuration(interfaces={"a-net": "model: igb", "b-net": "model: e1000"},
                         disks={"a-disk": ("type: ram, size: 64M", "model: nvme")})
    with Daemon(text) as daemon:
        devices = daemon.emulated("a-disk") + daemon.emulated("a-net")
        port = ["-device", "pcie-root-port,id=downstream,slot=1,chassis=1"]
        with Guest("a", devices=[*devices, *port], qemu=NEWER_QEMU) as guest:
            yield daemon, guest


def disk_status(daemon):
    return daemon.status()["disks"]["a-disk"]


def read_disk(guest, blocks):
    guest.run("modprobe nvme")
    wait_until(lambda: guest.run("test -b /dev/nvme0n1", check=False).ok, "the disk is there", 30)
    guest.run(f"dd if=/dev/nvme0n1 of=/dev/null bs=4k iflag=direct count={blocks}")


def healthy(daemon):
    """No message was refused, no device has stopped."""
    for device in (disk_status(daemon), daemon.status()["interfaces"]["a-net"]):
        assert device["connected"] and device["connections"] == 1
        assert device["refused"] == 0 and device["last_error"] is None and device["pci"]["fault"] is None


def test_requests_cost_no_message(machine):
    daemon, guest = machine
    read_disk(guest, 1)
    before = disk_status(daemon)
    read_disk(guest, 1000)
    after = disk_status(daemon)
    assert after["reads"] - before["reads"] >= 1000
    assert after["pci"]["interrupts"] > before["pci"]["interrupts"]
    assert after["messages"] == before["messages"]
    healthy(daemon)


def test_reset_of_the_machine(machine):
    """With the drivers in the middle of their work; twice, since the second finds what the first left."""
    daemon, guest = machine
    guest.qmp("set-action", reboot="reset")
    for _ in range(2):
        read_disk(guest, 1)
        guest.run("modprobe igb")
        guest.spawn("dd if=/dev/nvme0n1 of=/dev/null bs=64k iflag=direct")
        memory = disk_status(daemon)["memory"]
        guest._hello.clear()
        guest.boot_seconds, guest._started = None, time.monotonic()
        guest.qmp("system_reset")
        guest.wait_ready()
        read_disk(guest, 100)
        assert disk_status(daemon)["memory"] == memory
        healthy(daemon)


def test_plug_and_pull(machine):
    """
    A card without MSI-X: QEMU 11.1 ends itself when one that has it is pulled (vfio_user_msix_teardown() removes a memory
    region from a container that is gone already).
    """
    daemon, guest = machine

    def connected():
        return daemon.status()["interfaces"]["b-net"]["connected"]

    guest.run("modprobe e1000; modprobe igb")
    before = guest.run("ls /sys/class/net").split()
    for _ in range(2):
        guest.qmp("device_add", driver="vfio-user-pci", id="hot", bus="downstream",
                  socket={"type": "unix", "path": str(daemon.path("b-net.sock"))})
        wait_until(lambda: len(guest.run("ls /sys/class/net").split()) == len(before) + 1, "the card is there", 60)
        assert connected()
        time.sleep(5)  # the slot ignores its button while it blinks
        guest.qmp("device_del", id="hot")
        wait_until(lambda: not connected(), "QEMU lets go of the card", 60)
        wait_until(lambda: guest.run("ls /sys/class/net").split() == before, "the card is gone", 60)
        time.sleep(5)
    healthy(daemon)
