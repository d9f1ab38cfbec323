# SPDX-License-Identifier: BSD-3-Clause
"""Emulated devices: beside our own virtio on the same engine, what they cost in messages, and what they cost idle."""

import contextlib
import json
import subprocess
import time

import processes
from processes import Failure

NICS = ("igb", "e1000e", "e1000")
IDLE_GUESTS = (1, 8, 32)
SETTLE_SECONDS = 1.0
PEER_NET = "sidecore virtio-net"
PEER_BLOCK = "sidecore virtio-blk"


def net(model, mode, size, doorbells=None):
    def run(machine, seconds):
        with processes.our_net_server(machine, mode, size, (model, model), doorbells) as server:
            return processes.light_net(machine, server, mode, size, False, seconds, models=(model, model))
    return run


def segmentation(models, coalescing=False):
    """Long TCP segments from one card to another, whole as far as the receiver takes them so. @coalescing: see
    receive_coalescing of the configuration."""
    size = 65000

    def run(machine, seconds):
        with processes.our_net_server(machine, "forward", size, models, coalescing=coalescing) as server:
            return processes.light_net(machine, server, "forward", size, False, seconds, gso=True, models=models)
    return run


def block(model, backend, depth, posted=False):
    def run(machine, seconds):
        with processes.our_block_server(machine, backend, model, posted) as server:
            if backend == "ram":
                processes.fill_disk(machine, server, model)
            return processes.light_block(machine, server, depth, seconds, model=model)
    return run


def idle(model, guests):
    """CPU share of the sidecore while guests are up and silent; they sleep, and are not what is measured."""
    def run(machine, seconds):
        macs = [f"52:54:00:00:01:{index:02x}" for index in range(guests)]
        interfaces = [processes.our_interface(f"g{index}", mac, model) for index, mac in enumerate(macs)]
        networks = [{"name": "lan", "uplink": {"type": "none"}}]
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(processes.our_server(machine, f"idle-{model}", networks, interfaces, []))
            for mac, path in zip(macs, server.sockets):
                command = [machine.binary, "bench", "net", "--mode", "rx", "--socket", path, "--device", model, "--mac", mac,
                           "--interrupts", "--warm-up", "0", "--seconds", "600"]
                stack.enter_context(processes.Process(machine, "idle-guest", command, machine.client_cpu))
            wait_until_connected(machine, server)
            time.sleep(SETTLE_SECONDS)
            began, before = time.monotonic(), processes.sidecore_seconds(server)
            time.sleep(seconds)
            used = processes.sidecore_seconds(server) - before
            server.fail_if_gone()
            return {"value": 100 * used / (time.monotonic() - began)}
    return run


def wait_until_connected(machine, server):
    deadline = time.monotonic() + processes.START_SECONDS
    while True:
        state = processes.status(machine, server)
        if all(device["connected"] for device in {**state["interfaces"], **state["disks"]}.values()):
            return
        if time.monotonic() > deadline:
            raise Failure("guests did not connect")
        time.sleep(0.1)


def cases(make, light, directions):
    """@make: makes a case of (bench, unit, peer, ours, theirs, more); @light: name of the client."""
    found = []
    for model in NICS:
        for mode in directions:
            for size in (64, 1518):
                found.append(make(f"{model} {directions[mode]} {size} B", "Mpps", PEER_NET, net(model, mode, size),
                                  net("virtio", mode, size), client=light, layout=model, size=size))
    for size in (64, 1518):
        found.append(make(f"e1000 mapped {directions['forward']} {size} B", "Mpps", PEER_NET,
                          net("e1000", "forward", size, "mapped"), net("virtio", "forward", size), client=light, layout="e1000",
                          size=size))
    for model in NICS:
        for models in ((model, "virtio"), (model, model), ("virtio", model)):
            found.append(make(f"{models[0]}->{models[1]} 64 KiB TSO", "GB/s", PEER_NET, segmentation(models),
                              segmentation(("virtio", "virtio")), client=light, layout=model, size=65000))
    for models in (("igb", "igb"), ("virtio", "igb")):
        found.append(make(f"{models[0]}->{models[1]} 64 KiB TSO coalesced", "GB/s", PEER_NET, segmentation(models, True),
                          segmentation(("virtio", "virtio")), client=light, layout="igb", size=65000))
    for backend in ("null", "ram"):
        for depth in (1, 128):
            found.append(make(f"nvme 4 KiB random read {backend} depth {depth}", "kIOPS", PEER_BLOCK,
                              block("nvme", backend, depth), block("virtio", backend, depth), client=light, layout="nvme",
                              size=4096, depth=depth))
    for model in ("igb", "e1000e"):
        for guests in IDLE_GUESTS:
            found.append(make(f"{model} idle guests: {guests}", "% CPU", PEER_NET, idle(model, guests),
                              idle("virtio", guests), client=light, layout=model))
    return found


