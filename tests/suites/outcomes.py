"""A plugin of pytest: leaves out what is listed, and writes each test's outcome, a line for each, for tools/suites to compare.

Knows pytest; is told where to look by SUITE_EXCLUDED and SUITE_OUTCOMES.
"""
import os

import house

worst = {}
RANK = ["skipped", "passed", "failed"]


def pytest_collection_modifyitems(config, items):
    excluded = house.expected(os.environ["SUITE_EXCLUDED"])
    out = [item for item in items if any(matches(item.nodeid, name) for name in excluded)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


def matches(node, name):
    """A whole test, or all in a file or class."""
    return node == name or node.startswith((f"{name}::", f"{name}["))


def pytest_runtest_logreport(report):
    outcome = report.outcome
    if hasattr(report, "wasxfail"):
        outcome = "skipped" if outcome == "skipped" else "passed"
    if report.when != "call" and outcome == "passed":
        return
    before = worst.get(report.nodeid)
    if before is None or RANK.index(outcome) > RANK.index(before):
        worst[report.nodeid] = outcome


def pytest_runtest_logfinish(nodeid):
    # At once: a run that is cut off has said what it got to.
    if nodeid in worst:
        with open(os.environ["SUITE_OUTCOMES"], "a") as sink:
            print(worst[nodeid], nodeid, sep="\t", file=sink)
