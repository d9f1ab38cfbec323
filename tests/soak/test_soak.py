# SPDX-License-Identifier: BSD-3-Clause
"""The soak test for a minute: that it runs, and that nothing shows at once."""

import pathlib
import subprocess
import sys


def test_soak_for_a_minute():
    result = subprocess.run([sys.executable, str(pathlib.Path(__file__).with_name("soak.py")), "--quick"], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, timeout=300)
    print(result.stdout, result.stderr)
    assert result.returncode == 0
