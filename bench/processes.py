# SPDX-License-Identifier: BSD-3-Clause
"""Servers under test and clients that load them: how each is started, watched and stopped.

A server is started afresh for each measurement, pinned to one core; a client runs on another. Whatever goes wrong is a
Failure with a reason that a person can read; logs stay in build/bench/logs.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time

MAC_A = "52:54:00:00:00:01"
MAC_B = "52:54:00:00:00:02"
START_SECONDS = 20
HUGE_PAGE_MIB = 2
TESTPMD_MIB = 256
DISK_SIZE = 256 << 20
CLIENT_BUSY = 0.9  # above this share of turns with work the client is what limits


class Failure(Exception):
    """A measurement that could not be made, and why."""


class Machine:
    """Where things run: cores, binary, folders, pages."""

    def __init__(self, binary, work, folder, server_cpu, client_cpu, huge_pages, nice=None):
        self.binary = binary
        self.work = work
        self.logs = os.path.join(folder, "logs")
        self.image = os.path.join(folder, "disk.img")
        self.server_cpu = server_cpu
        self.client_cpu = client_cpu
        self.huge_pages = huge_pages
        self.pages = "2m" if huge_pages else "4k"
        self.nice = nice
        self.serial = 0

    def set_up_child(self, cpu=None):
        """Runs in a child before its program: its core, and its share of a busy machine."""
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        if self.nice is not None:
            os.setpriority(os.PRIO_PROCESS, 0, self.nice)
            if os.path.exists("/proc/self/autogroup"):  # where sessions are scheduled as groups, the group's counts
                with open("/proc/self/autogroup", "w") as file:
                    file.write(str(self.nice))

    def disk_image(self):
        """An image on the file system of the results, which is a real one where tmpfs is not. Made when first asked."""
        if not os.path.exists(self.image):
            fill_image(self.image)
        return self.image

    def remove_image(self):
        if os.path.exists(self.image):
            os.unlink(self.image)

    def log(self, name):
        self.serial += 1
        return os.path.join(self.logs, f"{self.serial:03d}-{name}.log")

    def testpmd(self, prefix, cpu):
        """Arguments of DPDK's environment: an idle main thread and a polling one share the core."""
        memory = ["--in-memory", "--single-file-segments"] if self.huge_pages else ["--no-huge"]
        return ["dpdk-testpmd", "--lcores", f"0@{cpu},1@{cpu}", "--no-pci", "--no-telemetry", "-m", str(TESTPMD_MIB),
                "--file-prefix", f"{prefix}{os.getpid()}"] + memory


def fill_image(path):
    """Writes all of it: a hole would be read without any I/O, and its first write would allocate."""
    with open(path, "wb") as file:
        for _ in range(DISK_SIZE >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())


def read_image(path):
    """Brings all of it into the page cache."""
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def need(program):
    if not shutil.which(program):
        raise Failure(f"{program} is not installed")


def last_words(path):
    """The line of a log that most likely tells what went wrong."""
    try:
        with open(path, errors="replace") as file:
            lines = [line.strip() for line in file.readlines()[1:] if line.strip()]  # the first is the command
    except OSError:
        lines = []
    telling = [line for line in lines
               if re.search(r"error|fail|cannot|invalid|unknown|no command", line, re.I)
               and not re.search(r"(failed|errors?): *0\b|ignore", line, re.I)]
    if telling:
        return telling[0][:160]
    return lines[-1][:160] if lines else "no output"


# ---- huge pages ----

def free_huge_pages():
    """Return: reserved and free 2 MiB pages."""
    with open("/proc/meminfo") as file:
        values = dict(re.findall(r"^(HugePages_Total|HugePages_Free|Hugepagesize):\s+(\d+)", file.read(), re.M))
    if values.get("Hugepagesize") != "2048":
        return 0, 0
    return int(values["HugePages_Total"]), int(values["HugePages_Free"])


