# SPDX-License-Identifier: BSD-3-Clause
"""The same guests under the QEMU that tools/qemu.sh unpacks: a newer front-end, which can do MSI-X under TCG.

Skipped when there is none.
"""

import os

import pytest

from sidecore import NEWER_QEMU, Daemon, configuration, guests, qemu_version, require, wait_until
from test_disk import MEBIBYTE
from test_life import FIO, disk_of, verify
from test_network import iperf, received

CARDS = {"split": "", "packed": "packed=on"}
PACKED = 1 << 34


def mac(number, index):
    return f"52:54:00:5d:{index:02x}:{number:02x}"


@pytest.fixture(scope="module")
def pair():
    if not os.access(NEWER_QEMU, os.X_OK):
        pytest.skip("no newer QEMU in build/qemu (make it with: tools/qemu.sh build/qemu)")
    require()
    assert qemu_version(NEWER_QEMU) >= (11, 0)
    names = {f"{guest}-{card}": f"queue_pairs: 2, network: {card}" for guest in "ab" for card in CARDS}
    disks = {name: (f"type: file, path: {name}.img, size: 64M", "queues: 2") for name in ("plain", "packed")}
    with Daemon(configuration(interfaces=names, networks=list(CARDS), disks=disks)) as daemon:
        def cards(guest, number):
            arguments = []
            for index, (card, options) in enumerate(CARDS.items()):
                arguments += daemon.nic(f"{guest}-{card}", 2, mac(number, index), options, qemu=NEWER_QEMU,
                                        reconnect=True)
            return arguments

        def disk(name, options):
            return daemon.disk(name, 2, options, qemu=NEWER_QEMU, reconnect=True)

        storage = [*disk("plain", ""), *disk("packed", "packed=on")]
        with guests(a={"devices": [*cards("a", 1), *storage], "cpus": 2, "qemu": NEWER_QEMU},
                    b={"devices": cards("b", 2), "qemu": NEWER_QEMU}) as (a, b):
            for number, guest in enumerate((a, b), 1):
                for index, card in enumerate(CARDS):
                    guest.run(f"for card in /sys/class/net/*; do [ $(cat $card/address) != {mac(number, index)} ] || "
                              f"ip link set ${{card##*/}} name c{index}; done; "
                              f"ip addr add 10.1.{index}.{number}/24 dev c{index} && ip link set c{index} up")
            b.run("iperf3 -s -D")
            yield daemon, a, b


@pytest.mark.parametrize("card", CARDS)
def test_network(pair, card):
    daemon, a, b = pair
    target = f"10.1.{list(CARDS).index(card)}.2"
    features = int(daemon.status()["interfaces"][f"a-{card}"]["features"], 16)
    assert bool(features & PACKED) == (card == "packed")
    assert " 0% packet loss" in a.run(f"ping -n -q -c 10 -i 0.05 {target}")
    change = daemon.change()
    for direction in ("", "-R"):
        assert received(iperf(a, target, direction)) > 4 * MEBIBYTE
    frames, size = (change("interfaces", f"b-{card}", key) for key in ("out_frames", "out_bytes"))
    assert size / frames > 1000
    assert not daemon.broken_queues()


def test_interrupts_are_message_signalled(pair):
    _, a, _ = pair
    assert "PCI-MSI" in a.run("grep virtio0-input /proc/interrupts")


@pytest.mark.parametrize("disk", ["plain", "packed"])
def test_disk(pair, disk):
    daemon, a, _ = pair
    verify(a, disk_of(a, disk), "8M")
    assert bool(int(daemon.status()["disks"][disk]["features"], 16) & PACKED) == (disk == "packed")


@pytest.mark.parametrize("disk, card", [("plain", "split"), ("packed", "packed")])
def test_daemon_killed_under_load(pair, disk, card):
    """
    A disk and a card, both split or both packed. QEMU keeps no record of how far a card's packed rings were served: the daemon that
    comes next finds it in the rings themselves (packed_resume()), and one that guessed wrong breaks them or stops.
    """
    daemon, a, _ = pair
    target = f"10.1.{list(CARDS).index(card)}.2"
    stream = a.spawn(f"iperf3 -c {target} -t 5", timeout=90)
    stream.wait_output("connected to")
    load = a.spawn(FIO.format(disk=disk_of(a, disk)) + "--rw=randwrite --bsrange=4k-64k --iodepth=64 --size=32M",
                   timeout=120)
    for _ in range(2):
        change = daemon.change()
        wait_until(lambda: change("disks", disk, "writes") > 100 or not load.running, "writes are under way")
        assert load.running, load.output
        daemon.crash_and_restart(pause=0.1)
        wait_until(lambda: daemon.connected("disks", disk) and daemon.connected("interfaces", f"a-{card}") and
                   daemon.connected("interfaces", f"b-{card}"), "QEMU has come back", timeout=20)
    result = load.wait(150)
    assert result.ok, result.output
    assert stream.wait(90).ok
    for number in range(len(CARDS)):    # the other card lost its daemon, too
        assert " 0% packet loss" in a.run(f"ping -n -q -c 5 -i 0.05 10.1.{number}.2")
    features = int(daemon.status()["interfaces"][f"a-{card}"]["features"], 16)
    assert bool(features & PACKED) == (card == "packed")
    assert not daemon.broken_queues()
