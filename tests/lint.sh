#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
#
# What a reader would stumble over, found without running anything: tests/lint.sh [RESULTS.xml]
#
#	compiler	gcc's warnings as errors, the whole tree
#	clang-tidy	.clang-tidy, the sources of the program
#	shell, python	every script can be parsed
#
# Each is one test. Needs clang-tidy (tools/setup.sh test).

set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

results=${1:-}
log=build/lint.log
failed=0
cases=
mkdir -p build
: >"$log"

# check NAME COMMAND...: one test.
check() {
	local name=$1 output
	shift
	if output=$("$@" 2>&1); then
		echo "ok      $name"
		cases+="<testcase classname=\"lint\" name=\"$name\"/>"
	else
		failed=1
		echo "FAILED  $name; see $log"
		printf '=== %s\n%s\n' "$name" "$output" | tee -a "$log" | grep -E 'error|warning|===' | head -n 20
		cases+="<testcase classname=\"lint\" name=\"$name\"><failure message=\"see $log\"/></testcase>"
	fi
}

compiler() {
	{ [ -f build/lint/build.ninja ] || meson setup --buildtype=release -Dwerror=true -Dservice=false -Dman=disabled build/lint; } &&
		ninja -C build/lint
}

tidy() {
	git ls-files 'src/*.c' | xargs -P "${JOBS:-$(nproc)}" -n 4 clang-tidy --quiet -p build/lint
}

shell() {
	local script
	for script in $(git ls-files '*.sh' .ci/run guest/init); do
		bash -n "$script" || return
	done
}

python() {
	git ls-files '*.py' | xargs /usr/bin/python3 -c 'import ast, sys
for name in sys.argv[1:]:
    ast.parse(open(name).read(), name)'
}

check compiler compiler
check clang-tidy tidy
check shell shell
check python python

[ -z "$results" ] || echo "<testsuites><testsuite name=\"lint\">$cases</testsuite></testsuites>" >"$results"
exit "$failed"
