# SPDX-License-Identifier: BSD-3-Clause
"""Network cards of ours under Debian's own virtio_net driver: three guests, booted once, with a card for each subject.

Each network NAME has the addresses 10.0.N.0/24; guest a is .1, b .2 and c .3. Cards are named after their networks.
"""

import contextlib
import json
import re

import pytest

from sidecore import Daemon, configuration, guests, require, wait_until

# network: guests on it with the configuration of the interface and the properties of QEMU's device.
CARDS = {
    "lan": {"a": ("", ""), "b": ("", ""), "c": ("", "")},
    # Everything that the driver could want from a queue is off.
    "bare": {"a": ("", "mrg_rxbuf=off,event_idx=off,indirect_desc=off"),
             "b": ("", "mrg_rxbuf=off,event_idx=off,indirect_desc=off")},
    # b cannot receive large segments or unfinished checksums.
    "weak": {"a": ("", ""), "b": ("", "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off")},
    "packed": {"a": ("queue_pairs: 4", "packed=on"), "b": ("queue_pairs: 4", "packed=on")},
    "legacy": {"a": ("", "disable-modern=on,disable-legacy=off"), "b": ("", "")},
    "jumbo": {"a": ("mtu: 9000", "host_mtu=9000"), "b": ("mtu: 9000", "host_mtu=9000")},
    "guard": {"a": ("check_mac: true, ipv4: [10.0.6.1]", ""), "b": ("", "")},
    "vlan": {"a": ("trunk: [10,20]", ""), "b": ("vlan: 10", ""), "c": ("vlan: 20", "")},
    "apart": {"a": ("isolated: true", ""), "b": ("isolated: true", ""), "c": ("", "")},
}
NUMBERS = {network: number for number, network in enumerate(CARDS)}
HOSTS = {"a": 1, "b": 2, "c": 3}
CONFIGURED = ["lan", "bare", "weak", "packed", "legacy", "jumbo", "guard", "apart"]


def address(guest, network):
    return f"10.0.{NUMBERS[network]}.{HOSTS[guest]}"


def address6(guest, network):
    return f"fd00:{NUMBERS[network]}::{HOSTS[guest]}"


def mac(guest, network):
    return f"52:54:00:5c:{NUMBERS[network]:02x}:{HOSTS[guest]:02x}"


def interfaces():
    """For configuration(), which splits at commas."""
    found = {}
    for network, cards in CARDS.items():
        for guest, (keys, _) in cards.items():
            found[f"{guest}-{network}"] = ", ".join(filter(None, [
                keys, f"network: {network}", f'mac: "{mac(guest, network)}"']))
    return found


def devices(daemon, guest):
    arguments = []
    for network, cards in CARDS.items():
        if guest in cards:
            keys, options = cards[guest]
            queues = 4 if "queue_pairs: 4" in keys else 1
            arguments += daemon.nic(f"{guest}-{network}", queues=queues, options=options, mac=mac(guest, network))
    return arguments


def name_cards(guest, networks):
    """Finds each card by its address, names it after its network and gives it its addresses."""
    lines = ["for card in /sys/class/net/*; do case $(cat $card/address) in"]
    for network in networks:
        lines.append(f"{mac(guest, network)}) ip link set ${{card##*/}} name {network};;")
    lines.append("esac; done")
    for network in networks:
        lines.append(f"ip link set {network} up")
        if network in CONFIGURED:
            lines.append(f"ip addr add {address(guest, network)}/24 dev {network}")
            lines.append(f"ip addr add {address6(guest, network)}/64 dev {network} nodad")
    return " && ".join(lines).replace("in &&", "in ").replace(";; &&", ";;")


class Lan:
    def __init__(self, daemon, a, b, c):
        self.daemon, self.a, self.b, self.c = daemon, a, b, c


@pytest.fixture(scope="module")
def lan():
    require()
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(configuration(interfaces=interfaces(), networks=list(CARDS))))
        started = stack.enter_context(guests(
            a={"devices": devices(daemon, "a"), "cpus": 2}, b={"devices": devices(daemon, "b"), "cpus": 2},
            c=devices(daemon, "c")))
        for guest in started:
            guest.run(name_cards(guest.name, [network for network in CARDS if guest.name in CARDS[network]]))
        for guest in started[:2]:
            guest.run("iperf3 -s -D")
        yield Lan(daemon, *started)


@pytest.fixture(autouse=True)
def nothing_breaks(lan):
    yield
    assert not lan.daemon.broken_queues()


