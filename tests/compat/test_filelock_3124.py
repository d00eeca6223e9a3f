"""filelock 3.12.4's own test suite, run against the alias: every test that passes with filelock passes with interlock.

The suite is fetched when the test runs; nothing of it is kept here.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from .environments import Environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VERSION = "3.12.4"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, Path]:
    """The environment with the suite's tools, and the unpacked source distribution."""
    base = tmp_path_factory.mktemp("filelock")
    environment = Environment(base / "environment")
    environment.pip("install", "pytest", "pytest-mock", "pytest-timeout")
    environment.pip("download", "--no-deps", "--no-binary", "filelock", "-d", str(base), f"filelock=={VERSION}")
    with tarfile.open(base / f"filelock-{VERSION}.tar.gz") as archive:
        archive.extractall(base, filter="data")
    return environment, base / f"filelock-{VERSION}"


def outcomes(environment: Environment, source: Path, report: Path) -> dict[str, str]:
    """Run the suite against the `filelock` that the environment has; the outcome of each test."""
    subprocess.run(
        [environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "tests"],
        cwd=source,
        # The directory above has a src/filelock, which must not be imported.
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))},
        capture_output=True,
        timeout=300,
    )
    found = {}
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = next((kind for kind in ("failure", "error", "skipped") if kind in kinds), "passed")
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def test_the_suite_passes_whole(suite: tuple[Environment, Path], tmp_path: Path) -> None:
    environment, source = suite
    environment.pip("install", "--no-deps", f"filelock=={VERSION}")
    real = outcomes(environment, source, tmp_path / "real.xml")
    passing = {test for test, outcome in real.items() if outcome == "passed"}
    assert len(passing) > 60, real
    environment.pip("uninstall", "-y", "filelock")
    environment.with_interlock()
    alias = outcomes(environment, source, tmp_path / "alias.xml")
    assert {test: alias.get(test) for test in passing if alias.get(test) != "passed"} == {}


def test_the_distribution_is_what_dependents_ask_for(suite: tuple[Environment, Path]) -> None:
    environment, _ = suite
    environment.with_interlock()
    script = (
        "import importlib.metadata as m, filelock, filelock._api, filelock.asyncio, interlock.filelock as f\n"
        "from filelock.version import version\n"
        "assert filelock is f and filelock.FileLock is f.FileLock\n"
        "assert filelock.version == version == filelock.__version__ == m.version('filelock').split('+')[0]\n"
        "assert filelock._api.BaseFileLock is f.BaseFileLock\n"
        "assert filelock.asyncio.AsyncUnixFileLock is f.AsyncUnixFileLock\n"
    )
    subprocess.run([environment.python, "-c", script], check=True, timeout=60)
    subprocess.run([environment.python, "-m", "pip", "check"], check=True, timeout=60, capture_output=True)
