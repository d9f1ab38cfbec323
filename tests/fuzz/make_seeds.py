#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Writes the seeds of a fuzz target: tests/fuzz/make_seeds.py TARGET FOLDER

Inputs from which a search gets deep soon. Each says in the target's own terms (its file's head and step function)
what an ordinary driver, front-end or person would do.
"""
import struct
import sys
from pathlib import Path


def u16(value):
	return struct.pack("<H", value)


def u64(value):
	return struct.pack("<Q", value)


def chain_seeds():
	for form in (0x00, 0x01, 0x02, 0x03, 0x06, 0x07, 0x71, 0x60):
		for more in (0, 2, 6, 0xfe):
			offer = bytes([0, 0x21, 0x00]) + b"\0\1\xff"	# two buffers, the second one writable
			seed = bytes([form, more])
			seed += bytes([0, 1]) + bytes([0]) + b"\0\1\x40" + bytes([0x04]) + b"\0\2\x40"
			seed += offer + bytes([4, 31, 6, 0, 9, 10, 4, 8, 8, 6, 1, 9])
			seed += bytes([1, 0x83, 0, 0, 1, 9, 4, 3, 12, 4, 31, 6, 0, 6, 1, 9, 13, 4, 2])
			yield seed


def nvme_seeds():
	turn, queues = bytes([5, 63]), bytes([12, 0x3c])
	prp = bytes([0x80]) + bytes([3, 1])		# the data, and the page after it
	for command in (1, 2, 4, 8, 0x0f):
		for kind in range(8):
			io = bytes([2, kind | 0x38, 1]) + prp + bytes([0])
			seed = queues + turn * 3 + bytes([8]) + io * 4 + bytes([10, 2]) + io + turn * 2
			seed += bytes([9, command]) + turn + bytes([10, 0x40]) + turn * 2 + bytes([8])
			yield seed + bytes([11, 1]) + u16(0) + bytes([8, kind]) + bytes([3, 2] * 8) + io + turn
	# Long transfers, by lists of either kind; flushes of all namespaces, reads past a cache; the pin and its mask.
	for kind in range(8):
		for blocks in (15, 63, 255):
			io = bytes([2, kind, 0x0d]) + prp + bytes([0, blocks]) + bytes([2, kind | 0x40, 0x0d]) + prp + u16(0) + bytes([0, 0, blocks])
			both = bytes([2, kind, 0x41]) + bytes([0xff]) + prp + bytes([0])
			through = bytes([2, kind, 0x81]) + prp + bytes([0]) + b"\7\0\0\x40"
			seed = queues + turn * 3 + bytes([9, 0x04]) + io + both + through + bytes([14]) + turn * 2
			yield seed + bytes([15, 0x81, 14, 15, 1, 9, 0x1c, 9, 0x24, 8, 14]) + turn + bytes([9, 0x44]) + io + turn + bytes([15, 0])
	for opcode in (9, 10):
		for feature in (1, 2, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b, 0x0e, 0x16, 0x19, 0x80, 0x81):
			admin = bytes([2, opcode, 0x10]) + prp + bytes([feature]) + b"\2\0\0\0"
			yield turn + admin + turn + bytes([2, 10, 0x30]) + prp + bytes([feature, kind, 0, 0]) + bytes(4) + turn
	# Events that wait, happen, are read and aborted: a queue stopped by a bad doorbell, a disk of another size.
	happen = bytes([7, 0, 0, 1]) + u16(0xffff) + turn + bytes([9, 0x86, 9, 6])
	for log in range(20):
		events = (bytes([2, 12, 0]) + prp + bytes([0])) * 3
		heard = bytes([2, 9, 0x10]) + prp + bytes([0x0b]) + b"\xff\xff\0\0"
		read = bytes([2, 2, 0x60, 0]) + prp + bytes([log, 0, 0xff, 0])
		abort = bytes([2, 8, 0x20]) + prp + bytes([0, 0, 5, 0])
		yield queues + turn + heard + events + happen + read + happen + read + abort + turn
	for blocks, lba in ((8, 8), (0, 0), (4096, 0), (0xffffffff, 1)):
		ranges = bytes([11, 0, 0x83]) + bytes(4) + struct.pack("<IIQ", 0, blocks, lba)
		yield queues + turn * 3 + ranges + bytes([2, 6, 0x11]) + prp + bytes([0]) + b"\4\0\0\0" + turn + bytes([10, 2]) + turn * 2
	for opcode in (0, 1, 2, 4, 5, 6, 8, 9, 10, 12):
		admin = bytes([2, opcode, 0]) + prp + bytes([1])
		yield queues + turn * 2 + admin * 3 + turn * 2 + bytes([8]) + turn + bytes([7, 0, 1, 0]) + u16(opcode) + turn


def virtio_blk_seeds():
	turn = bytes([6, 63]) + u16(0xffff)
	for form in (0x00, 0x01, 0x02, 0x03, 0x07, 0x08, 0x09, 0x61):
		for disk in (0x00, 0x10, 0x21, 0x02, 0x48):
			seed = bytes([form, disk]) + u64(0)
			for kind in range(6):
				indirect = 0x80 if form & 2 else 0
				zones = kind in (4, 5)
				pieces = 0 if kind == 2 else 2
				seed += bytes([kind % 3, kind | indirect, pieces, kind * 2, 8 * (kind + 1)])
				seed += bytes([8, 8, 24, 8]) if zones else bytes([7] * pieces)
			seed += turn + bytes([8, 0, 8, 1, 9, 10, 0]) + turn
			seed += bytes([11]) + bytes([0, 1, 1, 0, 8, 0]) + turn
			yield seed


def virtio_net_seeds():
	turn = bytes([10, 63]) + u16(0xffff) + bytes([255])
	for takes in (0x00, 0x01, 0x7f):
		for form in (0x00, 0x01, 0x02, 0x07):
			for vlan in ((4, 4, 0), (1, 1, 2), (2, 1, 1)):
				seed = u64(0) + bytes([vlan[0], form]) + u64(0) + bytes([vlan[1], form])
				seed += bytes([takes, vlan[2]])
				seed += bytes([4, 0x4f, 0x84, 0x4f])	# room on both
				# plain, partial, TCP, UDP and UFO
				for offload in (0x00, 0x01, 0x05, 0x4d, 0x49, 0x59):
					for ip in (0x00, 0x04):
						for addresses in (0x06, 0x05):
							size = u16(4000) if offload & 0x40 else bytes([200])
							seed += bytes([0, ip, offload, addresses]) + size + u16(500)
				seed += turn + bytes([9, 3]) + bytes(24) + turn + bytes([13, 13, 14, 15]) + turn
				yield seed
	# Tame receivers: bursts of plain frames, and room that fits, lacks up to 16 bytes, or has as many to spare.
	for form in (0x00, 0x01, 0x40, 0x41, 0x02):
		for length in (0, 60, 200):
			for less in range(0, 31, 3):
				seed = u64(0) + bytes([0x14, form]) + u64(0) + bytes([0x14, form]) + bytes([0x7f, 0])
				burst = bytes([0x30, 0x00, 0x00, 0x05, length]) + u16(0)	# four frames of the first, for the second
				room = bytes([0x84, 0x07, 0x1f] + [less, less + 1] * 3 + [0x1f])
				yield seed + (burst + room + turn) * 4


def intel_seeds():
	turn = bytes([12, 63]) + u16(0xffff) + bytes([255])
	for card in (0x10, 0x11, 0x12, 0x16, 0x02):	# models, kinds of interrupt, mapped and not
		for observer in (bytes([0]), bytes([1, 1])):
			seed = observer + bytes([card, 3, 0x00, 4, 0x08])	# both rings
			for kind in (0x02, 0x12, 0x16, 0x36, 0x00):	# contexts, checksums, TSO, pieces, legacy
				for form in (0x01, 0x05, 0x11, 0x41):
					context = u16(1400) + (u16(7) if card % 3 == 2 else b"") if kind & 2 else b""
					size = u16(9000) if form & 0x40 else bytes([200])
					piece = bytes([100]) if kind >> 5 else b""
					seed += bytes([5, form, kind]) + size + context + piece + turn
			seed += bytes([9, 15, 10, 0, 100, 10, 0x10, 100, 10, 0x40]) + u16(3000) + turn
			yield seed + bytes([14, 9, 15, 0, 0, 0, 0, 15, 2, 0, 15, 2, 1, 15, 3, 15, 4, 3, 0]) + turn
			# Moderated interrupts: set up, frames both ways in bursts, the clock, masks that come back by stores and by message.
			frames = bytes([5, 0x01, 0x00, 200]) + bytes([9, 15, 10, 0x80, 100]) + turn
			for form in (0x09, 0x19, 0x2b, 0x48, 0x00):
				for interval in (0, 20, 250):
					rounds = (frames * 2 + bytes([14, 5, 2, 28]) + b"\x1f\0\0\0" + bytes([14, 11])) * 4
					yield observer + bytes([card, 3, 0x00, 4, 0x08, 16, form, interval]) + rounds + bytes([20, 9, 32]) + turn
			# Hashes over each kind of packet; filters, the PHY's registers and loop, bits of the EEPROM; causes set by hand.
			hashes = b"".join(bytes([17, more, kinds]) + b"\x5a\xa5\x01\x02\3\2\1\0" + bytes([9, 15, 10, 0x90, 9, 10, 0x84, 50, 10, 0x80, 60, 10, 0x94, 70]) + turn
					  for more in (0x80, 0xfc, 0x04) for kinds in (0xff, 0x0a, 0x30))
			filters = b"".join(bytes([18, form, 0, 0x40, 0, 0]) + bytes([9, 15, 10, 0x80, 100, 10, 0x03, 100]) + turn for form in (0, 8, 1, 5))
			phy = b"".join(bytes([18, 2 | write | number << 3]) + u16(0x4140) for number in (0, 1, 17) for write in (0, 4))
			loop = bytes([18, 4]) + frames + bytes([18, 6]) + u16(0x4140) + frames
			eeprom = bytes([18, 7]) + b"\x03\x01\0\0" + bytes([18, 7]) + b"\x19\0\0\0" + bytes([18, 7]) + b"\x05\x55\xaa\0"
			causes = b"".join(bytes([20, number, 2]) + turn for number in (9, 10, 11, 17, 18, 19))
			yield observer + bytes([card, 3, 0x00, 4, 0x08, 16, 0x09, 9]) + hashes + filters
			yield observer + bytes([card, 3, 0x00, 4, 0x08, 16, 0x09, 9]) + phy + loop + eeprom + causes + bytes([19, 0, 19, 16, 19, 0x24, 19, 0x2c])


	# Receive coalescing: an igb that is not promiscuous and takes long frames, with segments of IPv4 and IPv6.
	seed = bytes([0, 0x80, 3, 0x00, 4, 0x0c])
	for size in (12000, 3000, 20000):
		seed += bytes([9, 15, 10, 0x40]) + u16(size) + bytes([9, 5, 10, 0x44]) + u16(size) + turn
	yield seed


def vhost_user_seeds():
	for device in range(3):
		for session in range(0, 64, 3):
			# A running session, chains in both queues, turns, then every message once.
			seed = bytes([0x80 + device, session])
			seed += bytes([10, 0, 1, 0]) + b"\0\1\x40" + bytes([0x04]) + b"\0\2\x40" + bytes([12])
			every = b"".join(bytes([0, 1, request]) + bytes(6) for request in range(1, 44))
			yield seed + every + bytes([12, 15, 1])
		# From nothing: features, memory table of one region, a ring.
		seed = bytes([device, 0])
		seed += bytes([0, 1, 16, 0]) + u64(0xb) + bytes([0, 1, 2, 0]) + u64(1 << 32 | 1 << 30) + bytes([0])
		seed += bytes([0, 1, 5, 1, 0x80, 0x83, 0x80, 0])
		seed += bytes([0, 1, 8, 0, 16]) + bytes([0, 1, 9, 0, 0, 0x80, 0x88, 0x87])
		seed += bytes([0, 1, 12, 0, 0, 0, 0, 0]) + bytes([0, 1, 13, 0, 0, 0, 0, 0])
		seed += bytes([0, 1, 18, 0, 1, 12])
		yield seed


def vfio_user_seeds():
	for device in range(3):
		for session in (0, 1, 2, 4, 8):
			# A session with memory, then every message once, a burst of memory, registers of each width, and turns.
			seed = bytes([0x81 + 3 * 10 + (device + 2) % 3, session])
			every = b"".join(bytes([0, 0, command]) + bytes(8) for command in range(1, 19))
			burst = bytes([0, 0, 3, 1, 0, 0, 1]) * 3
			burst += bytes([0, 0, 2, 1, 0, 0x80, 1, 0x87]) + bytes([0, 0, 2, 1, 0, 0x80, 1, 0x83])
			registers = b"".join(bytes([0, 0, 10, offset, 0, width]) + bytes(width)
					     for offset in (0, 20, 36, 0x8c, 0x8f) for width in (1, 2, 4, 8))
			deferred = bytes([17, 1, 1]) + bytes([0, 0, 13, 16, 16]) + burst + bytes([16] * 4)
			pin = bytes([0, 0, 10, 0x91, 0, 4, 1, 0, 0, 0, 15, 15])
			yield seed + every + burst + registers + bytes([11, 0]) + u16(8) + bytes([3, 13, 13]) + deferred + pin
			# A client that does not read: registers until its socket is full, then all answers at once. Memory that does not come back.
			deaf = bytes([20]) + bytes([0, 0, 9, 0, 7, 0xdf]) * 40 + bytes([22, 21])
			yield seed + deaf + bytes([0, 0, 3, 1, 0, 0, 1]) + bytes([22]) + registers
			# Interrupts in each form: nothing, booleans, eventfds; mask, unmask, trigger; with one vector, none, too many.
			irqs = b"".join(bytes([0, 0, 8, flags, index, 0, count]) + bytes([1] * count if flags & 2 else [])
					for flags in (9, 17, 33, 10, 18, 34, 36, 12, 20) for index in (0, 2) for count in (1, 0))
			yield seed + irqs + bytes([15, 13, 15]) + bytes([0, 0x10, 8, 36, 2, 0, 1, 31]) + bytes([0, 0x30, 8, 36, 2, 0, 1, 1, 6])
		capabilities = b'{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"pgsizes":4096,"write_multiple":true}}\0'
		for text in (capabilities, b"{}\0", capabilities[:-1], b'{"capabilities":{"pgsizes":1}}\0', b'{"capabilities":{"max_msg_fds":0}}\0', b"[1]\0"):
			yield bytes([device, 0, 0, 1, 0, 1, len(text)]) + text + bytes([0, 0, 4, 16, 0])


def segment_seeds():
	for form in (0x00, 0x08, 0x01, 0x22, 0x4a, 0x6a, 0xe8, 0x18):
		for kind in range(6):
			# addresses, options, ports, sequence number, flags, payload, size of segments
			tcp = kind < 2
			ip = bytes(4) if kind == 1 or (kind > 1 and form & 8) else bytes(10)
			sequence = b"\0\0\0\1\xff" if tcp else b""
			yield (bytes([form, kind, 3]) + ip + b"\0\1\0\2" + sequence + u16(9000) + u16(1448) +
			       bytes([0, 0x83, 5, 60, 200, 7, 1, 9]))


def config_seeds():
	text = Path(__file__).parents[2] / "src/control/config.h"
	example = "\n".join(line[3:] if line.startswith(" *\t") else "" for line in text.read_text().splitlines())
	yield example.encode()
	yield (b"control: none\nnetworks:\n  - name: lan\n"
	       b"interfaces:\n  - name: a\n    network: lan\n    socket: a.sock\n")
	yield b"disks:\n  - name: d\n    socket: d.sock\n    backend: { type: ram, size: 1G }\n"
	yield b"sidecores:\n  - cpu: 0\nbusy_poll: 50us\nnetworks: []\n"
	for key, value in (("vlan", "10"), ("trunk", "[10, 20]"), ("mac", "52:54:00:00:00:01"), ("ipv4", "[10.0.2.15]"),
			   ("memory_max", "64G"), ("queue_pairs", "8"), ("mode", "client"), ("isolated", "true")):
		yield (f"networks:\n  - name: l\ninterfaces:\n  - name: a\n    network: l\n    socket: s\n"
		       f"    {key}: {value}\n").encode()


def control_seeds():
	yield b'{"command": "status"}'
	yield b'{"command": "addresses", "network": "lan"}'
	yield b'{"command": "resize", "disk": "web", "size": "2G"}'
	yield b'{"command": "resize", "disk": "web", "size": 4096}'
	yield b'{"command": "announce", "interface": "web-net"}'
	yield b'{"command": "stauts", "x": [1, null, "\\u00e4"]}'


def main():
	target, folder = sys.argv[1], Path(sys.argv[2])
	seeds = globals()[f"{target}_seeds"]()
	for old in folder.iterdir():
		old.unlink()
	for number, seed in enumerate(seeds):
		(folder / f"{number:03}").write_bytes(seed)


if __name__ == "__main__":
	main()
