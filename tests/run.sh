#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Builds and runs every test, and closes with a line "N passed, N failed, N skipped":
#
#	tests/run.sh [SUITE]...
#
# Suites, all of them by default but guest-long, guest-newer and lint (which CI runs, too):
#	unit		unit tests of the release build
#	unit-asan	the same with AddressSanitizer and UndefinedBehaviorSanitizer
#	unit-tsan	what runs on several threads, with ThreadSanitizer
#	fuzz		inputs that once failed, then a short search for new ones (tests/fuzz/run.sh)
#	protocol	an independent vhost-user client against the daemon (AddressSanitizer build)
#	timing		those of them that compare latencies, and run alone
#	guest		real guests under QEMU against the daemon (AddressSanitizer build)
#	guest-long	variants of those: other models (make test-long)
#	guest-newer	emulated devices and virtio under a newer kernel's drivers, Debian 13's (make test-long)
#	tour		what `make run` shows, step by step (release build)
#	lint		warnings as errors, clang-tidy, scripts that can be parsed (tests/lint.sh)
#
# A suite that cannot start counts as a failure. Results and logs: build/test-results/. JOBS=N limits how many compilers
# run at a time.

set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

python=/usr/bin/python3
results=build/test-results
suites=(unit unit-asan unit-tsan fuzz protocol timing guest tour)
known=("${suites[@]}" guest-long guest-newer lint)
# Lint takes minutes and tells a user nothing: by name, and in CI.
[ -z "${CI-}" ] || suites+=(lint)
# Unit tests that make sense with ThreadSanitizer: several threads meet in them.
threaded=(engine engine_wake frame_ring address_table device_queue pci_interrupt intel_threads nvme_error nvme_threads)
# No suite takes that long; something that hangs must not take the others with it.
suite_seconds=3600

case ${1-} in
-h | --help)
	sed -n 's/^# \{0,1\}//; 4,22p' "$0"
	exit 0
	;;
