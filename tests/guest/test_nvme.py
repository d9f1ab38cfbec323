# SPDX-License-Identifier: BSD-3-Clause
"""An NVMe controller of ours under Debian's own nvme driver: one guest with a controller of three namespaces, and others
that look at interrupts, doorbells and firmware.

Needs the QEMU that tools/qemu.sh unpacks, which speaks vfio-user; skipped when there is none.
"""

import contextlib
import os
import subprocess

import pytest

from sidecore import NEWER_QEMU, Daemon, configuration, guests, require, wait_until
from test_disk import MEBIBYTE

DISKS = {
    "main": ("type: ram, size: 64M", "model: nvme, queues: 8"),
    "large": ("type: file, path: large.img, size: 64M", "controller: main, block_size: 4096"),
    "fixed": ("type: ram, size: 16M", "controller: main, read_only: true"),
    "nothing": ("type: null, size: 256M", "controller: main"),
}
NUMBERS = {name: number for number, name in enumerate(DISKS, 1)}


def configured(disks):
    """Namespaces have no sockets of their own."""
    text = configuration(disks=disks, networks=())
    for name, (_, further) in disks.items():
        if "controller:" in further:
            text = text.replace(f"    socket: {name}.sock\n", "")
    return text


def need_qemu():
    require()
    if not os.access(NEWER_QEMU, os.X_OK):
        pytest.skip("no newer QEMU in build/qemu (make it with: tools/qemu.sh build/qemu)")


class Machine:
    def __init__(self, daemon, guest):
        self.daemon, self.guest = daemon, guest

    def run(self, command, timeout=60):
        return self.guest.run(command, timeout=timeout)

    def node(self, disk):
        """Newer kernels look at all namespaces at once, and name them as they come."""
        found = self.run(f"grep -lx {NUMBERS[disk]} /sys/block/nvme0n*/nsid").split()
        assert len(found) == 1, found
        return f"/dev/{found[0].split('/')[3]}"

    def fio(self, disk, options, timeout=90):
        self.run(f"fio --name=job --filename={self.node(disk)} --direct=1 {options} >/tmp/fio.log || "
                 "{ cat /tmp/fio.log; exit 1; }", timeout)

    def status(self):
        return self.daemon.status()["disks"]["main"]


@contextlib.contextmanager
def booted(disks, further="", **keywords):
    with Daemon(configured(disks) + further) as daemon:
        devices = daemon.emulated("main")
        with guests(nvme={"devices": devices, "qemu": NEWER_QEMU, **keywords}) as (guest,):
            guest.run("modprobe nvme; for i in $(seq 50); do [ $(ls -d /sys/block/nvme0n* | wc -l) = "
                      f"{len(disks)} ] && exit; sleep 0.1; done; exit 1")
            yield Machine(daemon, guest)


@pytest.fixture(scope="module")
def machine():
    need_qemu()
    with booted(DISKS, cpus=2) as machine:
        yield machine


def test_what_the_guest_sees(machine):
    for disk, expected in {"main": "131072 512 0", "large": "131072 4096 0", "fixed": "32768 512 1", "nothing": "524288 512 0"}.items():
        folder = f"/sys/block/{machine.node(disk)[5:]}"
        assert machine.run(f"echo $(cat {folder}/size {folder}/queue/logical_block_size {folder}/ro)").strip() == expected
    assert "nvme0q2" in machine.run("cat /proc/interrupts")
    identity = machine.run("nvme id-ctrl /dev/nvme0")
    assert "sidecore NVMe" in identity and "nn        : 4" in identity
    assert machine.run("nvme list-ns /dev/nvme0").count(":0x") == 4
    assert "critical_warning			: 0" in machine.run("nvme smart-log /dev/nvme0")
    assert "error_count" in machine.run("nvme error-log /dev/nvme0 -e 4")
    assert "Enabled" in machine.run("nvme get-feature /dev/nvme0 -f 6 -H")
    assert machine.run("for f in 1 2 4 5 7 8 9 10 11 14 128; do nvme get-feature /dev/nvme0 -n 1 -f $f -H || exit; done; "
                       "for s in 1 2 3; do nvme get-feature /dev/nvme0 -f 4 -s $s -H || exit; done")


@pytest.mark.parametrize("disk, engine", [("main", "libaio"), ("main", "io_uring"), ("large", "libaio")])
def test_verify(machine, disk, engine):
    """Blocks of all sizes in random order, flushes between them; everything is read back and compared."""
    before = machine.status()
    machine.fio(disk, f"--ioengine={engine} --iodepth=32 --rw=randwrite --bsrange=4k-1m --size=16M --fdatasync=8 "
                "--verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=1")
    after = machine.status()
    assert after["errors"] == before["errors"]
    assert disk == "main" or after["flushes"] > before["flushes"]


