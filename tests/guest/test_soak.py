# SPDX-License-Identifier: BSD-3-Clause
"""The soak test, shortly: that it runs, that nothing shows at once, and that nothing of it outlives it."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from guest import REPOSITORY
from sidecore import require, server, wait_until

# Minutes: left to make test-long.
pytestmark = pytest.mark.long

SOAK = REPOSITORY / "tests" / "soak" / "soak.py"


@pytest.fixture
def short_folder():
    """For the sockets of a soak that will not live to remove them."""
    with tempfile.TemporaryDirectory(prefix="sidecore-test-") as folder:
        yield pathlib.Path(folder)


def test_soak_in_short():
    require()
    result = subprocess.run([sys.executable, str(SOAK), "--quick"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    print(result.stdout, result.stderr)
    assert result.returncode == 0


def descendants(folder):
    """{pid: command} of the processes that were told to use @folder for temporary files, and run."""
    mark, found = f"TMPDIR={folder}\0".encode(), {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:     # ended just now, or somebody else's
            continue
    return found


def test_nothing_outlives_a_killed_soak(short_folder):
    """Daemons, guests, actors and the NBD server end with it, even if it has no chance to end them."""
    require()
    soak = subprocess.Popen([sys.executable, str(SOAK), "--quick"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            env={**os.environ, "TMPDIR": str(short_folder)}, text=True)
    try:
        while not soak.stdout.readline().startswith("| minute"):
            assert soak.poll() is None
        # The crash actor's daemon is the last to come.
        wait_until(lambda: sum(f"{server.binary()}" in command for command in descendants(short_folder).values()) >= 4,
                   "four daemons run", timeout=30)
        names = " ".join(descendants(short_folder).values())
        assert all(name in names for name in ("qemu-system", "nbdkit", "actors.py"))
    finally:
        soak.send_signal(signal.SIGKILL)
        soak.wait()
        soak.stdout.close()
    deadline = time.monotonic() + 10
    while descendants(short_folder):
        assert time.monotonic() < deadline, f"left: {descendants(short_folder)}"
        time.sleep(0.1)
