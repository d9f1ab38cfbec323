#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Makes the test guest out of Debian's own kernel and packages:
#
#	guest/build.sh OUTDIR [SUITE]
#
# With SUITE, the kernel is that of another release of Debian, as trixie or bookworm-backports; the programs are the same.
#
# OUTDIR/vmlinuz	Debian's kernel as packaged
# OUTDIR/vmlinux	the same kernel, already unpacked: boots faster where QEMU emulates the CPU (PVH entry)
# OUTDIR/initrd.img	the whole guest: init, agent, busybox and the few programs below; everything runs from memory
# OUTDIR/contents	kernel version, packages with their versions, modules
#
# How: apt resolves the wanted packages against an *empty* dpkg status, so that the host's own installation plays no
# part; the packages are downloaded (kept in OUTDIR/packages), unpacked without running any of their scripts, and only
# the wanted files with the closure of their libraries and modules go into the initramfs. No root needed.
#
# It is rebuilt when a file of this folder changes, or when Debian's package lists offer other versions. All is made in
# a folder aside and renamed at the end: an interrupted build leaves the old image, or none.

set -euo pipefail

# Programs that go into the guest; anything else comes from busybox. Debian's busybox runs its own applets when it is
# asked for a program of the same name (its ip, its ping), so what starts programs is not busybox's: shell, env, xargs.
packages=(linux-image-amd64 busybox-static dash iproute2 iputils-ping iperf3 fio ethtool tcpdump e2fsprogs util-linux
	coreutils findutils libc-bin socat nvme-cli kexec-tools)
programs=(dash ip tc ss bridge ping iperf3 fio ethtool tcpdump mkfs.ext4 e2fsck lsblk blkdiscard blockdev taskset chrt
	setsid unshare nsenter env nice nohup timeout find xargs getent socat nvme kexec)

# Modules that go into the guest, with what they depend on.
modules=(
	virtio_pci virtio_net virtio_blk virtio_console virtio-rng		# paravirtual
	e1000 e1000e igb igbvf nvme						# what the emulated devices need
	8021q bridge veth dummy tun pktgen					# network
	uio_pci_generic								# for drivers in user space
	sch_netem sch_tbf sch_fq sch_ingress sch_mqprio cls_u32 cls_matchall act_mirred
	ext4 loop null_blk brd							# block
	crc32c_generic crc32c-intel libcrc32c crc16				# ext4 asks for them by their algorithm only
)
# Some of them are parts of others, or gone, in other releases' kernels.
optional_modules='^(crc32c_generic|crc32c-intel|libcrc32c|crc16)$'

# Debian's fio is linked to clients of network storage and RDMA that pull in 60 libraries (90 MB). None is used here:
# the guest gets libraries of the same names and symbols that refuse to be called.
stub_libraries=(libgfapi.so.0 libnbd.so.0 librados.so.2 librbd.so.1 libpmem.so.1 libpmemblk.so.1 librdmacm.so.1
	libibverbs.so.1)

source_dir=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/archive.sh
. "$source_dir/../tools/archive.sh"
started=$SECONDS

say() {
	printf 'guest: %s\n' "$*"
}

die() {
	printf 'guest: error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf 'guest: remedy: %s\n' "$2" >&2
	exit 1
}

