#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The same Linux guest with QEMU's devices and with ours, one after the other, in rounds; only ratios mean something.

Each round boots a guest for every device in turn and measures all of that device's loads; a ratio is of two devices of the
same round, and the median over the rounds is reported. Under TCG the guest's own CPU is the limit of most, so that a device
shows by what it costs the guest. Network: a tap on this host, in a network namespace of its own. Disks: a RAM disk, and a
file on tmpfs for QEMU. Results go to build/bench/guests.jsonl, one JSON object a line, as those of run.py.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "guest"))
sys.path.insert(0, str(ROOT / "bench"))

os.environ.setdefault("SIDECORE_QEMU", str(ROOT / "build" / "qemu" / "qemu-system-x86_64"))

import processes  # noqa: E402
from guest import Guest, GuestError, build_image  # noqa: E402
from processes import Failure  # noqa: E402

HOST, GUEST = "192.0.2.1", "192.0.2.2"
MAC = processes.MAC_A
TAP = "bench0"
DISK_MIB = 256
RR_PORT = 7000
QEMU_NICS = {"e1000": "e1000", "e1000e": "e1000e", "igb": "igb", "virtio-net": "virtio-net-pci"}
QEMU_DISKS = {"nvme": "nvme,serial=bench", "virtio-blk": "virtio-blk-pci"}

# What is compared with what, and the bar: (ours, peer, least ratio of a rate).
NIC_PAIRS = [("ours igb", "ours virtio-net", 1 / 1.05), ("ours e1000e", "ours virtio-net", 1 / 1.3),
             ("ours e1000e posted", "ours e1000e", 1), ("ours e1000e posted", "QEMU e1000e", 1),
             ("ours e1000", "ours virtio-net", 1 / 2.2), ("ours igb coalesced", "ours igb", 1),
             ("ours igb coalesced", "ours virtio-net", 1 / 1.05)] + [(f"ours {model}", f"QEMU {model}", 1) for model in QEMU_NICS]
DISK_PAIRS = [("ours nvme", "ours virtio-blk", 1 / 1.05)] + [(f"ours {model}", f"QEMU {model}", 1) for model in QEMU_DISKS]
ROW = "{:24} {:26} {:>10} {:>10} {:>7} {:>7}  {}"


