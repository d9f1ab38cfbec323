# SPDX-License-Identifier: BSD-3-Clause
"""Processes that do not outlive the one that started them, however that ends: daemons, guests, their helpers."""
import concurrent.futures
import ctypes
import os
import signal
import subprocess

PR_SET_PDEATHSIG = 1

# The kernel sends PDEATHSIG when the *thread* that forked ends, hence one thread that lives as long as Python.
_starter = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")
_libc = ctypes.CDLL(None, use_errno=True)


def start(command, **arguments):
	"""subprocess.Popen() of a child that the kernel kills when we die."""
	parent = os.getpid()

	def die_with_parent():
		_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
		if os.getppid() != parent:	# it died before the kernel was asked
			os._exit(1)

	return _starter.submit(subprocess.Popen, command, preexec_fn=die_with_parent, **arguments).result()