def ping(guest, target, count=5, options="", interval=0.05):
    """Returns how many answers came. Late ones on a busy machine count, too."""
    return _ping(guest, f"-c {count} -i {interval} -w {count * interval + 5:.0f} {options} {target}")


def silent(guest, target, options=""):
    """No answer comes."""
    return _ping(guest, f"-c 3 -i 0.1 -w 1 {options} {target}") == 0


def _ping(guest, arguments):
    output = guest.run(f"ping -n -q {arguments}", check=False).output
    return int(re.search(r"(\d+) received", output)[1])


def iperf(guest, target, options="", seconds=1):
    """Runs a client in the guest. Returns iperf3's results."""
    output = guest.run(f"iperf3 -J -c {target} -t {seconds} {options}", timeout=60)
    results = json.loads(output[output.index("{"):])
    assert "error" not in results, results
    return results["end"]


def received(results):
    return results["sum_received"]["bytes"]


def checksum_errors(guest):
    lines = [line.split() for line in guest.run("cat /proc/net/snmp").splitlines()]
    table = {(name[0], key): int(value) for name, values in zip(lines[::2], lines[1::2])
             for key, value in zip(name[1:], values[1:])}
    return table[("Tcp:", "InCsumErrors")] + table[("Udp:", "InCsumErrors")]


def send_file(lan, network, megabytes, port):
    """Sends random bytes from a to b over TCP and compares what came."""
    receiver = lan.b.spawn(f"socat -u TCP-LISTEN:{port},reuseaddr STDOUT | md5sum", timeout=60)
    lan.b.run(f"until ss -ltn | grep -q :{port}; do sleep 0.05; done", timeout=20)
    sent = lan.a.run(f"head -c {megabytes << 20} /dev/urandom >/tmp/file && md5sum </tmp/file && "
                     f"socat -u FILE:/tmp/file TCP:{address('b', network)}:{port} && rm /tmp/file", timeout=60)
    result = receiver.wait(90)
    assert result.ok and result.output == sent


# --- Frames come through ---


@pytest.mark.parametrize("network", CONFIGURED[:-1])
def test_ping(lan, network):
    for target in (address("b", network), address6("b", network)):
        assert ping(lan.a, target, 10) == 10


@pytest.mark.parametrize("size", [0, 1, 17, 1472, 1473, 8972, 65000])
def test_ping_of_any_size(lan, size):
    # Without mergeable buffers Linux offers a dozen, each for 64 KiB: too few for a burst of 44 fragments.
    for network in ("lan", "packed") if size > 9000 else ("lan", "bare", "packed"):
        assert ping(lan.a, address("b", network), 3, f"-s {size}") == 3


def test_driver_got_what_it_should(lan):
    status = lan.daemon.status()["interfaces"]

    def features(name):
        return int(status[name]["features"], 16)

    mergeable, event_index, indirect, version_1, packed, mtu = 1 << 15, 1 << 29, 1 << 28, 1 << 32, 1 << 34, 1 << 3
    assert features("a-lan") & (mergeable | event_index | indirect | version_1) == (
        mergeable | event_index | indirect | version_1)
    assert not features("a-bare") & (mergeable | event_index | indirect)
    assert not features("a-legacy") & version_1
    assert features("a-packed") & packed and not features("a-lan") & packed
    assert features("a-jumbo") & mtu
    assert "Speed" in lan.a.run("ethtool lan") and "mtu 9000" in lan.a.run("ip link show jumbo")
    rings = [queue for queue in status["a-packed"]["queues"] if queue["running"]]
    assert rings and all(queue["packed"] for queue in rings)


@pytest.mark.parametrize("network", ["lan", "bare", "packed", "legacy", "jumbo"])
@pytest.mark.parametrize("direction", ["", "-R"], ids=["to", "from"])
def test_tcp(lan, network, direction):
    change = lan.daemon.change()
    results = iperf(lan.a, address("b", network), direction)
    assert received(results) > 4 << 20
    sender, receiver = ("b", "a") if direction else ("a", "b")
    assert change("interfaces", f"{sender}-{network}", "in_bytes") > received(results)
    assert change("interfaces", f"{receiver}-{network}", "out_bytes") > received(results)


def test_udp(lan):
    results = iperf(lan.a, address("b", "lan"), "-u -b 50M -l 1400")
    assert results["sum"]["packets"] > 1000 and results["sum"]["lost_percent"] < 20
    assert checksum_errors(lan.b) == 0


def test_ipv6_tcp(lan):
    assert received(iperf(lan.a, address6("b", "lan"), "-6")) > 4 << 20


