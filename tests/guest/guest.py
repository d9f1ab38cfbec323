# SPDX-License-Identifier: BSD-3-Clause
"""Boots real guests under QEMU and runs commands in them.

    with Guest("a", devices=["-device", "virtio-net-pci,..."]) as guest:
        print(guest.run("ip link"))

A Guest is a QEMU process that boots the image made by guest/build.sh (kernel and initramfs, no disk) and is driven over
its second serial port by the agent in the image; guest/agent.c describes the protocol. Each guest has a folder of its
own with the console log, QEMU's messages and the sockets; the logs are shown with every failure.

Guest memory is a shared memfd, as vhost-user back-ends need it. KVM is used only where it boots our kernel.

No QEMU survives its test: it is ended by close(), at the exit of Python, and by the kernel when Python is killed.
"""

import atexit
import base64
import ctypes
import fcntl
import functools
import json
import mmap
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from protocol import child  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Debian's release whose kernel the guests run, when it is not the system's: "trixie".
SUITE = os.environ.get("SIDECORE_GUEST_SUITE", "")
IMAGE = pathlib.Path(os.environ.get("SIDECORE_GUEST_IMAGE", REPOSITORY / "build" / "-".join(filter(None, ["guest", SUITE]))))
QEMU = os.environ.get("SIDECORE_QEMU", "qemu-system-x86_64")

LINE_MAX = 65536  # of the agent
KERNEL_COMMAND_LINE = "console=ttyS0 panic=-1 quiet loglevel=4 random.trust_cpu=on mitigations=off tsc=nowatchdog"
# TCG translates code anew for each address it is mapped at: with fixed ones a program starts in 11 ms, not 42.
TCG_COMMAND_LINE = "norandmaps"
BOOT_TIMEOUT = 90
COMMAND_TIMEOUT = 30

KVM_GET_API_VERSION = 0xAE00


def _short(text):
    return repr(text if len(text) < 200 else text[:200] + "...")


class GuestError(Exception):
    """The guest, not the command, failed: it did not boot, died, or broke the protocol."""


class CommandError(GuestError):
    """A command ended with a status other than 0, or was killed. Has .output, .kind and .status."""

    def __init__(self, name, command, result):
        self.output, self.kind, self.status = result.output, result.kind, result.status
        super().__init__(f"{name}: {_short(command)}: {result.kind} {result.status}, output:\n{result.output}")


class Result:
    """How a command ended: kind is "exited", "signal", "timeout" or "killed"; status the exit status or signal.

    data is what it wrote, in bytes, output the same as text.
    """

    def __init__(self, data, kind, status):
        self.data, self.kind, self.status = data, kind, status
        self.output = data.decode(errors="replace")

    @property
    def ok(self):
        return self.kind == "exited" and self.status == 0


# --- Image and accelerator ---


def build_image():
    """Makes the image if it is missing or out of date."""
    subprocess.run([str(REPOSITORY / "guest" / "build.sh"), str(IMAGE), *filter(None, [SUITE])], check=True)


def _kernel(accelerator, image=IMAGE, kernel=None):
    # Unpacking the kernel takes an emulated CPU seconds; a real one gets the file that everybody boots.
    kernel = image / (kernel or ("vmlinux" if accelerator == "tcg" else "vmlinuz"))
    if not kernel.exists() or not (image / "initrd.img").exists():
        raise GuestError(f"no guest image in {image}: run guest/build.sh {image}")
    return kernel


def _kvm_boots(kernel):
    """A kernel without root file system panics within seconds and, with panic=-1 and -no-reboot, ends QEMU."""
    with tempfile.TemporaryDirectory(prefix="sidecore-kvm-") as folder:
        console = pathlib.Path(folder) / "console.log"
        command = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine",
                   "q35,accel=kvm", "-cpu", "host", "-m", "256", "-kernel", str(kernel),
                   "-append", "console=ttyS0 panic=-1", "-serial", f"file:{console}"]
        process = _start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()
        return console.exists() and b"Unable to mount root fs" in console.read_bytes()


@functools.lru_cache(maxsize=None)
def accelerator():
    """("kvm"|"tcg", why). KVM needs the CPU's flag, a usable /dev/kvm, and a kernel that really boots with it."""
    flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    if "svm" not in flags and "vmx" not in flags:
        return "tcg", "the CPU offers no hardware virtualization"
    try:
        device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return "tcg", f"/dev/kvm: {error.strerror}"
    try:
        if fcntl.ioctl(device, KVM_GET_API_VERSION) != 12:
            return "tcg", "/dev/kvm speaks another version"
    except OSError as error:
        return "tcg", f"/dev/kvm: {error.strerror}"
    finally:
        os.close(device)
    if not _kvm_boots(_kernel("kvm")):
        return "tcg", "a kernel does not boot under /dev/kvm"
    return "kvm", "a kernel booted under /dev/kvm"


