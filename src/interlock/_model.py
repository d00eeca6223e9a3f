"""The nouns that all layers share. Plain slotted classes: this module is what `import interlock` costs."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager
    from typing import Any, Literal, Protocol, TypeVar

    from ._core.arbiter import Line
    from ._core.observe import Story
    from ._report import Party, Report

    T = TypeVar("T")

    class Parker(Protocol):
        """Where one waiter sleeps. `unpark` may be called from any thread, from a finalizer, more than once.
        It returns False when nobody can ever come back from there: the event loop was closed over its tasks."""

        def unpark(self) -> bool | None: ...

    class Source(Protocol):
        """A descriptor whose readability means news, and the function that reads them and unparks whom they concern.
        One that is closed again some time, and has one waiter at a time, has `passing = True`."""

        def fileno(self) -> int: ...
        def drain(self) -> None: ...

    class IO(Protocol):
        """The only code that knows how to wait. Sync, async and simulated contenders differ here and nowhere else."""

        def now(self) -> float: ...
        def owner(self) -> object: ...
        def parker(self, source: Source | None = None) -> Parker: ...
        async def park(self, parker: Parker, until: float) -> bool:
            """Sleep until `unpark` was called (also before) or the source has news: True; at `until`: False."""
        async def call(self, fn: Callable[..., T], *args: object) -> T:
            """One outside effect. In the simulator every one of them is a point where others may run."""
        async def work(self, fn: Callable[..., T], *args: object) -> T:
            """A request to a server, bounded by a few seconds: inline in a thread; from a task in a worker thread. A
            cancellation that comes meanwhile is delivered after it."""
        async def shield(self, awaitable: Coroutine[Any, Any, T]) -> T:
            """Run to the end even while the caller is being cancelled."""

    class Scope(Protocol):
        """A block of a task that any thread may cancel; what is cancelled so ends without an error."""

        def cancel(self) -> None: ...

    class TaskIO(IO, Protocol):
        """The io of an event loop."""

        def scope(self) -> AbstractContextManager[Scope]: ...

    class Engine(Protocol):
        """What a lock service must be able to do. No threads, no re-entrancy, no timeouts of its own."""

        @property
        def traits(self) -> Traits: ...
        def require_fair(self, key: str) -> None:
            """Raise `UnsupportedError` where this engine cannot be FIFO."""
        @property
        def claim_type(self) -> type[Any]: ...
        def claim(self, line: Line, owner: object, fair: bool) -> Any:
            """A fresh stake, a `claim_type` with these attributes; no outside effect."""
        def try_now(self, claim: Any, timeout: float) -> bool:
            """The uncontended path without a coroutine. False: nothing is known, enter the loop with this claim.
            With a timeout of 0 it may overtake others that wait."""
        async def try_acquire(self, io: IO, claim: Any, deadline: float) -> bool:
            """Never waits. False: contended."""
        async def wait(self, io: IO, claim: Any, until: float) -> None:
            """Until there may be news, at most until `until`. May return early, never oversleeps."""
        async def release(self, io: IO, claim: Any) -> None:
            """Idempotent; only ever removes its own."""
        async def withdraw(self, io: IO, claim: Any) -> None:
            """Undo, also a win whose answer was lost. Idempotent."""
        def drop(self, claim: Any) -> None:
            """Release or withdraw without waiting: for finalizers, exit, signal handlers. Idempotent."""
        def disown(self, claim: Any) -> None:
            """In a forked child: forget what belongs to the parent without undoing it there."""
        def lost(self, claim: Any) -> str:
            """Why the hold is gone although nobody released it; empty while it stands. This is the truth for those
            who ask; an engine that finds it out by itself also calls `_core.lost.tell`. One that only looks once it is
            asked to has a method `watch_loss(claim)`, after which it does."""
        def inspect(self, line: Line) -> Report: ...
        def blame(self, line: Line) -> tuple[Party | None, str]:
            """For `Timeout`: one holder, found fast, and a hint."""

    class Remote(Engine, Protocol):
        """An engine whose verbs are requests to a server (`engines.remote` has what such engines share). It has
        `remote = True`. Then tasks never call `try_now`, they await `release`, and `blame`, `renew` and `downgrade` run
        in a worker thread; `drop` makes no request itself but has one made in the background."""

        remote: Literal[True]

        def let_go(self, claim: Any) -> None:
            """Release now, in the calling thread: when it returns the server has been told, or the claim runs out by
            itself. Raises nothing that a server does."""

    class Sharing(Protocol):
        """An engine that has read-write locks. Each mode is a sibling engine with a line of its own, so that a
        reader of this process need not stand behind an updater that waits."""

        def sharing(self, mode: Mode, key: str) -> Shared:
            """Raise `UnsupportedError` where there are no read-write locks."""

    class Shared(Engine, Protocol):
        """The engine of one mode. Its claims have a `mode`."""

        async def upgrade(self, io: IO, claim: Any) -> bool:
            """One attempt to make an update claim a write claim; while it fails, the claim stays what it was.
            `wait` waits for the next one."""
        async def stay(self, io: IO, claim: Any) -> None:
            """Give up an upgrade. Idempotent."""
        def downgrade(self, claim: Any, mode: Mode) -> None:
            """At once, with nobody in between."""

    class Counting(Protocol):
        """An engine that has semaphores, as a sibling engine whose claims have `permits`, and a `slot` once granted."""

        def counting(self, key: str) -> Engine:
            """Raise `UnsupportedError` where there are no semaphores."""

    class Breakable(Protocol):
        """An engine whose holds can outlive their owners. Has nothing to do with `acquire`, which breaks by itself what
        is proven stale: this is for people."""

        def stale(self, line: Line) -> str:
            """The proof that the hold is nobody's any more; "" while there is none."""
        def break_stale(self, line: Line, force: bool = False) -> str:
            """End it, with proof or by force; returns why, or "" if nobody holds. Raises `UnprovenError`, and other
            `ProtocolError`s for what cannot be understood."""

    Family = Literal["session", "lease"]
    Mode = Literal["read", "update", "write"]


