# SPDX-License-Identifier: BSD-3-Clause
"""The control socket: what it tells, and that no client can disturb the daemon or another client."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from . import server as daemon

DISKS = {"a-disk": "type: ram, size: 64M"}


class Client:
	"""A connection to the control socket that can also misbehave."""

	def __init__(self, server, timeout=10.0):
		self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
		self.sock.settimeout(timeout)
		self.sock.connect(server.path("ctl.sock"))
		self.stream = self.sock.makefile("rb")

	def send(self, data):
		self.sock.sendall(data)

	def line(self):
		"""Return: the next answer, None at the end of the connection."""
		text = self.stream.readline()
		return json.loads(text) if text else None

	def ask(self, **command):
		self.send(json.dumps(command).encode() + b"\n")
		return self.line()

	def __enter__(self):
		return self

	def __exit__(self, *_):
		self.stream.close()
		self.sock.close()


@pytest.fixture
def server(serve):
	return serve(interfaces=["a-net", "b-net"], disks=DISKS)


def resident_bytes(pid):
	with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
		return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_status_fields(server):
	status = server.status()
	assert status["pid"] == server.pid
	assert status["uptime_seconds"] > 0
	assert set(status["sidecores"][0]) == {
		"cpu", "pollers", "busy_share", "second", "total", "rounds", "empty_rounds", "sleeps", "aborted_sleeps", "sleep_ns",
		"busy_cycles", "empty_cycles", "cycles", "wakes"}
	assert status["networks"] == {"lan": {"uplink": None, "addresses": 0}}
	interface = status["interfaces"]["b-net"]
	assert interface["mac"] == "52:54:00:00:00:02"
	assert interface["connected"] is False
	assert interface["drops"] == {}
	assert [queue["kind"] for queue in interface["queues"]][:2] == ["receive", "transmit"]
	assert all(queue["running"] is False and queue["broken"] is None for queue in interface["queues"])
	disk = status["disks"]["a-disk"]
	assert (disk["kind"], disk["size"], disk["block_size"], disk["read_only"]) == ("ram", 64 << 20, 512, False)
	assert [queue["kind"] for queue in disk["queues"]] == ["request"]


def test_idle_sidecore_sleeps(server):
	"""Nobody is attached: the sidecore must not spin."""
	time.sleep(2.2)
	second = server.status()["sidecores"][0]["second"]
	assert second["asleep"] > 0.95, second
	assert abs(sum(second.values()) - 1) < 0.01


def test_answers_come_in_order(server):
	with Client(server) as client:
		client.send(b'{"command":"status"}\n{"command":"addresses","network":"lan"}\nnonsense\n{"command":"status"}\n')
		client.sock.shutdown(socket.SHUT_WR)
		answers = [client.line() for _ in range(4)]
		assert client.line() is None
	assert "version" in answers[0] and "version" in answers[3]
	assert answers[1] == {"addresses": []}
	assert answers[2]["error"].startswith("not JSON")


def test_a_line_in_pieces(server):
	with Client(server) as client:
		for byte in b'{"command":"status"}\n':
			client.send(bytes([byte]))
		assert "version" in client.line()


@pytest.mark.parametrize("line", [
	b"\0\0\0\n", b"\xff\xfe\n", b"\n", b"[" * 60000 + b"\n", b'{"command":"' + b"\xc3\xa4" * 20000 + b'"}\n',
	b'{"command":"\\u0000"}\n', b'{"command":1e999}\n'],
	ids=["zeroes", "not-utf8", "empty", "deep", "long-name", "zero-in-name", "infinite"])
def test_nonsense_is_answered(server, line):
	with Client(server) as client:
		client.send(line)
		assert set(client.line()) == {"error", "remedy"}
		assert "version" in client.ask(command="status")


def test_too_long_a_line(server):
	with Client(server) as other, Client(server) as client:
		try:
			client.send(b"x" * (256 << 10))
		except (BrokenPipeError, ConnectionResetError):
			pass
		try:
			assert client.line() == {"error": "a line is longer than 64 KiB", "remedy": "send one JSON object a line"}
			assert client.line() is None
		except ConnectionResetError:
			pass  # closed with our bytes unread
		assert "version" in other.ask(command="status")
	assert server.alive()


def test_too_many_clients(server):
	clients = [Client(server) for _ in range(64)]
	try:
		assert "version" in clients[-1].ask(command="status")
		with Client(server) as client:
			assert client.line()["error"] == "too many clients"
			assert client.line() is None
	finally:
		for client in clients:
			client.__exit__()
	deadline = time.monotonic() + 5
	while True:
		with Client(server) as client:
			try:
				answer = client.ask(command="status")
			except (BrokenPipeError, ConnectionResetError):
				answer = None
		if answer and "version" in answer:
			break
		assert time.monotonic() < deadline, answer


def test_a_client_that_does_not_read(server):
	"""It asks without end and never takes an answer: nobody waits for it, and its answers do not pile up."""
	with Client(server) as client:
		client.sock.settimeout(0.5)
		with pytest.raises(TimeoutError):
			while True:
				client.send(b'{"command":"status"}\n' * 1000)
		before = resident_bytes(server.pid)
		for _ in range(20):
			started = time.monotonic()
			assert server.status()
			assert time.monotonic() - started < 1
		assert resident_bytes(server.pid) - before < 8 << 20


def test_resize(server):
	answer = server.control(command="resize", disk="a-disk", size="128M")
	assert answer == {"disk": "a-disk", "size": 128 << 20}
	assert server.status()["disks"]["a-disk"]["size"] == 128 << 20
	assert "multiple of the block size" in server.control(command="resize", disk="a-disk", size=1000)["error"]
	assert server.control(command="resize", disk="none", size="1M")["error"] == 'there is no disk "none"'
	assert server.status()["disks"]["a-disk"]["size"] == 128 << 20


def test_unknown_names(server):
	assert server.control(command="addresses", network="x")["error"] == 'there is no network "x"'
	assert server.control(command="announce", interface="x")["error"] == 'there is no interface "x"'
	assert server.control(command="statsu")["remedy"] == 'did you mean "status"?'


def test_permissions(server):
	assert os.stat(server.path("ctl.sock")).st_mode & 0o777 == 0o660


def test_second_daemon_is_refused(server):
	"""The socket is somebody's: the second daemon says so, and the first one keeps it."""
	other = server.directory / "other.yaml"
	other.write_text("control: ctl.sock\ndisks:\n  - { name: x, socket: x.sock, backend: { type: null, size: 1G } }\n")
	result = subprocess.run([str(daemon.binary().resolve()), "serve", str(other)], capture_output=True, text=True,
				timeout=30, check=False)
	assert result.returncode == 1
	assert "another sidecore serves there" in result.stderr, result.stderr
	assert not os.path.exists(server.path("x.sock"))
	assert server.alive()


