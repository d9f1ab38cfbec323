# SPDX-License-Identifier: BSD-3-Clause
"""Intel's network cards with the drivers that come with Linux: igb, e1000e in three interrupt modes, e1000.

Each model boots a guest of its own under the newer QEMU (vfio-user-pci), next to one with virtio-net on the same switch.
Skipped when there is no such QEMU.
"""

import functools
import os
import re
import time

import pytest

from sidecore import NEWER_QEMU, Daemon, configuration, guests, qemu_version, require, wait_until
from test_network import iperf, received

MEBIBYTE = 1 << 20

# What the guest's driver is, how it is loaded, what /proc/interrupts calls its interrupts, further keys of the interface.
MODELS = {
    "igb": ("igb", "", "PCI-MSI", "model: igb", 2),
    "igb-posted": ("igb", "", "PCI-MSI", "model: igb, doorbells: posted", 1),
    "e1000e": ("e1000e", "", "PCI-MSI", "model: e1000e", 1),
    "e1000e-posted": ("e1000e", "", "PCI-MSI", "model: e1000e, doorbells: posted", 1),
    "e1000e-msi": ("e1000e", "IntMode=1", "PCI-MSI", "model: e1000e", 1),
    "e1000e-pin": ("e1000e", "IntMode=0", "IO-APIC", "model: e1000e, doorbells: posted", 1),
    "e1000": ("e1000", "", "IO-APIC", "model: e1000", 1),
    "e1000-mapped": ("e1000", "", "IO-APIC", "model: e1000, doorbells: mapped", 1),
}
# The others are variants of these, left to make test-long.
EVERY_TIME = ("igb", "e1000")
OURS, PEER = "10.5.0.1", "10.5.0.2"
RDTR = 0x2820


class Card:
    def __init__(self, name, daemon, guest, peer):
        self.name, self.daemon, self.guest, self.peer = name, daemon, guest, peer
        self.driver, self.parameters, self.interrupts, _, self.cpus = MODELS[name]

    def load(self):
        # The image may have loaded it, without our parameters.
        self.guest.run(f"rmmod {self.driver} 2>&-; modprobe {self.driver} {self.parameters}", timeout=60)
        self.up()

    def up(self):
        self.guest.run(f"for i in $(seq 50); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done; ip link set eth0 up && "
                       f"ip addr replace {OURS}/24 dev eth0", timeout=60)
        self.wait_carrier()

    def wait_carrier(self, carrier="1"):
        wait_until(lambda: self.guest.run("cat /sys/class/net/eth0/carrier").strip() == carrier, f"carrier {carrier}", 30)

    def ping(self, options="-c 10 -i 0.05", target=PEER):
        output = self.guest.run(f"ping -n -q {options} {target}", timeout=60)
        assert " 0% packet loss" in output, output

    def streams(self, target=PEER):
        # On a busy machine a guest under TCG is away for longer than the switch's patience, and TCP begins anew.
        for direction in ("", "-R"):
            assert received(iperf(self.guest, target, direction, seconds=3)) > MEBIBYTE // 4

    def interface(self):
        return self.daemon.status()["interfaces"]["card"]


@pytest.fixture(scope="module", params=[
    pytest.param(name, marks=() if name in EVERY_TIME else pytest.mark.long) for name in MODELS])
def card(request):
    if not os.access(NEWER_QEMU, os.X_OK):
        pytest.skip("no newer QEMU in build/qemu (make it with: tools/qemu.sh build/qemu)")
    require()
    assert qemu_version(NEWER_QEMU) >= (11, 0)
    _, _, _, further, cpus = MODELS[request.param]
    with Daemon(configuration(interfaces={"card": further, "peer": "mtu: 9000"})) as daemon:
        with guests(a={"devices": daemon.emulated("card"), "cpus": cpus, "qemu": NEWER_QEMU},
                    b={"devices": daemon.nic("peer", qemu=NEWER_QEMU), "qemu": NEWER_QEMU}) as (a, b):
            b.run(f"ip link set eth0 mtu 9000 up && ip addr add {PEER}/24 dev eth0 && iperf3 -s -D")
            one = Card(request.param, daemon, a, b)
            one.load()
            yield one


def test_traffic(card):
    card.ping()
    card.streams()
    interrupts = card.guest.run("grep eth0 /proc/interrupts")
    assert card.interrupts in interrupts
    assert ("eth0-rx-0" in interrupts) == (card.interrupts == "PCI-MSI" and not card.parameters)


# Registers that are written for an interrupt, at most: the mask, or two of them, and on e1000e the interval when it has
# changed; and for a frame: the tail, where it is not mapped (or QEMU took the mapping away).
WRITES = {"igb": (0, 0), "igb-posted": (2, 1), "e1000e": (2, 0), "e1000e-posted": (2, 1), "e1000e-msi": (2, 0), "e1000e-pin": (2, 1),
          "e1000": (3, 1), "e1000-mapped": (3, 1)}


