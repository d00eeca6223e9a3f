"""For pytest under coverage: each test is a context, what it took is noted, and children may write down what they ran.

A member of a crew is killed at the end of its test, and with it what it counted: here it is let go first. A member that
a test kills counts nothing: what only such ones run is reported as not covered.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interlock.testing.conformance.crew import Member

TIMES = "INTERLOCK_TEST_TIMES"


def pytest_collection_finish() -> None:
    """Not before: pytest is to rewrite the module's asserts."""
    from interlock.testing.conformance.crew import Member

    kill = Member.close

    def let_go(member: Member) -> None:
        if member.process.is_alive():
            member._connection.close()  # at this its main loop ends
            if sys.platform != "win32":
                os.kill(member.pid, signal.SIGCONT)
            member.process.join(2.0)
        kill(member)

    Member.close = let_go  # type: ignore[method-assign, assignment]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    running = coverage.Coverage.current()
    if running is not None:
        running.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        if running is not None:
            running.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    with open(os.environ[TIMES], "a", encoding="utf-8") as file:
        file.write(f"{report.duration:.3f}\t{report.outcome}\t{report.when}\t{report.nodeid}\n")
