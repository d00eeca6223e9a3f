"""What the user says about places, without touching code: an environment variable and tables in files.

    # /etc/interlock.conf
    /lustre = marker
    /gpfs/home = dual
    /mnt/shared = local          # this host is the only one that mounts it

One line per directory, the longest that contains the lock file wins. The same lines, separated by semicolons, make
`INTERLOCK_PRIMITIVE`; a word alone there is for every path that no line of the variable names. The variable goes
before `~/.config/interlock.conf`, that before `/etc/interlock.conf`; `INTERLOCK_CONFIG` names another file instead of
these two. All is read when the process names its first lock, and holds for its life.

A table that cannot be read is an error, and so is a word that nobody knows: locking in another way than the user
wrote would exclude nobody.
"""

from __future__ import annotations

import os
import sys

from .._errors import SettingError
from .._wait import mounts

WORDS = ("auto", "flock", "dual", "local", "marker")
VARIABLE = "INTERLOCK_PRIMITIVE"
CONFIG = "INTERLOCK_CONFIG"
SYSTEM = "/etc/interlock.conf"


class Setting:
    """One line: which primitive, for which directory (`""`: all), and where it was written."""

    __slots__ = ("directory", "origin", "word")

    def __init__(self, directory: str, word: str, origin: str) -> None:
        self.directory = directory
        self.word = word
        self.origin = origin

    def holds(self, path: str) -> bool:
        above = self.directory
        return not above or path == above or path.startswith(above if above.endswith(os.sep) else above + os.sep)


def trusted() -> bool:
    """May the environment say how to lock? Not in a program that has more rights than its caller, who wrote it: a
    set-user-ID one, or one whose file has capabilities."""
    if sys.platform == "win32":
        return True
    return (os.getuid(), os.getgid()) == (os.geteuid(), os.getegid()) and not _secure()


_AT_SECURE = 23


def _secure() -> bool:
    """Does the kernel say so (getauxval(3), AT_SECURE)?"""
    if sys.platform != "linux":
        return False
    import ctypes

    try:
        return bool(ctypes.CDLL(None).getauxval(_AT_SECURE))
    except (OSError, AttributeError):  # a C library without it
        return False


def files() -> list[str]:
    """The tables that are there, the first one first."""
    if trusted():
        named = os.environ.get(CONFIG)
        if named:
            return [named]
        home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
        candidates = [os.path.join(home, "interlock.conf"), SYSTEM]
    else:
        candidates = [SYSTEM]
    return [path for path in candidates if os.path.exists(path)]


def load() -> list[Setting]:
    """Everything that was said, in the order in which it counts. Raises `SettingError` and `OSError`."""
    found: list[Setting] = []
    if trusted() and os.environ.get(VARIABLE):
        found += _ordered(parse(os.environ[VARIABLE].replace(";", "\n"), VARIABLE, bare=True))
    for path in files():
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except OSError as error:
            named = f"{CONFIG} names it as " if trusted() and os.environ.get(CONFIG) else ""
            error.strerror = f"{error.strerror} ({named}the table that says how to lock)"
            error.filename = path
            raise
        found += _ordered(parse(text, path))
    return found


def parse(text: str, origin: str, *, bare: bool = False) -> list[Setting]:
    """The settings of one table. `bare`: a line may be a word alone."""
    found: dict[str, Setting] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        where = origin if bare else f"{origin}, line {number}"
        wrong = f"the environment variable {origin}" if bare else where
        directory, equals, word = (part.strip() for part in line.rpartition("="))
        if not equals and not bare:
            raise SettingError(f"{wrong}: {line!r} is not of the form 'directory = primitive'")
        if word not in WORDS:
            whole = f"{line!r}: " if equals else ""
            raise SettingError(f"{wrong}: {whole}{word!r} is not one of {', '.join(WORDS)}")
        if equals and not os.path.isabs(directory):
            raise SettingError(f"{wrong}: {line!r}: {directory!r} is not an absolute path")
        directory = _canonical(directory) if equals else ""
        if directory in found:
            raise SettingError(f"{wrong}: {directory or 'every path'!r} was named before")
        found[directory] = Setting(directory, word, where)
    return list(found.values())


def _canonical(directory: str) -> str:
    """Without a look at a mount point itself, which would wait for a server that is gone."""
    directory = os.path.normpath(directory)
    if any(mount.point == directory for mount in mounts.table()):
        return directory
    return os.path.realpath(directory)


def _ordered(settings: list[Setting]) -> list[Setting]:
    return sorted(settings, key=lambda setting: -len(setting.directory))


_loaded: list[Setting] | None = None


def of(path: str) -> Setting | None:
    """What was said about `path` (canonical)."""
    global _loaded
    if _loaded is None:
        _loaded = load()
    return next((setting for setting in _loaded if setting.holds(path)), None)



def forget() -> None:
    """For tests: read again."""
    global _loaded
    _loaded = None