def test_messages_of_packets_and_interrupts(card):
    """igb: nothing that is done for a packet or an interrupt is a message; what is left is the driver's watchdog."""
    before = card.interface()
    card.ping("-c 200 -i 0.01")
    after = card.interface()

    def grown(*keys):
        values = [functools.reduce(lambda status, key: status[key], keys, status) for status in (before, after)]
        return values[1] - values[0]

    frames, interrupts = grown("in_frames") + grown("out_frames"), grown("pci", "interrupts")
    assert grown("in_frames") >= 200 and interrupts > 0
    for_interrupt, for_frame = WRITES[card.name]
    # Every two seconds it reads some 70 statistics.
    assert grown("pci", "messages", "region_writes") < for_interrupt * interrupts + for_frame * frames + 20


def test_offloads_off_and_on(card):
    for state in ("off", "on"):
        card.guest.run(f"ethtool -K eth0 tso {state} tx {state} rx {state} sg {state} gro {state}", check=False)
        time.sleep(4 if "e1000e" in card.name else 0)
        card.wait_carrier()
        card.streams()


def test_vlan(card):
    for guest, address in ((card.guest, "10.6.0.1"), (card.peer, "10.6.0.2")):
        guest.run(f"ip link add link eth0 name v7 type vlan id 7 && ip addr add {address}/24 dev v7 && ip link set v7 up")
    try:
        card.ping(target="10.6.0.2")
        card.streams("10.6.0.2")
    finally:
        for guest in (card.guest, card.peer):
            guest.run("ip link del v7")


def test_jumbo_frames(card):
    card.guest.run("ip link set eth0 mtu 9000", timeout=60)
    try:
        card.wait_carrier()
        card.ping("-c 5 -i 0.1 -s 8900 -M do")
        card.streams()
    finally:
        card.guest.run("ip link set eth0 mtu 1500", timeout=60)
        card.wait_carrier()


def test_promiscuous_and_multicast(card):
    sniffer = card.guest.spawn("tcpdump -Z root -n -i eth0 -c 3 -w /dev/null ether dst 02:00:00:00:77:77")
    sniffer.wait_output("listening")
    try:
        card.peer.run("ip neigh replace 10.5.0.77 lladdr 02:00:00:00:77:77 dev eth0; ping -c 5 -i 0.1 -W 1 10.5.0.77",
                      check=False)
        sniffer.wait(30)
    finally:
        sniffer.kill()
    card.guest.run("ping -6 -n -q -c 3 -i 0.2 -I eth0 ff02::1", timeout=30)


def test_self_test(card):
    """The driver's own: registers, EEPROM, interrupts, loopback, link."""
    output = card.guest.run("ethtool -t eth0 offline", timeout=180, check=False).output
    results = {name.strip(): int(value) for name, value in re.findall(r"^(.*\(o.*\))\s+(\d+)$", output, re.M)}
    assert len(results) == 5, output
    if card.driver == "e1000e" and "posted" not in card.name and card.name != "e1000e-pin":
        # Bits of ring registers that are not there read back from a mapped page, where nobody is asked. This driver's test minds,
        # and ends at the first of them: that must be the receive delay timer's, all registers before it are right.
        assert results.pop("Register test  (offline)") == RDTR, output
    assert not any(results.values()), output
    card.up()
    card.ping()


def test_settings(card):
    card.guest.run("ethtool -G eth0 rx 128 tx 128", timeout=60)
    card.wait_carrier()
    card.ping()
    if card.driver != "e1000":  # its driver has none for this model
        card.guest.run("ethtool -C eth0 rx-usecs 200", timeout=60)
        card.wait_carrier()
    card.streams()
    statistics = dict(re.findall(r"(\w+): (\d+)", card.guest.run("ethtool -S eth0")))
    assert int(statistics["rx_packets"]) > 0 and int(statistics["tx_packets"]) > 0
    if card.driver == "igb" and card.cpus > 1:
        card.guest.run("ethtool -X eth0 equal 1; ethtool -X eth0 equal 2", timeout=60)
        card.ping()


def test_driver_again_under_load(card):
    load = card.peer.spawn(f"ping -f -q -w 40 {OURS}")
    try:
        for _ in range(2):
            card.guest.run(f"rmmod {card.driver}", timeout=60)
            card.load()
            card.ping()
    finally:
        load.kill()
    assert not re.search(r"(?i)hang|call trace|unexpectedly|error", card.guest.run(f"dmesg | grep {card.driver}"))
