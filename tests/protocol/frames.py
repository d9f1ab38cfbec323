# SPDX-License-Identifier: BSD-3-Clause
"""
Ethernet frames by hand: just enough ARP, IPv4, IPv6, UDP and TCP for the tests, and their checksums (RFC 1071).
"""
import ipaddress
import struct
from typing import NamedTuple

BROADCAST = b"\xff" * 6
ETHERTYPE_IPV4, ETHERTYPE_ARP, ETHERTYPE_VLAN, ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x8100, 0x86dd
TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, CWR = 1, 2, 4, 8, 16, 0x80


def mac(text):
	return bytes.fromhex(text.replace(":", ""))


def fold(data, initial=0):
	"""Ones' complement sum, folded to 16 bits, not inverted."""
	if len(data) % 2:
		data += b"\0"
	total = initial + sum(struct.unpack(f">{len(data) // 2}H", data))
	while total >> 16:
		total = (total & 0xffff) + (total >> 16)
	return total


def checksum(data, initial=0):
	return fold(data, initial) ^ 0xffff


def ethernet(destination, source, ethertype, payload, vlan=None):
	tag = b"" if vlan is None else struct.pack(">HH", ETHERTYPE_VLAN, vlan)
	return destination + source + tag + struct.pack(">H", ethertype) + payload


def plain(destination, source, length=64, fill=None):
	"""A frame of an experimental ethertype (IEEE 802: 0x88b5) with a recognisable payload."""
	body = bytes((number * 7 + (fill or 0)) & 0xff for number in range(length - 14))
	return ethernet(destination, source, 0x88b5, body)


def arp_request(source, source_ip, target_ip):
	body = struct.pack(">HHBBH6s4s6s4s", 1, ETHERTYPE_IPV4, 6, 4, 1, source, ipaddress.ip_address(source_ip).packed,
			   bytes(6), ipaddress.ip_address(target_ip).packed)
	return ethernet(BROADCAST, source, ETHERTYPE_ARP, body)


def pseudo_header(source, destination, protocol, length):
	source, destination = ipaddress.ip_address(source).packed, ipaddress.ip_address(destination).packed
	if len(source) == 4:
		return source + destination + struct.pack(">BBH", 0, protocol, length)
	return source + destination + struct.pack(">IHBB", length, 0, 0, protocol)


def ip(source, destination, protocol, payload, identification=1):
	source_ip, destination_ip = ipaddress.ip_address(source), ipaddress.ip_address(destination)
	if source_ip.version == 6:
		head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
		return ETHERTYPE_IPV6, head + source_ip.packed + destination_ip.packed + payload
	head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identification, 0x4000, 64, protocol, 0,
			   source_ip.packed, destination_ip.packed)
	head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
	return ETHERTYPE_IPV4, head + payload


class Flow(NamedTuple):
	"""Addresses of one direction."""
	source_mac: bytes
	destination_mac: bytes
	source: str
	destination: str
	source_port: int = 1234
	destination_port: int = 80

	@property
	def network_length(self):
		return 40 if ":" in self.source else 20


def transport(flow, protocol, head, field, payload, partial):
	"""
	Complete frame around a transport header whose checksum is at @field. @partial leaves the sum of the pseudo
	header there, as VIRTIO_NET_HDR_F_NEEDS_CSUM wants it (virtio 1.3, 5.1.6.2.1).
	"""
	pseudo = fold(pseudo_header(flow.source, flow.destination, protocol, len(head) + len(payload)))
	value = pseudo if partial else checksum(head + payload, pseudo)
	if protocol == UDP and not partial and value == 0:
		value = 0xffff
	segment = head[:field] + struct.pack(">H", value) + head[field + 2:] + payload
	ethertype, packet = ip(flow.source, flow.destination, protocol, segment)
	return ethernet(flow.destination_mac, flow.source_mac, ethertype, packet)


def tcp(flow, payload=b"", sequence=1000, flags=ACK, partial=False):
	head = struct.pack(">HHIIBBHHH", flow.source_port, flow.destination_port, sequence, 1, 5 << 4, flags, 65535, 0, 0)
	return transport(flow, TCP, head, 16, payload, partial)


def udp(flow, payload=b"", partial=False):
	head = struct.pack(">HHHH", flow.source_port, flow.destination_port, 8 + len(payload), 0)
	return transport(flow, UDP, head, 6, payload, partial)


class Parsed(NamedTuple):
	destination: bytes
	source: bytes
	ethertype: int
	vlan: int
	version: int = 0
	protocol: int = 0
	identification: int = 0
	sequence: int = 0
	flags: int = 0
	payload: bytes = b""
	transport_offset: int = 0


def parse(frame, verify=True):
	"""
	Take a frame apart. With @verify the lengths and every checksum in it must be right, else AssertionError.
	"""
	destination, source, (ethertype,) = frame[:6], frame[6:12], struct.unpack(">H", frame[12:14])
	offset, vlan = 14, -1
	if ethertype == ETHERTYPE_VLAN:
		vlan, ethertype = struct.unpack(">HH", frame[14:18])
		offset = 18
	if ethertype == ETHERTYPE_IPV4:
		length = (frame[offset] & 15) * 4
		total, identification = struct.unpack(">HH", frame[offset + 2:offset + 6])
		protocol = frame[offset + 9]
		addresses = frame[offset + 12:offset + 16], frame[offset + 16:offset + 20]
		assert not verify or checksum(frame[offset:offset + length]) == 0, "IPv4 header checksum is wrong"
	elif ethertype == ETHERTYPE_IPV6:
		length, identification = 40, 0
		total, protocol = struct.unpack(">HB", frame[offset + 4:offset + 7])
		total += 40
		addresses = frame[offset + 8:offset + 24], frame[offset + 24:offset + 40]
	else:
		return Parsed(destination, source, ethertype, vlan, payload=frame[offset:])
	assert not verify or offset + total <= len(frame), f"IP length {total} in a frame of {len(frame)}"
	version = 4 if ethertype == ETHERTYPE_IPV4 else 6
	segment, where = frame[offset + length:offset + total], offset + length
	common = (destination, source, ethertype, vlan, version, protocol, identification)
	if protocol not in (TCP, UDP):
		return Parsed(*common, payload=segment, transport_offset=where)
	if verify:
		pseudo = pseudo_header(*(str(ipaddress.ip_address(address)) for address in addresses), protocol, len(segment))
		assert checksum(segment, fold(pseudo)) == 0, "transport checksum is wrong"
	if protocol == UDP:
		assert not verify or struct.unpack(">H", segment[4:6])[0] == len(segment), "UDP length is wrong"
		return Parsed(*common, payload=segment[8:], transport_offset=where)
	head = (segment[12] >> 4) * 4
	sequence = struct.unpack(">I", segment[4:8])[0]
	return Parsed(*common, sequence, segment[13], segment[head:], where)
