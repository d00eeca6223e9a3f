"""Filesystems that this machine does not have, as far as the mount table tells; and no settings but the test's."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from interlock import _choice, _target
from interlock._fs import settings
from interlock._wait import mounts
from interlock.engines import kernel

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

AROUND = "22 1 254:1 / / rw,relatime - ext4 /dev/vda rw\n"


class Places:
    """Say of a directory what is mounted there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._lines = AROUND
        monkeypatch.setattr(kernel, "_engines", {})
        for name in (settings.VARIABLE, settings.CONFIG):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
        monkeypatch.setattr(settings, "SYSTEM", "/nonexistent/interlock.conf")
        self.forget()

    def mount(self, path: Path | str, fstype: str, options: str = "rw") -> None:
        self._lines += f"99 22 0:99 / {os.path.realpath(path)} rw - {fstype} server:/export {options}\n"
        lines = self._lines
        self._patch.setattr(mounts, "open", lambda *_, **__: io.StringIO(lines), raising=False)
        self.forget()

    def say(self, text: str) -> None:
        self._patch.setenv(settings.VARIABLE, text)
        self.forget()

    def forget(self) -> None:
        """As a process that was just started."""
        self._patch.setattr(mounts, "_local", {})
        self._patch.setattr(_target, "_settings", None)
        self._patch.setattr(_choice, "_chosen", {})
        self._patch.setattr(_choice, "_said", set())
        self._patch.setattr(settings, "_loaded", None)
