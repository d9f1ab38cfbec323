#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Side by side with peers: each case runs ours and the peer alternately, and reports the median of the pairs.

Emulated devices run beside our own virtio; what they cost in messages for each frame, request and interrupt is counted, and
is a second table (build/bench/messages.jsonl).

Servers run on one core, clients on another; each measurement starts its server afresh. Results go to
build/bench/results.jsonl, one JSON object a line (bench, ours, peer, peer_value, ratio, unit and more), and to a table.
What could not be measured is named with its reason, in the table and in build/bench/skipped.jsonl.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile

import emulated
import processes
from processes import Failure

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HUGE_MIB = 2 * processes.TESTPMD_MIB + 128
DIRECTIONS = {"tx": "guest->host", "rx": "host->guest", "forward": "guest<->guest"}
LIGHT = "sidecore bench"
VIRTIO_USER = "dpdk-testpmd virtio-user"
NOT_WANTED = "not run (--peer-only)"
KEPT = ("client_busy_share", "client_cycles_per_frame", "client_cycles_per_request", "kicks", "lost", "p50_ns",
        "p99_ns", "server_cpu_share", "server_cycles_per_frame", "server_cycles_per_request")
ROW = "{:44} {:>10} {:>10} {:>6} {:6} {:20} {}"


class Case:
    """One comparison: two functions of (machine, seconds) that return a dict with the key value."""

    def __init__(self, bench, unit, peer, ours, theirs, **extra):
        self.bench = bench
        self.unit = unit
        self.peer = peer
        self.ours = ours
        self.theirs = theirs
        self.extra = extra
        self.name = f"{bench} [{extra['client']}]"


def net_case(mode, size, packed, client):
    layout = "packed" if packed else "split"
    load = processes.light_net if client == LIGHT else processes.testpmd_net

    def measure(start):
        def run(machine, seconds):
            with start(machine, mode, size) as server:
                return load(machine, server, mode, size, packed, seconds)
        return run

    return Case(f"net {DIRECTIONS[mode]} {size} B {layout}", "Mpps", "dpdk-testpmd net_vhost",
                measure(processes.our_net_server), measure(processes.testpmd_server),
                client=client, layout=layout, size=size)


def gso_case(packed):
    size = 65000
    layout = "packed" if packed else "split"

    def ours(machine, seconds):
        with processes.our_net_server(machine, "forward", size) as server:
            return processes.light_net(machine, server, "forward", size, packed, seconds, gso=True)

    return Case(f"net guest->guest 64 KiB GSO {layout}", "GB/s", "memcpy", ours,
                lambda machine, seconds: processes.copy_speed(machine, size, seconds),
                client=LIGHT, layout=layout, size=size)


def our_disk(backend, depth, packed=False, pages=None, write=False):
    """Return: a function that measures one of our disks."""
    def run(machine, seconds):
        with processes.our_block_server(machine, backend) as server:
            if backend == "ram":
                processes.fill_disk(machine, server)
            return processes.light_block(machine, server, depth, seconds, packed, pages, write)
    return run


def block_case(backend, depth):
    def theirs(machine, seconds):
        with processes.storage_daemon(machine, backend) as server:
            return processes.light_block(machine, server, depth, seconds)

    peer = "qemu-storage-daemon " + ("null-co" if backend == "null" else "file on tmpfs")
    return Case(f"block 4 KiB random read {backend} depth {depth}", "kIOPS", peer,
                our_disk(backend, depth), theirs, client=LIGHT, layout="split", size=4096, depth=depth)


def packed_case(backend, depth):
    """QEMU's storage daemon has no packed rings: our own split ones are the peer."""
    return Case(f"block 4 KiB random read {backend} packed depth {depth}", "kIOPS", "sidecore, split rings",
                our_disk(backend, depth, packed=True), our_disk(backend, depth), client=LIGHT, layout="packed",
                size=4096, depth=depth)