@functools.lru_cache(maxsize=None)
def _counter_khz():
    """How fast the host's time stamp counter runs, which TCG shows to guests as their own.

    A guest compares it with a timer. When the host takes the emulated CPU away just then, the guest's time runs at a
    multiple or a fraction of ours for ever, and with it TCP's patience and each time limit. So it is told.
    """
    def read_clocks():
        # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
        best = None
        for _ in range(100):
            before = time.monotonic_ns()
            cycles = counter()
            after = time.monotonic_ns()
            if best is None or after - before < best[0]:
                best = after - before, cycles, (before + after) // 2
        return best[1:]

    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3")
        code = ctypes.c_char.from_buffer(page)
        counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(code))
        cycles, nanoseconds = read_clocks()
        time.sleep(0.1)
        later_cycles, later = read_clocks()
        del counter, code
    return (later_cycles - cycles) * 1000000 // (later - nanoseconds)


def kernel_command_line(name, accel=None, append=""):
    """What our kernel is told, whoever starts it."""
    words = [KERNEL_COMMAND_LINE, f"sidecore.name={name}", append]
    if (accel or accelerator()[0]) == "tcg":
        words += [TCG_COMMAND_LINE, f"tsc_early_khz={_counter_khz()}"]
    return " ".join(words)


# --- Processes that do not outlive us ---

_alive = set()


def _start(command, **arguments):
    return child.start(command, stdin=subprocess.DEVNULL, start_new_session=True, **arguments)


@atexit.register
def _close_all():
    for guest in list(_alive):
        guest.kill()


# --- The agent's wire format ---

_ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\"}
_NAMED = {value[0]: "\\" + key for key, value in _ESCAPES.items()}


def escape(data):
    return "".join(_NAMED.get(byte) or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}") for byte in data)


def unescape(text):
    def byte(match):
        return chr(int(match[1][1:], 16)) if match[1][0] == "x" else _ESCAPES[match[1]].decode()

    return re.sub(r"\\(x[0-9a-f]{2}|[nrt\\])", byte, text).encode("latin-1")


class Command:
    """A command under way in a guest."""

    def __init__(self, guest, number, text):
        self._guest, self._number, self.text = guest, number, text
        self._data, self._result = bytearray(), None
        self._done = threading.Event()

    @property
    def running(self):
        return not self._done.is_set()

    @property
    def output(self):
        """What it has written so far."""
        return bytes(self._data).decode(errors="replace")

    def kill(self):
        """Ends its process group. Harmless when it has ended already."""
        if self.running:
            self._guest._send(f"kill {self._number}")

    def wait(self, timeout=None):
        """The Result. The guest ends the command at its own timeout; this one is for a guest that hangs."""
        if not self._done.wait(timeout):
            raise GuestError(f"{self._guest.name}: no end of {_short(self.text)} in {timeout} s{self._guest.tail()}")
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def wait_output(self, pattern, timeout=COMMAND_TIMEOUT):
        """Waits until its output has a match of the regular expression, returns the match."""
        deadline = time.monotonic() + timeout
        while True:
            running = self.running
            match = re.search(pattern, self.output)
            if match:
                return match
            if not running or time.monotonic() > deadline:
                raise GuestError(f"{self._guest.name}: {_short(self.text)}: no {pattern!r} in:\n{self.output}")
            time.sleep(0.01)

    def _finish(self, result):
        self._result = result
        self._done.set()