need() {
	local command missing=()

	for command in "$@"; do
		command -v "$command" >/dev/null || [ -x "/sbin/$command" ] || [ -x "/usr/sbin/$command" ] ||
			missing+=("$command")
	done
	[ ${#missing[@]} -eq 0 ] || die "not found: ${missing[*]}" "tools/setup.sh run"
}

# --- What the image depends on ---

hash_sources() {
	(cd "$source_dir" && sha256sum -- * && echo "$suite") | sha256sum | cut -d' ' -f1
}

# Changes with every apt-get update that brought something new; cheap, unlike asking apt to resolve.
hash_lists() {
	find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -printf '%f %s %T@\n' 2>/dev/null | sort | sha256sum |
		cut -d' ' -f1
}

apt_options() {
	printf '%s\n' -o "Dir::State::status=$1/status" -o "Dir::State::extended_states=$1/extended_states" \
		-o Debug::NoLocking=1 -o APT::Install-Recommends=false -o APT::Install-Suggests=false \
		-o APT::Sandbox::User= -o Acquire::Retries=3
}

# Prints "package=version" for the wanted packages and the libraries they depend on, sorted.
resolve() {
	local scratch=$1 options unused

	: >"$scratch/status"
	mapfile -t options < <(apt_options "$scratch")
	apt-get "${options[@]}" -s install "${packages[@]}" >"$scratch/simulation" 2>"$scratch/apt.log" || return 1
	# Scripts never run, so interpreters and system packages that only they need stay away; so do the originals of stubs.
	unused='perl|python|icu|gfapi|gfrpc|gfxdr|glusterfs|rados|rbd|boost|ibverbs|rdmacm|pmem'
	sed -nE 's/^Inst ([^ ]+) \(([^ ]+) .*/\1=\2/p' "$scratch/simulation" | sort |
		grep -E "^(lib|zlib1g=|linux-image-[0-9]|$(IFS='|' && echo "${packages[*]/%/=}"))" |
		grep -vE "^(linux-image-${suite:+.*}amd64=|lib($unused)|lib[a-z-]*-perl=)"
}

# Prints "package=version" of the other release's kernel; leaves the package in @scratch/kernel.
fetch_kernel() {
	local scratch=$1 site item

	site=$(archive_site)
	[ -n "$site" ] || { echo "E: no Debian archive in apt's sources" >"$scratch/apt.log" && return 1; }
	mkdir -p "$scratch/kernel"
	archive_configure "$scratch/apt" "$site" "${suite%-backports}" "$suite"
	(
		export APT_CONFIG=$scratch/apt/apt.conf
		apt-get -qq update || { sleep 3 && apt-get -qq update; } || exit 1
		item=$(apt-get -s install linux-image-amd64 | sed -nE 's/^Inst (linux-image-[0-9][^ ]*) \(([^ ]+) .*/\1=\2/p')
		[ -n "$item" ] || exit 1
		cd "$scratch/kernel" && apt-get -qq download "$item" && echo "$item"
	) 2>"$scratch/apt.log"
}

update_lists() {
	[ "$(id -u)" = 0 ] || die "apt's package lists are missing or out of date" "run: sudo apt-get update"
	say "updating apt's package lists"
	apt-get update -qq || { sleep 3 && apt-get update -qq; } ||
		die "apt-get update failed" "check /etc/apt/sources.list* and the network"
}

# --- Steps of the build ---

download() {
	local out=$1 scratch=$2 options missing=() item name keep

	mkdir -p "$out/packages"
	mapfile -t options < <(apt_options "$scratch")
	while read -r item; do
		# apt names files with the epoch's colon escaped.
		name=${item%%=*}_${item#*=}
		compgen -G "$out/packages/${name//:/%3a}_*.deb" >/dev/null || missing+=("$item")
	done <"$scratch/resolved"
	if [ ${#missing[@]} -gt 0 ]; then
		say "downloading ${#missing[@]} packages"
		mkdir -p "$scratch/download"
		(cd "$scratch/download" && apt-get "${options[@]}" -qq download "${missing[@]}") || return 1
		mv "$scratch/download"/*.deb "$out/packages/"
	fi
	# Forget versions that are no longer used.
	for item in "$out/packages"/*.deb; do
		keep=${item##*/} && keep=${keep%_*} && keep=${keep//%3a/:}
		grep -qxF "${keep%%_*}=${keep#*_}" "$scratch/resolved" || rm -f "$item"
	done
}

unpack() {
	local out=$1 root=$2 deb

	say "unpacking"
	mkdir -p "$root"
	for deb in "$out/packages"/*.deb "${@:3}"; do
		case $deb in
		*/linux-image-*) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --exclude=./usr/share ;;
		*) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --no-same-owner --exclude=./usr/share ;;
		esac
	done
	# Where newer releases have them.
	[ -d "$root/lib/modules" ] || mv "$root/usr/lib/modules" "$root/lib/"
}

# The kernel inside a bzImage: where it lies is written in the boot header (Linux Documentation/arch/x86/boot.rst).
unpack_kernel() {
	local image=$1 kernel=$2 sectors offset length magic unpacker

	sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$image")
	offset=$(od -An -tu4 -j $((0x248)) -N4 "$image")
	length=$(od -An -tu4 -j $((0x24c)) -N4 "$image")
	offset=$(((sectors + 1) * 512 + offset))
	magic=$(od -An -tx1 -j "$offset" -N4 "$image" | tr -d ' ')
	case $magic in
	fd377a58) unpacker="xz -dc --single-stream" ;;
	28b52ffd) unpacker="zstd -dcq" ;;
	1f8b*) unpacker="gzip -dc" ;;
	*) die "$image: unknown compression ($magic)" ;;
	esac
	# The unpacker may dislike the 4 bytes of length that follow the data; what counts is that an ELF file came out.
	tail -c +$((offset + 1)) "$image" | head -c $((length - 4)) | $unpacker >"$kernel" || true
	[ "$(head -c 4 "$kernel" | tr -d '\177')" = ELF ] || die "$image: no kernel found in it"
}

