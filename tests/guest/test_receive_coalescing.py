# SPDX-License-Identifier: BSD-3-Clause
"""Receive coalescing: Linux's igb takes TCP segments of 64 KiB as few long frames, and nothing that it receives is
different for it. A guest with an emulated 82576 that has `receive_coalescing`, next to one with virtio-net, which sends.

Skipped when there is no QEMU with vfio-user-pci.
"""

import os
import re

import pytest

from sidecore import NEWER_QEMU, Daemon, configuration, guests, qemu_version, require, wait_until
from test_intel_nics import MEBIBYTE, OURS, PEER
from test_network import checksum_errors, iperf, received

OURS6, PEER6 = "fd00:5::1", "fd00:5::2"
PORT = iter(range(7000, 8000))


class Pair:
    def __init__(self, daemon, guest, peer):
        self.daemon, self.guest, self.peer = daemon, guest, peer

    def wait_carrier(self):
        wait_until(lambda: self.guest.run("cat /sys/class/net/eth0/carrier", check=False).output.strip() == "1", "link", 30)

    def send_file(self, megabytes, target=OURS):
        """Random bytes from the peer to the guest; what came is compared. Returns bytes per frame, and frames of several
        segments."""
        port = next(PORT)
        change = self.daemon.change()
        family, host = ("6", f"[{target}]") if ":" in target else ("4", target)
        receiver = self.guest.spawn(f"socat -u TCP{family}-LISTEN:{port},reuseaddr STDOUT | md5sum", timeout=120)
        self.guest.run(f"until ss -ltn | grep -q :{port}; do sleep 0.05; done", timeout=20)
        sent = self.peer.run(f"[ $(stat -c %s /tmp/file 2>&- || echo 0) = {megabytes << 20} ] || "
                             f"head -c {megabytes << 20} /dev/urandom >/tmp/file; md5sum </tmp/file && "
                             f"socat -u FILE:/tmp/file TCP{family}:{host}:{port}", timeout=120)
        result = receiver.wait(120)
        assert result.ok and result.output == sent
        frames, size, coalesced = (change("interfaces", "card", key) for key in ("out_frames", "out_bytes", "coalesced"))
        assert size > megabytes << 20
        return size / frames, coalesced

    def check(self):
        assert checksum_errors(self.guest) == 0
        assert not self.daemon.broken_queues()
        # "Driver has suspect GRO implementation" is what TCP says, once, of frames longer than the MTU.
        assert not re.search(r"BUG:|Call Trace|Oops:|WARNING:|Bad page|protection fault", self.guest.run("dmesg"))


@pytest.fixture(scope="module")
def pair():
    if not os.access(NEWER_QEMU, os.X_OK):
        pytest.skip("no newer QEMU in build/qemu (make it with: tools/qemu.sh build/qemu)")
    require()
    assert qemu_version(NEWER_QEMU) >= (11, 0)
    with Daemon(configuration(interfaces={"card": "model: igb, receive_coalescing: true", "peer": "mtu: 9000"})) as daemon:
        with guests(a={"devices": daemon.emulated("card"), "qemu": NEWER_QEMU, "cpus": 2},
                    b={"devices": daemon.nic("peer", qemu=NEWER_QEMU), "qemu": NEWER_QEMU}) as (a, b):
            for guest, address, address6 in ((a, OURS, OURS6), (b, PEER, PEER6)):
                guest.run("for i in $(seq 50); do [ -e /sys/class/net/eth0 ] && break; sleep 0.1; done; "
                          f"ip link set eth0 up && ip addr add {address}/24 dev eth0 && "
                          f"ip addr add {address6}/64 dev eth0 nodad", timeout=60)
            b.run("iperf3 -s -D")
            one = Pair(daemon, a, b)
            one.wait_carrier()
            yield one


def test_whole_and_unharmed(pair):
    """A file arrives as it was, in frames that are longer than the MTU; cut ones while somebody listens to all."""
    size, coalesced = pair.send_file(12)
    assert size > 5000 and coalesced > 200, (size, coalesced)
    sniffer = pair.guest.spawn("tcpdump -Z root -n -i eth0 -w /dev/null tcp")
    sniffer.wait_output("listening")
    try:
        size, coalesced = pair.send_file(2)
        assert size <= 1514 and coalesced == 0, (size, coalesced)
    finally:
        sniffer.kill()
    assert received(iperf(pair.guest, PEER, "-R")) > MEBIBYTE // 4
    pair.check()


@pytest.mark.long
@pytest.mark.parametrize("target", [OURS, OURS6], ids=["IPv4", "IPv6"])
def test_large_file(pair, target):
    size, coalesced = pair.send_file(150, target)
    assert size > 5000 and coalesced > 2000, (size, coalesced)
    pair.check()


