# SPDX-License-Identifier: BSD-3-Clause
"""Firmware that nobody here wrote on the emulated devices: UEFI's (OVMF) drivers, iPXE's, and Linux started by them.

Needs the QEMU that tools/qemu.sh unpacks, and Debian's ovmf, ipxe and mtools; skipped, by name, where they are missing.
"""

import contextlib
import functools
import http.server
import os
import pathlib
import shutil
import subprocess
import threading

import pytest

import guest as harness
from guest import Guest, kernel_command_line
from sidecore import NEWER_QEMU, Daemon, accelerator, configuration, wait_until
from test_nvme import configured, need_qemu

# Minutes: left to make test-long.
pytestmark = pytest.mark.long

OVMF = pathlib.Path("/usr/share/OVMF")
IPXE = pathlib.Path("/usr/lib/ipxe")
MEBIBYTE = 1 << 20


def need_files(*paths):
    need_qemu()
    missing = [str(path) for path in paths if not pathlib.Path(path).exists()]
    if missing:
        pytest.skip(f"not there: {', '.join(missing)} (tools/setup.sh test)")


def uefi(folder):
    """OVMF, with variables that nobody has set yet."""
    shutil.copy(OVMF / "OVMF_VARS_4M.fd", folder / "variables.fd")
    return ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
            "-drive", f"if=pflash,format=raw,file={folder}/variables.fd"]


def write_system(image, name):
    """A FAT file system with our kernel, as an EFI program, our initrd, and the script that the EFI shell starts."""
    script = image.with_suffix(".nsh")
    script.write_text(f"vmlinuz.efi initrd=\\initrd.img {kernel_command_line(name)}\r\n")
    with open(image, "wb") as file:
        file.truncate(96 * MEBIBYTE)
    for command in (["mformat", "-i", image, "-F", "::"], ["mcopy", "-i", image, script, "::startup.nsh"],
                    ["mcopy", "-i", image, harness.IMAGE / "vmlinuz", "::vmlinuz.efi"],
                    ["mcopy", "-i", image, harness.IMAGE / "initrd.img", "::initrd.img"]):
        subprocess.run(command, check=True, capture_output=True)


def test_uefi_starts_linux_from_nvme(tmp_path):
    """The only disk: firmware finds the namespace and its file system, and Linux's EFI stub loads the initrd through it."""
    need_files(OVMF / "OVMF_CODE_4M.fd", "/usr/bin/mformat")
    image = tmp_path / "system.img"
    write_system(image, "uefi")
    with Daemon(configured({"main": (f"type: file, path: {image}", "model: nvme")})) as daemon:
        devices = [*uefi(tmp_path), *daemon.emulated("main", {"bootindex": 1})]
        with Guest("uefi", devices=devices, image=None, qemu=NEWER_QEMU, memory=768) as guest:
            # Firmware has had no other place to take it from; and what Linux reads is what the file has.
            guest.run("[ -d /sys/firmware/efi ] && [ -b /dev/nvme0n1 ]")
            assert guest.run("sha256sum </dev/nvme0n1", timeout=60).split()[0] == \
                subprocess.run(["sha256sum", image], check=True, capture_output=True, text=True).stdout.split()[0]
            status = daemon.status()["disks"]["main"]
            assert not status["errors"] and not status["pci"]["faults"]


@contextlib.contextmanager
def firmware(daemon, folder, arguments, memory=512):
    """A machine without an agent. Yields a function that returns what it has written on its serial port."""
    console = folder / "console.log"
    process = harness._start(
        [str(NEWER_QEMU), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
         "-machine", f"q35,accel={accelerator()[0]},graphics=off", "-cpu", "max", "-m", str(memory),
         "-object", f"memory-backend-memfd,share=on,id=memory,size={memory}M", "-numa", "node,memdev=memory",
         "-serial", f"file:{console}", *map(str, arguments)])
    try:
        yield lambda: console.read_text(errors="replace") if console.exists() else ""
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def web_server(folder):
    """On the host's loopback, which guests of a slirp uplink reach as 10.0.2.2. Yields its port and what was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, _, *words):
            asked.append(words[0])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def slirp(model):
    return configuration(interfaces={"card": f"model: {model}"}).replace("type: none", "type: slirp")


@pytest.mark.parametrize("model, name", [
    ("igb", "82576"), ("e1000e", "82574l"),
    ("e1000", "82540em")])
def test_ipxe_starts_linux_over_http(tmp_path, model, name):
    """iPXE's own driver: DHCP, then a kernel over TCP, whose every byte its checksum covers as it unpacks itself."""
    need_files(IPXE / "ipxe.lkrn")
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "vmlinuz").symlink_to(harness.IMAGE / "vmlinuz")
    with Daemon(slirp(model)) as daemon, web_server(folder) as (port, asked):
        script = tmp_path / "script.ipxe"
        script.write_text(f"#!ipxe\nifstat\ndhcp net0 || exit\nroute\nkernel http://10.0.2.2:{port}/vmlinuz "
                          f"{kernel_command_line('ipxe')} || exit\nifstat\nboot\n")
        arguments = ["-kernel", IPXE / "ipxe.lkrn", "-initrd", script, *daemon.emulated("card")]
        with firmware(daemon, tmp_path, arguments) as console:
            wait_until(lambda: "Unable to mount root fs" in console(), "Linux runs, and misses its initrd", 90)
            text = console()
            status = daemon.status()["interfaces"]["card"]
        assert f"using {name}" in text and "10.0.2.15/255.255.255.0" in text and "Link:up" in text, text
        assert asked == ["GET /vmlinuz HTTP/1.1"]
        assert not status["pci"]["faults"], status


@pytest.mark.parametrize("model, name", [("e1000e", "82574l"), ("e1000", "82540em")])
def test_uefi_driver_in_option_rom(tmp_path, model, name):
    """UEFI loads the card's driver from its ROM, and asks for an address with it. There is nothing to boot there."""
    rom = IPXE / "qemu" / f"efi-{model}.rom"
    need_files(OVMF / "OVMF_CODE_4M.fd", rom)
    with Daemon(slirp(model)) as daemon:
        arguments = [*uefi(tmp_path), *daemon.emulated("card", {"bootindex": 1, "romfile": str(rom)})]
        with firmware(daemon, tmp_path, arguments) as console:
            wait_until(lambda: "Nothing to boot" in console(), "iPXE has found its way", 90)
            assert f"using {name}" in console() and "10.0.2.15/255.255.255.0" in console(), console()
            assert not daemon.status()["interfaces"]["card"]["pci"]["faults"]
