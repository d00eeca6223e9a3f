"""The errors: one family, readable, and whole after a trip to another process."""

from __future__ import annotations

import pickle

import pytest

import interlock
from interlock import (
    DeadlockError,
    EngineError,
    LockError,
    LostError,
    NotHeldError,
    Party,
    ProtocolError,
    Timeout,
    UnsafePathError,
    UnsupportedError,
)


def test_the_family() -> None:
    for error in (Timeout, NotHeldError, LostError, DeadlockError, EngineError):
        assert issubclass(error, LockError)
    for error in (UnsupportedError, UnsafePathError, ProtocolError):
        assert issubclass(error, EngineError)
    assert issubclass(Timeout, TimeoutError)
    assert not issubclass(LockError, OSError)
    assert all(name in interlock.__all__ for name in interlock._errors.__all__)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Timeout("a.lock", 2.0), "a.lock was not acquired within 2 s"),
        (Timeout("a.lock", 0.25, hint="try later"), "a.lock was not acquired within 0.25 s (try later)"),
        (Timeout("a.lock", 1, Party(42, "make -j8")), "a.lock was not acquired within 1 s: held by pid 42 (make -j8)"),
        (Timeout("a.lock", 1, Party(None), "x"), "a.lock was not acquired within 1 s: held by an unknown process (x)"),
    ],
)
def test_a_timeout_says_everything(error: Timeout, text: str) -> None:
    assert str(error) == text
    assert "a.lock" in repr(error)


def test_a_timeout_is_no_error_of_the_system() -> None:
    """It is an OSError, because TimeoutError is. What OSError makes of arguments must not show."""
    error = Timeout("a.lock", 1.0, Party(42), "hint")
    assert (error.errno, error.strerror, error.filename) == (None, None, None)


def test_a_timeout_survives_pickling() -> None:
    for error in (Timeout("a.lock", 1.5, Party(42, "make", since=3.0), "hint"), Timeout("a.lock", 0.0)):
        error.add_note("seen by the worker")
        again = pickle.loads(pickle.dumps(error))
        assert (again.resource, again.waited, again.holder, again.hint) == (
            error.resource,
            error.waited,
            error.holder,
            error.hint,
        )
        assert str(again) == str(error)
        assert again.__notes__ == ["seen by the worker"]


@pytest.mark.parametrize("kind", [NotHeldError, LostError, DeadlockError, UnsupportedError, UnsafePathError])
def test_the_others_survive_pickling(kind: type[LockError]) -> None:
    again = pickle.loads(pickle.dumps(kind("why")))
    assert type(again) is kind
    assert str(again) == "why"
