# SPDX-License-Identifier: BSD-3-Clause
"""The test guest itself, without a device of ours: image, agent, driver. A failure here explains others."""

import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import pytest

import guest as guest_module
from guest import CommandError, Guest, GuestError, build_image, escape, unescape

# The aim is 8 s on an idle machine (2.5 s measured); a loaded one gets more before we call it broken.
BOOT_LIMIT = 30


@pytest.fixture(scope="module", autouse=True)
def image():
    build_image()


@pytest.fixture(scope="module")
def guest(image, tmp_path_factory):
    devices = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0"]
    with Guest("plain", devices=devices, folder=tmp_path_factory.mktemp("plain")) as instance:
        yield instance


@pytest.fixture
def short_folder():
    """For the sockets of a driver that will not live to remove them."""
    with tempfile.TemporaryDirectory(prefix="sidecore-test-") as folder:
        yield pathlib.Path(folder)


# --- Boot ---


def test_boots_in_time(guest):
    assert guest.boot_seconds < BOOT_LIMIT
    assert "sidecore guest plain: Linux" in guest.console()


def test_name_and_loopback(guest):
    assert guest.run("hostname") == "plain\n"
    assert "127.0.0.1/8" in guest.run("ip -4 -brief address show dev lo")


def test_no_complaint_on_the_console(guest):
    for line in guest.console().splitlines():
        for word in ("not found", "can't", "cannot", "Call Trace", "segfault", "No such"):
            assert word not in line


# --- Agent ---


def test_escape_is_reversible():
    every_byte = bytes(range(256))
    assert unescape(escape(every_byte)) == every_byte
    assert all(0x20 <= ord(character) < 0x7F for character in escape(every_byte))


@pytest.mark.parametrize("command, output", [
    ("echo one; echo two >&2; echo three", "one\ntwo\nthree\n"),	# order of both streams
    ("printf ''", ""),
    ("printf 'no newline'", "no newline"),
    ("  echo  'leading  blanks'", "leading  blanks\n"),
    ("echo a\\\necho b", "aecho b\n"),					# a line continued
    ("echo 'run 7 0 4 true\nexit 7 exited 0 0'", "run 7 0 4 true\nexit 7 exited 0 0\n"),
    ("printf '\\\\x41 \\\\n'", "\\x41 \\n"),
    ("echo gr\u00fc\u00dfe", "gr\u00fc\u00dfe\n"),
    ("cat; echo $?", "0\n"),						# standard input is empty
])
def test_output(guest, command, output):
    assert guest.run(command) == output


def test_every_byte_passes(guest):
    script = "".join(f"\\{byte:03o}" for byte in range(256))
    result = guest.run(f"printf '{script}'", check=False)
    assert result.data == bytes(range(256))


def test_much_output_is_complete(guest):
    guest.run("head -c 1000000 /dev/urandom >/tmp/noise")
    started = time.monotonic()
    result = guest.run("cat /tmp/noise", timeout=120, check=False)
    print(f"{len(result.data) / (time.monotonic() - started) / 1e3:.0f} kB/s")
    assert hashlib.md5(result.data).hexdigest() == guest.run("md5sum </tmp/noise").split()[0]


def test_long_command(guest):
    text = "x" * 60000
    assert guest.run(f"echo {text} | wc -c") == "60001\n"
    with pytest.raises(GuestError, match="too long"):
        guest.run("echo " + "x" * 70000)
    assert guest.run("echo fine") == "fine\n"


@pytest.mark.parametrize("command, kind, status", [
    ("true", "exited", 0),
    ("exit 255", "exited", 255),
    ("no-such-program", "exited", 127),
    ("kill -SEGV $$", "signal", signal.SIGSEGV),
])
def test_status(guest, command, kind, status):
    result = guest.run(command, check=False)
    assert (result.kind, result.status) == (kind, status)


def test_failure_carries_the_output(guest):
    with pytest.raises(CommandError, match="(?s)exited 3.*why") as raised:
        guest.run("echo why; exit 3")
    assert raised.value.status == 3 and raised.value.output == "why\n"


def test_timeout_kills_the_whole_group(guest):
    started = time.monotonic()
    result = guest.run("echo before; sleep 4711 | cat & sleep 4711", timeout=0.5, check=False)
    assert (result.kind, result.output) == ("timeout", "before\n")
    assert time.monotonic() - started < 10
    assert "4711" not in guest.run("ps")


def test_background_job_does_not_hang_the_agent(guest):
    started = time.monotonic()
    job = guest.run("sleep 4712 & echo $!").strip()
    assert time.monotonic() - started < 10
    assert "4712" in guest.run("ps")
    guest.run(f"kill {job}")


