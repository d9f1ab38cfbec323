#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# Builds the fuzz targets (clang, AddressSanitizer, UndefinedBehaviorSanitizer) and runs them, two at a time:
#
#	tests/fuzz/run.sh [SECONDS [TARGET]...]
#
# SECONDS is for each target, 60 by default. Each first replays the inputs of tests/fuzz/crashes/TARGET, which once
# failed, and its seeds, then looks for new ones from there. What a run learns is kept in build/fuzz/corpus/TARGET for
# the next; an input that fails is written to build/fuzz/crashes/TARGET: once its cause is found and gone, it goes into
# tests/fuzz/crashes/TARGET. One line a target: speed, coverage features, failures. The exit status is 1 if any
# failed.
#
# RESULTS=FILE: write JUnit results there, too (tests/run.sh). JOBS=N: two, unless told otherwise.

set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

seconds=${1:-60}
shift
build=build/fuzz
jobs=${JOBS:-2}
targets=("$@")
[[ $seconds =~ ^[0-9]+$ ]] || {
	sed -n 's/^# \{0,1\}//; 4,15p' "$0"
	exit 2
}
all=()
for file in tests/fuzz/*_fuzz.c; do
	file=${file##*/}
	all+=("${file%_fuzz.c}")
done
[ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")
for target in "${targets[@]}"; do
	[[ " ${all[*]} " == *" $target "* ]] || {
		echo "tests/fuzz/run.sh: no target \"$target\"; there are: ${all[*]}" >&2
		exit 2
	}
done

build_targets() {
	[ -f $build/build.ninja ] ||
		CC=clang meson setup $build --buildtype=debugoptimized -Doptimization=1 -Dfuzz=true \
			-Db_sanitize=address,undefined -Db_lundef=false -Dservice=false -Dman=disabled || return
	ninja -j "$jobs" -C $build fuzzers
}
mkdir -p $build.logs
if ! build_targets >$build.logs/build.log 2>&1; then
	grep -E 'error|ERROR|FAILED' $build.logs/build.log
	echo "tests/fuzz/run.sh: the fuzz targets do not build; see $build.logs/build.log" >&2
	exit 1
fi

export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1:handle_sigbus=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

# run_target TARGET: replay, then search; its line goes to standard output, all else into its log.
run_target() {
	local target=$1 program=$PWD/$build/tests/fuzz/${1}_fuzz log=$PWD/$build.logs/$1.log
	local status replay=() speed features
	local corpus=$PWD/$build/corpus/$1 crashes=$PWD/$build/crashes/$1 seeds=$PWD/$build/seeds/$1 dictionary=()

	mkdir -p "$corpus" "$crashes" "$seeds"
	/usr/bin/python3 tests/fuzz/make_seeds.py "$target" "$seeds" || return 1
	[ ! -f "tests/fuzz/$target.dict" ] || dictionary=("-dict=$PWD/tests/fuzz/$target.dict")
	mapfile -t replay < <(find "tests/fuzz/crashes/$target" "$seeds" -type f 2>>"$log.find" | sort)
	: >"$log"
	status=0
	if [ ${#replay[@]} -gt 0 ]; then
		"$program" -timeout=5 -artifact_prefix="$crashes/" "${replay[@]}" >"$log" 2>&1
		status=$?
	fi
	[ $status -ne 0 ] || {
		"$program" ${SEED:+-seed="$SEED"} -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -max_len=4096 -len_control=20 \
			-print_final_stats=1 -artifact_prefix="$crashes/" "${dictionary[@]}" "$corpus" "$seeds" >>"$log" 2>&1
		status=$?
	}
	speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log" | tail -1)
	features=$(sed -n 's/^#.* ft: \([0-9]*\).*/\1/p' "$log" | tail -1)
	printf '%-12s %3d inputs replayed, %7s execs/s, %6s features, %s\n' "$target" ${#replay[@]} "${speed:--}" \
		"${features:--}" "$([ $status = 0 ] && echo "no failure" || echo "FAILED (status $status): see $log")"
	[ $status = 0 ] ||
		grep -m 3 -E '_fuzz\.c:[0-9]+: |fuzz_[a-z]*\.c:[0-9]+: |^SUMMARY|runtime error' "$log" | sed 's/^/    /'
	echo "$status" >"$build.logs/$target.status"
	return $status
}

failed=0
running=0
rm -f $build.logs/*.status
for target in "${targets[@]}"; do
	if [ $running -ge "$jobs" ]; then
		wait -n || failed=1
		running=$((running - 1))
	fi
	run_target "$target" &
	running=$((running + 1))
done
while [ $running -gt 0 ]; do
	wait -n || failed=1
	running=$((running - 1))
done

if [ -n "${RESULTS-}" ]; then
	{
		echo '<testsuites><testsuite name="fuzz">'
		for target in "${targets[@]}"; do
			echo "<testcase classname=\"fuzz\" name=\"$target\">"
			[ "$(cat "$build.logs/$target.status" 2>&1)" = 0 ] ||
				echo "<failure message=\"see $build.logs/$target.log\"/>"
			echo '</testcase>'
		done
		echo '</testsuite></testsuites>'
	} >"$RESULTS"
fi
exit $failed
