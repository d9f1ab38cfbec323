#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Adds up the results of the test suites: tests/summary.py FOLDER SUITE...

For each suite FOLDER holds SUITE.status (how its runner ended: 0, another exit status, or a word for what could not be
made) and SUITE.xml (JUnit) or SUITE.meson (meson's log), and where it is known beforehand SUITE.expected: the names of
its tests. A test that ran out of time or did not report has failed. A suite that did not run, or whose runner failed
without naming a test, counts as one failure. The last line is "N passed, N failed, N skipped"; the exit status is 1 if
any failed.
"""
import json
import signal
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path


def name_of(case):
	parts = (case.get("classname", ""), case.get("name", "?"))
	return "::".join(part for part in parts if part)


def junit_cases(path):
	"""Yields (name, outcome, reason) of each test case; outcome is "passed", "failed" or "skipped"."""
	for case in ElementTree.parse(path).getroot().iter("testcase"):
		bad = case.find("failure")
		if bad is None:
			bad = case.find("error")
		skipped = case.find("skipped")
		if bad is not None:
			message = (bad.get("message") or bad.text or "").strip()
			yield name_of(case), "failed", message.splitlines()[0] if message else ""
		elif skipped is not None:
			yield name_of(case), "skipped", skipped.get("message") or "no reason given"
		else:
			yield name_of(case), "passed", ""


def how_it_failed(test):
	"""@test: an object of meson's log. cmocka tells of each test as it begins; the last of them is the one."""
	seconds, status = test["duration"], test["returncode"]
	if test["result"] == "TIMEOUT":
		how = f"ran out of time after {seconds:.0f} s"
	elif status < 0:
		how = f"{signal.Signals(-status).name} after {seconds:.0f} s"
	else:
		how = f"{test['result'].lower()}, exit status {status}"
	begun = [line.split()[-1] for line in (test.get("stdout") or "").splitlines() if line.startswith("[ RUN ")]
	said = (test.get("stderr") or "").strip().splitlines()
	return how + (f" in {begun[-1]}" if begun else "") + (f": {said[0]}" if said else "")


def meson_cases(path):
	"""The same of meson's log, one JSON object a line. Its JUnit file takes a test that ran out of time for passed."""
	for line in path.read_text().splitlines():
		test = json.loads(line)
		if test["result"] == "OK":
			yield test["name"], "passed", ""
		elif test["result"] == "SKIP":
			# Its program tells why in the last line that it prints.
			output = (test.get("stdout") or "").strip().splitlines()
			yield test["name"], "skipped", output[-1] if output else "no reason given"
		else:
			yield test["name"], "failed", how_it_failed(test)


def cases_of(folder, suite):
	log = folder / f"{suite}.meson"
	return list(meson_cases(log) if log.exists() else junit_cases(folder / f"{suite}.xml"))


def read_suite(folder, suite):
	"""Return: list of (name, outcome, reason), with a failure of the suite itself where it did not run as it should."""
	status_path, expected_path = folder / f"{suite}.status", folder / f"{suite}.expected"
	status = status_path.read_text().strip() if status_path.exists() else "did not run"
	cases, trouble = [], None
	try:
		cases = cases_of(folder, suite)
	except (OSError, ValueError, ElementTree.ParseError) as error:
		trouble = f"no results ({error})"
	expected = expected_path.read_text().split() if expected_path.exists() else []
	silent = set(expected) - {name for name, _, _ in cases}
	cases += [(name, "failed", "did not report") for name in sorted(silent)]
	if not status.isdigit():
		trouble = f"could not start: {status}"
	elif status == "124":
		trouble = "did not end in time"
	elif not trouble and not cases:
		trouble = "has no tests"
	elif not trouble and status != "0" and not any(outcome == "failed" for _, outcome, _ in cases):
		trouble = f"ended with status {status} though no test failed"
	if trouble:
		cases.append((suite, "failed", trouble))
	return cases


def main():
	folder, suites = Path(sys.argv[1]), sys.argv[2:]
	total = defaultdict(int)
	failures, skips = [], defaultdict(list)

	for suite in suites:
		counts = defaultdict(int)
		for name, outcome, reason in read_suite(folder, suite):
			counts[outcome] += 1
			total[outcome] += 1
			if outcome == "failed":
				failures.append((suite, name, reason))
			elif outcome == "skipped":
				skips[reason].append(f"{suite}: {name}")
		print(f"{suite:<12} {counts['passed']:>5} passed {counts['failed']:>4} failed {counts['skipped']:>4} skipped")

	for reason, names in sorted(skips.items()):
		print(f"\nskipped: {reason}")
		for name in names:
			print(f"  {name}")
	if failures:
		print("\nfailed:")
		for suite, name, reason in failures:
			print(f"  {suite}: {name}" + (f": {reason}" if reason else ""))

	line = f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped"
	(folder / "summary").write_text(line + "\n")
	print(f"\n{line}")
	return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
	sys.exit(main())
