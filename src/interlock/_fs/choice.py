"""How a path is locked, and why: from the mount table, the facts and the settings. Touches no file of the place.

The choice depends on nothing else, so that two processes of a host make the same one, at whatever time they ask; it
does not depend on a trial, whose outcome may differ from one moment to the next. Where the facts are wrong or change,
the system call itself says so (`engines.kernel.ops`), and nothing else is tried then: two processes that lock in two
ways exclude nobody.
"""

from __future__ import annotations

import os
import sys

from .._wait import mounts
from . import facts, settings
from .facts import ALONE, NO, UNKNOWN, YES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._report import Report
    from .facts import Fact

KNOB = (
    f"say how to lock there: {settings.VARIABLE}, or a line in {settings.SYSTEM} or ~/.config/interlock.conf, such as"
    " '{directory} = marker' (a lease in files), or 'local' if this host is the only one that uses it"
)


class Choice:
    """One decision. `refusal` is empty, or why nothing may be locked here. `hosts`: does it exclude between hosts?
    `said`: somebody decided it, instead of the facts."""

    __slots__ = ("fact", "hosts", "options", "place", "primitive", "refusal", "said", "why")

    def __init__(
        self,
        primitive: str,
        fact: Fact,
        place: str,
        options: tuple[str, ...],
        why: str,
        *,
        refusal: str = "",
        said: bool = True,
    ) -> None:
        self.said = said
        self.primitive = primitive
        self.fact = fact
        self.place = place
        self.options = options
        self.why = why
        self.refusal = refusal
        self.hosts = ALONE if primitive == "local" else fact.hosts(primitive)

    @property
    def enforced(self) -> bool | None:
        """As in `Report`: False where it is refused or known to exclude nobody, None where that is unknown."""
        if self.refusal:
            return False if self.hosts == NO else None
        return {NO: False, UNKNOWN: None}.get(self.hosts, True)

    def stamp(self, report: Report) -> Report:
        """The report, with how this path is locked and why."""
        from dataclasses import replace

        known = {
            "primitive": "none" if self.refusal else self.primitive,
            "why": self.refusal or self.why,
            "filesystem": self.place or "unknown",
            "excludes between hosts": self.hosts,
        }
        enforced = self.enforced
        if enforced is True:
            enforced = report.enforced
        return replace(report, enforced=enforced, facts={**report.facts, **known})


def choose(directory: str, asked: str = "auto") -> Choice:
    """The choice for lock files in `directory` (canonical). `asked`: the caller's `primitive=`, which a setting of the
    user's overrules."""
    setting = settings.of(directory)
    word, who = (asked, "") if setting is None else (setting.word, setting.origin)
    if sys.platform != "linux":
        return _elsewhere(word, who)
    mount = _mount_of(directory)
    kind = mount.fstype if mount is not None else _type_by_number(directory)
    options = mount.options if mount is not None else ()
    fact = facts.of(kind, options)
    place = f"{kind or 'unknown'} at {mount.point}" if mount is not None else kind
    if word == "auto":
        return _automatic(fact, place, options, directory)
    why = f"{who or 'the caller'} says {word!r}"
    refusal = ""
    if word in ("flock", "dual") and fact.hosts(word) == NO:
        refusal = (
            f"{word} does not exclude other hosts on {fact.title} ({fact.why}), so it is refused although {why};"
            f" {KNOB.format(directory=_top(mount, directory))}"
        )
    elif word == "marker" and fact.creation == NO:
        refusal = f"on {fact.title} two hosts can create one name ({fact.why}): no marker excludes, although {why}"
    elif word == "dual" and fact.title.startswith("SMB"):
        refusal = f"on SMB the two locks of 'dual' conflict with each other, although {why}: leave it to 'auto'"
    return Choice(word, fact, place, options, why, refusal=refusal)


def _automatic(fact: Fact, place: str, options: tuple[str, ...], directory: str) -> Choice:
    if fact.auto:
        return Choice(fact.auto, fact, place, options, f"{fact.title}: {fact.why}", said=False)
    does = "excludes" if fact.flock == NO else "is known to exclude"
    refusal = f"{place} is {fact.title}, where no kernel lock {does} other hosts ({fact.why}); "
    refusal += KNOB.format(directory=_top_of(place) or directory)
    return Choice("flock", fact, place, options, "", refusal=refusal, said=False)


def _elsewhere(word: str, who: str) -> Choice:
    fact = facts.ANY_OTHER
    if word in ("auto", "flock", "local"):
        return Choice("flock", fact, "", (), who or "this platform does not tell what a path is on")
    refusal = "" if word == "marker" else "'dual' needs the OFD locks of Linux"
    return Choice(word, fact, "", (), who, refusal=refusal)


def _top(mount: mounts.Mount | None, directory: str) -> str:
    return mount.point if mount is not None else directory


def _top_of(place: str) -> str:
    return place.partition(" at ")[2]


def _mount_of(directory: str) -> mounts.Mount | None:
    mount = mounts.mount_of(directory)
    if mount is not None and mount.fstype == "autofs":  # mounts what is really there when somebody looks inside
        try:
            os.stat(os.path.join(directory, os.curdir))
        except OSError:
            pass
        mount = mounts.mount_of(directory)
    return mount


_NUMBERS = {
    0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs", 0x794C7630: "overlay",
    0x2FC12FC1: "zfs", 0xF2F52010: "f2fs",
}  # fmt: skip


def _type_by_number(directory: str) -> str:
    """Without a mount table (no /proc in a chroot): the type that statfs(2) tells, if it is a local one. Of others the
    options would matter, and they stay unknown: ""."""
    import ctypes

    buffer = ctypes.create_string_buffer(512)
    while directory:
        if ctypes.CDLL(None).statfs(os.fsencode(directory), buffer) == 0:
            number = int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF
            return _NUMBERS.get(number, "")
        above = os.path.dirname(directory)
        directory = above if above != directory else ""
    return ""


__all__ = ["ALONE", "NO", "UNKNOWN", "YES", "Choice", "choose"]
