# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the protocol tests: a deadline for each test, and daemons that are stopped and checked at its end."""
import contextlib
import signal

import pytest

from . import server as daemon
from .lab import Lab
from .lan import Lan
from .memory import free_huge_pages

DEADLINE = 60
HUGE_PAGES = 128	# of 2 MiB; testpmd takes 192 MiB
NR_HUGEPAGES = "/proc/sys/vm/nr_hugepages"


def pytest_configure(config):
	config.addinivalue_line("markers", f"deadline(seconds): the test fails after that time (default {DEADLINE} s)")
	config.addinivalue_line("markers", "alone: measures time, and must not run beside other tests")
	config.addinivalue_line("markers", "xdist_group(name): tests of one name run one after the other (pytest-xdist)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
	marker = item.get_closest_marker("deadline")
	seconds = marker.args[0] if marker else DEADLINE

	def passed(*_):
		# Not an Exception, so that no handler in a test or in the client takes it for a late answer.
		raise pytest.fail.Exception(f"{item.name} ran longer than {seconds} s")

	before = signal.signal(signal.SIGALRM, passed)
	signal.setitimer(signal.ITIMER_REAL, seconds)
	yield
	signal.setitimer(signal.ITIMER_REAL, 0)
	signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def huge_pages():
	"""
	Reserves what is missing, where we may, and gives it back. There is one number for the whole machine: tests that
	use this are of one xdist_group.
	"""
	with open(NR_HUGEPAGES, encoding="ascii") as file:
		before = int(file.read())
	missing = HUGE_PAGES - free_huge_pages()
	reserved = False
	if missing > 0:
		with contextlib.suppress(OSError), open(NR_HUGEPAGES, "w", encoding="ascii") as file:
			file.write(str(before + missing))
			reserved = True
	try:
		if free_huge_pages() < HUGE_PAGES:
			pytest.skip(f"fewer than {HUGE_PAGES} free huge pages of 2 MiB (sysctl vm.nr_hugepages={before + max(missing, 0)})")
		yield
	finally:
		if reserved:
			with open(NR_HUGEPAGES, "w", encoding="ascii") as file:
				file.write(str(before))


@pytest.fixture
def serve(request):
	"""serve(**keywords of configuration()) starts a daemon; it is stopped and checked after the test."""
	reason = daemon.why_missing()
	if reason:
		pytest.skip(reason)
	servers = []

	def start(**keywords):
		servers.append(daemon.Server(daemon.configuration(**keywords)))
		return servers[-1]

	yield start
	failed = getattr(request.node, "call_failed", False)
	for server in servers:
		if failed:
			print(f"\n--- log of the daemon ---\n{server.tail()}")
		server.stop()


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
	outcome = yield
	if call.when == "call":
		item.call_failed = outcome.get_result().failed


@pytest.fixture
def lab(serve):
	lab = Lab(serve(interfaces={"a-net": "queue_pairs: 2", "b-net": ""},
			disks={"a-disk": "type: ram, size: 16M", "n-disk": "type: ram, size: 1M"}))
	yield lab
	try:
		lab.check()
	finally:
		lab.close()


@pytest.fixture
def lan(serve):
	lan = Lan(serve(interfaces={f"{name}-net": "queue_pairs: 4" for name in "abc"}))
	yield lan
	try:
		assert lan.server.alive()
	finally:
		lan.close()
