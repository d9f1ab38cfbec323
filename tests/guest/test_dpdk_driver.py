# SPDX-License-Identifier: BSD-3-Clause
"""DPDK's drivers for Intel's cards inside a guest: they poll the rings, ask for no interrupts, and use what Linux does not.

dpdk-testpmd of the host's Debian (the same as the guest's) comes to the guest as an archive on its NVMe disk. A neighbour
with virtio-net on the same switch sends to it and hears it.
"""

import contextlib
import io
import pathlib
import re
import shutil
import subprocess
import tarfile

import pytest

from sidecore import NEWER_QEMU, Daemon, configuration, guests, wait_until
from test_nvme import need_qemu

# Minutes: left to make test-long.
pytestmark = pytest.mark.long

TESTPMD = shutil.which("dpdk-testpmd")
DRIVERS = ("librte_mempool_ring", "librte_net_e1000")
MODELS = ["igb", "e1000e", "e1000"]
MAC, PEER_MAC = "52:54:00:00:00:01", "52:54:00:00:00:02"


def write_archive(path):
    """dpdk-testpmd with its libraries, and of what it loads by itself the drivers that are asked for."""
    folders = sorted(pathlib.Path("/usr/lib/x86_64-linux-gnu/dpdk").glob("pmds-*"))
    plugins = [folders[-1] / f"{name}.so" for name in DRIVERS]
    listing = subprocess.run(["ldd", TESTPMD, *plugins], check=True, capture_output=True, text=True).stdout
    libraries = {pathlib.Path(name) for name in re.findall(r"=> (/\S+)", listing)}
    with tarfile.open(path, "w", dereference=True) as archive:
        archive.add(TESTPMD, "dpdk/testpmd")
        for library in sorted(libraries):
            archive.add(library.resolve(), f"dpdk/lib/{library.name}")
        for plugin in plugins:
            archive.add(plugin.resolve(), f"dpdk/drivers/{plugin.name}")
    with open(path, "r+b") as file:
        file.truncate(-(-file.seek(0, io.SEEK_END) >> 20 << 20) or 1 << 20)


class Machine:
    def __init__(self, daemon, guest, peer):
        self.daemon, self.guest, self.peer = daemon, guest, peer

    @contextlib.contextmanager
    def testpmd(self, options, timeout=60):
        """Runs it until the end of the block. Yields the command."""
        loader = "/dpdk/testpmd"
        command = self.guest.spawn(
            f"LD_LIBRARY_PATH=/dpdk/lib {loader} -l 0-1 -d /dpdk/drivers --no-telemetry --in-memory "
            f"-a {self.address} -- --total-num-mbufs=4096 --stats-period=1 --no-lsc-interrupt {options} </dev/null", timeout)
        try:
            command.wait_output(r"Port statistics|NIC statistics", 50)
            yield command
        finally:
            self.guest.run("kill -INT $(pidof testpmd); true")
            command.wait(60)

    def counted(self, command, name):
        """A counter of its last statistics."""
        values = re.findall(rf"{name}: *(\d+)", command.output)
        return int(values[-1]) if values else 0

    def interface(self):
        return self.daemon.status()["interfaces"]["card"]


