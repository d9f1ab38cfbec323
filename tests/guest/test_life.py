# SPDX-License-Identifier: BSD-3-Clause
"""Guests, QEMU and the daemon come and go while I/O is under way: resets, crashes, hot-plug, memory that vanishes.

The first tests share a pair of guests; those that end a guest or need one of another kind boot their own.
"""

import contextlib
import os
import random
import re
import signal
import time

import pytest

from guest import Guest, GuestError
from sidecore import Daemon, configuration, guests, processor_seconds, require, wait_until

FIO = "fio --name=job --filename={disk} --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 "


def daemon_for(names, spare=()):
    disks = {f"{name}-disk": "type: ram, size: 256M" for name in [*names, *spare]}
    return Daemon(configuration(interfaces=[f"{name}-net" for name in names], disks=disks))


def devices(daemon, name, reconnect=False):
    return [*daemon.nic(f"{name}-net", reconnect=reconnect), *daemon.disk(f"{name}-disk", reconnect=reconnect)]


def set_up(guest, number):
    guest.run(f"ip addr add 10.0.0.{number}/24 dev eth0 && ip link set eth0 up")


def ping(guest, number, count=5):
    """Returns how many answers came."""
    output = guest.run(f"ping -n -O -c {count} -i 0.05 -w 10 10.0.0.{number}", check=False).output
    answers = int(re.search(r"(\d+) received", output)[1])
    if answers != count:
        print(f"{guest.name}:\n{output}")
    return answers


def answers(guest, number):
    """The network works: waits until it does, for a card that has just come back."""
    wait_until(lambda: ping(guest, number, 1) == 1, f"{guest.name} reaches 10.0.0.{number}", timeout=30)
    return ping(guest, number) >= 5  # one more is sent when an answer is late


def connected(daemon, name):
    """Both devices of a guest."""
    return daemon.connected("interfaces", f"{name}-net") and daemon.connected("disks", f"{name}-disk")


def started(daemon, name):
    """Both devices of a guest, with one pair of queues and one queue: QEMU has told all about them."""
    status = daemon.status()
    queues = status["interfaces"][f"{name}-net"]["queues"][:2] + status["disks"][f"{name}-disk"]["queues"][:1]
    return all(queue["running"] for queue in queues)


def verify(guest, disk="/dev/vda", size="4M"):
    guest.run(FIO.format(disk=disk) + f"--rw=randwrite --bs=4k --iodepth=16 --size={size}", timeout=60)