@pytest.mark.parametrize("network", ["lan", "weak"])
def test_file_arrives_unchanged(lan, network):
    send_file(lan, network, 50, 7000 + NUMBERS[network])


# --- Offloads ---


@pytest.mark.parametrize("target", [address, address6], ids=["IPv4", "IPv6"])
def test_large_segments_cross_whole(lan, target):
    change = lan.daemon.change()
    iperf(lan.a, target("b", "lan"))
    frames, size = (change("interfaces", "b-lan", key) for key in ("out_frames", "out_bytes"))
    assert size / frames > 8000, f"{size} bytes in {frames} frames"
    assert change("interfaces", "b-lan", "segmented") == 0 and change("interfaces", "b-lan", "checksummed") == 0


@pytest.mark.parametrize("target", [address, address6], ids=["IPv4", "IPv6"])
def test_segmented_for_a_receiver_that_needs_it(lan, target):
    change = lan.daemon.change()
    iperf(lan.a, target("b", "weak"))
    frames, size = (change("interfaces", "b-weak", key) for key in ("out_frames", "out_bytes"))
    assert 500 < size / frames <= 1514, f"{size} bytes in {frames} frames"
    assert change("interfaces", "b-weak", "segmented") > 100
    # Without GUEST_CSUM the driver lets the stack verify each checksum.
    assert checksum_errors(lan.b) == 0
    assert received(iperf(lan.a, target("b", "weak"), "-R")) > 4 << 20
    assert checksum_errors(lan.a) == 0


def test_checksums_done_for_a_receiver_that_needs_them(lan):
    change = lan.daemon.change()
    results = iperf(lan.a, address("b", "weak"), "-u -b 20M -l 1000")
    assert results["sum"]["lost_percent"] < 20
    assert change("interfaces", "b-weak", "checksummed") >= results["sum"]["packets"] * 0.8
    assert checksum_errors(lan.b) == 0


def test_offloads_switched_off_and_on(lan):
    """Over the control queue; where QEMU keeps that to itself the driver still has to cope."""
    try:
        lan.b.run("ethtool -K lan rx-gro-hw off; ethtool -K lan gro off")
        lan.a.run("ethtool -K lan tso off gso off tx off")
        change = lan.daemon.change()
        assert received(iperf(lan.a, address("b", "lan"))) > 1 << 20
        assert change("interfaces", "b-lan", "out_bytes") / change("interfaces", "b-lan", "out_frames") <= 1514
    finally:
        lan.b.run("ethtool -K lan gro on; ethtool -K lan rx-gro-hw on || true")
        lan.a.run("ethtool -K lan tx on gso on tso on")
    test_large_segments_cross_whole(lan, address)


# --- Frames of 9000 bytes ---


def test_jumbo_frames(lan):
    assert ping(lan.a, address("b", "jumbo"), 5, "-M do -s 8972") == 5
    assert silent(lan.a, address("b", "jumbo"), "-M do -s 8973")


# --- Queues ---


def test_traffic_spreads_over_queue_pairs(lan):
    def used(kind, pairs):
        """How many queues of a kind did work while eight streams ran."""
        for guest in (lan.a, lan.b):
            guest.run(f"ethtool -L packed combined {pairs}")
        before = lan.daemon.status()["interfaces"]
        iperf(lan.a, address("b", "packed"), "-P 8")
        after = lan.daemon.status()["interfaces"]
        name = "a-packed" if kind == "transmit" else "b-packed"
        return sum(new["kind"] == kind and new["chains"] - old["chains"] > 20
                   for old, new in zip(before[name]["queues"], after[name]["queues"]))

    # Hashes decide, so that all four are not certain.
    assert used("transmit", 4) >= 2
    assert used("receive", 4) >= 2
    assert used("transmit", 1) == 1
    assert used("receive", 1) == 1
    assert ping(lan.a, address("b", "packed"), 10) == 10


# --- The switch ---


