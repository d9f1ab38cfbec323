# SPDX-License-Identifier: BSD-3-Clause
"""Sleep (ACPI S3) and kexec: drivers of emulated devices that stop, and start again on what they or others have left.

A guest with an Intel card and an NVMe disk. After a crash the next kernel finds devices that nobody has stopped, with rings
in memory that is no longer theirs to write.
"""

import contextlib
import subprocess

import pytest

import guest as harness
from guest import Guest
from sidecore import NEWER_QEMU, Daemon, configuration, wait_until
from test_nvme import need_qemu

# Minutes: left to make test-long.
pytestmark = pytest.mark.long

MEBIBYTE = 1 << 20
GATEWAY = "10.0.2.2"
MODELS = ["igb", "e1000e", "e1000"]


class Machine:
    def __init__(self, daemon, guest):
        self.daemon, self.guest = daemon, guest

    def set_up(self):
        self.guest.run("ip link set eth0 up && ip addr replace 10.0.2.15/24 dev eth0 && [ -b /dev/nvme0n1 ]")

    def check(self):
        """Card and disk work."""
        guest = self.guest
        wait_until(lambda: guest.run("cat /sys/class/net/eth0/carrier").strip() == "1", "the link is up", 30)
        wait_until(lambda: guest.run(f"ping -n -q -c 1 -W 1 {GATEWAY}", check=False).ok, "the gateway answers", 30)
        output = guest.run(f"ping -n -q -c 5 -i 0.1 -s 1400 {GATEWAY}")
        assert " 0% packet loss" in output, output
        guest.run("fio --name=job --filename=/dev/nvme0n1 --offset=96M --direct=1 --ioengine=libaio --iodepth=16 "
                  "--rw=randwrite --bs=4k --size=1M --verify=crc32c --verify_fatal=1", timeout=60)
        status = self.daemon.status()
        for device in (status["interfaces"]["card"], status["disks"]["disk"]):
            assert not device["pci"]["faults"], device


@contextlib.contextmanager
def booted(model, disk="type: ram, size: 128M", **keywords):
    need_qemu()
    text = configuration(interfaces={"card": f"model: {model}"}, disks={"disk": (disk, "model: nvme")})
    with Daemon(text.replace("type: none", "type: slirp")) as daemon:
        devices = daemon.emulated("card") + daemon.emulated("disk")
        # The real mode entry of bzImage: what was started by PVH does not come back from its sleep.
        with Guest("power", devices=devices, qemu=NEWER_QEMU, cpus=2, kernel="vmlinuz", **keywords) as guest:
            machine = Machine(daemon, guest)
            machine.set_up()
            yield machine


@pytest.mark.parametrize("model", MODELS)
def test_suspend_to_memory(model):
    """Twice, with commands and frames under way: they are frozen with who sent them, and go on after it."""
    with booted(model) as machine:
        guest = machine.guest
        machine.check()
        load = guest.spawn("fio --name=load --filename=/dev/nvme0n1 --direct=1 --ioengine=libaio --iodepth=16 --size=32M "
                           "--rw=randrw --bs=4k --time_based --runtime=600")
        ping = guest.spawn(f"ping -n -q -i 0.01 {GATEWAY}")
        for _ in range(2):
            guest.run("echo 0 >/sys/class/rtc/rtc0/wakealarm; echo +3 >/sys/class/rtc/rtc0/wakealarm && "
                      "grep -qF '[deep]' /sys/power/mem_sleep && echo mem >/sys/power/state",
                      timeout=60)
            machine.check()
            assert load.running and ping.running
        load.kill()
        ping.kill()
        assert guest.run("cat /sys/power/suspend_stats/success").strip() == "2"


def install(image):
    """A disk with our kernel and initrd, and the commands that fetch them."""
    files = [(name, harness.IMAGE / name) for name in ("vmlinuz", "initrd.img")]
    commands, at = [], 0
    with open(image, "wb") as disk:
        for name, path in files:
            content = path.read_bytes()
            disk.seek(at)
            disk.write(content)
            blocks = -(-len(content) // MEBIBYTE)
            commands.append(f"dd if=/dev/nvme0n1 bs=1M skip={at // MEBIBYTE} count={blocks} iflag=direct 2>/dev/null | "
                            f"head -c {len(content)} >/tmp/{name}")
            at += blocks * MEBIBYTE
        assert at <= 96 * MEBIBYTE
        disk.truncate(128 * MEBIBYTE)
    return " && ".join(commands)


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_next_kernel(tmp_path, model, crash):
    """kexec, from a kernel that stops its devices and from one that has crashed and cannot, both under load."""
    image = tmp_path / "disk.img"
    fetch = install(image)
    with booted(model, f"type: file, path: {image}", memory=1024, append="crashkernel=448M" if crash else "") as machine:
        guest = machine.guest
        machine.check()
        guest.run(fetch, timeout=60)
        load = "--reuse-cmdline --append=nr_cpus=1" if crash else "--reuse-cmdline"
        guest.run(f"kexec {'-p' if crash else '-l'} /tmp/vmlinuz --initrd=/tmp/initrd.img {load} && rm /tmp/vmlinuz", timeout=60)
        guest.spawn(f"ping -n -q -i 0.01 {GATEWAY}")
        guest.spawn("fio --name=load --filename=/dev/nvme0n1 --direct=1 --ioengine=libaio --iodepth=16 --rw=randread --bs=4k "
                    "--time_based --runtime=600")
        before = int(guest.run("sleep 0.5; date +%s")) - float(guest.run("cut -d' ' -f1 /proc/uptime"))
        guest.spawn("echo c >/proc/sysrq-trigger" if crash else "kexec -e")
        console = guest.console
        wait_until(lambda: console().count("sidecore guest") == 2, "the next kernel is up", 90)
        guest.connect()
        guest.wait_ready()
        after = int(guest.run("date +%s")) - float(guest.run("cut -d' ' -f1 /proc/uptime"))
        assert after > before + 3
        assert ("elfcorehdr=" in guest.run("cat /proc/cmdline")) == crash
        machine.set_up()
        machine.check()
