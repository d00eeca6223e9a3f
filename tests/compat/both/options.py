"""What constructors, properties, methods and singletons accept."""

from __future__ import annotations

import decimal
import fractions
import math
import os
from typing import Any

from .see import SYNC, See, case, state

BAD: dict[str, dict[str, Any]] = {
    "timeout text": {"timeout": "1"},
    "timeout bool": {"timeout": True},
    "timeout none": {"timeout": None},
    "timeout decimal": {"timeout": decimal.Decimal("1.5")},
    "timeout fraction": {"timeout": fractions.Fraction(1, 2)},
    "timeout huge": {"timeout": 10**400},
    "blocking text": {"blocking": "no"},
    "blocking int": {"blocking": 1},
    "poll negative": {"poll_interval": -1},
    "poll nan": {"poll_interval": math.nan},
    "poll inf": {"poll_interval": math.inf},
    "poll long": {"poll_interval": 1e300},
    "poll text": {"poll_interval": "1"},
    "mode bool": {"mode": True},
    "mode text": {"mode": "644"},
    "mode wide": {"mode": 0o1777},
    "mode narrow": {"mode": 0o044},
    "mode": {"mode": 0o600},
    "lifetime": {"lifetime": 5},
    "lifetime negative": {"lifetime": -5},
    "lifetime text": {"lifetime": "5"},
    "context policy": {"context_error_policy": "both"},
    "close policy": {"close_error_policy": "both"},
    "preserve": {"preserve_lock_file": True},
    "hook": {"on_acquired": print},
    "unknown": {"nonsense": 1},
}


@case(*SYNC, "AsyncFileLock", "AsyncUnixFileLock", "AsyncSoftFileLock", "AsyncStrictSoftFileLock", "AsyncSoftFileLease")
def options(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")
    for label, keywords in BAD.items():
        lock = see(label, kind, path, **keywords)
        if lock is not None:
            see.note(label + " gives", [getattr(lock, name, None) for name in keywords])
    lock = kind(path, 3, 0o640)
    see.note(
        "settings",
        [
            lock.timeout, lock.mode, lock.has_explicit_mode, lock.blocking, lock.poll_interval, lock.lifetime,
            lock.is_singleton, lock.context_error_policy, lock.close_error_policy, lock.fallback_to_soft,
            lock.preserve_lock_file, lock.on_acquired, lock.is_thread_local(), kind(path).mode,
        ],
    )  # fmt: skip
    for name, good, bad in (
        ("timeout", 7, "x"), ("timeout", -1, None), ("timeout", "8", True), ("blocking", False, 0),
        ("poll_interval", 0.5, -1), ("lifetime", None, "x"), ("lifetime", 3, math.inf), ("mode", 1, 2),
    ):  # fmt: skip
        for value in (good, bad):
            see(f"set {name} {value!r}", setattr, lock, name, value)
            see.note(f"{name} after {value!r}", getattr(lock, name))


@case(*SYNC)
def calls(see: See, directory: str, kind: Any) -> None:
    lock = kind(os.path.join(directory, "a.lock"))
    wishes: dict[str, dict[str, Any]] = {
        "blocking text": {"blocking": "no"}, "nan": {"timeout": math.nan}, "text": {"timeout": "1"},
        "poll": {"poll_interval": -1}, "poll long": {"poll_interval": 1e300}, "old name": {"poll_intervall": 0.01},
        "decimal": {"timeout": decimal.Decimal(1)},
    }  # fmt: skip
    for label, keywords in wishes.items():
        see(label, lock.acquire, **keywords)
        see.note(label + " leaves", state(lock))
        lock.release(force=True)


@case(*SYNC, "AsyncFileLock", "AsyncSoftFileLock", "AsyncStrictSoftFileLock", "AsyncSoftFileLease")
def singletons(see: See, directory: str, kind: Any) -> None:
    path = os.path.join(directory, "a.lock")
    one = kind(path, is_singleton=True)
    see.note("same", kind(path, is_singleton=True) is one)
    os.chdir(directory)
    see.note("relative", kind("./a.lock", is_singleton=True) is one)
    see.note("other", kind(path) is one)
    see("timeout", kind, path, is_singleton=True, timeout=3)
    see.note("forever", kind(path, is_singleton=True, timeout=-7) is one)
    see.note("inf", kind(path, is_singleton=True, timeout=math.inf) is one)
    see("several", kind, path, is_singleton=True, mode=0o600, blocking=False)
    see.note("is_singleton", [one.is_singleton, kind(path).is_singleton])
    see.note("kinds differ", type("Own", (kind,), {})(path, is_singleton=True) is one)
    del one
    see("freed", lambda: kind(path, is_singleton=True, timeout=3).timeout)
