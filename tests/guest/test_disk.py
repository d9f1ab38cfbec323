# SPDX-License-Identifier: BSD-3-Clause
"""Disks of ours under Debian's own virtio_blk driver: one guest, booted once, with a disk for each subject.

The guest finds a disk by its serial, which is its name.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from sidecore import Daemon, configuration, guests, require, wait_until

MEBIBYTE = 1 << 20


def loop_device(image):
    """Returns a loop device for the image, or None where there is none to be had."""
    result = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None


class Places:
    """Where images lie: a tmpfs, the file system of the build, and an ext4 of our own on a loop device if we may have one."""

    def __init__(self, stack):
        self.tmpfs = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecore-disk-", dir="/dev/shm")))
        self.disk = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sidecore-disk-", dir="/var/tmp")))
        self.loop = self._make_loop(stack)

    def _make_loop(self, stack):
        image = self.disk / "loop.img"
        with open(image, "wb") as file:
            file.truncate(64 * MEBIBYTE)
        device = loop_device(image)
        if device:
            stack.callback(subprocess.run, ["losetup", "--detach", device], check=True)
        return device


@contextlib.contextmanager
def network_disk(folder):
    """qemu-nbd with a qcow2 image. Yields its socket."""
    if not shutil.which("qemu-nbd"):
        pytest.fail("qemu-nbd is not installed (tools/setup.sh run)")
    image, path = folder / "disk.qcow2", folder / "nbd.sock"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M"], check=True)
    process = subprocess.Popen(["qemu-nbd", "-f", "qcow2", "-k", str(path), "--persistent", "--shared=8", "--discard=unmap",
                                "--cache=writeback", str(image)], stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: path.exists() or process.poll() is not None, "qemu-nbd listens")
        assert process.poll() is None
        yield path
    finally:
        process.terminate()
        process.wait(10)
    subprocess.run(["qemu-img", "check", "-q", str(image)], check=True)


# name: (backend, further keys, queues, properties of QEMU's device); {tmpfs}, {disk} and {nbd} are filled in.
DISKS = {
    "ram": ("type: ram, size: 64M", "queues: 4", 4, ""),
    "packed": ("type: ram, size: 64M", "", 1, "packed=on"),
    "bare": ("type: ram, size: 64M", "", 1, "event_idx=off,indirect_desc=off"),
    "legacy": ("type: ram, size: 64M", "", 1, "disable-modern=on,disable-legacy=off"),
    "large-blocks": ("type: ram, size: 64M", "block_size: 4096", 1, ""),
    "read-only": ("type: ram, size: 64M", "read_only: true", 1, ""),
    "tmpfs": ("type: file, path: {tmpfs}/disk.img, size: 64M", "", 1, ""),
    "file": ("type: file, path: {disk}/disk.img, size: 128M", "queues: 2", 2, "packed=on"),
    "cached": ("type: file, path: {disk}/cached.img, size: 64M, direct: false", "", 1, ""),
    "loop": ("type: file, path: {loop}", "", 1, ""),
    "nbd": ('type: nbd, uri: "nbd+unix:///?socket={nbd}"', "", 1, ""),
    "nothing": ("type: null, size: 1G", "", 1, ""),
}
CACHING = ["tmpfs", "file", "cached", "loop", "nbd"]  # the others keep what they were given: no flush needed
WRITABLE = [name for name in DISKS if name not in ("read-only", "nothing")]


class Machine:
    """The guest and its disks."""

    def __init__(self, daemon, guest, places):
        self.daemon, self.guest, self.places = daemon, guest, places
        self.devices = {}
        for line in guest.run("for disk in /sys/block/vd*; do echo $(cat $disk/serial) /dev/${disk##*/}; done").splitlines():
            serial, device = line.split()
            self.devices[serial] = device

    def run(self, disk, command, timeout=60):
        """Runs a command with $disk set to the device and $sys to its folder in sysfs."""
        if disk not in self.devices:
            pytest.skip("no loop device can be made here")
        device = self.devices[disk]
        return self.guest.run(f"disk={device}; sys=/sys/block/{device[5:]}; {command}", timeout=timeout)

    def fio(self, disk, options, timeout=60):
        """Returns fio's results for the one job; fails when it found an error."""
        output = self.run(disk, f"fio --name=job --filename=$disk --output-format=json {options}", timeout)
        job = json.loads(output[output.index("{"):])["jobs"][0]
        assert job["error"] == 0
        return job


@pytest.fixture(scope="module")
def machine():
    require()
    with contextlib.ExitStack() as stack:
        places = Places(stack)
        nbd = stack.enter_context(network_disk(places.disk))
        names = [name for name in DISKS if name != "loop" or places.loop]
        words = {"tmpfs": places.tmpfs, "disk": places.disk, "loop": places.loop, "nbd": nbd}
        disks = {name: (DISKS[name][0].format(**words), DISKS[name][1]) for name in names}
        daemon = stack.enter_context(Daemon(configuration(disks=disks, networks=())))
        arguments = []
        for name in names:
            arguments += daemon.disk(name, queues=DISKS[name][2], options=DISKS[name][3])
        (guest,) = stack.enter_context(guests(disks={"devices": arguments, "cpus": 2}))
        machine = Machine(daemon, guest, places)
        assert set(machine.devices) == set(names)
        yield machine


