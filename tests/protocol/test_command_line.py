# SPDX-License-Identifier: BSD-3-Clause
"""The command line: help, mistakes and their remedies, exit statuses."""
import os
import re
import subprocess

import pytest

from . import server as daemon

GOOD = "control: ctl.sock\ndisks:\n  - name: d\n    socket: d.sock\n    backend: { type: ram, size: 1M }\n"


def sidecore(*words, **keywords):
	reason = daemon.why_missing()
	if reason:
		pytest.skip(reason)
	return subprocess.run([str(daemon.binary().resolve()), *map(str, words)], capture_output=True, text=True, timeout=30,
			      check=False, **keywords)


def test_version():
	result = sidecore("--version")
	assert result.returncode == 0
	assert re.fullmatch(r"sidecore \d+\.\d+\.\d+\n", result.stdout)


def test_help_names_every_command():
	result = sidecore("--help")
	assert result.returncode == 0
	for command in re.findall(r"^  (\w+)  +\w", result.stdout, re.MULTILINE):
		if command not in ("man", "sidecore"):
			own = sidecore(command, "--help")
			assert own.returncode == 0 and f"sidecore {command}" in own.stdout, command


@pytest.mark.parametrize("words,message", [
	([], "Usage: sidecore COMMAND"),
	(["sevre"], 'sidecore: unknown command "sevre"; did you mean "serve"?'),
	(["frobnicate"], 'sidecore: unknown command "frobnicate"; sidecore --help lists them'),
	(["serve"], "sidecore serve: name one configuration file, not 0"),
	(["serve", "--chek", "x"], "sidecore serve --help lists the options"),
	(["serve", "--chek", "x"], "sidecore serve: unrecognized option '--chek'"),
	(["run", "x"], 'sidecore run: "x" is one word too many'),
	(["run", "--guests", "17"], "sidecore run: --guests 17: a number from 1 to 16 is wanted"),
	(["run", "--console", "2"], "sidecore run: --console: there is no such guest"),
	(["run", "--nic", "virtio,e100"], "sidecore run: --nic e100: virtio, igb, e1000e or e1000 is wanted"),
	(["run", "--nic", ""], "sidecore run: --nic : virtio, igb, e1000e or e1000 is wanted"),
	(["run", "--nic", "igb,"], "sidecore run: --nic : virtio, igb, e1000e or e1000 is wanted"),
	(["run", "--disk", "scsi"], "sidecore run: --disk scsi: virtio or nvme is wanted"),
	(["run", "--disk", ",".join(["nvme"] * 17)], "sidecore run: --disk nvme: there are no more than 16 guests"),
	(["run", "--nic", "virtio,e1000", "--receive-coalescing"],
	 "sidecore run: --receive-coalescing: no guest has a card of model igb; add --nic igb"),
	(["run", "--kernel", "k", "--receive-coalescing"],
	 "sidecore run: --receive-coalescing: no guest has a card of model igb; add --nic igb"),
	(["run", "--initrd", "x"], "sidecore run: --initrd: only together with --kernel"),
	(["run", "--keep", "--json", "x"], "sidecore run: --json: only the tour has results"),
	(["bench", "nett"], 'sidecore bench: unknown benchmark "nett"'),
	(["status", "x"], 'sidecore status: "x" is one word too many'),
])
def test_usage_errors(words, message):
	result = sidecore(*words)
	assert result.returncode == 2
	assert message in result.stderr
	assert result.stdout == ""


@pytest.mark.parametrize("words,message", [
	(["--kernel", "none"], "sidecore run: --kernel none: No such file"),
	(["--image", "none.img"], "sidecore run: --image none.img: No such file"),
	(["--guest-folder", "none"], "there is no guest image in none"),
	(["--disk-size", "5X"], "sidecore run: --disk-size: a size is wanted"),
	(["--kernel", "k", "--qemu", "none"], "sidecore run: none: not found; install it"),
	(["--kernel", "k", "--qemu", "true"], "sidecore run: true: does not tell a version"),
	(["--kernel", "k", "--nic", "igb", "--qemu", "none"], "sidecore run: none: not found; install it"),
])
def test_run_refuses_before_it_starts_anything(tmp_path, words, message):
	(tmp_path / "k").touch()
	result = sidecore("run", *words, cwd=tmp_path, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})
	assert (result.returncode, result.stdout) == (1, "")
	assert message in result.stderr
	assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_socket_without_folder_is_named(tmp_path):
	(tmp_path / "lost.yaml").write_text(GOOD.replace("d.sock", "nowhere/d.sock"))
	result = sidecore("serve", tmp_path / "lost.yaml")
	assert result.returncode == 1
	assert f"disk d: {tmp_path}/nowhere/d.sock: No such file or directory; " in result.stderr