def test_socket_of_a_dead_daemon_is_replaced(server):
	server.process.kill()
	server.process.wait()
	assert os.path.exists(server.path("ctl.sock"))
	server.start(wait=False)
	deadline = time.monotonic() + 10
	while True:
		try:
			assert server.status()["pid"] == server.pid
			return
		except (ConnectionRefusedError, FileNotFoundError):  # the stale one, and the moment between it and the new one
			assert time.monotonic() < deadline and server.process.poll() is None, server.tail()
			time.sleep(0.02)


def test_stops_with_clients_attached(server):
	"""Idle, half-asked and unread: none of them delays the end."""
	with Client(server), Client(server) as half, Client(server) as unread:
		half.send(b'{"command":')
		unread.send(b'{"command":"status"}\n' * 50)
		started = time.monotonic()
		os.kill(server.pid, signal.SIGTERM)
		assert server.process.wait(10) == 0
		assert time.monotonic() - started < 5
	assert not os.path.exists(server.path("ctl.sock"))
	assert not os.path.exists(server.path("a-net.sock"))
	server.start()


def test_tells_the_service_manager(serve, tmp_path, monkeypatch):
	"""sd_notify(3): ready when all sockets are there, stopping at the end."""
	with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
		manager.bind(str(tmp_path / "notify"))
		manager.settimeout(10)
		monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
		server = serve(disks=DISKS)
		assert b"READY=1" in manager.recv(4096).split(b"\n")
		os.kill(server.pid, signal.SIGTERM)
		assert b"STOPPING=1" in manager.recv(4096).split(b"\n")
		assert server.process.wait(10) == 0
		server.start()


def test_hangup_changes_nothing(server):
	os.kill(server.pid, signal.SIGHUP)
	time.sleep(0.2)
	assert server.alive()