library_path() {
	local root=$1 name=$2 dir

	for dir in lib/x86_64-linux-gnu usr/lib/x86_64-linux-gnu lib usr/lib; do
		[ -e "$root/$dir/$name" ] && { printf '%s\n' "$root/$dir/$name" && return; }
	done
	return 1
}

needed() {
	readelf -d "$1" 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
}

# Copies libraries that the files already in the guest need, until none is missing.
add_libraries() {
	local root=$1 guest=$2 todo=("${@:3}") file name path

	while [ ${#todo[@]} -gt 0 ]; do
		file=${todo[0]} && todo=("${todo[@]:1}")
		for name in $(needed "$file"); do
			[ -e "$guest/lib/$name" ] && continue
			path=$(library_path "$root" "$name") || die "${file##*/} needs $name, which no package of the list has"
			cp -L "$path" "$guest/lib/$name"
			todo+=("$guest/lib/$name")
		done
	done
}

# Libraries with fio's undefined symbols of each stub's symbol version. Those without a version are Ceph's (rados, rbd).
add_stubs() {
	local fio=$1 guest=$2 scratch=$3 library versions

	readelf -W --dyn-syms "$fio" | awk '$7 == "UND" && $8 != "" { sub(/@/, " ", $8); print $8, $5 }' >"$scratch/symbols"
	readelf -W -V "$fio" | awk '/ File: / { file = $5 } / Name: / { print file, $3 }' >"$scratch/versions"
	for library in "${stub_libraries[@]}"; do
		versions=$(awk -v f="$library" '$1 == f { print $2 }' "$scratch/versions")
		{
			printf '#include <unistd.h>\n'
			printf 'static const char text[] = "%s is not part of this guest\\n";\n' "$library"
			printf 'static void refuse(void) { write(2, text, sizeof(text) - 1); _exit(127); }\n'
			# Lines of the input: name [version] binding
			awk -v versions="$versions" -v library="$library" '
				BEGIN {
					n = split(versions, list, "\n")
					for (i = 1; i <= n; i++)
						mine[list[i]] = 1
					prefix = library == "librbd.so.1" ? "rbd_" : "rados_"
				}
				$NF != "GLOBAL" { next }
				(NF > 2 && $2 in mine) || (NF == 2 && n == 0 && index($1, prefix) == 1) {
					print "void " $1 "(void) { refuse(); }"
				}' "$scratch/symbols" | sort -u
		} >"$scratch/stub.c"
		: >"$scratch/stub.map"
		for version in $versions; do
			awk -v v="$version" 'BEGIN { print v " { global:" } NF > 2 && $2 == v { print "\t" $1 ";" } END { print "};" }' \
				"$scratch/symbols" >>"$scratch/stub.map"
		done
		gcc -w -O1 -fPIC -shared -Wl,-soname="$library" ${versions:+-Wl,--version-script="$scratch/stub.map"} \
			-o "$guest/lib/$library" "$scratch/stub.c" || die "cannot build the stub of $library"
	done
}

add_programs() {
	local root=$1 guest=$2 scratch=$3 program path file applet paths=()

	for program in "${programs[@]}"; do
		path=
		for file in "$root"/{usr/bin,usr/sbin,bin,sbin}/"$program"; do
			[ ! -e "$file" ] || { path=$file && break; }
		done
		[ -n "$path" ] || die "no package of the list has $program"
		cp -L "$path" "$guest/bin/$program"
		paths+=("$guest/bin/$program")
	done
	cp "$root/bin/busybox" "$guest/bin/busybox"
	ln -s dash "$guest/bin/sh"
	for applet in $("$guest/bin/busybox" --list); do
		[ -e "$guest/bin/$applet" ] || ln -s busybox "$guest/bin/$applet"
	done
	add_stubs "$guest/bin/fio" "$guest" "$scratch"
	add_libraries "$root" "$guest" "${paths[@]}"
	cp -L "$root/lib64/ld-linux-x86-64.so.2" "$guest/lib/"
}

add_modules() {
	local root=$1 guest=$2 release=$3 depmod=/sbin/depmod modprobe=/sbin/modprobe module path

	"$depmod" -b "$root" "$release"
	for module in "${modules[@]}"; do
		"$modprobe" -d "$root" -S "$release" --show-depends --ignore-install "$module" ||
			[[ -n $suite && $module =~ $optional_modules ]] || die "the kernel has no module $module"
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u | while read -r path; do
		path=lib/modules/${path#*/lib/modules/}
		mkdir -p "$guest/${path%/*}"
		cp "$root/$path" "$guest/$path"
		case $path in *.xz) xz -d "$guest/$path" ;; esac
	done
	cp "$root/lib/modules/$release"/modules.{builtin,builtin.modinfo,order} "$guest/lib/modules/$release/"
	"$depmod" -b "$guest" "$release"
	rm -f "$guest/lib/modules/$release"/modules.{builtin.*,order,*.bin,devname}
}

compile() {
	gcc -O2 -static -std=gnu17 -D_GNU_SOURCE -Wall -Wextra -o "$1" "$2" || die "cannot compile $2" "tools/setup.sh run"
}

assemble() {
	local root=$1 guest=$2 scratch=$3 release=$4 dir

	mkdir -p "$guest"/{bin,lib/modules,dev,proc,sys,run,tmp,root,mnt,etc,var,usr/share/udhcpc}
	for dir in sbin usr/bin usr/sbin; do
		ln -s /bin "$guest/$dir"
	done
	ln -s lib "$guest/lib64"
	ln -s /lib "$guest/usr/lib"
	ln -s /run "$guest/var/run"
	mkdir -p "$guest/lib/modules/$release"

	say "compiling agent and latency helper"
	compile "$guest/bin/agent" "$source_dir/agent.c"
	compile "$guest/bin/rr" "$source_dir/rr.c"
	install -m 0755 "$source_dir/init" "$guest/init"
	install -m 0755 "$source_dir/udhcpc.script" "$guest/usr/share/udhcpc/default.script"
	install -D -m 0755 "$source_dir/udhcpc.script" "$guest/etc/udhcpc/default.script"
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$guest/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$guest/etc/group"
	printf 'hosts: files dns\n' >"$guest/etc/nsswitch.conf"
	ln -s /proc/mounts "$guest/etc/mtab"

	say "adding programs and their libraries"
	add_programs "$root" "$guest" "$scratch"
	say "adding kernel modules"
	add_modules "$root" "$guest" "$release"
	chmod -R u=rwX,go=rX "$guest"
}

write_contents() {
	local guest=$1 release=$2 resolved=$3

	printf 'kernel %s\n' "$release"
	sed 's/^/package /' "$resolved"
	find "$guest/lib/modules" -name '*.ko*' -printf 'module %f\n' | sort
	(cd "$guest" && find bin lib -maxdepth 1 -type f -printf 'file /%p %s\n' | sort)
}

build() {
	local out=$1 scratch=$2 release

	if [ -n "$suite" ]; then
		say "downloading the kernel of $suite"
		fetch_kernel "$scratch" >>"$scratch/resolved" ||
			die "cannot get a kernel of $suite: $(grep -m 1 '^[EW]:' "$scratch/apt.log" || tail -n 1 "$scratch/apt.log")" \
				"check the network and run again"
	fi
	unpack "$out" "$scratch/root" ${suite:+"$scratch"/kernel/*.deb}
	release=$(ls "$scratch/root/lib/modules")
	say "kernel $release"
	mkdir -p "$scratch/image"
	cp "$scratch/root/boot/vmlinuz-$release" "$scratch/image/vmlinuz"
	unpack_kernel "$scratch/image/vmlinuz" "$scratch/image/vmlinux"
	assemble "$scratch/root" "$scratch/guest" "$scratch" "$release"
	say "packing the initramfs"
	(cd "$scratch/guest" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
		cpio --null --create --quiet --format=newc --owner=0:0 --reproducible) >"$scratch/image/initrd.img"
	write_contents "$scratch/guest" "$release" "$scratch/resolved" >"$scratch/image/contents"
}

# --- Main ---

{ [ $# -eq 1 ] || [ $# -eq 2 ]; } || die "usage: guest/build.sh OUTDIR [SUITE]"
mkdir -p "$1"
out=$(cd "$1" && pwd)
suite=${2-}
need apt-get dpkg-deb tar flock sha256sum
exec 9>"$out/.lock"
flock -n 9 || { say "waiting for another build" && flock 9; }

complete() {
	[ -s "$out/vmlinuz" ] && [ -s "$out/vmlinux" ] && [ -s "$out/initrd.img" ] && [ -s "$out/.inputs" ]
}
input() {
	sed -n "s/^$1 //p" "$out/.inputs"
}

sources=$(hash_sources)
lists=$(hash_lists)
if complete && [ "$(input sources)" = "$sources" ] && [ "$(input lists)" = "$lists" ]; then
	say "up to date"
	exit 0
fi

rm -rf "$out"/.build.*
scratch=$(mktemp -d "$out/.build.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "resolving packages"
if ! resolve "$scratch" >"$scratch/resolved"; then
	if complete && [ "$(input sources)" = "$sources" ]; then
		say "up to date as far as one can tell (apt has no package lists)"
		exit 0
	fi
	update_lists
	resolve "$scratch" >"$scratch/resolved" ||
		die "apt cannot resolve the packages: $(head -n 3 "$scratch/apt.log" | tr '\n' ' ')" \
			"check that Debian's main archive is in /etc/apt/sources.list*"
fi

resolved=$(sha256sum <"$scratch/resolved" | cut -d' ' -f1)
if ! complete || [ "$(input sources)" != "$sources" ] || [ "$(input resolved)" != "$resolved" ]; then
	need gcc readelf cpio xz od depmod modprobe awk
	if ! download "$out" "$scratch"; then
		# The lists may name versions that the archive has replaced since.
		update_lists
		resolve "$scratch" >"$scratch/resolved" && download "$out" "$scratch" ||
			die "cannot download the packages" "check the network and run again"
	fi
	resolved=$(sha256sum <"$scratch/resolved" | cut -d' ' -f1)
	build "$out" "$scratch"
	rm -f "$out/.inputs"
	mv "$scratch"/image/* "$out/"
	say "done in $((SECONDS - started)) s: $(cd "$out" && du -h vmlinuz initrd.img | tr '\t\n' '  ')"
else
	say "up to date"
fi
printf 'sources %s\nlists %s\nresolved %s\n' "$sources" "$(hash_lists)" "$resolved" >"$scratch/inputs"
mv "$scratch/inputs" "$out/.inputs"