@pytest.fixture(scope="module", params=MODELS)
def machine(request, tmp_path_factory):
    need_qemu()
    if not TESTPMD:
        pytest.skip("no dpdk-testpmd (tools/setup.sh test)")
    archive = tmp_path_factory.mktemp("dpdk") / "dpdk.tar"
    write_archive(archive)
    text = configuration(interfaces={"card": f"model: {request.param}", "peer": ""},
                         disks={"tools": (f"type: file, path: {archive}", "model: nvme, read_only: true")})
    with Daemon(text) as daemon:
        with guests(dpdk={"devices": daemon.emulated("card") + daemon.emulated("tools"), "cpus": 2, "memory": 1024,
                          "append": "hugepages=128", "qemu": NEWER_QEMU},
                    peer={"devices": daemon.nic("peer", qemu=NEWER_QEMU), "qemu": NEWER_QEMU}) as (guest, peer):
            peer.run("ip link set eth0 up && ip addr add 10.7.0.2/24 dev eth0 && "
                     f"ip neigh replace 10.7.0.1 lladdr {MAC} dev eth0")
            one = Machine(daemon, guest, peer)
            one.address = guest.run("basename $(readlink /sys/class/net/eth0/device)").strip()
            device = f"/sys/bus/pci/devices/{one.address}"
            guest.run(f"""
                set -e
                chmod 755 /    # DPDK loads nothing from below a folder that anybody may change
                tar -x -C / </dev/nvme0n1
                mkdir -p /dev/hugepages
                mount -t hugetlbfs none /dev/hugepages
                modprobe uio_pci_generic
                echo {one.address} >{device}/driver/unbind
                echo uio_pci_generic >{device}/driver_override
                echo {one.address} >/sys/bus/pci/drivers/uio_pci_generic/bind""", timeout=60)
            yield one
            assert not one.interface()["pci"]["faults"], one.interface()


def test_receive(machine):
    """Every frame that the neighbour sends is counted, and so are the card's own statistics."""
    with machine.testpmd("--forward-mode=rxonly --auto-start") as command:
        machine.peer.run("ping -n -q -c 300 -i 0.01 -s 1000 -W 1 10.7.0.1", check=False, timeout=60)
        wait_until(lambda: machine.counted(command, "RX-packets") >= 300, "all frames were received", 15)
        assert machine.counted(command, "RX-bytes") >= 300 * 1042
    assert machine.counted(command, "RX-missed") == 0, command.output


def test_transmit(machine):
    """Frames of its own making arrive as they were made: UDP with valid checksums, several segments each."""
    with machine.testpmd(f"--forward-mode=txonly --auto-start --txpkts=64,200,500 --txonly-multi-flow --eth-peer=0,{PEER_MAC} "
                         "--tx-ip=10.7.0.1,10.7.0.2 --tx-udp=9,9 --txd=256"):
        seen = machine.peer.run("timeout 20 tcpdump -Z root -c 200 -n -vv -e -i eth0 udp and ether src " + MAC, timeout=60)
    assert len(re.findall(rf"{MAC} > {PEER_MAC}, .*length 764:.*length 750\)", seen)) == 200, seen[-2000:]
    assert seen.count("UDP, length 722") == 200 and "bad cksum" not in seen, seen[-2000:]


def test_receive_and_send_back(machine):
    """What a neighbour's TCP or ping sends comes back with the addresses exchanged: contents are kept."""
    with machine.testpmd("--forward-mode=icmpecho --auto-start") as command:
        wait_until(lambda: machine.peer.run("ping -n -q -c 1 -W 1 10.7.0.1", check=False).ok, "it answers")
        for size in (56, 1400):
            output = machine.peer.run(f"ping -n -O -c 50 -i 0.02 -s {size} -p a5c3 10.7.0.1", timeout=60)
            assert " 0% packet loss" in output and "corrupt" not in output, f"{output}\n{command.output[-3000:]}\n{machine.interface()}"
        assert machine.counted(command, "RX-packets") > 0


def test_two_queues(machine):
    """RSS spreads flows; each queue is polled by one core."""
    if "igb" not in machine.interface()["model"]:
        pytest.skip("DPDK's driver has one queue for this model")
    with machine.testpmd("--forward-mode=rxonly --auto-start --rxq=2 --txq=2 --rss-udp") as command:
        machine.peer.run("for port in $(seq 2000 2023); do echo some text | socat - UDP4:10.7.0.1:$port; done", timeout=60)
        wait_until(lambda: machine.counted(command, "RX-packets") >= 24, "all frames were received", 15)
    queues = re.findall(r"RX Port= 0/Queue= (\d).*?\n\s+RX-packets: (\d+)", command.output)
    assert sum(int(count) > 2 for _, count in queues) == 2, command.output[-3000:]