def test_discard_and_write_zeroes(machine):
    machine.run(f"""
        set -e
        disk={machine.node("large")}
        head -c 8388608 /dev/urandom >/tmp/random
        dd if=/tmp/random of=$disk bs=1M oflag=direct 2>/dev/null
        blkdiscard -o 1M -l 2M $disk
        blkdiscard -z -o 4M -l 2M $disk
        dd if=$disk of=/tmp/back bs=1M count=8 iflag=direct 2>/dev/null
        for part in 0 3 6 7; do
            cmp -n 1048576 /tmp/random /tmp/back $((part << 20)) $((part << 20))
        done
        cmp -n 2097152 /dev/zero /tmp/back 0 $((4 << 20))
        rm /tmp/random /tmp/back""")


def test_commands_of_nvme_cli(machine):
    machine.run(f"""
        set -e
        disk={machine.node("main")}
        head -c 4096 /dev/urandom >/tmp/data
        nvme write $disk -s 64 -c 7 -z 4096 -d /tmp/data
        nvme compare $disk -s 64 -c 7 -z 4096 -d /tmp/data
        ! nvme compare $disk -s 72 -c 7 -z 4096 -d /tmp/data
        nvme verify $disk -s 64 -c 100
        nvme flush $disk
        nvme dsm $disk -d -s 128,256 -b 8,8 -a 0,0
        nvme write-zeroes $disk -s 64 -c 7
        nvme read $disk -s 64 -c 7 -z 4096 2>/dev/null | cmp -n 4096 - /dev/zero
        ! nvme write-uncor $disk -s 0 -c 1
        ! nvme format $disk -f
        ! nvme sanitize /dev/nvme0 -a 2
        ! nvme get-feature /dev/nvme0 -f 15
        nvme reset /dev/nvme0
        nvme read $disk -s 64 -c 7 -z 4096 2>/dev/null | cmp -n 4096 - /dev/zero""")


def test_features_can_be_set(machine):
    machine.run("""
        set -e
        for value in 1:7 2:32 4:340 6:0 6:1 8:0x0203 9:1 10:1 11:0x101; do
            nvme set-feature /dev/nvme0 -f ${value%:*} -v ${value#*:} >/dev/null
        done
        nvme set-feature /dev/nvme0 -n 2 -f 5 -v 100
        nvme get-feature /dev/nvme0 -n 2 -f 5 | grep -q 0x00000064
        nvme get-feature /dev/nvme0 -n 1 -f 5 | grep -q 00000000
        ! nvme set-feature /dev/nvme0 -n 1 -f 8 -v 0
        nvme set-feature /dev/nvme0 -f 4 -v 300
        nvme smart-log /dev/nvme0 | grep -q 'critical_warning.*0x2'
        nvme reset /dev/nvme0
        nvme get-feature /dev/nvme0 -f 8 | grep -q 00000000
        nvme smart-log /dev/nvme0 | grep -q 'critical_warning.*: 0'""")


def test_failures_are_in_the_error_log(machine):
    """With the place where it went wrong; and the driver is told that there is more about it (status bit 13)."""
    answer = machine.run(f"""
        ! nvme io-passthru {machine.node("main")} -o 2 -n 1 --cdw10=0xabcdef --cdw12=7 -l 4096 -r >/tmp/answer 2>&1
        cat /tmp/answer
        nvme error-log /dev/nvme0 -e 1""")
    fields = dict(line.replace("\t", "").split(":", 1) for line in answer.splitlines() if ":" in line)
    assert "(0x6080)" in answer
    assert fields["lba"].strip() == "0xabcdef" and fields["nsid"].strip() == "0x1" and int(fields["sqid"]) >= 1
    assert machine.run(f"nvme smart-log /dev/nvme0 | grep num_err").split(":")[1].strip() == fields["error_count"].strip()


def test_coalescing(machine):
    """Each read waits for the time that is set, since no other comes with it; and no message is sent for any of that."""
    def reads():
        begin, end = machine.run(f"""
            cat /proc/uptime
            dd if={machine.node("nothing")} of=/dev/null bs=4k count=40 iflag=direct 2>/dev/null
            cat /proc/uptime""").splitlines()
        return float(end.split()[0]) - float(begin.split()[0])

    machine.run("nvme set-feature /dev/nvme0 -f 8 -v 0xc8ff")   # 256 entries, 20 ms
    before = machine.status()
    slow = reads()
    after = machine.status()
    machine.run("nvme set-feature /dev/nvme0 -f 8 -v 0")
    assert slow >= 40 * 0.02 and reads() < slow / 2
    assert after["reads"] - before["reads"] >= 40 and after["messages"] == before["messages"]


def test_a_shutdown_flushes(machine):
    machine.run(f"dd if=/dev/zero of={machine.node('large')} bs=4k count=1 oflag=direct 2>/dev/null; sync")
    before = machine.status()
    machine.run("rmmod nvme; sleep 0.2")
    after = machine.status()
    machine.run("modprobe nvme; for i in $(seq 50); do [ $(ls -d /sys/block/nvme0n* | wc -l) = 4 ] && exit; sleep 0.1; done")
    assert after["flushes"] - before["flushes"] == 1    # one of its disks has a cache
    assert machine.run("nvme smart-log /dev/nvme0 | grep unsafe").split(":")[1].strip() == "0"


