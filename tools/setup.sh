#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Installs the Debian 12 packages that sidecore needs, by purpose:
#
#	tools/setup.sh [build|run|test|bench]...	default: build run
#
# Only what is missing is installed; when nothing is, this ends in a moment and touches neither apt nor the network.
# Programs that run inside the guests are not installed here: guest/build.sh unpacks them.

set -euo pipefail

build=(
	gcc libc6-dev make meson ninja-build pkg-config
	liburing-dev libevent-dev libjansson-dev libcyaml-dev libyaml-dev libnbd-dev
	libslirp-dev libglib2.0-dev	# slirp.pc names glib
	scdoc				# manual pages
)
# QEMU and all that guest/build.sh calls; qemu-utils also makes images and serves qcow2.
run=(
	qemu-system-x86 qemu-utils python3
	gcc libc6-dev binutils cpio kmod xz-utils zstd	# the guest's image
	iproute2 iperf3					# the host's ends of the uplink
)
test=(
	libcmocka-dev python3-pytest python3-pytest-xdist
	iproute2 iputils-ping iperf3 socat
	nbdkit libnbd-bin e2fsprogs util-linux tcpdump
	clang clang-tidy libclang-rt-14-dev	# fuzzers, sanitizers, lint
	libasan8 libubsan1 libtsan2		# the sanitizers of gcc
	dpdk-dev qemu-system-common		# front-ends and back-ends of others: dpdk-testpmd, qemu-storage-daemon
	debian-archive-keyring			# tools/qemu.sh
	ovmf ipxe mtools			# firmware of others, and a file system that it reads
)
# The peers: dpdk-testpmd is in dpdk-dev, qemu-storage-daemon in qemu-system-common.
bench=(dpdk-dev fio qemu-system-common qemu-utils)

say() {
	printf 'setup: %s\n' "$*"
}

die() {
	printf 'setup: error: %s\n' "$1" >&2
	printf 'setup: remedy: %s\n' "$2" >&2
	exit 1
}

wanted=()
[ $# -gt 0 ] || set -- build run
for group in "$@"; do
	case $group in
	build) wanted+=("${build[@]}") ;;
	run) wanted+=("${run[@]}") ;;
	test) wanted+=("${test[@]}") ;;
	bench) wanted+=("${bench[@]}") ;;
	-h | --help) sed -n 's/^# \{0,1\}//; 4,9p' "$0" && exit 0 ;;
	*) die "no group '$group'" "tools/setup.sh [build|run|test|bench]..." ;;
	esac
done

# Prints those of its arguments that are not installed. dpkg-query fails when it does not know one: not an error here.
missing_of() {
	local installed

	installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
	printf '%s\n' "$@" | sort -u | grep -vxF -f <(sed -n 's/^installed //p' <<<"$installed") || true
}

command -v dpkg-query >/dev/null || die "this is not a Debian system" \
	"install by your system's means what stands for: ${wanted[*]}"
mapfile -t missing < <(missing_of "${wanted[@]}")
if [ ${#missing[@]} -eq 0 ]; then
	say "nothing missing for: $*"
	exit 0
fi
say "missing for $*: ${missing[*]}"
[ "$(id -u)" = 0 ] || die "installing packages needs root" "sudo tools/setup.sh $*"

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

say "updating package lists"
if ! "${apt[@]}" update >"$log" 2>&1; then
	say "that failed, once more in 5 s"
	sleep 5
	"${apt[@]}" update >"$log" 2>&1 ||
		die "apt-get update: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")" "check the network and /etc/apt/sources.list*"
fi

say "installing ${#missing[@]} packages and what they depend on"
"${apt[@]}" install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 </dev/null ||
	die "apt-get install: $(grep -m 3 '^E:' "$log" | tr '\n' ' ' || tail -n 1 "$log")" \
		"sidecore is made for Debian 12 (bookworm) with its main archive; try: apt-get install ${missing[*]}"

mapfile -t missing < <(missing_of "${wanted[@]}")
[ ${#missing[@]} -eq 0 ] || die "still missing: ${missing[*]}" "apt-get install ${missing[*]}"
say "done"