def host(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def cpu_seconds(pid):
    """Of all threads of a process, to the nanosecond."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError):
            with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                total += int(file.read().split()[0])
    return total / 1e9


# ---- devices ----

def vfio_user(path):
    return ["-device", json.dumps({"driver": "vfio-user-pci", "socket": {"path": path, "type": "unix"}})]


@contextlib.contextmanager
def qemu_nic(machine, model):
    """QEMU's own card on a tap. Yields QEMU's arguments and the server, of which there is none."""
    yield ["-netdev", f"tap,id=n0,ifname={TAP},script=no,downscript=no", "-device",
           f"{QEMU_NICS[model]},netdev=n0,mac={MAC}"], None


@contextlib.contextmanager
def our_nic(machine, model, doorbells=None, coalescing=False):
    networks = [{"name": "lan", "uplink": {"type": "tap", "interface": TAP}}]
    virtio = model == "virtio-net"
    interface = processes.our_interface("a", MAC, "virtio" if virtio else model, doorbells, coalescing)
    with processes.our_server(machine, f"guest-{model}", networks, [interface], []) as server:
        path = server.sockets[0]
        arguments = vfio_user(path) if not virtio else [
            "-chardev", f"socket,id=c0,path={path}", "-netdev", "vhost-user,id=n0,chardev=c0", "-device",
            f"virtio-net-pci,netdev=n0,mac={MAC}"]
        yield arguments, server


def our_coalescing_nic(machine, model):
    return our_nic(machine, model, coalescing=True)


def our_posted_nic(machine, model):
    return our_nic(machine, model, doorbells="posted")


@contextlib.contextmanager
def qemu_disk(machine, model):
    image = os.path.join(machine.work, "disk.img")
    with open(image, "wb") as file:
        file.truncate(DISK_MIB << 20)
    yield ["-drive", f"if=none,id=d0,file={image},format=raw,cache=writeback", "-device", f"{QEMU_DISKS[model]},drive=d0"], None


@contextlib.contextmanager
def our_disk(machine, model):
    virtio = model == "virtio-blk"
    with processes.our_block_server(machine, "ram", "virtio" if virtio else model) as server:
        path = server.sockets[0]
        arguments = vfio_user(path) if not virtio else [
            "-chardev", f"socket,id=c0,path={path}", "-device", "vhost-user-blk-pci,chardev=c0"]
        yield arguments, server


NICS = {**{f"ours {model}": (our_nic, model) for model in QEMU_NICS},
        "ours igb coalesced": (our_coalescing_nic, "igb"),
        "ours e1000e posted": (our_posted_nic, "e1000e"),
        **{f"QEMU {model}": (qemu_nic, model) for model in QEMU_NICS}}
DISKS = {**{f"ours {model}": (our_disk, model) for model in QEMU_DISKS},
         **{f"QEMU {model}": (qemu_disk, model) for model in QEMU_DISKS}}


# ---- loads, each a function of (guest, seconds) that returns the rate ----

def iperf(guest, seconds, options):
    """iperf3 in the guest, its server here. Return: bit/s that the receiver saw, and its results."""
    output = guest.run(f"iperf3 -J -c {HOST} -t {seconds} {options}", timeout=seconds + 60)
    result = json.loads(output)
    if "error" in result:
        raise Failure(f"iperf3: {result['error']}")
    return result["end"]


def tcp_transmit(guest, seconds):
    return iperf(guest, seconds, "")["sum_received"]["bits_per_second"] / 1e9


def tcp_receive(guest, seconds):
    return iperf(guest, seconds, "-R")["sum_received"]["bits_per_second"] / 1e9


def udp_burst(guest, seconds):
    """Small datagrams as fast as the guest can: those that arrived."""
    total = iperf(guest, seconds, "-u -b 0 -l 64")["sum"]
    return total["packets"] * (1 - total["lost_percent"] / 100) / total["seconds"] / 1e3


def request_response(guest, seconds):
    result = json.loads(guest.run(f"rr client {HOST} {RR_PORT} udp {seconds}s", timeout=seconds + 30))
    return result["transactions"] / result["seconds"]


def fio(mode, depth, size):
    def run(guest, seconds):
        disk = guest.run("ls /sys/block | grep -E '^(vd|nvme)' | head -n 1").strip()
        output = guest.run(f"fio --name=bench --filename=/dev/{disk} --ioengine=libaio --direct=1 --rw={mode} --bs={size} "
                           f"--iodepth={depth} --time_based --runtime={seconds} --ramp_time=0.5 --output-format=json",
                           timeout=seconds + 60)
        job = json.loads(output[output.index("{"):])["jobs"][0]
        return job["write" if "write" in mode else "read"]["iops"] / 1e3
    return run


NET_LOADS = {"TCP transmit": ("Gbit/s", tcp_transmit), "TCP receive": ("Gbit/s", tcp_receive),
             "UDP 64 B burst": ("kpps", udp_burst), "UDP request/response": ("1/s", request_response)}
DISK_LOADS = {"4 KiB random read depth 1": ("kIOPS", fio("randread", 1, "4k")),
              "4 KiB random read depth 32": ("kIOPS", fio("randread", 32, "4k")),
              "4 KiB random write depth 32": ("kIOPS", fio("randwrite", 32, "4k")),
              "128 KiB write depth 8": ("kIOPS", fio("write", 8, "128k"))}


# ---- one guest ----

def favour(machine, pid):
    """Gives a running QEMU, all of its threads, the share of a busy machine that servers have."""
    if machine.nice is None:
        return
    for task in os.listdir(f"/proc/{pid}/task"):
        os.setpriority(os.PRIO_PROCESS, int(task), machine.nice)
    if os.path.exists(f"/proc/{pid}/autogroup"):
        with open(f"/proc/{pid}/autogroup", "w") as file:
            file.write(str(machine.nice))


def measure(machine, name, table, loads, seconds, results, reasons):
    """Boots a guest with that device and runs all loads; what each gave, and CPU seconds of the host for an operation."""
    make, model = table[name]
    try:
        with make(machine, model) as (arguments, server):
            with Guest("bench", devices=arguments, memory=512, accel="tcg") as guest:
                favour(machine, guest.pid)
                if table is NICS:
                    guest.run(f"ip address add {GUEST}/24 dev eth0 && ip link set eth0 up && "
                              f"for i in $(seq 50); do ping -c 1 -W 1 {HOST} >/dev/null && exit 0; done; exit 1", timeout=60)
                for load, (_, run) in loads.items():
                    pids = [guest.pid] + ([server.pid] if server else [])
                    before = sum(map(cpu_seconds, pids))
                    began = time.monotonic()
                    value = run(guest, seconds)
                    share = (sum(map(cpu_seconds, pids)) - before) / (time.monotonic() - began)
                    results.setdefault((name, load), []).append((value, share))
    except (Failure, GuestError, OSError, KeyError, ValueError) as failure:
        reasons[name] = str(failure).splitlines()[0][:160]
        print(f"{name}: {reasons[name]}", flush=True)


def report(title, pairs, loads, results, file):
    print("\n" + ROW.format(title, "load", "ours", "peer", "ratio", "bar", "host CPU of ours and peer"))
    for ours, peer, bar in pairs:
        for load, (unit, _) in loads.items():
            mine, theirs = results.get((ours, load)), results.get((peer, load))
            if not mine or not theirs:
                continue
            ratio = statistics.median(a[0] / b[0] for a, b in zip(mine, theirs))
            medians = [statistics.median(value for value, _ in side) for side in (mine, theirs)]
            shares = [statistics.median(share for _, share in side) for side in (mine, theirs)]
            per_unit = [share / value for share, value in zip(shares, medians)]
            print(ROW.format(f"{ours[5:]} / {peer}", f"{load} [{unit}]", f"{medians[0]:.3f}", f"{medians[1]:.3f}",
                             f"{ratio:.2f}", f"{bar:.2f}", f"{shares[0]:.2f} {shares[1]:.2f} cores, "
                             f"for each unit {per_unit[0] / per_unit[1]:.2f}x"), flush=True)
            print(json.dumps({"bench": f"guest {ours[5:]} {load}", "ours": round(medians[0], 4), "peer": peer,
                              "peer_value": round(medians[1], 4), "ratio": round(ratio, 4), "unit": unit,
                              "bar": round(bar, 3), "host_cpu": round(shares[0], 3), "peer_host_cpu": round(shares[1], 3),
                              "rounds": min(len(mine), len(theirs))}), file=file, flush=True)


@contextlib.contextmanager
def network(machine):
    """A tap, an iperf3 server and an echo server, in the network namespace that this script runs in."""
    host("ip", "link", "set", "lo", "up")
    host("ip", "tuntap", "add", TAP, "mode", "tap", "vnet_hdr")
    host("ip", "address", "add", f"{HOST}/24", "dev", TAP)
    host("ip", "link", "set", TAP, "up")
    echo = os.path.join(machine.work, "rr")
    host("cc", "-O2", "-D_GNU_SOURCE", "-o", echo, str(ROOT / "guest" / "rr.c"))
    try:
        with processes.Process(machine, "iperf3", ["iperf3", "-s"]), \
                processes.Process(machine, "rr", [echo, "server", str(RR_PORT)]):
            yield
    finally:
        subprocess.run(["ip", "tuntap", "del", TAP, "mode", "tap"], check=False)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "build/release/sidecore"), help="sidecore to measure")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--seconds", type=int, default=4, help="of each load (default 4)")
    parser.add_argument("--only", default=".", metavar="PATTERN", help="devices, as \"ours igb\" or \"QEMU nvme\"")
    parser.add_argument("--loads", default=".", metavar="PATTERN", help="loads that match this regular expression")
    parser.add_argument("--nice", type=int, help="nice value of servers and guests, for a machine with other work on it")
    parser.add_argument("--server-cpu", type=int, default=max(os.sched_getaffinity(0)), help="default: the last")
    return parser.parse_args()


def in_own_network():
    """Starts this script again in a network namespace, so that no tap and no address meets those of the machine."""
    if os.environ.get("SIDECORE_BENCH_NETWORK") == "own":
        return
    os.environ["SIDECORE_BENCH_NETWORK"] = "own"
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    os.execvp("unshare", unshare + [sys.executable, *sys.argv])


def main():
    options = parse_arguments()
    in_own_network()
    build_image()
    folder = ROOT / "build" / "bench"
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    results, reasons = {}, {}
    net_loads = {load: value for load, value in NET_LOADS.items() if re.search(options.loads, load)}
    disk_loads = {load: value for load, value in DISK_LOADS.items() if re.search(options.loads, load)}
    with tempfile.TemporaryDirectory(prefix="sidecore-", dir="/dev/shm") as work:
        machine = processes.Machine(os.path.abspath(options.binary), work, str(folder), options.server_cpu, None, False, options.nice)
        with network(machine):
            for turn in range(options.rounds):
                for table, loads in ((NICS, net_loads), (DISKS, disk_loads)):
                    # Each round in the other direction, so that a drift of the machine favours nobody.
                    for name in list(table) if turn % 2 == 0 else reversed(list(table)):
                        if re.search(options.only, name) and loads and name not in reasons:
                            print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
                            measure(machine, name, table, loads, options.seconds, results, reasons)
    with open(folder / "guests.jsonl", "w") as file:
        report("cards", NIC_PAIRS, net_loads, results, file)
        report("disks", DISK_PAIRS, disk_loads, results, file)
    for name, reason in reasons.items():
        print(f"MISSING {name}: {reason}")
    return 1 if any(name.startswith("ours") for name in reasons) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
