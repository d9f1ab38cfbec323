# SPDX-License-Identifier: BSD-3-Clause
"""Marks of the guest tests."""


def pytest_configure(config):
    config.addinivalue_line("markers", "long: another variant of what the default run has, left to `make test-long`")