def pages_case(backend, depth):
    """Plain memory of the guest against the same in huge pages; the ratio is what plain pages keep."""
    def theirs(machine, seconds):
        if not machine.huge_pages:
            raise Failure("no huge pages to compare with")
        return our_disk(backend, depth, pages="2m")(machine, seconds)

    return Case(f"block 4 KiB random read {backend} plain pages depth {depth}", "kIOPS", "sidecore, 2 MiB pages",
                our_disk(backend, depth, pages="4k"), theirs, client=LIGHT, layout="split", size=4096, depth=depth)


def file_case(cached, write, depth):
    """An image on the repository's own file system. fio is one thread on the server's core; we add the client's core."""
    verb = "write" if write else "read"
    place = "page cache" if cached else "direct"
    backend = "cached" if cached else "direct"
    return Case(f"block 4 KiB random {verb} file {place} depth {depth}", "kIOPS", "fio io_uring",
                our_disk(backend, depth, write=write),
                lambda machine, seconds: processes.fio(machine, backend, write, depth, seconds),
                client=LIGHT, layout="split", size=4096, depth=depth)


def all_cases():
    cases = [net_case(mode, size, packed, client)
             for client in (LIGHT, VIRTIO_USER) for mode in DIRECTIONS for size in (64, 1518)
             for packed in (False, True)]
    cases += [gso_case(packed) for packed in (False, True)]
    cases += [block_case(backend, depth) for backend in ("null", "ram") for depth in (1, 128)]
    cases += [packed_case("null", depth) for depth in (1, 128)]
    cases += [pages_case(backend, 128) for backend in ("null", "ram")]
    cases += [file_case(cached, write, depth)
              for write in (False, True) for cached in (False, True) for depth in (1, 32, 128)]
    return cases + emulated.cases(Case, LIGHT, DIRECTIONS)


class Outcome:
    """What the pairs of a case gave; a side that failed once is not run again."""

    def __init__(self, case):
        self.case = case
        self.values = {"ours": [], "peer": []}
        self.results = {"ours": [], "peer": []}
        self.reasons = {}

    def measure(self, side, run, machine, seconds):
        if side in self.reasons:
            return
        try:
            result = run(machine, seconds)
        except Failure as failure:
            self.reasons[side] = str(failure)
            return
        self.values[side].append(result.pop("value"))
        self.results[side].append(result)

    def median(self, side):
        if side in self.reasons or not self.values[side]:
            return None
        return statistics.median(self.values[side])

    def middle(self, side, key):
        values = [result[key] for result in self.results[side] if key in result]
        return statistics.median(values) if values else None

    def record(self, pages):
        """A line of results.jsonl, or None if a side is missing."""
        if self.median("ours") is None or self.median("peer") is None:
            return None
        pairs = list(zip(self.values["ours"], self.values["peer"]))
        # A peer that used no CPU time at all, idle, has no ratio.
        ratio = round(statistics.median(ours / peer for ours, peer in pairs), 4) if all(peer for _, peer in pairs) else None
        record = {"bench": self.case.bench, "ours": round(self.median("ours"), 4), "peer": self.case.peer,
                  "peer_value": round(self.median("peer"), 4), "ratio": ratio,
                  "unit": self.case.unit, **self.case.extra, "pairs": len(pairs), "pages": pages}
        limits = {result["bottleneck"] for result in self.results["ours"] if "bottleneck" in result}
        if limits:
            record["bottleneck"] = "client" if "client" in limits else "server"
        for side, prefix in (("ours", ""), ("peer", "peer_")):
            for key in KEPT:
                value = self.middle(side, key)
                if value is not None:
                    record[prefix + key] = round(value, 4)
        return record