@pytest.fixture(autouse=True)
def nothing_breaks(machine):
    yield
    assert not machine.daemon.broken_queues()


# --- What the guest sees ---


def test_geometry(machine):
    assert machine.run("ram", "cat $sys/size $sys/queue/logical_block_size $sys/ro").split() == ["131072", "512", "0"]
    assert machine.run("large-blocks", "cat $sys/size $sys/queue/logical_block_size").split() == ["131072", "4096"]
    assert machine.run("ram", "ls $sys/mq | wc -l").strip() in ("2", "4")  # Linux takes one for each of its CPUs
    status = machine.daemon.status()["disks"]
    assert int(status["packed"]["features"], 16) >> 34 & 1 and all(queue["packed"] for queue in status["packed"]["queues"])
    assert not int(status["legacy"]["features"], 16) >> 32 & 1
    assert not int(status["bare"]["features"], 16) & (1 << 28 | 1 << 29)


def test_read_only(machine):
    assert machine.run("read-only", "cat $sys/ro").strip() == "1"
    machine.run("read-only", "! dd if=/dev/zero of=$disk bs=4096 count=1 oflag=direct 2>/dev/null")
    machine.fio("read-only", "--readonly --rw=randread --bs=4k --size=4M --direct=1 --ioengine=libaio --iodepth=8")
    assert machine.daemon.status()["disks"]["read-only"]["writes"] == 0


# --- Data ---


@pytest.mark.parametrize("engine", ["libaio", "io_uring"])
@pytest.mark.parametrize("disk", WRITABLE)
def test_verify(machine, disk, engine):
    """Blocks of all sizes in random order, flushes between them; everything is read back and compared."""
    machine.fio(disk, f"--ioengine={engine} --direct=1 --iodepth=32 --rw=randwrite --bsrange=4k-128k --size=8M --fdatasync=64 "
                "--verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=1")
    status = machine.daemon.status()["disks"][disk]
    assert status["errors"] == 0 and (status["flushes"] > 0) == (disk in CACHING)


@pytest.mark.parametrize("disk", ["ram", "packed", "tmpfs", "file", "loop", "nbd"])
def test_mixed_and_verified(machine, disk):
    """Reads among the writes, each read verified, several jobs' worth of queues."""
    machine.fio(disk, "--ioengine=libaio --direct=1 --iodepth=16 --rw=randrw --rwmixread=40 --bs=4k --size=8M "
                "--verify=crc32c --verify_fatal=1 --verify_backlog=64 --numjobs=1 --randrepeat=0")


@pytest.mark.parametrize("disk", ["ram", "packed", "bare", "file", "nbd"])
def test_deep_queue_of_large_requests(machine, disk):
    job = machine.fio(disk, "--ioengine=libaio --direct=1 --iodepth=128 --rw=randwrite --bs=64k --size=32M --verify=crc32c "
                      "--verify_fatal=1 --do_verify=1")
    assert job["write"]["total_ios"] == 512


def test_queues_share_the_work(machine):
    before = machine.daemon.status()["disks"]["ram"]["queues"]
    machine.run("ram", "for cpu in 0 1; do taskset -c $cpu fio --name=job --filename=$disk --direct=1 --ioengine=libaio "
                "--rw=randread --bs=4k --size=2M --iodepth=4 & done; wait")
    after = machine.daemon.status()["disks"]["ram"]["queues"]
    assert sum(new["chains"] - old["chains"] > 100 for old, new in zip(before, after)) >= 2


@pytest.mark.parametrize("disk", ["ram", "tmpfs", "file", "loop", "nbd", "large-blocks", "packed"])
def test_discard_and_write_zeroes(machine, disk):
    """8 MiB of random data; 1 to 3 MiB discarded, 4 to 6 zeroed; what is around them stays."""
    change = machine.daemon.change()
    machine.run(disk, "head -c 8388608 /dev/urandom >/tmp/random && dd if=/tmp/random of=$disk bs=1M oflag=direct 2>/dev/null && "
                "blkdiscard -o 1M -l 2M $disk && blkdiscard -z -o 4M -l 2M $disk && "
                "dd if=$disk of=/tmp/back bs=1M count=8 iflag=direct 2>/dev/null && "
                "for part in 0 3 6 7; do cmp -n 1048576 /tmp/random /tmp/back $((part << 20)) $((part << 20)) || exit 1; done && "
                "cmp -n 2097152 /dev/zero /tmp/back 0 $((4 << 20)) && rm /tmp/random /tmp/back")
    assert change("disks", disk, "discards") >= 1 and change("disks", disk, "write_zeroes") >= 1
    assert change("disks", disk, "errors") == 0