esac
if [ $# -gt 0 ]; then
	for suite in "$@"; do
		[[ " ${known[*]} " == *" $suite "* ]] || {
			echo "tests/run.sh: no suite \"$suite\"; there are: ${known[*]}" >&2
			exit 2
		}
	done
	suites=("$@")
fi

rm -rf "$results"
mkdir -p "$results"

say() {
	printf '\n=== %s (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60))
}

# build NAME [MESON OPTION]...: into build/NAME, once.
declare -A built
build() {
	local name=$1
	shift
	[ -n "${built[$name]-}" ] && return "${built[$name]}"
	say "building build/$name"
	{ [ -f "build/$name/build.ninja" ] || meson setup "$@" "build/$name"; } >"$results/build-$name.log" 2>&1 &&
		ninja ${JOBS:+-j "$JOBS"} -C "build/$name" 2>&1 | tee -a "$results/build-$name.log" |
		grep -E '^FAILED|error:|warning:|^ninja: (no|error)'
	built[$name]=${PIPESTATUS[0]}
	[ "${built[$name]}" = 0 ] || echo "build/$name failed; see $results/build-$name.log"
	return "${built[$name]}"
}

build_release() {
	build release --buildtype=release
}

build_asan() {
	build asan --buildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false -Dservice=false -Dman=disabled
}

build_tsan() {
	build tsan --buildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false -Dservice=false -Dman=disabled
}

# finish SUITE STATUS: note how it ended, for the summary.
finish() {
	echo "$2" >"$results/$1.status"
}

# run_meson SUITE BUILD [TEST]...
run_meson() {
	local suite=$1 log=../$2/meson-logs/testlog.json folder=build/$2 name
	shift 2
	rm -f "$folder/meson-logs/testlog.json"
	# meson passes over names that it does not know.
	meson test -C "$folder" --no-rebuild --list >"$results/list.log" 2>"$results/list.err"
	for name; do
		grep -qx "$name" "$results/list.log" || {
			finish "$suite" "there is no test $name"
			return
		}
	done
	if [ $# -gt 0 ]; then
		printf '%s\n' "$@"
	else
		cat "$results/list.log"
	fi >"$results/$suite.expected"
	timeout "$suite_seconds" meson test -C "$folder" --no-rebuild --print-errorlogs "$@"
	finish "$suite" $?
	# Not a copy: it has the whole environment of each test, too.
	ln -s "$log" "$results/$suite.meson"
}

make_guest() {
	say "guest image"
	guest/build.sh build/guest
}

# run_pytest SUITE FOLDER [OPTION]...
run_pytest() {
	# A test that hangs is named by the stacks of all threads.
	timeout "$suite_seconds" "$python" -m pytest -p no:cacheprovider -q -rs --durations=5 -o faulthandler_timeout=300 \
		--junitxml="$results/$1.xml" "${@:2}" 2>&1 | tee "$results/$1.log"
	finish "$1" "${PIPESTATUS[0]}"
}

# Sanitizers end the program with a status of its own, so that a finding can never look like an expected error. Not
# detect_stack_use_after_return: gcc 12 puts variables of cache line alignment on its fake stacks misaligned.
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=0:exitcode=99
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:exitcode=99
export TSAN_OPTIONS=halt_on_error=0:second_deadlock_stack=1:exitcode=99

for suite in "${suites[@]}"; do
	case $suite in
	unit)
		build_release || { finish "$suite" build; continue; }
		say "unit tests"
		run_meson "$suite" release
		;;
	unit-asan)
		build_asan || { finish "$suite" build; continue; }
		say "unit tests with AddressSanitizer"
		run_meson "$suite" asan
		;;
	unit-tsan)
		build_tsan || { finish "$suite" build; continue; }
		say "unit tests with ThreadSanitizer"
		run_meson "$suite" tsan "${threaded[@]}"
		;;
	fuzz)
		say "fuzz targets"
		# Always the same search: what is new is looked for by make fuzz.
		SEED=1 RESULTS=$PWD/$results/$suite.xml timeout "$suite_seconds" tests/fuzz/run.sh 6
		finish "$suite" $?
		;;
	protocol)
		build_asan || { finish "$suite" build; continue; }
		# They wait more than they work, each for its own daemon: two at a time.
		say "protocol tests"
		SIDECORE=$PWD/build/asan/sidecore run_pytest "$suite" tests/protocol -m "not alone" -n 2 --dist loadgroup
		;;
	timing)
		build_asan || { finish "$suite" build; continue; }
		say "timing tests"
		SIDECORE=$PWD/build/asan/sidecore run_pytest "$suite" tests/protocol -m alone
		;;
	guest | guest-long)
		build_asan || { finish "$suite" build; continue; }
		make_guest || { finish "$suite" "guest image"; continue; }
		# Without it, the tests that need it are skipped by name.
		say "newer QEMU"
		tools/qemu.sh build/qemu || echo "going on without a newer QEMU"
		say "guest tests"
		# Guests wait for each other, too: two files of tests at a time. Long ones are as busy as the machine allows.
		which=(-m "not long" -n 2 --dist loadfile)
		[ "$suite" = guest ] || which=(-m long)
		SIDECORE=$PWD/build/asan/sidecore run_pytest "$suite" tests/guest "${which[@]}"
		;;
	guest-newer)
		build_asan || { finish "$suite" build; continue; }
		guest/build.sh build/guest-trixie trixie && tools/qemu.sh build/qemu || {
			finish "$suite" "guest image or QEMU"
			continue
		}
		say "guest tests with a newer kernel"
		SIDECORE_GUEST_SUITE=trixie SIDECORE=$PWD/build/asan/sidecore run_pytest "$suite" \
			tests/guest/test_{nvme,intel_nics,receive_coalescing,power,firmware,disk,network}.py -m "not long"
		;;
	tour)
		build_release || { finish "$suite" build; continue; }
		make_guest || { finish "$suite" "guest image"; continue; }
		say "the tour of make run"
		timeout "$suite_seconds" build/release/sidecore run --json "$results/tour.json"
		finish "$suite" $?
		"$python" tests/tour_junit.py "$results/tour.json" "$results/$suite.xml"
		;;
	lint)
		say "lint"
		timeout "$suite_seconds" tests/lint.sh "$results/$suite.xml"
		finish "$suite" $?
		;;
	esac
done

say "summary"
exec "$python" tests/summary.py "$results" "${suites[@]}"