def disk_of(guest, serial):
    """The device with a serial, or None."""
    found = guest.run(f"for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" != {serial} ] || echo /dev/${{d##*/}}; done")
    return found.strip() or None


class Pair:
    def __init__(self, daemon, a, b):
        self.daemon, self.a, self.b = daemon, a, b


@pytest.fixture(scope="module")
def pair():
    require()
    ports = ["-device", "pcie-root-port,id=plug,chassis=1,slot=1"]
    room = ["-m", "slots=2,maxmem=2G"]
    with daemon_for("ab", spare=["spare"]) as daemon:
        with guests(a={"devices": [*room, *ports, *devices(daemon, "a", True)], "memory": 256,
                       "append": "memhp_default_state=online"},
                    b={"devices": devices(daemon, "b", True)}) as (a, b):
            set_up(a, 1)
            set_up(b, 2)
            b.run("iperf3 -s -D")
            assert answers(a, 2)
            yield Pair(daemon, a, b)


# --- Idle ---


def test_idle_guests_cost_nothing(pair):
    verify(pair.a)
    time.sleep(1)
    before = processor_seconds(pair.daemon.pid)
    time.sleep(3)
    assert (processor_seconds(pair.daemon.pid) - before) / 3 < 0.03
    # And the first packet after the silence wakes it.
    assert ping(pair.a, 2) == 5


# --- Devices come and go ---


def removed(guest, chardev):
    """QEMU refuses for as long as the device that uses it is not gone entirely."""
    try:
        guest.qmp("chardev-remove", id=chardev)
    except GuestError as error:
        assert "busy" in str(error)
        return False
    return True


def memory_of(guest):
    """In KiB, as the guest counts it."""
    return int(guest.run("sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))


def test_disk_plugged_and_unplugged(pair):
    a, daemon = pair.a, pair.daemon
    for _ in range(2):
        a.qmp("chardev-add", id="spare-socket", backend={"type": "socket", "data": {
            "addr": {"type": "unix", "data": {"path": daemon.path("spare-disk.sock")}}, "server": False}})
        a.qmp("device_add", driver="vhost-user-blk-pci", id="spare", chardev="spare-socket", bus="plug",
              **{"num-queues": 1})
        disk = wait_until(lambda: disk_of(a, "spare-disk"), "the guest sees the new disk", timeout=20)
        verify(a, disk)
        a.qmp("device_del", id="spare")
        wait_until(lambda: not disk_of(a, "spare-disk"), "the guest has let go of it", timeout=20)
        wait_until(lambda: removed(a, "spare-socket"), "QEMU has let go of it, too", timeout=20)
        wait_until(lambda: not daemon.connected("disks", "spare-disk"), "the daemon has noticed")
    verify(a)
    assert ping(a, 2) == 5


def test_memory_plugged_in_under_load(pair):
    """Then page cache and buffers larger than the old memory go through the new one."""
    a, daemon = pair.a, pair.daemon
    regions = daemon.status()["disks"]["a-disk"]["memory"]
    load = a.spawn("iperf3 --forceflush -c 10.0.0.2 -t 4", timeout=60)
    disk = a.spawn(FIO.format(disk="/dev/vda") + "--rw=randwrite --bs=4k --iodepth=16 --size=16M", timeout=60)
    load.wait_output("connected to")
    before = memory_of(a)
    a.qmp("object-add", **{"qom-type": "memory-backend-memfd", "id": "more", "size": 512 << 20, "share": True})
    a.qmp("device_add", driver="pc-dimm", id="dimm", memdev="more")
    wait_until(lambda: memory_of(a) > before + 400 * 1024, "the guest uses the new memory", timeout=20)
    assert load.wait(60).ok and disk.wait(60).ok
    assert daemon.status()["disks"]["a-disk"]["memory"] >= regions + (512 << 20)
    # 250 MiB do not fit into what was there before.
    a.run("fio --name=job --filename=/dev/vda --rw=write --bs=1M --size=250M --verify=crc32c --verify_fatal=1 "
          "--verify_interval=1M --end_fsync=1", timeout=90)
    assert ping(a, 2) == 5
    assert not daemon.broken_queues()


# --- The daemon dies ---


def test_daemon_killed_under_load(pair):
    a, b, daemon = pair.a, pair.b, pair.daemon
    load = a.spawn("iperf3 --forceflush -c 10.0.0.2 -t 6", timeout=90)
    load.wait_output("connected to")
    for _ in range(2):
        daemon.crash_and_restart(pause=0.3)
        for name in "ab":
            wait_until(lambda: started(daemon, name), f"{name} is back", timeout=20)  # QEMU 7.2 loses a disk that goes while it is taken up
    assert load.wait(90).ok
    assert answers(a, 2) and answers(b, 1)
    verify(a)
    verify(b)
    assert not daemon.broken_queues()


def test_packed_card_whose_guest_was_paused():
    """From then on QEMU says of the ring, after each death of the daemon, where it stood at the pause."""
    require()
    with daemon_for("ab") as daemon:
        packed = {name: [*daemon.nic(f"{name}-net", options="packed=on", reconnect=True)] for name in "ab"}
        with guests(**packed) as (a, b):
            set_up(a, 1)
            set_up(b, 2)
            assert answers(a, 2)
            b.qmp("stop")
            b.qmp("cont")
            for _ in range(2):
                assert answers(a, 2) and answers(b, 1)
                daemon.crash_and_restart()
            assert answers(a, 2) and answers(b, 1)
            assert not daemon.broken_queues()


@pytest.fixture(scope="module")
def crashing():
    """A guest with file disks, whose contents outlive the daemon."""
    require()
    disks = {"split": ("type: file, path: split.img, size: 64M", ""),
             "packed": ("type: file, path: packed.img, size: 64M", "queues: 2")}
    with Daemon(configuration(disks=disks, networks=())) as daemon:
        arguments = [*daemon.disk("split", reconnect=True), *daemon.disk("packed", 2, "packed=on", reconnect=True)]
        with guests(crashing={"devices": arguments, "cpus": 2}) as (guest,):
            yield daemon, guest


@pytest.mark.parametrize("disk", ["split", "packed"])
def test_no_request_is_lost_when_the_daemon_is_killed(crashing, disk):
    """Requests in flight are found in the region that QEMU keeps, and done again."""
    daemon, guest = crashing
    name = wait_until(lambda: disk_of(guest, disk), "the disk is there")
    load = guest.spawn(FIO.format(disk=name) + "--rw=randwrite --bsrange=4k-64k --iodepth=64 --size=32M --loops=2 "
                       "--do_verify=1", timeout=120)
    for number in range(4):
        change = daemon.change()
        wait_until(lambda: change("disks", disk, "writes") > 100 or not load.running, "writes are under way")
        assert load.running, load.output
        daemon.crash_and_restart(pause=0.1 * number)
        wait_until(lambda: daemon.connected("disks", disk), "QEMU has come back", timeout=20)
    result = load.wait(150)
    assert result.ok, result.output
    assert not daemon.broken_queues()


# How often; SIDECORE_KILLS is for longer runs by hand.
KILLS = int(os.environ.get("SIDECORE_KILLS", 14))
TROUBLE = re.compile(r"I/O error|Buffer I/O|blocked for more than|Call Trace|BUG:|WARNING:|reset|timed out|error", re.IGNORECASE)


def messages(guest):
    return [line for line in guest.run("dmesg").splitlines() if TROUBLE.search(line)]


@contextlib.contextmanager
def told(a, b, daemon):
    """Of what does not move: whose turn it is, by the guests' account and by ours."""
    try:
        yield
    except (AssertionError, GuestError) as error:
        account = "".join(f"\n{guest.name}: " + guest.run("ss -tinmo; cat /sys/block/vda/inflight /proc/uptime; ps; dmesg | tail",
                                                          check=False).output for guest in (a, b))
        raise AssertionError(f"{error}\npings {ping(a, 2)}, {ping(b, 1)}{account}\n{daemon.status()}") from None


def test_killed_again_and_again():
    """fio with verification in two guests, split and packed, and a stream between them: all that they notice is pauses."""
    require()
    disks = {f"{name}-disk": f"type: file, path: {name}.img, size: 64M" for name in "ab"}
    chance = random.Random()
    with Daemon(configuration(interfaces=["a-net", "b-net"], disks=disks)) as daemon:
        packed = [*daemon.nic("b-net", options="packed=on", reconnect=True), *daemon.disk("b-disk", options="packed=on", reconnect=True)]
        with guests(a={"devices": devices(daemon, "a", True), "memory": 256}, b={"devices": packed, "memory": 256}) as (a, b):
            set_up(a, 1)
            set_up(b, 2)
            b.run("iperf3 -s -D")
            before = {guest: messages(guest) for guest in (a, b)}
            stream = a.spawn("iperf3 --forceflush -c 10.0.0.2 -t 3600")
            stream.wait_output("connected to")
            job = FIO.format(disk="/dev/vda") + "--rw=randwrite --bsrange=4k-32k --iodepth=32 --size=8M --minimal"
            jobs = [guest.spawn(f"while [ ! -e /tmp/enough ]; do {job} > /tmp/fio || {{ cat /tmp/fio; exit 1; }}; echo round; done")
                    for guest in (a, b)]
            for number in range(KILLS):
                daemon.crash_and_restart(pause=chance.choice((0, 0, 0.05)))
                # Not while QEMU is starting a device: it then goes on without us for good ("falling back on userspace virtio").
                wait_until(lambda: all(started(daemon, name) for name in "ab"), "both guests are back", timeout=20)
                change = daemon.change()
                for command in (stream, *jobs):
                    assert command.running, f"{command.text}: {command.wait(1).kind}, {command.output[-2000:]}"
                with told(a, b, daemon):
                    # A request that was lost stays under way for ever, and soon keeps fio from sending others.
                    wait_until(lambda: all(change("disks", f"{name}-disk", "reads") + change("disks", f"{name}-disk", "writes")
                                           for name in "ab"), "the disks work", timeout=30)
                    # The cards work at once, whatever TCP is waiting for.
                    if number % 4 == 1:
                        wait_until(lambda: ping(a, 2, 1) and ping(b, 1, 1), "pings are answered", timeout=20)
                    # TCP waits twice as long after each repetition that is lost: some seconds after four kills, two
                    # minutes after many. So it is given the time to come back before there are more.
                    if number % 4 == 3 or number == KILLS - 1:
                        wait_until(lambda: change("interfaces", "b-net", "out_bytes") > 256 << 10, "the stream goes on", timeout=60)
                time.sleep(chance.random() * 0.5)
            # An emulated CPU that has a stream to serve has little time left for anything else.
            stream.kill()
            stream.wait(30)
            for guest, job in zip((a, b), jobs):
                guest.run("touch /tmp/enough")
                with told(a, b, daemon):
                    result = job.wait(120)
                assert result.ok and "round" in result.output, result.output
                verify(guest)
            # What the stream has left in buffers may cost a ping.
            wait_until(lambda: answers(a, 2) and answers(b, 1), "all pings are answered", timeout=30)
            assert {guest.name: messages(guest) for guest in (a, b)} == {guest.name: before[guest] for guest in (a, b)}
            assert not daemon.broken_queues()


def test_stopped_and_started_again(crashing):
    """The same with an end in good order."""
    daemon, guest = crashing
    change = daemon.change()
    load = guest.spawn(FIO.format(disk=disk_of(guest, "split")) + "--rw=randwrite --bs=4k --iodepth=32 --size=16M",
                       timeout=120)
    wait_until(lambda: change("disks", "split", "writes") > 100, "writes are under way")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(15) == 0
    assert load.running
    daemon.start()
    result = load.wait(150)
    assert result.ok, result.output


# --- A guest starts again ---


def begin_load(daemon, guest):
    """Writes that nobody will see the end of."""
    change = daemon.change()
    guest.spawn(FIO.format(disk="/dev/vda") + "--rw=randwrite --bs=4k --iodepth=32 --size=128M")
    wait_until(lambda: change("disks", f"{guest.name}-disk", "writes") > 100, "writes are under way")


def test_guest_reset(pair):
    a, b, daemon = pair.a, pair.b, pair.daemon
    load = b.spawn("ping -n -q -i 0.01 10.0.0.1")
    begin_load(daemon, a)
    a.qmp("set-action", reboot="reset")
    a.qmp("system_reset")
    a.connect()
    a.wait_ready()
    assert "job" not in a.run("ps")
    set_up(a, 1)
    assert answers(a, 2) and answers(b, 1)
    verify(a)
    load.kill()
    load.wait(10)
    assert not daemon.broken_queues()


def test_qemu_killed_and_started_again():
    require()
    with daemon_for("ab") as daemon, guests(b=devices(daemon, "b")) as (b,):
        set_up(b, 2)
        load = b.spawn("ping -n -q -i 0.01 10.0.0.1")
        for _ in range(2):
            with Guest("a", devices=devices(daemon, "a")) as a:
                set_up(a, 1)
                assert answers(a, 2)
                verify(a)
                begin_load(daemon, a)
                os.kill(a.pid, signal.SIGKILL)
                a.process.wait()
                wait_until(lambda: not daemon.connected("interfaces", "a-net") and
                           not daemon.connected("disks", "a-disk"), "the daemon has noticed")
        assert connected(daemon, "b")
        verify(b)
        load.kill()
        load.wait(10)
        assert not daemon.broken_queues()


# --- The daemon connects to QEMU ---


def test_daemon_as_client():
    """QEMU listens; the daemon comes later, goes, and comes back."""
    require()
    config = configuration(interfaces={"a-net": "mode: client", "b-net": ""},
                           disks={"a-disk": ("type: file, path: disk.img, size: 64M", "mode: client")})
    with Daemon(config) as daemon, guests(b=daemon.nic("b-net", reconnect=True)) as (b,):
        set_up(b, 2)
        arguments = [*daemon.nic("a-net", client=True), *daemon.disk("a-disk", client=True)]
        # QEMU waits for its back-ends before it starts the guest.
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(15) == 0
        with Guest("a", devices=arguments, wait=False) as a:
            wait_until(lambda: os.path.exists(daemon.path("a-net.sock")), "QEMU listens")
            daemon.start()
            a.wait_ready()
            set_up(a, 1)
            assert answers(a, 2)
            change = daemon.change()
            load = a.spawn(FIO.format(disk="/dev/vda") + "--rw=randwrite --bs=4k --iodepth=32 --size=16M", timeout=120)
            wait_until(lambda: change("disks", "a-disk", "writes") > 100, "writes are under way")
            daemon.crash_and_restart()
            result = load.wait(150)
            assert result.ok, result.output
            assert answers(a, 2)


# --- Memory that vanishes ---


def test_guest_memory_shrinks():
    """The file behind a guest's memory is cut off under the daemon: that guest's queues break, by name, no other."""
    require()
    memory = f"/dev/shm/sidecore-test-{os.getpid()}"
    backend = f"memory-backend-file,mem-path={memory},share=on"
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: os.path.exists(memory) and os.unlink(memory))
        daemon = stack.enter_context(daemon_for("abc"))
        victim = Guest("a", devices=devices(daemon, "a"), backend=backend, wait=False)
        stack.callback(victim.kill)
        b, c = stack.enter_context(guests(b=devices(daemon, "b"), c=devices(daemon, "c")))
        victim.wait_ready()
        for number, guest in enumerate((victim, b, c), 1):
            set_up(guest, number)
        assert answers(b, 1) and answers(b, 3)
        load = b.spawn("ping -n -q -i 0.02 -c 250 10.0.0.3", timeout=60)
        # QEMU must not touch its memory any more: the kernel would end it at once.
        os.kill(victim.pid, signal.SIGSTOP)
        os.truncate(memory, 0)
        b.run("ping -n -q -c 3 -i 0.1 -w 1 10.0.0.1", check=False)
        reasons = wait_until(daemon.broken_queues, "a queue breaks")
        assert set(reasons.values()) == {"memory-damaged"} and all(name.startswith("a-") for name in reasons)
        result = load.wait(60)
        assert result.ok and " 0% packet loss" in result.output
        verify(b)
        os.kill(victim.pid, signal.SIGKILL)
        victim.process.wait()
        wait_until(lambda: not daemon.connected("interfaces", "a-net"), "the daemon has noticed")
        assert ping(b, 3) == 5