def test_background_job_may_write_for_ever(guest):
    # More than a pipe holds, and written after its shell's end: neither blocked nor killed by it.
    guest.run("(sleep 0.3; head -c 1000000 /dev/zero; echo $? >/tmp/late) &")
    guest.run("until [ -s /tmp/late ]; do sleep 0.1; done", timeout=20)
    assert guest.run("cat /tmp/late") == "0\n"


def test_commands_side_by_side(guest):
    waiting = [guest.spawn(f"sleep 0.5; echo {number}") for number in range(20)]
    assert guest.run("echo now") == "now\n"
    assert [command.wait(30).output for command in waiting] == [f"{number}\n" for number in range(20)]


def test_spawn_output_and_kill(guest):
    command = guest.spawn("echo up; sleep 4713")
    command.wait_output("up")
    assert command.running
    command.kill()
    assert command.wait(20).kind == "killed"


def test_garbage_is_refused_and_forgotten(guest):
    for garbage in (b"\n", b"nonsense\n", b"run\n", b"run 1 2\n", b"run x y z w\n", b"kill 99999\n", b"\x00\xff\x80\n",
                    b"run 900001 0 5 true\n", b"run 900002 0 2 \\q\n", b"run 900003 0 1 \\x00\n",
                    b"run 900004 99999999999 4 true\n", b"hello\n", os.urandom(100000).replace(b"\n", b"") + b"\n",
                    b"half a line"):
        guest._write(garbage)
    guest._write(b"\n")
    assert guest.run("echo still here") == "still here\n"


def test_reconnection(guest):
    # The old connection goes in the middle of an output; its command fails here and ends there.
    flood = guest.spawn("cat /dev/zero | head -c 3000000", timeout=20)
    flood.wait_output("\0")
    guest._write(b"run 5 0 100 ech")
    guest.connect()
    guest.wait_ready()
    with pytest.raises(GuestError, match="connection"):
        flood.wait(1)
    assert guest.run("echo again") == "again\n"


# --- Programs ---


@pytest.mark.parametrize("command, pattern", [
    ("ip -V", "iproute2"),
    ("tc -V", "iproute2"),
    ("ss -V", "iproute2"),
    ("bridge -V", "bridge utility"),
    ("ping -V", "iputils"),
    ("iperf3 --version", "iperf 3"),
    ("fio --version", "fio-3"),
    ("ethtool --version", "ethtool version"),
    ("tcpdump --version", "libpcap"),
    ("mkfs.ext4 -V", "mke2fs"),
    ("lsblk --version", "util-linux"),
    ("blkdiscard --version", "util-linux"),
    ("blockdev --version", "util-linux"),
    ("timeout 5 ip -V", "iproute2"),	# not busybox's own ip
    ("socat -V", "socat version"),
    ("getent hosts localhost", "127.0.0.1|::1"),
])
def test_program(guest, command, pattern):
    assert re.search(pattern, guest.run(command))


def test_every_module_loads(guest):
    contents = (guest_module.IMAGE / "contents").read_text().splitlines()
    modules = [line.split()[1].split(".ko")[0] for line in contents if line.startswith("module ")]
    assert {"virtio_net", "virtio_blk", "e1000", "e1000e", "igb", "nvme", "ext4", "8021q"} <= set(modules)
    # CPU features decide about these; the kernel has plain ones too.
    modules = [module for module in modules if not module.endswith(("-intel", "-pclmul"))]
    guest.run(f"for module in {' '.join(modules)}; do modprobe $module || echo $module; done 2>&1 | tee /tmp/failed; "
              "[ ! -s /tmp/failed ]", timeout=60)


@pytest.mark.parametrize("engine", ["libaio", "io_uring", "psync"])
def test_fio_engine(guest, engine):
    guest.run("[ -e /dev/nullb0 ] || modprobe null_blk nr_devices=1 gb=1")
    guest.run("[ -e /dev/ram0 ] || modprobe brd rd_nr=1 rd_size=65536")
    null = guest.run(f"fio --name=null --filename=/dev/nullb0 --ioengine={engine} --direct=1 --iodepth=8 --rw=randread "
                     "--bs=4k --size=16m --number_ios=2000 --output-format=json", timeout=60)
    assert json.loads(null[null.index("{"):])["jobs"][0]["read"]["total_ios"] == 2000
    guest.run(f"fio --name=verify --filename=/dev/ram0 --ioengine={engine} --direct=1 --iodepth=4 --rw=randwrite "
              "--bs=4k --size=4m --verify=crc32c --verify_fatal=1", timeout=60)


