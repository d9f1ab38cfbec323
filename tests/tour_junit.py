#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The steps of `sidecore run --json FILE` as JUnit, for tests/summary.py: tests/tour_junit.py FILE.json FILE.xml"""
import json
import sys
import xml.etree.ElementTree as ElementTree

suite = ElementTree.Element("testsuite", name="tour")
with open(sys.argv[1]) as file:
    steps = json.load(file)
for step in steps if isinstance(steps, list) else steps["steps"]:
    case = ElementTree.SubElement(suite, "testcase", classname="tour", name=step["step"])
    if step["result"] != "passed":
        kind = "skipped" if step["result"] == "skipped" else "failure"
        ElementTree.SubElement(case, kind, message=step.get("detail", ""))
ElementTree.ElementTree(suite).write(sys.argv[2])