def show_progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def run_case(case, machine, options):
    outcome = Outcome(case)
    sides = [("ours", case.ours), ("peer", case.theirs)]
    if options.peer_only:
        sides = sides[1:]
        outcome.reasons["ours"] = NOT_WANTED
    for pair in range(options.pairs):
        # Who goes first changes from pair to pair, so that a drift of the machine favours neither.
        for side, run in sides if pair % 2 == 0 else reversed(sides):
            show_progress(f"{case.name}: pair {pair + 1} of {options.pairs}, {side}")
            outcome.measure(side, run, machine, options.seconds)
    show_progress("")
    return outcome


def number(value):
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def notes_of(outcome):
    notes = ["light client" if outcome.case.extra["client"] == LIGHT else "virtio-user"]
    for side in ("ours", "peer"):
        prefix = "" if side == "ours" else "peer "
        busy = outcome.middle(side, "client_busy_share")
        cycles = outcome.middle(side, "client_cycles_per_frame")
        if outcome.middle(side, "p99_ns") is not None:
            notes.append(f"{prefix}p50/p99 {outcome.middle(side, 'p50_ns') / 1e3:.1f}/"
                         f"{outcome.middle(side, 'p99_ns') / 1e3:.1f} us")
        if busy is not None:
            notes.append(f"{prefix}client busy {busy:.0%}" + (f" {cycles:.0f} cycles/frame" if cycles else ""))
        for what in ("frame", "request"):
            cycles = outcome.middle(side, f"server_cycles_per_{what}")
            if cycles:
                notes.append(f"{prefix}server {cycles:.0f} cycles/{what}")
        share = outcome.middle(side, "server_cpu_share")
        if outcome.case.peer == "fio io_uring" and share is not None:
            # Both sides were given one core for the work; ours needs another for the client, and polls.
            notes.append(f"{prefix}server core {share:.0%}" + (" + client core" if side == "ours" else ""))
            if side == "ours" and share < 0.9:
                notes.append("which is what it was given: the machine was busy")
        elif share is not None and share < 0.9 and outcome.case.unit == "Mpps":
            notes.append(f"{prefix}server had its core for {share:.0%} only: the machine was busy")
        if outcome.middle(side, "lost"):
            notes.append(f"{prefix}LOST {outcome.middle(side, 'lost'):.0f}")
        if side in outcome.reasons and outcome.reasons[side] != NOT_WANTED:
            notes.append(f"{side} MISSING: {outcome.reasons[side]}")
    return ", ".join(notes)


def print_row(outcome, record):
    case = outcome.case
    ratio = f"{record['ratio']:.2f}" if record and record["ratio"] is not None else "-"
    print(ROW.format(case.bench, number(outcome.median("ours")), number(outcome.median("peer")), ratio, case.unit,
                     case.peer[:20], notes_of(outcome)), flush=True)


def run_all(cases, machine, options, folder):
    """Return: how many cases of ours could not be measured."""
    missing = 0
    print(f"server on CPU {machine.server_cpu}, client on CPU {machine.client_cpu}, guest memory in {machine.pages} "
          f"pages, medians of {options.pairs} pair(s) of {options.seconds:g} s\n")
    print(ROW.format("bench", "ours", "peer", "ratio", "unit", "peer", "notes"))
    with open(os.path.join(folder, "results.jsonl"), "w") as results, \
            open(os.path.join(folder, "skipped.jsonl"), "w") as skipped:
        for case in cases:
            outcome = run_case(case, machine, options)
            record = outcome.record(machine.pages)
            print_row(outcome, record)
            if record:
                print(json.dumps(record), file=results, flush=True)
            for side, reason in outcome.reasons.items():
                print(json.dumps({"bench": case.bench, "client": case.extra["client"], "side": side,
                                  "peer": case.peer, "reason": reason}), file=skipped, flush=True)
            missing += "ours" in outcome.reasons and not options.peer_only
    return missing


