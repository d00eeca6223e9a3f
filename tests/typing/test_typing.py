"""The types that users see, on each platform, by mypy. (That the package itself is clean is the linter's business.)"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USAGE = Path(__file__).parent / "usage.py"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def mypy(cache: Path, *args: object) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("mypy") is None:
        reason = "needs mypy"
        if os.environ.get("INTERLOCK_REQUIRE_ALL"):
            pytest.fail(reason + ", and INTERLOCK_REQUIRE_ALL is set")
        pytest.skip(reason)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_public_names(cache: Path, platform: str) -> None:
    answer = mypy(cache, "--platform", platform, USAGE)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_changed_promise_is_noticed(cache: Path, tmp_path: Path) -> None:
    text = USAGE.read_text(encoding="utf-8")
    wrong = text.replace("assert_type(lock.try_acquire(), Hold | None)", "assert_type(lock.try_acquire(), Hold)")
    wrong = wrong.replace('Lock("x.lock", blocking=False)', 'Lock("x.lock")')
    assert wrong != text
    planted = tmp_path / "planted.py"
    planted.write_text(wrong, encoding="utf-8")
    answer = mypy(cache, planted)
    assert answer.returncode == 1
    assert "[assert-type]" in answer.stdout
    assert "[unused-ignore]" in answer.stdout