def test_filesystem(guest):
    guest.run("[ -e /dev/ram0 ] || modprobe brd rd_nr=1 rd_size=65536")
    guest.run("mkfs.ext4 -q -F /dev/ram0 && mkdir -p /mnt/disk && mount /dev/ram0 /mnt/disk && "
              "echo kept >/mnt/disk/file && umount /mnt/disk && e2fsck -fn /dev/ram0 && mount /dev/ram0 /mnt/disk",
              timeout=60)
    assert guest.run("cat /mnt/disk/file; umount /mnt/disk") == "kept\n"


def test_dhcp_sets_everything(guest):
    guest.run("ip link set eth0 up; udhcpc -i eth0 -n -q -f", timeout=60)
    assert "10.0.2.15/24" in guest.run("ip -4 -brief address show dev eth0")
    assert "default via 10.0.2.2" in guest.run("ip route")
    assert "nameserver 10.0.2.3" in guest.run("cat /etc/resolv.conf")
    assert " 0% packet loss" in guest.run("ping -c 3 -i 0.2 10.0.2.2", timeout=60)


def test_ping_has_fractions_and_statistics(guest):
    output = guest.run("ping -c 20 -i 0.01 -q 127.0.0.1")
    assert "20 packets transmitted, 20 received, 0% packet loss" in output
    assert "rtt min/avg/max/mdev" in output


def test_iperf3_runs(guest):
    server = guest.spawn("iperf3 -s -1 --forceflush")
    server.wait_output("listening")
    result = json.loads(guest.run("iperf3 -c 127.0.0.1 -t 1 -J", timeout=60))
    assert result["end"]["sum_received"]["bits_per_second"] > 1e6
    server.wait(30)


@pytest.mark.parametrize("protocol, mode", [("udp", ""), ("tcp", ""), ("udp", "busy"), ("tcp", "busy")])
def test_request_response(guest, protocol, mode):
    server = guest.spawn(f"rr server 7001 {protocol}")
    server.wait_output("ready")
    result = json.loads(guest.run(f"rr client 127.0.0.1 7001 {protocol} 500 {mode}"))
    server.kill()
    server.wait(20)
    assert result["transactions"] == 500 and result["lost"] == 0 and result["error"] is None
    assert 0 < result["min_us"] <= result["p50_us"] * 1.01
    assert result["p50_us"] <= result["p99_us"] <= result["max_us"] * 1.01
    assert result["min_us"] <= result["mean_us"] <= result["max_us"]


def test_request_response_counts_losses(guest):
    sink = guest.spawn("socat -u UDP4-RECV:7002 /dev/null")
    guest.run("until ss -lun | grep -q :7002; do sleep 0.05; done", timeout=10)
    result = guest.run("rr client 127.0.0.1 7002 udp 2", check=False)
    sink.kill()
    sink.wait(20)
    assert result.status == 1 and json.loads(result.output)["lost"] == 2


# --- Ends ---


@pytest.mark.parametrize("command", ["poweroff", "kill -TERM $(pidof agent)", "kill -KILL $(pidof agent)"])
def test_power_goes_off(tmp_path, command):
    instance = Guest("ending", folder=tmp_path)
    instance.spawn(command)
    assert instance.process.wait(20) == 0
    with pytest.raises(GuestError):
        instance.run("true")
    instance.kill()


def test_poweroff_message(tmp_path):
    instance = Guest("ending", folder=tmp_path)
    instance.poweroff()
    assert not instance.running
    instance.kill()


def test_panic_ends_qemu(tmp_path):
    instance = Guest("panicking", folder=tmp_path)
    instance.spawn("echo c >/proc/sysrq-trigger")
    assert instance.process.wait(30) == 0
    assert "Kernel panic" in instance.console()
    instance.kill()


def test_failed_boot_says_why(tmp_path):
    with pytest.raises(GuestError, match="(?s)no-such-device"):
        Guest("broken", devices=["-device", "no-such-device"], folder=tmp_path)


def test_monitor(guest):
    assert guest.qmp("query-status")["status"] == "running"
    with pytest.raises(GuestError, match="not been found"):
        guest.qmp("no-such-command")


def test_no_qemu_outlives_a_killed_driver(tmp_path, short_folder):
    script = ("import sys, time; sys.path.insert(0, sys.argv[1]); from guest import Guest\n"
              "print(Guest('orphan', folder=sys.argv[2], wait=False).pid, flush=True); time.sleep(60)")
    driver = subprocess.Popen([sys.executable, "-c", script, str(pathlib.Path(__file__).parent), str(tmp_path)],
                              stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(short_folder)})
    pid = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    driver.stdout.close()
    deadline = time.monotonic() + 10
    while _is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
