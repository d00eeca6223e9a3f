"""A program that has more rights than its caller does not do what the caller's environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if sys.platform != "linux":
    pytest.skip("rights as Linux has them", allow_module_level=True)

from interlock._fs import settings

from ..support import need_root

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import os, sys
from interlock import Lock
from interlock._fs import settings
Lock(sys.argv[1] + "/warm")  # all is loaded: another user may have no way to the files of this interpreter
import ctypes, interlock._choice, interlock._record
settings.forget()
settings.SYSTEM = "/nonexistent"
if sys.argv[2] == "more":
    os.seteuid(65534)
print(settings.trusted(), [each.word for each in settings.load()])
from interlock import _record
_record.begin()
print(_record._recorder is not None)
"""


@pytest.mark.parametrize(("rights", "said"), [("same", ["True ['marker']", "True"]), ("more", ["False []", "False"])])
def test_the_environment_of_a_set_user_id_program_is_not_believed(rights: str, said: list[str], tmp_path: Path) -> None:
    need_root()
    trace = tmp_path / "trace"
    trace.mkdir()
    trace.chmod(0o777)
    environment = {**os.environ, "INTERLOCK_PRIMITIVE": f"{tmp_path}/nowhere=marker", "HOME": "/nonexistent"}
    environment.pop("XDG_CONFIG_HOME", None)
    program = PROGRAM.replace("_record.begin()", f"os.environ['INTERLOCK_TRACE'] = {str(trace)!r}; _record.begin()")
    command = [sys.executable, "-c", program, str(tmp_path), rights]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == said
    assert list(trace.iterdir()) == []  # nothing has happened that could be recorded


def test_secure_execution_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.trusted()
    monkeypatch.setattr(settings, "_secure", lambda: True)
    assert not settings.trusted()
    monkeypatch.setenv(settings.VARIABLE, "marker")
    monkeypatch.setenv(settings.CONFIG, "/nonexistent")
    monkeypatch.setattr(settings, "SYSTEM", "/nonexistent")
    assert settings.load() == []
