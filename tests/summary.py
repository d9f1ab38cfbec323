#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Adds up the results of the test suites: tests/summary.py FOLDER SUITE...

For each suite FOLDER holds SUITE.status (how its runner ended: 0, another exit status, or a word for what could not be
made) and SUITE.xml (JUnit, of meson or pytest). A suite that did not run, or whose runner failed without naming a
test, counts as one failure. The last line is "N passed, N failed, N skipped"; the exit status is 1 if any failed.
"""
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path


def name_of(case):
	parts = (case.get("classname", ""), case.get("name", "?"))
	return "::".join(part for part in parts if part)


def reason_of(case, skipped):
	"""pytest tells in an attribute; of a program that meson ran, the last line it printed has to do."""
	if skipped.get("message"):
		return skipped.get("message")
	output = (case.findtext("system-out") or "").strip().splitlines()
	return output[-1] if output else "no reason given"


def cases_of(path):
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
			yield name_of(case), "skipped", reason_of(case, skipped)
		else:
			yield name_of(case), "passed", ""


def read_suite(folder, suite):
	"""Return: list of (name, outcome, reason), with a failure of the suite itself where it did not run as it should."""
	status_path, results_path = folder / f"{suite}.status", folder / f"{suite}.xml"
	status = status_path.read_text().strip() if status_path.exists() else "did not run"
	cases, trouble = [], None
	try:
		cases = list(cases_of(results_path))
	except (OSError, ElementTree.ParseError) as error:
		trouble = f"no results ({error})"
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