class Traits:
    """What an engine promises. Facts, not options; the documented table of promises is generated from them.

    Of an engine whose state is on a server, in a few words for people, with the bad news: `frozen`: what becomes of the
    hold of a process that is stopped; `restart` and `failover`: of the hold, then; `token_back`: when a token can be
    smaller than an earlier one ("never"); `connections`: how many a process has open at most. `restart` begins with
    "kept", "lost" or "released".
    """

    __slots__ = (
        "abilities", "connections", "excludes", "failover", "fair", "family", "fences", "frozen", "name", "restart",
        "survives_crash", "token_back", "wait",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        family: Family,
        excludes: Literal["threads", "processes", "hosts"],
        fair: Literal["no starvation", "fifo"],
        fences: bool,
        survives_crash: bool,
        wait: str,
        abilities: tuple[Literal["rwlock", "semaphore"], ...] = (),
        frozen: str = "",
        restart: str = "",
        failover: str = "",
        token_back: str = "",
        connections: str = "",
    ) -> None:
        self.name = name
        self.family: Family = family
        self.excludes = excludes
        self.fair = fair
        self.fences = fences
        self.survives_crash = survives_crash
        self.wait = wait
        self.abilities = abilities
        self.frozen = frozen
        self.restart = restart
        self.failover = failover
        self.token_back = token_back
        self.connections = connections

    def rows(self) -> dict[str, object]:
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) != ""}


class Claim:
    """A contender's stake in a line; once won, the grant. Engines add what they need to undo it.

    `owner` is the thread or task that asked, `depth` how many holds a re-entrant owner has on it
    (0 in a forked child: none). `began` and
    `since` are monotonic seconds: when it began to contend, and when it was granted (0.0: not yet).
    """

    line: Line
    owner: object
    fair = False
    depth = 1
    began = 0.0
    since = 0.0
    token: int | None = None
    """The fencing token; where the engine has a method `assign_token(claim)`, not before that was called."""
    told = ""
    """Why it is lost, once anybody was told: see `_core.lost`."""
    watchers: deque[Callable[[str], object]]
    """Of those to be told; only there once there was one."""
    story: Story | None = None
    """What observers were told of it; see `_core.observe`."""
    mode: Mode = "write"
    untold = False
    """Of a claim on a server: the last downgrade may not have reached it. Then `mode` is the weaker one already."""
    permits = 0
    """Of a semaphore's claim: how many there are."""
    slot: int | None = None
    """Of a semaphore's claim, once granted."""
    thread: object = None
    """Of a task's claim, and of one that queues: the thread (`_identity.me.token`) that must run for it to go on."""

    @property
    def manner(self) -> str:
        """How it holds, for people: the mode, or "permit"."""
        return "permit" if self.permits else self.mode