class HugePages:
    """Reserves 2 MiB pages where we may, and puts the number back."""

    path = "/proc/sys/vm/nr_hugepages"

    def __init__(self, mebibytes):
        self.wanted = mebibytes // HUGE_PAGE_MIB
        self.before = None
        self.reason = None

    def set(self, count):
        with open(self.path, "w") as file:
            file.write(str(count))

    def __enter__(self):
        total, free = free_huge_pages()
        if free < self.wanted:
            try:
                self.set(total + self.wanted - free)
                self.before = total
            except OSError as error:
                self.reason = f"cannot set vm.nr_hugepages ({error.strerror})"
            if not self.reason and free_huge_pages()[1] < self.wanted:
                self.reason = f"the kernel finds no {self.wanted} free pages of {HUGE_PAGE_MIB} MiB"
        return self

    def __exit__(self, *_):
        if self.before is not None:
            self.set(self.before)


# ---- processes ----

class Process:
    """A child with a log, stopped for sure."""

    def __init__(self, machine, name, command, cpu=None, stdin=subprocess.DEVNULL, stdout=None):
        self.name = name
        self.log_path = machine.log(name)
        self.sockets = []
        with open(self.log_path, "w") as log:
            log.write(" ".join(command) + "\n")
            log.flush()
            try:
                self.child = subprocess.Popen(command, stdin=stdin, stdout=stdout or log, stderr=log, cwd=machine.work,
                                              preexec_fn=lambda: machine.set_up_child(cpu), start_new_session=True)
            except OSError as error:
                raise Failure(f"{name}: {error}") from error

    @property
    def pid(self):
        return self.child.pid

    def fail_if_gone(self):
        if self.child.poll() is not None:
            raise Failure(f"{self.name} ended with status {self.child.returncode}: {last_words(self.log_path)}")

    def wait_for_sockets(self):
        """Until the server has bound them; clients retry the connection themselves."""
        deadline = time.monotonic() + START_SECONDS
        while not all(os.path.exists(path) for path in self.sockets):
            self.fail_if_gone()
            if time.monotonic() > deadline:
                raise Failure(f"{self.name}: no socket after {START_SECONDS} s: {last_words(self.log_path)}")
            time.sleep(0.02)
        self.fail_if_gone()

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.child.poll() is not None:
                break
            self.child.send_signal(number)
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                continue
        for stream in (self.child.stdin, self.child.stdout):
            if stream:
                try:
                    stream.close()
                except OSError:
                    pass  # what was not yet written has no reader any more

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def fresh_paths(machine, names):
    paths = [os.path.join(machine.work, name) for name in names]
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)
    return paths


def start_server(machine, name, command, sockets, cpu=None):
    process = Process(machine, name, command, cpu)
    process.sockets = sockets
    try:
        process.wait_for_sockets()
    except BaseException:
        process.stop()
        raise
    return process


# ---- servers ----

def our_server(machine, name, networks, interfaces, disks):
    """sidecore serve with one sidecore. Its configuration is YAML, of which JSON is a subset."""
    sockets = fresh_paths(machine, [entry["socket"] for entry in interfaces + disks])
    for entry, path in zip(interfaces + disks, sockets):
        entry["socket"] = path
    control = fresh_paths(machine, ["ctl.sock"])[0]
    config = {"control": control, "sidecores": [{"cpu": machine.server_cpu}],
              "networks": networks, "interfaces": interfaces, "disks": disks}
    path = os.path.join(machine.work, "serve.yaml")
    with open(path, "w") as file:
        json.dump({key: value for key, value in config.items() if value}, file, indent=1)
    server = start_server(machine, f"sidecore-{name}", [machine.binary, "serve", path], sockets)
    server.control = control
    return server


def status(machine, server):
    """What the daemon tells of itself."""
    done = subprocess.run([machine.binary, "status", "--json", "--control", server.control], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=20)
    if done.returncode:
        raise Failure(done.stderr.strip()[:200] or f"sidecore status ended with status {done.returncode}")
    return json.loads(done.stdout)