def test_discard_frees_space_of_the_host(machine):
    image = machine.places.tmpfs / "disk.img"
    machine.run("tmpfs", "dd if=/dev/urandom of=$disk bs=1M count=16 oflag=direct 2>/dev/null")
    full = os.stat(image).st_blocks
    machine.run("tmpfs", "blkdiscard -l 16M $disk")
    assert full - os.stat(image).st_blocks >= (16 * MEBIBYTE // 512) * 0.9


def test_contents_reach_the_file(machine):
    machine.run("file", "yes sidecore | dd of=$disk bs=64k count=16 iflag=fullblock oflag=direct conv=fsync 2>/dev/null")
    expected = (b"sidecore\n" * (1 << 17))[:MEBIBYTE]
    assert (machine.places.disk / "disk.img").read_bytes()[:MEBIBYTE] == expected


def test_write_cache(machine):
    """Write-through: each write is followed by what makes it durable, without the guest asking; write-back: it has to ask."""
    assert machine.run("file", "cat $sys/cache_type").strip() == "write back"
    change = machine.daemon.change()
    machine.run("file", "dd if=/dev/zero of=$disk bs=4k count=8 oflag=direct conv=fsync 2>/dev/null")
    assert change("disks", "file", "flushes") >= 1
    try:
        machine.run("file", "echo 'write through' >$sys/cache_type")
        assert machine.run("file", "cat $sys/cache_type $sys/queue/write_cache").splitlines() == ["write through"] * 2
        change = machine.daemon.change()
        machine.run("file", "dd if=/dev/zero of=$disk bs=4k count=8 oflag=direct conv=fsync 2>/dev/null")
        assert change("disks", "file", "writes") == 8 and change("disks", "file", "flushes") == 0
    finally:
        machine.run("file", "echo 'write back' >$sys/cache_type")
    change = machine.daemon.change()
    machine.run("file", "echo 'write through' >$sys/queue/write_cache; "
                "dd if=/dev/zero of=$disk bs=4k count=8 oflag=direct conv=fsync 2>/dev/null; echo 'write back' >$sys/queue/write_cache")
    assert change("disks", "file", "flushes") == 0
    machine.fio("file", "--ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite --bs=4k --size=2M --fsync=4 "
                "--verify=crc32c --verify_fatal=1")


# --- File systems ---


@pytest.mark.parametrize("disk", ["ram", "packed", "large-blocks", "file", "loop", "nbd"])
def test_file_system(machine, disk):
    machine.run(disk, "modprobe -a ext4 crc32c_generic && mkfs.ext4 -q -F -E lazy_itable_init=0 $disk && mkdir -p /mnt/disk && mount -t ext4 -o discard $disk /mnt/disk && "
                "head -c 8388608 /dev/urandom >/mnt/disk/one && cp /mnt/disk/one /mnt/disk/two && rm /mnt/disk/one && "
                "md5sum </mnt/disk/two >/tmp/sum && umount /mnt/disk && e2fsck -fn $disk >/dev/null && "
                "mount -t ext4 -o ro $disk /mnt/disk && md5sum </mnt/disk/two | cmp - /tmp/sum; ok=$?; umount /mnt/disk; exit $ok", timeout=90)


# --- Size ---


def resize(machine, disk, size):
    answer = machine.daemon.control(command="resize", disk=disk, size=f"{size}")
    assert "error" not in answer, answer
    wait_until(lambda: int(machine.run(disk, "cat $sys/size")) == size // 512, f"the guest sees {size} bytes")


@pytest.mark.parametrize("disk", ["ram", "tmpfs"])
def test_resize(machine, disk):
    resize(machine, disk, 96 * MEBIBYTE)
    assert machine.run(disk, "lsblk -bno SIZE $disk").strip() == str(96 * MEBIBYTE)
    machine.fio(disk, "--ioengine=libaio --direct=1 --iodepth=8 --rw=write --bs=64k --offset=80M --size=16M --verify=crc32c "
                "--verify_fatal=1")
    machine.fio(disk, "--ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite --bs=4k --offset=60M --size=8M --verify=crc32c "
                "--verify_fatal=1")


def test_resized_by_somebody_else(machine):
    for size in (128, 48):
        os.truncate(machine.places.disk / "cached.img", size * MEBIBYTE)
        assert "error" not in machine.daemon.control(command="resize", disk="cached")
        wait_until(lambda: int(machine.run("cached", "cat $sys/size")) == size * 2048, f"the guest sees {size} MiB")
        assert machine.run("cached", "dd if=$disk bs=1M iflag=direct 2>/dev/null | wc -c").strip() == str(size * MEBIBYTE)


def test_nothing(machine):
    job = machine.fio("nothing", "--ioengine=libaio --direct=1 --rw=randread --bs=4k --size=16M --iodepth=32")
    assert job["read"]["total_ios"] == 4096
