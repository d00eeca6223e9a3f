"""The one acquire loop, by a stake and a clock that say what happens next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from interlock._core.acquire import acquire, run

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator


class ScriptedIO:
    """Time passes when the script says so."""

    def __init__(self) -> None:
        self.time = 100.0
        self.shielded = 0

    def now(self) -> float:
        return self.time

    async def shield(self, awaitable: Coroutine[Any, Any, Any]) -> Any:
        self.shielded += 1
        return await awaitable


class ScriptedStake:
    """Answers of `try_acquire`, in order; a wait takes a second, or raises."""

    def __init__(self, io: ScriptedIO, answers: list[bool | BaseException], waits: list[BaseException] | None = None):
        self.io = io
        self.answers = answers
        self.waits = waits or []
        self.did: list[str] = []
        self.withdrawn: BaseException | None = None

    async def try_acquire(self, io: Any, deadline: float) -> bool:
        self.did.append("try")
        answer = self.answers.pop(0) if self.answers else False
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def wait(self, io: Any, until: float) -> None:
        self.did.append("wait")
        if self.waits:
            raise self.waits.pop(0)
        assert until >= self.io.time
        self.io.time = min(self.io.time + 1.0, until)

    async def withdraw(self, io: Any) -> None:
        self.did.append("withdraw")
        if self.withdrawn is not None:
            raise self.withdrawn


class Suspends:
    """To await it gives control away once."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def go(stake: ScriptedStake, seconds: float) -> bool:
    io: Any = stake.io
    return run(acquire(io, stake, stake.io.time + seconds))


def script(*answers: bool | BaseException, **options: Any) -> ScriptedStake:
    return ScriptedStake(ScriptedIO(), list(answers), **options)


def test_granted_at_once() -> None:
    stake = script(True)
    assert go(stake, 10)
    assert stake.did == ["try"]
    assert stake.io.shielded == 0


def test_granted_after_waiting() -> None:
    stake = script(False, False, True)
    assert go(stake, 10)
    assert stake.did == ["try", "wait", "try", "wait", "try"]


def test_no_time_is_one_try() -> None:
    stake = script(False)
    assert not go(stake, 0)
    assert stake.did == ["try", "withdraw"]
    assert stake.io.shielded == 1


def test_no_time_may_be_enough() -> None:
    assert go(script(True), 0)


def test_a_try_follows_the_deadline() -> None:
    """Whoever is woken by its deadline finds out whether the lock is free by now."""
    stake = script()
    assert not go(stake, 2.5)
    assert stake.did == ["try", "wait", "try", "wait", "try", "wait", "try", "withdraw"]
    assert stake.io.time == 102.5
    late = script(False, False, False, True)
    assert go(late, 2.5)


def test_for_ever_is_for_ever() -> None:
    stake = script(*[False] * 500, True)
    assert go(stake, float("inf"))
    assert stake.did.count("try") == 501


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), GeneratorExit(), SystemExit()])
@pytest.mark.parametrize("where", ["first try", "wait", "second try"])
def test_whatever_ends_it_withdraws(error: BaseException, where: str) -> None:
    stake = {
        "first try": lambda: script(error),
        "wait": lambda: script(False, waits=[error]),
        "second try": lambda: script(False, error),
    }[where]()
    with pytest.raises(type(error)) as caught:
        go(stake, 10)
    assert caught.value is error
    assert stake.did[-1] == "withdraw"
    assert stake.did.count("withdraw") == 1
    # A coroutine that is closed cannot be cancelled any more, and cannot await either.
    assert stake.io.shielded == (not isinstance(error, GeneratorExit))


def test_a_withdrawal_that_may_not_be_awaited_is_closed_before_the_error_goes_on() -> None:
    """What it did not come to, it gives up at once: not when somebody collects garbage."""
    stake = script(GeneratorExit())
    begun: list[Coroutine[Any, Any, None]] = []  # so it is not collected
    gave_up: list[bool] = []

    async def withdraw() -> None:
        try:
            await Suspends()
        finally:
            gave_up.append(True)

    def begin(io: Any) -> Coroutine[Any, Any, None]:
        begun.append(withdraw())
        return begun[0]

    stake.withdraw = begin  # type: ignore[method-assign]
    with pytest.raises(GeneratorExit):
        go(stake, 10)
    assert gave_up == [True]


def test_an_error_of_the_withdrawal_keeps_the_first() -> None:
    stake = script(OSError("first"))
    stake.withdrawn = OSError("second")
    with pytest.raises(OSError, match="second") as caught:
        go(stake, 10)
    assert str(caught.value.__context__) == "first"


# ---- run


def test_run_returns_and_raises_what_the_coroutine_does() -> None:
    async def returns() -> int:
        return 3

    async def raises() -> None:
        raise ZeroDivisionError

    assert run(returns()) == 3
    with pytest.raises(ZeroDivisionError):
        run(raises())


def test_a_coroutine_that_suspends_is_a_bug_and_is_closed() -> None:
    closed: list[bool] = []

    async def waits() -> None:
        try:
            await Suspends()
        finally:
            closed.append(True)

    waiting = waits()  # kept, so that it is not collected
    with pytest.raises(RuntimeError, match="suspended"):
        run(waiting)
    assert closed == [True]


def test_the_loop_of_blocking_io_never_suspends() -> None:
    from interlock._io.blocking import io

    stake: Any = script(False, False, True)
    assert run(acquire(io, stake, io.now() + 1000))
