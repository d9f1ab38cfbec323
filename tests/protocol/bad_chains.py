# SPDX-License-Identifier: BSD-3-Clause
"""
Malformed descriptor chains, for every device: each breaks the queue that it is put in, and nothing else.
"""
from .rings import DESCRIPTOR, F_INDIRECT, F_NEXT, F_WRITE, Raw

HEADER = 12
END = "end"			# stands for an address 32 bytes before the end of a region
HOLE = "hole"			# stands for an address that no region covers
GOOD = "good"			# stands for 4 KiB of zeroes
TABLE = "table"			# stands for a table of two indirect descriptors

# name: (formats, needs indirect, descriptors)
BAD_CHAINS = {
	"address in a hole": ("sp", 0, [Raw(HOLE, 100)]),
	"address in a hole, second": ("sp", 0, [Raw(GOOD, HEADER, F_NEXT), Raw(HOLE, 100)]),
	"address 0": ("sp", 0, [Raw(0, 100)]),
	"past the end of a region": ("sp", 0, [Raw(END, 100)]),
	"address wraps": ("sp", 0, [Raw((1 << 64) - 16, 100)]),
	"length of all ones": ("sp", 0, [Raw(GOOD, 0xffffffff)]),
	"user address": ("sp", 0, [Raw("user", 100)]),
	"no bytes": ("sp", 0, [Raw(GOOD, 0)]),
	"no bytes at its end": ("sp", 0, [Raw(GOOD, 100, F_NEXT), Raw(GOOD, 0)]),
	"no bytes in the middle": ("sp", 0, [Raw(GOOD, HEADER, F_NEXT), Raw(GOOD, 0, F_NEXT), Raw(GOOD, 100)]),
	"shorter than its header": ("sp", 0, [Raw(GOOD, HEADER - 1)]),
	"loop of one": ("s", 0, [Raw(GOOD, 100, F_NEXT, 0)]),
	"loop of two": ("s", 0, [Raw(GOOD, 100, F_NEXT), Raw(GOOD, 100, F_NEXT, 0)]),
	"next out of range": ("s", 0, [Raw(GOOD, 100, F_NEXT, 256)]),
	"next far out of range": ("s", 0, [Raw(GOOD, 100, F_NEXT, 0xffff)]),
	"chain without end": ("p", 0, [Raw(GOOD, 100, F_NEXT)] * 256),
	"wrong direction": ("sp", 0, [Raw(GOOD, 100, "wrong")]),
	"indirect not negotiated": ("sp", -1, [Raw(TABLE, 32, F_INDIRECT)]),
	"indirect table in a hole": ("sp", 1, [Raw(HOLE, 32, F_INDIRECT)]),
	"indirect table past the end": ("sp", 1, [Raw(END, 64, F_INDIRECT)]),
	"indirect table of no bytes": ("sp", 1, [Raw(TABLE, 0, F_INDIRECT)]),
	"indirect table of odd length": ("sp", 1, [Raw(TABLE, 31, F_INDIRECT)]),
	"indirect table shorter than an entry": ("sp", 1, [Raw(TABLE, 15, F_INDIRECT)]),
	"indirect table enormous": ("sp", 1, [Raw(TABLE, 0xfffffff0, F_INDIRECT)]),
	"indirect with next": ("sp", 1, [Raw(TABLE, 32, F_INDIRECT | F_NEXT), Raw(GOOD, 100)]),
	"nested indirect": ("sp", 1, [Raw("nested", 32, F_INDIRECT)]),
	"indirect next beyond the table": ("s", 1, [Raw("beyond", 32, F_INDIRECT)]),
	"indirect loop": ("s", 1, [Raw("loop", 32, F_INDIRECT)]),
	"indirect entry in a hole": ("sp", 1, [Raw("stray", 32, F_INDIRECT)]),
}
CASES = [(name, letter == "p") for name, (formats, _, _) in BAD_CHAINS.items() for letter in formats]
CASE_IDS = [f"{name}-{'packed' if packed else 'split'}" for name, packed in CASES]


def make_bad(device, name, writable):
	"""The descriptors of a case, for a receive (@writable) or a transmit queue."""
	memory = device.memory
	write = F_WRITE if writable else 0
	good = memory.allocate(4096)
	table = memory.allocate(32)
	entries = {		# second entry of the table: address, length, flags, next
		TABLE: (good, 100, write, 0), "nested": (table, 32, F_INDIRECT, 0), "beyond": (good, 100, write | F_NEXT, 2),
		"loop": (good, 100, write | F_NEXT, 0), "stray": (memory.hole(), 100, write, 0),
	}
	addresses = {GOOD: good, HOLE: memory.hole(), END: memory.regions[0].end - 32, "user": memory.user(good)}
	parts = []
	for part in BAD_CHAINS[name][2]:
		if part.address in entries:
			address, length, flags, following = entries[part.address]
			packed = device.options.packed
			first = (good, HEADER, 0, write) if packed else (good, HEADER, write | F_NEXT, 1)
			second = (address, length, 0, flags & ~F_NEXT) if packed else (address, length, flags, following)
			memory.write(table, DESCRIPTOR.pack(*first) + DESCRIPTOR.pack(*second))
		address = table if part.address in entries else addresses.get(part.address, part.address)
		if part.flags == "wrong":
			flags = write ^ F_WRITE
		else:
			flags = part.flags | (0 if part.flags & F_INDIRECT else write)
		parts.append(part._replace(address=address, flags=flags))
	return parts