# ---- messages ----

# Kinds of messages in the status.
KINDS = ("region_reads", "region_writes", "interrupts", "memory")


class Count:
    """What an operation costs in messages and interrupts, between two looks at the daemon's counters in steady state.

    Doorbells that were messages are counted by the client; what else came is for interrupts.
    """

    def __init__(self, bench, unit, server, load, operations):
        self.bench = bench
        self.unit = unit
        self.server = server
        self.load = load
        self.operations = operations

    def run(self, machine, seconds):
        with self.server(machine) as server:
            command = [machine.binary, "bench", *self.load(server), "--interrupts", "--warm-up", "0", "--cpu",
                       str(machine.client_cpu), "--seconds", str(seconds + 2 * SETTLE_SECONDS), "--json"]
            with processes.Process(machine, "counted", command) as client:
                time.sleep(SETTLE_SECONDS)
                before = self.look(machine, server)
                time.sleep(seconds)
                after = self.look(machine, server)
                client.fail_if_gone()
                try:
                    client.child.wait(processes.START_SECONDS)
                    with open(client.log_path) as log:
                        told = json.loads(log.readlines()[-1])
                except (subprocess.TimeoutExpired, ValueError) as error:
                    raise Failure(f"no result: {processes.last_words(client.log_path)}") from error
        counts = {key: after[key] - before[key] for key in before}
        counts["doorbells"] = told["kicks"] / (told.get("frames") or told.get("requests") or 1)
        if not counts["operations"]:
            raise Failure("nothing moved in the measured time")
        return counts

    def look(self, machine, server):
        state = processes.status(machine, server)
        devices = list(state["interfaces"].values()) + list(state["disks"].values())
        counts = {f"{key} messages": sum(device["pci"]["messages"][key] for device in devices) for key in KINDS}
        counts["messages"] = sum(device["messages"] for device in devices)
        counts["interrupts"] = sum(device["pci"]["interrupts"] for device in devices)
        counts["operations"] = sum(device.get(key, 0) for device in devices for key in self.operations)
        return counts

    def record(self, counts):
        operations, interrupts = counts["operations"], counts["interrupts"]
        other = counts["messages"] - counts["doorbells"] * operations
        return {"bench": f"messages {self.bench}", "unit": f"messages/{self.unit}",
                "ours": round(counts["messages"] / operations, 5),
                "interrupts": round(interrupts / operations, 5),
                "doorbells": round(counts["doorbells"], 5),
                "messages_per_interrupt": round(max(0, other) / interrupts, 4) if interrupts else None,
                "operations": operations,
                **{f"{key} messages": round(counts[f"{key} messages"] / operations, 5) for key in KINDS}}


def net_count(model, posted, burst):
    def server(machine):
        return processes.our_net_server(machine, "tx" if burst else "forward", 64, (model, model),
                                        "posted" if posted else None)

    def load(server):
        shape = ["--mode", "tx"] if burst else ["--mode", "forward", "--window", "1", "--batch", "1"]
        arguments = ["net", *shape, "--size", "64"]
        for path in server.sockets:
            arguments += ["--socket", path, "--device", model]
        return arguments

    way = " posted" if posted else ""
    return Count(f"{model}{way} {'burst' if burst else 'one frame at a time'}", "frame", server, load, ("in_frames",))


def block_count(posted, depth):
    def load(server):
        return ["block", "--socket", server.sockets[0], "--device", "nvme", "--depth", str(depth)]

    return Count(f"nvme{' posted' if posted else ''} depth {depth}", "request",
                 lambda machine: processes.our_block_server(machine, "null", "nvme", posted), load, ("reads", "writes"))


def counts():
    found = [net_count(model, posted, burst)
             for model, posted in (("igb", False), ("igb", True), ("e1000e", False), ("e1000e", True), ("e1000", False))
             for burst in (False, True)]
    return found + [block_count(posted, depth) for posted in (False, True) for depth in (1, 32)]