class Guest:
    """One running guest. The constructor returns when its agent is ready.

    devices      further arguments for QEMU
    memory       MiB; the image needs 192
    cpus         number of virtual CPUs
    accel        "kvm" or "tcg"; default: whichever works
    append       further words for the kernel's command line
    folder       where logs and sockets go; default: a temporary one, removed at the end unless the guest failed
    machine      QEMU's machine type and its properties
    backend      what its memory is made of: QEMU's object and its properties; the size is added
    image        the folder with kernel and initrd; None: firmware finds something to start, as @devices say
    kernel       its kernel: "vmlinuz" for what starts as on hardware and can be resumed by firmware
    wait         False: return at once; call wait_ready() later (guests then boot side by side)
    """

    def __init__(self, name, devices=(), memory=512, cpus=1, accel=None, append="", folder=None, machine="q35",
                 backend="memory-backend-memfd,share=on", wait=True, qemu=QEMU, image=IMAGE,
                 kernel=None):
        self.name = name
        self.accel = accel or accelerator()[0]
        self._own_folder = folder is None
        # Paths of unix sockets are short (108 bytes), pytest's folders are not.
        self._sockets = pathlib.Path(tempfile.mkdtemp(prefix="sidecore-guest-"))
        self.folder = pathlib.Path(folder) if folder else self._sockets
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console_log = self.folder / f"{name}.console.log"
        self.qemu_log = self.folder / f"{name}.qemu.log"
        self._lock = threading.Lock()
        self._commands, self._next = {}, 1
        self._hello, self._token, self._bye = threading.Event(), None, threading.Event()
        self._gone = None
        self._port = self._reader = None
        self.boot_seconds = None
        self._started = time.monotonic()
        with open(self.qemu_log, "wb") as log:
            self.process = _start(self._command_line(devices, memory, cpus, append, machine, backend, qemu, image, kernel),
                                  stdout=log, stderr=subprocess.STDOUT)
        _alive.add(self)
        try:
            self.connect()
            if wait:
                self.wait_ready()
        except BaseException:
            self._own_folder = False  # keep the logs that the message names
            self.kill()
            raise

    def _command_line(self, devices, memory, cpus, append, machine, backend, qemu, image, kernel):
        console = self.console_log
        system = image and ["-kernel", str(_kernel(self.accel, image, kernel)),
                            "-initrd", str(image / "initrd.img"), "-append", kernel_command_line(self.name, self.accel, append)]
        return [
            str(qemu), "-name", f"guest={self.name}", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot",
            "-machine", f"{machine},accel={self.accel}", "-cpu", "host" if self.accel == "kvm" else "max",
            "-smp", str(cpus), "-m", str(memory),
            "-object", f"{backend},id=memory,size={memory}M", "-numa", "node,memdev=memory",
            *(system or []),
            "-chardev", f"file,id=console,path={console}", "-serial", "chardev:console",
            "-chardev", f"socket,id=agent,path={self._sockets}/agent,server=on,wait=off", "-serial", "chardev:agent",
            "-qmp", f"unix:{self._sockets}/qmp,server=on,wait=off",
            *map(str, devices),
        ]

    # --- Life ---

    def connect(self):
        """Opens the agent's socket; also drops an older connection (tests of the agent do that)."""
        if self._port:
            self._port.shutdown(socket.SHUT_RDWR)
            self._reader.join()
            self._port.close()
        self._hello.clear()
        self._port = self._open_socket("agent")
        self._token = None
        self._reader = threading.Thread(target=self._read_port, args=(self._port,), daemon=True)
        self._reader.start()

    def _open_socket(self, name):
        deadline = time.monotonic() + 20
        while True:
            port = socket.socket(socket.AF_UNIX)
            try:
                port.connect(f"{self._sockets}/{name}")
                return port
            except OSError as error:
                port.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise GuestError(f"{self.name}: QEMU has no {name} socket: {error}{self.tail()}") from None
                time.sleep(0.01)

    def wait_ready(self, timeout=BOOT_TIMEOUT):
        """Waits until the agent answers."""
        deadline = self._started + timeout if self.boot_seconds is None else time.monotonic() + timeout
        token = None
        # A booting agent reports by itself; asking as well covers one that did so before we listened.
        while not self._hello.wait(1.0):
            if self._gone:
                raise self._gone
            if time.monotonic() > deadline:
                raise GuestError(f"{self.name}: agent not ready after {timeout} s{self.tail()}")
            if token is None:
                token = self._token = f"t{time.monotonic_ns()}"
            self._write(f"\nhello {token}\n".encode())
        if self.boot_seconds is None:
            self.boot_seconds = time.monotonic() - self._started
        return self

    @property
    def pid(self):
        return self.process.pid

    @property
    def running(self):
        return self.process.poll() is None

    def close(self, timeout=20):
        """Powers off; kills if that takes too long. For a clean end use poweroff()."""
        try:
            if self.running and self._hello.is_set():
                self._write(b"\npoweroff\n")
                self.process.wait(timeout)
        except (GuestError, subprocess.TimeoutExpired):
            self._own_folder = False
        self.kill()

    def poweroff(self, timeout=20):
        """Powers off and insists that QEMU ends by itself, with status 0."""
        self._send("poweroff")
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise GuestError(f"{self.name}: still there {timeout} s after poweroff{self.tail()}") from None
        if status:
            raise GuestError(f"{self.name}: QEMU ended with status {status}{self.tail()}")

    def kill(self):
        """Ends QEMU at once and cleans up."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._port:
            try:
                self._port.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self._reader.join(5)
            self._port.close()
        _alive.discard(self)
        if self.folder != self._sockets or self._own_folder:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if kind:
            self._own_folder = False
            self.kill()
        else:
            self.close()

    def console(self):
        return self.console_log.read_text(errors="replace") if self.console_log.exists() else ""

    def tail(self, lines=30):
        """The end of both logs, for a message."""
        text = ""
        for log in (self.qemu_log, self.console_log):
            content = log.read_text(errors="replace").splitlines() if log.exists() else []
            if content:
                text += f"\n--- end of {log}\n" + "\n".join(content[-lines:])
        return text

    # --- Commands ---

    def run(self, command, timeout=COMMAND_TIMEOUT, check=True):
        """Runs a command, returns its output (standard output and error as written).

        Without `check`, returns the Result whatever it is; else raises CommandError unless the status is 0.
        """
        result = self.spawn(command, timeout).wait(timeout + 30)
        if not check:
            return result
        if not result.ok:
            raise CommandError(self.name, command, result)
        return result.output

    def spawn(self, command, timeout=0):
        """Starts a command and returns it as a Command; the guest kills it after `timeout` seconds (0: never)."""
        data = command.encode()
        text = escape(data)
        if len(text) > LINE_MAX - 64:
            raise GuestError(f"{self.name}: command too long ({len(text)} bytes; write_file() is for long texts)")
        with self._lock:
            if self._gone:
                raise self._gone
            number, self._next = self._next, self._next + 1
            started = self._commands[number] = Command(self, number, command)
        self._send(f"run {number} {int(timeout * 1000)} {len(data)} {text}")
        return started

    def write_file(self, path, content):
        """Puts text or bytes into a file of the guest."""
        data = base64.b64encode(content.encode() if isinstance(content, str) else content).decode()
        self.run(f": > {path}")
        for start in range(0, len(data), 32768):
            self.run(f"echo {data[start:start + 32768]} | base64 -d >> {path}")

    def _send(self, line):
        self._write(line.encode() + b"\n")

    def _write(self, data):
        try:
            with self._lock:
                self._port.sendall(data)
        except OSError as error:
            raise self._gone or GuestError(f"{self.name}: agent's port: {error}{self.tail()}") from None

    def _read_port(self, port):
        pending = b""
        while True:
            try:
                data = port.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self._handle_line(line.decode("latin-1"))
        with self._lock:
            commands, self._commands = self._commands, {}
            error = GuestError(f"{self.name}: connection to the guest ended{self.tail()}")
            if self.process.poll() is not None or self._bye.is_set():
                self._gone = error
        for command in commands.values():
            command._finish(error)

    def _handle_line(self, line):
        verb, _, rest = line.partition(" ")
        if verb == "hello":
            if rest.split(" ")[0] in ("-", self._token):
                self._hello.set()
            return
        if not self._hello.is_set():
            return  # left over from an earlier connection
        if verb == "bye":
            self._bye.set()
            return
        number, _, rest = rest.partition(" ")
        command = self._commands.get(int(number)) if number.isdigit() else None
        if command is None:
            return
        if verb == "out":
            command._data += unescape(rest)
        elif verb == "exit":
            kind, status, total = rest.split(" ")
            del self._commands[int(number)]
            came = len(command._data)
            if int(total) != came:
                command._finish(GuestError(f"{self.name}: {_short(command.text)}: {came} of {total} bytes came"))
            else:
                command._finish(Result(bytes(command._data), kind, int(status)))
        elif verb == "error":
            del self._commands[int(number)]
            command._finish(GuestError(f"{self.name}: {_short(command.text)}: agent: {rest}"))

    # --- QEMU ---

    def qmp(self, command, **arguments):
        """One command to QEMU's monitor, over a connection of its own. Returns what it returns."""
        with self._open_socket("qmp") as port, port.makefile("rw") as stream:
            port.settimeout(30)
            stream.readline()
            answer = None
            for message in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(message) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
            if "error" in answer:
                raise GuestError(f"{self.name}: {command}: {answer['error']['desc']}")
            return answer["return"]