def sidecore_seconds(server):
    """CPU seconds that the server's sidecores have used, to the nanosecond."""
    total = 0
    for task in os.listdir(f"/proc/{server.pid}/task"):
        folder = f"/proc/{server.pid}/task/{task}"
        with open(f"{folder}/comm") as comm, open(f"{folder}/schedstat") as schedstat:
            if comm.read().startswith("sidecore/"):
                total += int(schedstat.read().split()[0])
    return total / 1e9


def our_interface(name, mac, model="virtio", doorbells=None, coalescing=False):
    """An entry of the configuration. @doorbells: mapped or posted; else as the model has them by itself. @coalescing: TCP
    segments may come several as one frame (igb)."""
    interface = {"name": name, "network": "lan", "socket": f"{name}.sock", "mac": mac}
    if model == "virtio":
        return {**interface, "queue_pairs": 1}
    return {**interface, "model": model, **({"doorbells": doorbells} if doorbells else {}),
            **({"receive_coalescing": True} if coalescing else {})}


def our_net_server(machine, mode, size, models=("virtio", "virtio"), doorbells=None, coalescing=False):
    uplink = {"tx": {"type": "null"}, "rx": {"type": "source", "size": size}, "forward": {"type": "none"}}[mode]
    macs = [MAC_A, MAC_B] if mode == "forward" else [MAC_A]
    interfaces = [our_interface(name, mac, model, doorbells, coalescing and model == "igb")
                  for name, mac, model in zip("ab", macs, models)]
    return our_server(machine, f"net-{mode}", [{"name": "lan", "uplink": uplink}], interfaces, [])


def our_block_server(machine, backend, model="virtio", posted=False):
    """@backend: null, ram; cached, direct: the machine's image through the page cache, or not."""
    if backend in ("cached", "direct"):
        image = machine.disk_image()
        if backend == "cached":
            read_image(image)
        disk = {"type": "file", "path": image, "direct": backend == "direct"}
    else:
        disk = {"type": backend, "size": str(DISK_SIZE)}
    disk = {"name": "d0", "socket": "d0.sock", "backend": disk}
    if model != "virtio":
        disk["model"] = model
    if posted:
        disk["doorbells"] = "posted"
    return our_server(machine, f"block-{backend}", [], [], [disk])


def testpmd_server(machine, mode, size):
    """DPDK's vhost port: takes frames, makes frames, or passes them between two ports."""
    need("dpdk-testpmd")
    forward = {"tx": "rxonly", "rx": "txonly", "forward": "io"}[mode]
    sockets = fresh_paths(machine, ["a.sock", "b.sock"] if mode == "forward" else ["a.sock"])
    command = machine.testpmd("server", machine.server_cpu)
    for index, path in enumerate(sockets):
        command += ["--vdev", f"net_vhost{index},iface={path},queues=1"]
    command += ["--", f"--forward-mode={forward}", "--auto-start", "--stats-period=1000", "--no-mlockall",
                "--total-num-mbufs=32768", f"--txpkts={size}"]
    return start_server(machine, f"testpmd-{forward}", command, sockets)


def storage_daemon(machine, backend):
    """QEMU's vhost-user-blk export, the whole process on the server's core."""
    need("qemu-storage-daemon")
    sockets = fresh_paths(machine, ["d0.sock"])
    if backend == "null":
        node = f"driver=null-co,node-name=n,size={DISK_SIZE},read-zeroes=off"
    else:
        image = os.path.join(machine.work, "ram.img")  # the work folder is on tmpfs; no holes in the file
        if not os.path.exists(image):
            fill_image(image)
        node = f"driver=file,node-name=n,filename={image}"
    command = ["qemu-storage-daemon", "--blockdev", node, "--export",
               f"type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path={sockets[0]},writable=on"]
    return start_server(machine, f"storage-daemon-{backend}", command, sockets, machine.server_cpu)


# ---- the light client ----