def test_vlans(lan):
    a, b, c = lan.a, lan.b, lan.c
    change = lan.daemon.change()
    a.run("for v in 10 20 30; do ip link add link vlan name v$v type vlan id $v; ip link set v$v up; "
          "ip addr add 172.16.$v.1/24 dev v$v; done")
    b.run("for net in 172.16.10.2/24 172.16.20.9/24 172.16.99.2/24; do ip addr add $net dev vlan; done")
    c.run("ip addr add 172.16.20.3/24 dev vlan; ip addr add 172.16.99.3/24 dev vlan")
    assert ping(a, "172.16.10.2") == 5 and ping(a, "172.16.20.3") == 5
    assert received(iperf(a, "172.16.10.2")) > 4 << 20
    # Access ports of two VLANs do not meet, whatever their addresses are; nor does a trunk carry what it was not given.
    assert silent(b, "172.16.99.3") and silent(a, "172.16.20.9")
    before = change("interfaces", "a-vlan", "drops", "vlan")
    assert silent(a, "172.16.30.2")
    assert change("interfaces", "a-vlan", "drops", "vlan") > before
    # A guest that tags frames itself does not get out of its VLAN.
    before = change("interfaces", "b-vlan", "drops", "vlan")
    b.run("ip link add link vlan name v20 type vlan id 20; ip link set v20 up; ip addr add 172.16.21.2/24 dev v20")
    assert silent(b, "172.16.21.3")
    assert change("interfaces", "b-vlan", "drops", "vlan") > before


def test_isolated_ports(lan):
    change = lan.daemon.change()
    assert ping(lan.a, address("c", "apart")) == 5 and ping(lan.b, address("c", "apart")) == 5
    assert silent(lan.a, address("b", "apart"))
    # The broadcast reaches c alone; a frame to b itself is refused by name.
    lan.a.run(f"ip neigh replace {address('b', 'apart')} lladdr {mac('b', 'apart')} dev apart")
    assert silent(lan.a, address("b", "apart"))
    lan.a.run(f"ip neigh del {address('b', 'apart')} dev apart")
    assert change("interfaces", "a-apart", "drops", "isolated") >= 3


def test_stolen_addresses(lan):
    a, target = lan.a, address("b", "guard")
    assert ping(a, target) == 5
    change = lan.daemon.change()
    a.run("ip addr add 10.0.6.99/24 dev guard")
    assert silent(a, target, "-I 10.0.6.99")
    a.run("ip addr del 10.0.6.99/24 dev guard")
    assert change("interfaces", "a-guard", "drops", "spoofed-ipv4") >= 3
    a.run("ip link set guard address 52:54:00:66:66:66")
    assert silent(a, target)
    assert change("interfaces", "a-guard", "drops", "spoofed-mac") >= 1
    a.run(f"ip link set guard address {mac('a', 'guard')}")
    assert ping(a, target) == 5


def test_flood_does_not_starve_neighbours(lan):
    lan.c.run("modprobe pktgen")
    lan.c.write_file("/tmp/flood", "\n".join([
        "echo rem_device_all >/proc/net/pktgen/kpktgend_0", "echo add_device lan >/proc/net/pktgen/kpktgend_0",
        *(f"echo {word} >/proc/net/pktgen/lan" for word in (
            "count 0", "pkt_size 60", "delay 0", f"dst {address('b', 'lan')}", f"dst_mac {mac('b', 'lan')}")),
        "echo start >/proc/net/pktgen/pgctrl", ""]))
    change = lan.daemon.change()
    flood = lan.c.spawn("sh /tmp/flood", timeout=30)
    try:
        wait_until(lambda: change("interfaces", "c-lan", "in_frames") > 5000, "the flood has begun")
        # To b over another card of its, and to the very card that drowns.
        assert ping(lan.a, address("b", "bare"), 40) == 40
        # Not every frame can get in where the ring is full; but many do.
        assert ping(lan.a, address("b", "lan"), 40) >= 20
    finally:
        flood.kill()
        flood.wait(30)
    lan.c.run("rmmod pktgen")
    assert ping(lan.a, address("b", "lan"), 10) == 10


# --- Cards come and go ---


def test_down_and_up(lan):
    load = lan.b.spawn(f"ping -n -q -i 0.005 {address('a', 'lan')}")
    for _ in range(3):
        lan.a.run("ip link set lan down; sleep 0.1; ip link set lan up")
        assert ping(lan.a, address("b", "lan")) == 5
    load.kill()
    load.wait(10)


def test_driver_reloaded_under_load(lan):
    """All of c's cards go through reset while others send to them."""
    load = lan.a.spawn(f"ping -n -q -f -i 0.002 {address('c', 'lan')}")
    try:
        for _ in range(2):
            lan.c.run("rmmod virtio_net && sleep 0.1 && modprobe virtio_net")
            lan.c.run(name_cards("c", ["lan", "vlan", "apart"]))
            wait_until(lambda: ping(lan.c, address("b", "lan"), 3) == 3, "c is back")
    finally:
        load.kill()
        load.wait(10)
    assert ping(lan.a, address("c", "lan"), 10) == 10
    assert ping(lan.a, address("c", "apart"), 10) == 10