def test_check(tmp_path):
	path = tmp_path / "good.yaml"
	path.write_text(GOOD)
	result = sidecore("serve", "--check", path)
	assert (result.returncode, result.stderr) == (0, "")
	assert result.stdout == f"{path}: good: 0 networks, 0 interfaces, 1 disk, 1 sidecore\n"
	assert not (tmp_path / "d.sock").exists()


def test_mistake_has_line_and_remedy(tmp_path):
	(tmp_path / "bad.yaml").write_text(GOOD.replace("socket:", "sokcet:"))
	result = sidecore("serve", "bad.yaml", cwd=tmp_path)
	assert result.returncode == 1
	assert result.stderr == 'bad.yaml:4: unknown key "sokcet" in disk; did you mean "socket"?\n'


def test_status_without_daemon(tmp_path):
	result = sidecore("status", "--control", tmp_path / "none.sock")
	assert result.returncode == 1
	assert f"no daemon at {tmp_path}/none.sock; start it with" in result.stderr


def test_status_of_a_daemon(serve):
	server = serve(interfaces=["a-net"], disks={"a-disk": "type: null, size: 1G"})
	result = sidecore("status", "--control", server.path("ctl.sock"))
	assert (result.returncode, result.stderr) == (0, "")
	heads = [line.split()[0] for line in result.stdout.splitlines() if line and line.split()[0].isupper()]
	assert heads == ["SIDECORE", "NETWORK", "INTERFACE", "DISK"]
	assert re.search(r"^a-net +waiting +virtio +lan +52:54:00:00:00:01 ", result.stdout, re.MULTILINE)
	assert re.search(r"^a-disk +waiting +virtio +null .* 1\.00G ", result.stdout, re.MULTILINE)
	assert "\033" not in result.stdout
	result = sidecore("status", "--json", "-c", server.path("ctl.sock"))
	assert result.returncode == 0 and result.stdout.count("\n") == 1


OLD_QEMU = "#!/bin/sh\necho QEMU emulator version 10.1.0\n"


def test_old_qemu_is_refused_for_emulated_devices(tmp_path):
	(tmp_path / "qemu").write_text(OLD_QEMU)
	(tmp_path / "qemu").chmod(0o755)
	(tmp_path / "k").touch()
	result = sidecore("run", "--kernel", "k", "--disk", "nvme", "--qemu", "./qemu", cwd=tmp_path)
	assert result.returncode == 1
	assert "sidecore run: ./qemu: is too old for emulated devices, which need QEMU 10.1.1 or newer" in result.stderr


def test_without_a_newer_qemu_there_is_a_remedy(tmp_path):
	"""The system's is too old, there is no other, and what makes one is not there either."""
	(tmp_path / "qemu-system-x86_64").write_text(OLD_QEMU)
	(tmp_path / "qemu-system-x86_64").chmod(0o755)
	(tmp_path / "k").touch()
	result = sidecore("run", "--kernel", "k", "--nic", "igb", cwd=tmp_path,
			  env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
	assert result.returncode == 1
	assert "qemu-system-x86_64 is older: emulated devices need QEMU 10.1.1 or newer; name one with --qemu" in result.stderr
	assert "--nic virtio --disk virtio" in result.stderr


def test_start_failure_leaves_nothing(tmp_path):
	"""The second disk cannot be opened: one sentence, exit status 1, and the first one's socket is gone again."""
	(tmp_path / "half.yaml").write_text(
		GOOD + "  - name: e\n    socket: e.sock\n    backend: { type: file, path: nowhere/x.img, size: 1M }\n")
	result = sidecore("serve", tmp_path / "half.yaml")
	assert result.returncode == 1
	assert result.stderr.startswith("sidecore: error: disk e: "), result.stderr
	assert "ready" not in result.stdout