def run_bench(machine, arguments):
    """Runs sidecore bench and returns its JSON object."""
    command = [machine.binary, "bench"] + arguments + ["--cpu", str(machine.client_cpu), "--json"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
                              cwd=machine.work, preexec_fn=machine.set_up_child)
    except subprocess.TimeoutExpired as error:
        raise Failure("sidecore bench did not end") from error
    if done.returncode not in (0, 3) or not done.stdout.strip():
        raise Failure(done.stderr.strip()[:200] or f"sidecore bench ended with status {done.returncode}")
    result = json.loads(done.stdout)
    if done.returncode == 3:
        wrong = [f"{key} {result[key]}" for key in ("corrupt", "reordered", "errors", "mismatches") if result.get(key)]
        raise Failure("frames or data came back wrong: " + ", ".join(wrong))
    if "client_busy_share" in result:
        if not result.get("frames", result.get("requests")):
            raise Failure("nothing moved in the measured time")
        result["bottleneck"] = "client" if result["client_busy_share"] > CLIENT_BUSY else "server"
    return result


def light_net(machine, server, mode, size, packed, seconds, gso=False, models=("virtio", "virtio"), more=()):
    arguments = ["net", "--mode", mode, "--size", str(size), "--seconds", str(seconds), "--pages", machine.pages,
                 "--server-pid", str(server.pid), "--server-cpu", str(machine.server_cpu), *more]
    for path, model in zip(server.sockets, models):
        arguments += ["--socket", path, "--device", model]
    if packed:
        arguments += ["--packed", "--in-order"]
    if gso:
        arguments += ["--gso"]
    elif mode == "forward":
        arguments += ["--both"]
    result = run_bench(machine, arguments)
    server.fail_if_gone()
    result["value"] = result["bytes_per_second"] / 1e9 if gso else result["frames_per_second"] / 1e6
    return result


def fill_disk(machine, server, model="virtio"):
    """Random writes, each block many times over: memory that was never written is one page of zeroes, always in cache."""
    run_bench(machine, ["block", "--socket", server.sockets[0], "--device", model, "--depth", "128", "--read-percent", "0",
                        "--seconds", "1"])
    server.fail_if_gone()


def light_block(machine, server, depth, seconds, packed=False, pages=None, write=False, model="virtio", more=()):
    arguments = ["block", "--socket", server.sockets[0], "--device", model, "--depth", str(depth), "--seconds",
                 str(seconds), "--pages", pages or machine.pages, "--server-pid", str(server.pid), "--server-cpu",
                 str(machine.server_cpu), *more]
    if packed:
        arguments += ["--packed"]
    if write:
        arguments += ["--read-percent", "0"]
    result = run_bench(machine, arguments)
    server.fail_if_gone()
    result["value"] = result["requests_per_second"] / 1e3
    return result


def copy_speed(machine, size, seconds):
    result = run_bench(machine, ["copy", "--size", str(size), "--seconds", str(seconds), "--pages", machine.pages])
    result["value"] = result["bytes_per_second"] / 1e9
    return result


# ---- fio, server and client in one thread ----

def fio(machine, backend, write, depth, seconds):
    """fio's io_uring engine at its best: registered files and buffers. Pinned, but for the kernel's own workers."""
    need("fio")
    image = machine.disk_image()
    if backend == "cached":
        read_image(image)
    mode = "write" if write else "read"
    command = ["fio", "--name=bench", f"--filename={image}", "--ioengine=io_uring", "--registerfiles=1",
               "--fixedbufs=1", f"--direct={int(backend == 'direct')}", f"--rw=rand{mode}", "--bs=4k",
               f"--iodepth={depth}", "--thread", "--norandommap", "--randrepeat=0", "--invalidate=0", "--time_based",
               "--clat_percentiles=0", "--lat_percentiles=1",
               f"--runtime={seconds}", "--ramp_time=0.3", f"--cpus_allowed={machine.server_cpu}",
               "--output-format=json"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120,
                              cwd=machine.work, preexec_fn=machine.set_up_child)
    except subprocess.TimeoutExpired as error:
        raise Failure("fio did not end") from error
    if done.returncode:
        raise Failure((done.stderr or done.stdout).strip()[:200] or f"fio ended with status {done.returncode}")
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    if job["error"] or not job[mode]["iops"]:
        raise Failure(f"fio: error {job['error']}, {job[mode]['total_ios']} requests")
    latency = job[mode]["lat_ns"]["percentile"]
    return {"value": job[mode]["iops"] / 1e3, "p50_ns": latency["50.000000"], "p99_ns": latency["99.000000"],
            "server_cpu_share": (job["usr_cpu"] + job["sys_cpu"]) / 100}


