# SPDX-License-Identifier: BSD-3-Clause
"""
An NBD server that does what a test wants of it: serves, stalls, fails, lies, dies and comes back.

Fixed newstyle handshake and simple replies (github.com/NetworkBlockDevice/nbd, doc/proto.md), a thread for each client.
A test sets @answer, a function of (request, reply) that returns the bytes to send, or None to say nothing at all.
"""
import os
import socket
import struct
import threading
from typing import NamedTuple

OPTION_MAGIC = b"IHAVEOPT"
REPLY_MAGIC = 0x3e889045565a9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_UNSUPPORTED = 1, 3, 0x80000001
READ, WRITE, DISCONNECT, FLUSH, TRIM, ZEROES = 0, 1, 2, 3, 4, 6
FLAGS = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6	# has flags, flush, FUA, trim, write zeroes
EIO, ENOSPC = 5, 28


class Request(NamedTuple):
	kind: int
	handle: int
	offset: int
	length: int


def reply_to(request, data=b"", error=0, handle=None, magic=SIMPLE_MAGIC):
	return struct.pack(">IIQ", magic, error, request.handle if handle is None else handle) + data


def honest(_, reply):
	return reply


def silent(*_):
	return None


class NbdServer:
	def __init__(self, path, size):
		self.path = str(path)
		self.announced = size
		self.content = bytearray(os.urandom(size))
		self.answer = honest
		self.seen = []		# requests, of all connections
		self.connections = 0
		self.clients = set()
		self.listener = None
		self.start()

	@property
	def uri(self):
		return f"nbd+unix:///?socket={self.path}"

	def start(self):
		self.listener = socket.socket(socket.AF_UNIX)
		self.listener.bind(self.path)
		self.listener.listen()
		threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

	def die(self):
		"""As SIGKILL would have it: every connection breaks where it is, and nobody listens."""
		listener, self.listener = self.listener, None
		if listener:
			os.unlink(self.path)
			listener.shutdown(socket.SHUT_RDWR)
			listener.close()
		for client in list(self.clients):
			try:
				client.shutdown(socket.SHUT_RDWR)
			except OSError:
				pass	# it went by itself

	def accept(self, listener):
		while True:
			try:
				client, _ = listener.accept()
			except OSError:
				return
			self.connections += 1
			self.clients.add(client)
			threading.Thread(target=self.serve, args=(client,), daemon=True).start()

	def serve(self, client):
		try:
			with client, client.makefile("rb") as stream:
				self.negotiate(client, stream)
				while self.transmit(client, stream):
					pass
		except (OSError, EOFError):
			pass	# the client went, or die() was called
		finally:
			self.clients.discard(client)

	@staticmethod
	def read(stream, length):
		data = stream.read(length)
		if len(data) != length:
			raise EOFError
		return data

	def negotiate(self, client, stream):
		client.sendall(b"NBDMAGIC" + OPTION_MAGIC + struct.pack(">H", 3))	# fixed newstyle, no zeroes
		self.read(stream, 4)
		while True:
			magic, option, length = struct.unpack(">8sII", self.read(stream, 16))
			self.read(stream, length)
			if magic != OPTION_MAGIC or option == OPT_ABORT:
				raise EOFError
			if option == OPT_EXPORT_NAME:
				client.sendall(struct.pack(">QH", self.announced, FLAGS))
				return
			if option not in (OPT_INFO, OPT_GO):
				client.sendall(struct.pack(">QIII", REPLY_MAGIC, option, REP_UNSUPPORTED, 0))
				continue
			client.sendall(struct.pack(">QIIIHQH", REPLY_MAGIC, option, REP_INFO, 12, 0, self.announced, FLAGS) +
				       struct.pack(">QIII", REPLY_MAGIC, option, REP_ACK, 0))
			if option == OPT_GO:
				return

	def transmit(self, client, stream):
		magic, _, kind, handle, offset, length = struct.unpack(">IHHQQI", self.read(stream, 28))
		assert magic == REQUEST_MAGIC
		request = Request(kind, handle, offset, length)
		data = self.read(stream, length) if kind == WRITE else b""
		if kind == DISCONNECT:
			return False
		self.seen.append(request)
		answer = self.answer(request, reply_to(request, bytes(self.content[offset:offset + length])
						       if kind == READ else b""))
		if answer is None:
			return True
		if kind == WRITE and struct.unpack(">II", answer[:8]) == (SIMPLE_MAGIC, 0):
			self.content[offset:offset + length] = data
		client.sendall(answer)
		return True

	def __enter__(self):
		return self

	def __exit__(self, *_):
		self.die()