def test_no_messages_in_steady_state(machine):
    """Neither for a command nor for an interrupt: that is what the mapped doorbells are for."""
    machine.run("sleep 0.5")
    before = machine.status()
    machine.fio("nothing", "--ioengine=libaio --iodepth=32 --rw=randread --bs=4k --size=16M")
    after = machine.status()
    assert after["reads"] - before["reads"] >= 4096
    assert after["messages"] == before["messages"]


@pytest.mark.parametrize("disk, size", [("main", 96), ("large", 128), ("main", 64)])
def test_resize(machine, disk, size):
    answer = machine.daemon.control(command="resize", disk=disk, size=str(size * MEBIBYTE))
    assert "error" not in answer, answer
    node = machine.node(disk)[5:]
    wait_until(lambda: int(machine.run(f"cat /sys/block/{node}/size")) == size * 2048, f"the guest sees {size} MiB")
    machine.run(f"dd if=/dev/{node} of=/dev/null bs=1M skip={size - 2} iflag=direct")


def test_file_system(machine):
    machine.run(f"""
        set -e
        modprobe -a ext4 crc32c_generic
        mkfs.ext4 -q -F -E lazy_itable_init=0 {machine.node("large")}
        mkdir -p /mnt/disk
        mount -t ext4 -o discard {machine.node("large")} /mnt/disk
        head -c 8388608 /dev/urandom >/mnt/disk/one
        cp /mnt/disk/one /mnt/disk/two
        rm /mnt/disk/one
        md5sum </mnt/disk/two >/tmp/sum
        umount /mnt/disk
        e2fsck -fn {machine.node("large")} >/dev/null
        mount -t ext4 -o ro {machine.node("large")} /mnt/disk
        md5sum </mnt/disk/two | cmp - /tmp/sum
        umount /mnt/disk""", timeout=90)


@pytest.mark.parametrize("way", ["rmmod nvme; modprobe nvme", "echo 1 >/sys/class/nvme/nvme0/reset_controller",
                                 "echo 1 >/sys/class/nvme/nvme0/device/reset",
                                 "nvme subsystem-reset /dev/nvme0; nvme reset /dev/nvme0",
                                 "echo 1 >/sys/class/nvme/nvme0/device/remove; sleep 0.3; echo 1 >/sys/bus/pci/rescan"])
def test_reset_under_load(machine, way):
    machine.run(f"""
        dd if={machine.node("nothing")} of=/dev/null bs=4k iflag=direct 2>/dev/null & load=$!
        sleep 0.3
        for i in 1 2 3 4 5 6 7 8 9 10; do
            ({way}) 2>/dev/null && break || sleep 0.5
            kill $load 2>/dev/null
        done
        kill $load 2>/dev/null
        for i in $(seq 100); do
            [ "$(cat /sys/class/nvme/nvme0/state)" = live ] && [ $(ls -d /sys/block/nvme0n* | wc -l) = 4 ] && break
            sleep 0.1
        done
        wait
        true""", timeout=60)
    machine.fio("main", "--ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --size=2M --verify=crc32c --verify_fatal=1")


@pytest.mark.parametrize("doorbells, append", [("mapped", "pci=nomsi"), ("posted", ""), ("posted", "pci=nomsi")])
def test_other_interrupts_and_doorbells(doorbells, append):
    need_qemu()
    disks = {"main": ("type: ram, size: 64M", f"model: nvme, doorbells: {doorbells}")}
    with booted(disks, append=append) as machine:
        machine.fio("main", "--ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --size=2M --verify=crc32c "
                    "--verify_fatal=1")
        assert "nobody cared" not in machine.run("dmesg")
        before = machine.run("grep nvme /proc/interrupts; sleep 1; grep nvme /proc/interrupts").splitlines()
        assert before[:len(before) // 2] == before[len(before) // 2:]


def test_firmware_boots_from_it(tmp_path):
    """SeaBIOS finds the disk and starts its boot sector, which says so on the serial port and reboots, again and again."""
    need_qemu()
    words = b"booted from nvme\n"
    code = b"\xba\xf8\x03" + b"".join(b"\xb0" + bytes([byte]) + b"\xee" for byte in words) + b"\xb0\xfe\xe6\x64\xf4\xeb\xfd"
    image = tmp_path / "boot.img"
    image.write_bytes((code.ljust(510, b"\0") + b"\x55\xaa").ljust(MEBIBYTE, b"\0"))
    console = tmp_path / "console.log"
    with Daemon(configured({"main": (f"type: file, path: {image}", "model: nvme")})) as daemon:
        process = subprocess.Popen(
            [str(NEWER_QEMU), "-nodefaults", "-display", "none", "-machine", "q35,accel=tcg", "-m", "128",
             "-object", "memory-backend-memfd,share=on,id=memory,size=128M", "-numa", "node,memdev=memory",
             "-serial", f"file:{console}", *daemon.emulated("main", {"bootindex": 1})], stdin=subprocess.DEVNULL)
        try:
            wait_until(lambda: console.exists() and console.read_bytes().count(words) >= 3, "the boot sector runs", 90)
        finally:
            process.kill()
            process.wait()