def run_counts(counts, machine, options, folder):
    """Return: how many could not be made."""
    missing = 0
    row = "{:44} {:>14} {:>17} {:>16} {:>19}  {}"
    if counts:
        print("\n" + row.format("messages in steady state", "per operation", "of it: doorbells", "interrupts each", "others an interrupt", ""))
    with open(os.path.join(folder, "messages.jsonl"), "w") as results:
        for count in counts:
            show_progress(count.bench)
            try:
                record = count.record(count.run(machine, options.seconds))
            except Failure as failure:
                missing += 1
                show_progress("")
                print(row.format(count.bench, "-", "-", "-", "-", f"MISSING: {failure}"), flush=True)
                continue
            show_progress("")
            ratio = record["messages_per_interrupt"]
            print(row.format(count.bench, f"{record['ours']:.4f}", f"{record['doorbells']:.4f}",
                             f"{record['interrupts']:.4f}",
                             "-" if ratio is None else f"{ratio:.2f}",
                             f"per {count.unit}, of {record['operations']}"), flush=True)
            print(json.dumps(record), file=results, flush=True)
    return missing


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(ROOT, "build/release/sidecore"), help="sidecore to measure")
    parser.add_argument("--pairs", type=int, help="pairs of each case (default 5)")
    parser.add_argument("--seconds", type=float, help="measured time of each run (default 2)")
    parser.add_argument("--quick", action="store_true", help="one pair of one second: a smoke test")
    parser.add_argument("--only", metavar="PATTERN", help="run cases whose name matches this regular expression")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--peer-only", action="store_true", help="measure the peers alone")
    parser.add_argument("--small-pages", action="store_true", help="use 4 KiB pages throughout")
    parser.add_argument("--nice", type=int, help="nice value of servers and clients, for a machine with other work on it")
    parser.add_argument("--server-cpu", type=int, help="default: the first allowed CPU")
    parser.add_argument("--client-cpu", type=int, help="default: the second allowed CPU")
    options = parser.parse_args()
    options.pairs = options.pairs or (1 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 2)
    return options


def choose_cpus(options):
    cpus = sorted(os.sched_getaffinity(0))
    server = cpus[0] if options.server_cpu is None else options.server_cpu
    others = [cpu for cpu in cpus if cpu != server]
    if options.client_cpu is None and not others:
        sys.exit("two CPUs are needed, one for the server and one for the client")
    return server, others[0] if options.client_cpu is None else options.client_cpu


def main():
    options = parse_arguments()
    cases = [case for case in all_cases() if not options.only or re.search(options.only, case.name)]
    counts = [count for count in emulated.counts() if not options.only or re.search(options.only, f"messages {count.bench}")]
    if options.list:
        print("\n".join([case.name for case in cases] + [f"messages {count.bench}" for count in counts]))
        return 0
    if not cases and not counts:
        sys.exit(f"no case matches '{options.only}'; --list shows them")
    if not os.access(options.binary, os.X_OK):
        sys.exit(f"no binary at {options.binary}: build it first")
    server_cpu, client_cpu = choose_cpus(options)

    folder = os.path.join(ROOT, "build/bench")
    os.makedirs(os.path.join(folder, "logs"), exist_ok=True)
    tmpfs = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with processes.HugePages(0 if options.small_pages else HUGE_MIB) as huge, \
            tempfile.TemporaryDirectory(prefix="sidecore-", dir=tmpfs) as work:
        if huge.reason:
            print(f"huge pages: {huge.reason}; guests and DPDK use 4 KiB pages")
        machine = processes.Machine(os.path.abspath(options.binary), work, folder, server_cpu, client_cpu,
                                    not options.small_pages and not huge.reason, options.nice)
        try:
            missing = run_all(cases, machine, options, folder)
            if not options.peer_only:
                missing += run_counts(counts, machine, options, folder)
        finally:
            machine.remove_image()

    print(f"\nresults: {os.path.relpath(folder)}/results.jsonl; what is missing: skipped.jsonl beside it")
    return 1 if missing else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
