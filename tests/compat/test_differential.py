"""filelock 4.2.11 and interlock run one script (`tests.compat.both`); what they do is compared name by name.

Where they differ on purpose, the difference stands here with its reason, and in docs/filelock-differences.md.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
VERSION = "4.2.11"

NAMES = [
    "AcquireReturnProxy", "AsyncAcquireReadWriteReturnProxy", "AsyncAcquireReturnProxy",
    "AsyncAcquireSoftReadWriteReturnProxy", "AsyncFileLock", "AsyncReadWriteLock", "AsyncSoftFileLease",
    "AsyncSoftFileLock", "AsyncSoftReadWriteLock", "AsyncStrictSoftFileLock", "AsyncUnixFileLock",
    "AsyncWindowsFileLock", "BaseAsyncFileLock", "BaseFileLock", "CloseErrorPolicy", "CompromiseReason",
    "ContextErrorPolicy", "FileLock", "LeaseCompromise", "LeaseSettingsMismatch", "LockOptions", "MarkerSoftFileLock",
    "OwnerMode", "OwnerRecord", "ReadWriteLock", "SoftFileLease", "SoftFileLock", "SoftFileLockLifetimeWarning",
    "SoftFileLockProtocolError", "SoftReadWriteLock", "StrictSoftFileClaim", "StrictSoftFileClaimState",
    "StrictSoftFileLock", "Timeout", "UnixFileLock", "WindowsFileLock", "__version__", "asyncio", "has_fcntl",
    "lock_descriptor", "unlock_descriptor",
]  # fmt: skip

SAME_ERROR_OTHER_WORDS = {
    r"contention/cancelled.*|async_life/cancelled": "a cancel says that it is one",
    r"async_life/sync (enter|exit)": "own words",
    r"bad_paths/link": "says what stands there, not what the kernel calls it",
    r"options/unknown": "names the function that refuses",
    r"read_write/(negative|nan|other thread)": "own words",
    r"lease/.*": "own words",
}
"""Where only the text of an error may differ; its type may not."""

ANOTHER_RESULT = {
    r"\w*SoftFile(Lock|Lease)/bad_paths/link": "a symbolic link is refused at once; filelock takes it for a held lock",
    r"StrictSoftFileLock/bad_paths/path .*": "a directory is refused in the words of all other kinds",
    r"\w+/async_life/waiting": "lock_counter counts holds; filelock counts an acquire that still waits",
}


def run(which: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.compat.both", which],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        installed = importlib.metadata.version("filelock")
    except importlib.metadata.PackageNotFoundError:
        installed = "none"
    if installed != VERSION:
        reason = f"needs filelock {VERSION} in this environment, not {installed}"
        if os.environ.get("INTERLOCK_REQUIRE_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    return run("filelock"), run("interlock")


def differences(path: str, real: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(real, dict) and isinstance(ours, dict):
        for key in {**real, **ours}:
            yield from differences(f"{path}/{key}", real.get(key, "absent"), ours.get(key, "absent"))
    elif real != ours and not _allowed(path, real, ours):
        yield path, real, ours


def _allowed(path: str, real: Any, ours: Any) -> bool:
    if any(re.fullmatch(pattern, path) for pattern in ANOTHER_RESULT):
        return True
    rest = path.partition("/")[2]
    return _without_words(real) == _without_words(ours) and any(
        re.fullmatch(pattern, rest) for pattern in SAME_ERROR_OTHER_WORDS
    )


def _without_words(seen: Any) -> Any:
    """What was seen, errors without their texts."""
    if not isinstance(seen, list):
        return seen
    if seen[:1] == ["raises"]:
        return [*seen[:2], *map(_without_words, seen[3:])]
    return [_without_words(entry) for entry in seen]


@pytest.mark.parametrize("name", NAMES)
def test_does_what_filelock_does(name: str, both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    real, ours = both
    assert real[name], f"the script says nothing about {name}"
    assert [case for case, seen in real[name].items() if "ended by" in seen] == []
    assert list(differences(name, real[name], ours[name])) == []


def test_every_name_is_compared(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    real, ours = both
    assert sorted(NAMES) == sorted(real) == sorted(ours)


def test_every_listed_difference_exists(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    found: list[str] = []

    def walk(path: str, real: Any, ours: Any) -> None:
        if isinstance(real, dict) and isinstance(ours, dict):
            for key in {**real, **ours}:
                walk(f"{path}/{key}", real.get(key), ours.get(key))
        elif real != ours:
            found.append(path)

    walk("", *both)
    for pattern in ANOTHER_RESULT:
        assert any(re.fullmatch(pattern, path[1:]) for path in found), f"no longer differs: {pattern}"
    for pattern in SAME_ERROR_OTHER_WORDS:
        assert any(re.fullmatch(pattern, path[1:].partition("/")[2]) for path in found), f"no longer differs: {pattern}"
