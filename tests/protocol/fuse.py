# SPDX-License-Identifier: BSD-3-Clause
"""
A file system that stops answering: one file of 64 KiB behind /dev/fuse, served by a thread of the test until hang() is
called. Needs the right to mount (root); release() lets everybody go who waits for it.
"""
import ctypes
import os
import struct
import tempfile
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
IN_HEADER = struct.Struct("=IIQQIIII")		# length, opcode, unique, node, uid, gid, pid, padding
OUT_HEADER = struct.Struct("=IiQ")		# length, error, unique
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")	# of struct fuse_attr

LOOKUP, GETATTR, OPEN, INIT, OPENDIR, RELEASE, FLUSH = 1, 3, 14, 26, 27, 18, 25
ROOT, FILE = 1, 2
MNT_DETACH = 2
SIZE = 1 << 16


def attributes(node):
	mode = 0o40755 if node == ROOT else 0o100666
	return ATTRIBUTES.pack(node, SIZE, SIZE // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Fuse:
	def __init__(self):
		self.path = tempfile.mkdtemp(prefix="sidecore-fuse-")
		self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
		options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other"
		if LIBC.mount(b"test", self.path.encode(), b"fuse", 0, options.encode()):
			error = ctypes.get_errno()
			os.close(self.device)
			os.rmdir(self.path)
			raise OSError(error, "mount: " + os.strerror(error))
		self.hanging = False
		self.thread = threading.Thread(target=self.serve, daemon=True)
		self.thread.start()

	def serve(self):
		while not self.hanging:
			try:
				request = os.read(self.device, 1 << 17)
			except OSError:
				return
			if not self.hanging:
				self.answer(request)

	def answer(self, request):
		_, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
		error, body = 0, b""
		if opcode == INIT:
			body = struct.pack("=IIIIHHIIHHI", 7, 31, 0, 0, 0, 0, 1 << 16, 1, 0, 0, 0) + bytes(28)
		elif opcode == LOOKUP:
			body = struct.pack("=QQQQII", FILE, 0, 0, 0, 0, 0) + attributes(FILE)
		elif opcode == GETATTR:
			body = struct.pack("=QII", 0, 0, 0) + attributes(node)
		elif opcode in (OPEN, OPENDIR):
			body = struct.pack("=QII", 1, 0, 0)
		elif opcode not in (RELEASE, FLUSH):
			error = -38
		os.write(self.device, OUT_HEADER.pack(OUT_HEADER.size + len(body), error, unique) + body)

	def open(self):
		return os.open(os.path.join(self.path, "file"), os.O_RDWR | os.O_CLOEXEC)

	def hang(self):
		"""From now on whoever asks this file system waits."""
		self.hanging = True

	def release(self):
		# The last descriptor of the device is the connection: all who wait get an error.
		LIBC.umount2(self.path.encode(), MNT_DETACH)
		os.close(self.device)
		os.rmdir(self.path)