# ---- DPDK's client ----

class TestpmdShell(Process):
    """An interactive dpdk-testpmd, spoken to through its standard input."""

    def __init__(self, machine, name, command):
        need("stdbuf")  # into a pipe, testpmd would keep its answers until it ends
        super().__init__(machine, name, ["stdbuf", "-oL"] + command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.lines = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        with open(self.log_path, "a") as log:
            for line in iter(self.child.stdout.readline, b""):
                text = line.decode(errors="replace")
                log.write(text)
                log.flush()
                with self.changed:
                    self.lines.append(text)
                    self.changed.notify_all()

    def say(self, command):
        try:
            self.child.stdin.write(command.encode() + b"\n")
            self.child.stdin.flush()
        except OSError as error:
            raise Failure(f"{self.name} is gone: {last_words(self.log_path)}") from error

    def wait_for(self, pattern, start, count=1):
        """Until @pattern came @count times in the lines from @start on. Return: the matches."""
        deadline = time.monotonic() + START_SECONDS
        with self.changed:
            while True:
                found = re.findall(pattern, "".join(self.lines[start:]))
                if len(found) >= count:
                    return found
                self.changed.wait(0.2)
                if self.child.poll() is not None or time.monotonic() > deadline:
                    raise Failure(f"{self.name} does not answer: {last_words(self.log_path)}")

    def packets(self, ports):
        """Return: when, packets received and packets sent, of all ports."""
        start = len(self.lines)
        self.say("show port stats all")
        received = self.wait_for(r"RX-packets:\s*(\d+)", start, ports)
        now = time.monotonic()
        sent = self.wait_for(r"TX-packets:\s*(\d+)", start, ports)
        return now, sum(map(int, received)), sum(map(int, sent))

    def stop(self):
        if self.child.poll() is None:
            try:
                self.say("quit")
                self.child.wait(5)
            except (Failure, subprocess.TimeoutExpired):
                pass  # it will be told by signal
        super().stop()
        self.reader.join(2)


def testpmd_net(machine, server, mode, size, packed, seconds):
    """DPDK's virtio-user driver as the client; its ports count the frames."""
    need("dpdk-testpmd")
    forward = {"tx": "txonly", "rx": "rxonly", "forward": "io"}[mode]
    layout = f"packed_vq={int(packed)},in_order=1"  # taken where the server offers it; DPDK's fast paths want it
    ports = len(server.sockets)
    macs = [MAC_A, MAC_B]
    command = machine.testpmd("client", machine.client_cpu)
    for index, path in enumerate(server.sockets):
        command += ["--vdev", f"net_virtio_user{index},path={path},queues=1,queue_size=256,mrg_rxbuf=0,{layout},"
                              f"mac={macs[index]}"]
    command += ["--", "-i", f"--forward-mode={forward}", "--no-mlockall", "--total-num-mbufs=32768",
                f"--txpkts={size}"]
    for index in range(ports):
        command += [f"--eth-peer={index},{macs[1 - index]}"]

    with TestpmdShell(machine, f"testpmd-client-{forward}", command) as shell:
        shell.wait_for(r"(?m)^Done", 0)
        time.sleep(0.3)  # the server brings its port up after the last message
        shell.say("start tx_first 8" if mode == "forward" else "start")
        time.sleep(0.3)
        began, received, sent = shell.packets(ports)
        time.sleep(seconds)
        ended, received_then, sent_then = shell.packets(ports)
        server.fail_if_gone()

    frames = sent_then - sent if mode == "tx" else received_then - received
    if frames <= 0:
        raise Failure("dpdk-testpmd virtio-user moved no frame")
    return {"value": frames / (ended - began) / 1e6}
