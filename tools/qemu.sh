#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Unpacks a newer QEMU than Debian 12 has, out of Debian's own archive, next to the system and without touching it:
#
#	tools/qemu.sh OUTDIR
#
# OUTDIR/qemu-system-x86_64	a wrapper: run it like QEMU
# OUTDIR/root			QEMU, its firmware and all the libraries that it needs, the C library included
# OUTDIR/version		what it says of itself
#
# How: apt with a state folder, package lists and an empty dpkg status of its own resolves and downloads QEMU from
# trixie-backports, from the mirror that this machine uses for Debian. None of the packages' scripts is run. The wrapper
# starts QEMU through the dynamic loader of the same root, so neither chroot nor root privileges are needed.
#
# It is made once; to look for a newer QEMU, remove OUTDIR. All is made in a folder aside and renamed at the end: an
# interrupted run leaves nothing that looks complete.

set -euo pipefail

release=trixie
suite=trixie-backports
packages=(qemu-system-x86 qemu-system-data seabios ipxe-qemu)
# Which of the resolved packages are unpacked: firmware, QEMU and libraries; not what only their scripts need.
unpacked='^(qemu-|seabios|ipxe-qemu|lib|zlib1g)'
# shellcheck source=tools/archive.sh
. "$(dirname "${BASH_SOURCE[0]}")/archive.sh"

started=$SECONDS

say() {
	printf 'qemu: %s\n' "$*"
}

die() {
	printf 'qemu: error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf 'qemu: remedy: %s\n' "$2" >&2
	exit 1
}

# Prints "package=version" of what is to be unpacked.
resolve() {
	apt-get -s install "${packages[@]}" | sed -nE 's/^Inst ([^ ]+) \(([^ ]+) .*/\1=\2/p' | grep -E "$unpacked" | sort
}

unpack() {
	local folder=$1 root=$2 deb

	for deb in "$folder"/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --no-same-owner --exclude='./usr/share/doc*' \
			--exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./etc' --exclude='./var' ||
			die "cannot unpack ${deb##*/}"
	done
}

# A library that is missing would show only when QEMU loads the module that needs it.
check_libraries() {
	local root=$1 file missing

	for file in "$root/usr/bin/qemu-system-x86_64" "$root"/usr/lib/x86_64-linux-gnu/qemu/accel-*.so; do
		[ -e "$file" ] || continue
		missing=$("$root/$loader" --library-path "$root/$libraries" --list "$file" 2>&1 | grep 'not found' || true)
		[ -z "$missing" ] || die "${file##*/} lacks libraries:${missing//$'\n'/;}"
	done
}

loader=usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
libraries=usr/lib/x86_64-linux-gnu

# The wrapper finds the root beside itself, so that the folder may be moved.
write_wrapper() {
	cat >"$1" <<-END
		#!/bin/sh
		# Made by tools/qemu.sh.
		root=\$(dirname "\$(readlink -f "\$0")")/root
		export QEMU_MODULE_DIR="\$root/$libraries/qemu"
		exec "\$root/$loader" --library-path "\$root/$libraries" --argv0 qemu-system-x86_64 \\
			"\$root/usr/bin/qemu-system-x86_64" -L "\$root/usr/share/qemu" -L "\$root/usr/share/seabios" \\
			-L "\$root/usr/lib/ipxe/qemu" "\$@"
	END
	chmod 755 "$1"
}

# Starts a machine and ends it by its monitor: accelerator, firmware and a virtio device's ROM are all found.
check_qemu() {
	printf '%s\n' '{"execute":"qmp_capabilities"}' '{"execute":"quit"}' |
		timeout 30 "$1" -nodefaults -no-user-config -display none -machine q35,accel=tcg -cpu max -m 64 -S \
			-netdev user,id=n -device virtio-net-pci,netdev=n -qmp stdio >"$2" 2>&1
}

# --- Main ---

[ $# -eq 1 ] || die "usage: tools/qemu.sh OUTDIR"
case $1 in -*) die "usage: tools/qemu.sh OUTDIR" ;; esac
for command in apt-get dpkg-deb tar flock; do
	command -v "$command" >/dev/null || die "not found: $command" "this works on Debian and its kin"
done
[ "$(dpkg --print-architecture)" = amd64 ] || die "only for amd64"
mkdir -p "$1"
out=$(cd "$1" && pwd)
exec 9>"$out/.lock"
flock -n 9 || { say "waiting for another run" && flock 9; }

inputs=$(sha256sum <"${BASH_SOURCE[0]}" | cut -d' ' -f1)
if [ -x "$out/qemu-system-x86_64" ] && [ "$(cat "$out/.inputs" 2>/dev/null)" = "$inputs" ]; then
	say "up to date: $(cat "$out/version")"
	exit 0
fi

[ -r "$archive_keyring" ] || die "no $archive_keyring" "apt-get install debian-archive-keyring"
site=$(archive_site)
[ -n "$site" ] || die "this machine's apt sources name no Debian archive" "check /etc/apt/sources.list*"

rm -rf "$out"/.build.*
scratch=$(mktemp -d "$out/.build.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir -p "$scratch"/{apt,packages,root,tmp}
archive_configure "$scratch/apt" "$site" "$release" "$suite"
export APT_CONFIG=$scratch/apt/apt.conf TMPDIR=$scratch/tmp

say "reading the package lists of $suite"
apt-get -qq update >"$scratch/log" 2>&1 || { sleep 3 && apt-get -qq update >"$scratch/log" 2>&1; } ||
	die "apt-get update: $(grep -m 1 '^[EW]:' "$scratch/log" || tail -n 1 "$scratch/log")" \
		"check the network and run again"
resolve >"$scratch/resolved" 2>"$scratch/log" && [ -s "$scratch/resolved" ] ||
	die "apt cannot resolve QEMU: $(tail -n 1 "$scratch/log")"

mapfile -t wanted <"$scratch/resolved"
say "downloading ${#wanted[@]} packages"
(cd "$scratch/packages" && apt-get -qq download "${wanted[@]}") >"$scratch/log" 2>&1 ||
	die "download: $(grep -m 1 '^E:' "$scratch/log" || tail -n 1 "$scratch/log")" "check the network and run again"

say "unpacking"
# Debian's one /usr: lib64 and its like lead there, whatever a package still says.
mkdir -p "$scratch"/root/usr/{bin,lib,lib64,sbin}
for folder in bin lib lib64 sbin; do
	ln -s "usr/$folder" "$scratch/root/$folder"
done
unpack "$scratch/packages" "$scratch/root"
check_libraries "$scratch/root"
write_wrapper "$scratch/qemu-system-x86_64"
check_qemu "$scratch/qemu-system-x86_64" "$scratch/log" || die "QEMU does not start: $(tail -n 3 "$scratch/log")"
"$scratch/qemu-system-x86_64" --version | head -n 1 >"$scratch/version"

rm -rf "$out/root" "$out/.inputs"
mv "$scratch/root" "$scratch/version" "$scratch/qemu-system-x86_64" "$out/"
mv "$scratch/resolved" "$out/contents"
echo "$inputs" >"$out/.inputs"
say "done in $((SECONDS - started)) s: $(cat "$out/version"), $(du -sh "$out/root" | cut -f1)"