@pytest.mark.long
def test_vlan(pair):
    for guest, address in ((pair.guest, "10.6.0.1"), (pair.peer, "10.6.0.2")):
        guest.run(f"ip link add link eth0 name v7 type vlan id 7 && ip addr add {address}/24 dev v7 && ip link set v7 up")
    try:
        for strip in ("on", "off"):
            pair.guest.run(f"ethtool -K eth0 rxvlan {strip}")
            pair.wait_carrier()
            # Unless the card takes them off, frames with a tag have nothing that it looks into: cut or not, all is there.
            size, coalesced = pair.send_file(20, "10.6.0.1")
            assert strip == "off" or (size > 5000 and coalesced > 200), (size, coalesced)
    finally:
        pair.guest.run("ethtool -K eth0 rxvlan on", check=False)
        for guest in (pair.guest, pair.peer):
            guest.run("ip link del v7")
    pair.check()


@pytest.mark.long
@pytest.mark.parametrize("mtu", [9000, 2000, 1400, 1500])
def test_mtu(pair, mtu):
    """Other MTUs have other buffers: 3072 bytes above some 1600."""
    pair.guest.run(f"ip link set eth0 mtu {mtu}", timeout=60)
    pair.peer.run(f"ip link set eth0 mtu {mtu}")
    try:
        pair.wait_carrier()
        size, coalesced = pair.send_file(50)
        assert size > 5000 and coalesced > 300, (size, coalesced)
    finally:
        pair.guest.run("ip link set eth0 mtu 1500", timeout=60)
        pair.peer.run("ip link set eth0 mtu 1500")
        pair.wait_carrier()
    pair.check()


@pytest.mark.long
@pytest.mark.parametrize("off, on", [
    ("ethtool -K eth0 rx off gro off", "ethtool -K eth0 rx on gro on"),
    ("ethtool -K eth0 gro off", "ethtool -K eth0 gro on"),
    ("ethtool --set-priv-flags eth0 legacy-rx on", "ethtool --set-priv-flags eth0 legacy-rx off"),
    ("ethtool -G eth0 rx 80", "ethtool -G eth0 rx 256"),
    ("ip link set eth0 address 02:00:00:00:12:34; ip neigh flush all", "true"),
], ids=["checksums", "gro", "legacy", "small-ring", "address"])
def test_settings(pair, off, on):
    pair.guest.run(off, timeout=60)
    try:
        pair.wait_carrier()
        pair.peer.run("ip neigh flush all")
        size, coalesced = pair.send_file(50)
        assert size > 3000 and coalesced > 300, (size, coalesced)
    finally:
        pair.guest.run(on, timeout=60)
        pair.wait_carrier()
    pair.check()


@pytest.mark.long
def test_virtual_interfaces_get_segments(pair):
    """What is for a bridge in the guest, and for what is behind it, is cut: a bridge drops what is longer than its MTU."""
    pair.guest.run("ip addr del 10.5.0.1/24 dev eth0; ip link add br0 type bridge && ip link set br0 up && "
                   "ip link set eth0 master br0 && ip netns add inner && ip link add v0 type veth peer name v1 netns inner && "
                   "ip link set v0 master br0 up && ip -n inner link set v1 up && ip -n inner addr add 10.5.0.3/24 dev v1 && "
                   "ip addr add 10.5.0.1/24 dev br0", timeout=30, check=False)
    try:
        pair.peer.run("ip neigh flush all")
        pair.guest.run("ip netns exec inner iperf3 -s -D")
        change = pair.daemon.change()
        results = iperf(pair.peer, "10.5.0.3", seconds=3)
        assert received(results) > MEBIBYTE
        assert change("interfaces", "card", "coalesced") == 0
        size, coalesced = pair.send_file(10)
        assert size <= 1514 and coalesced == 0
    finally:
        pair.guest.run("ip netns del inner; ip link set eth0 nomaster; ip link del br0; ip addr add 10.5.0.1/24 dev eth0",
                       check=False)
        pair.peer.run("ip neigh flush all")
    pair.check()


@pytest.mark.long
def test_driver_again_under_load(pair):
    load = pair.peer.spawn(f"while :; do socat -u FILE:/tmp/file TCP4:{OURS}:6999,connect-timeout=1; sleep 0.1; done",
                           timeout=200)
    pair.peer.run("[ -e /tmp/file ] || head -c 50M /dev/urandom >/tmp/file")
    server = pair.guest.spawn("socat -u TCP4-LISTEN:6999,reuseaddr,fork OPEN:/dev/null", timeout=200)
    try:
        for _ in range(3):
            pair.guest.run("sleep 2; rmmod igb && modprobe igb; for i in $(seq 50); do [ -e /sys/class/net/eth0 ] && break; "
                           f"sleep 0.1; done; ip link set eth0 up && ip addr add {OURS}/24 dev eth0 && "
                           f"ip addr add {OURS6}/64 dev eth0 nodad", timeout=60)
            pair.wait_carrier()
    finally:
        load.kill()
        server.kill()
    size, coalesced = pair.send_file(20)
    assert size > 5000 and coalesced > 200, (size, coalesced)
    pair.check()
