"""The thread that keeps leases: one per process, from the first lease that is held on, asleep until one is due.

It asks the core's keeper what is to be done, and lets each renewal run in a thread of its own, since a filesystem or a
server may hang. Its clock counts the time for which the machine was suspended. Threads sleep by one that does not, so
it sleeps a second at most at a time: after a suspension it looks at once, or nearly.
"""

from __future__ import annotations

import sys
import threading
import time
from _thread import start_new_thread

from .._core import fork
from .._core.keeper import FOREVER, Keeper
from .deaf import deafen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._model import Claim

if sys.platform == "linux":

    def now() -> float:
        """Seconds on a clock that no one sets and no suspension stops."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

elif sys.platform == "darwin":

    def now() -> float:
        return time.clock_gettime(time.CLOCK_MONOTONIC)  # there it goes on in sleep; time.monotonic does not

else:

    def now() -> float:
        return time.monotonic()


_NAP = 1.0


class Keeping:
    """The keeper of this process, and its thread."""

    def __init__(self) -> None:
        self.keeper = Keeper()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy: set[Claim] = set()
        self._idle = False
        fork.in_child(self._forget)

    def keep(self, claim: Claim) -> None:
        """Renew this claim until `forget`. Its engine is a `Renewable`, and it has a deadline and a ttl."""
        self.keeper.add(claim, now())
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()
        # While it keeps any, the thread looks about once a second. Only a short lease must wake it before.
        if self._idle or claim.ttl < 3 * _NAP:  # type: ignore[attr-defined]
            self._wake.set()

    def forget(self, claim: Claim) -> None:
        self.keeper.remove(claim)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="interlock keeper", daemon=True)
        self._thread.start()

    def _forget(self) -> None:
        self.keeper.clear()
        self._wake = threading.Event()
        self._busy = set()
        self._idle = False
        self._thread = None

    def _run(self) -> None:
        deafen()
        mine = threading.current_thread()
        while self._thread is mine:
            self._idle = True  # whoever adds a lease from here on wakes us
            until = self.keeper.next()
            self._idle = until == FOREVER
            nap = until - now()
            if nap > 0:
                self._wake.wait(min(nap, _NAP) if until < FOREVER else None)
                self._wake.clear()
            try:
                due = [claim for claim in self.keeper.due(now()) if claim not in self._busy]
            except Exception:  # noqa: BLE001 - what goes wrong with one lease must not end the renewals of all others
                self._complain()
                continue
            together: dict[Any, list[Claim]] = {}
            for claim in due:
                engine = claim.line.engine
                together.setdefault(engine if hasattr(engine, "renew_all") else claim, []).append(claim)
            for claims in together.values():
                self._busy.update(claims)
                try:
                    if hasattr(claims[0].line.engine, "renew_all"):
                        start_new_thread(self._renew_all, (claims,))
                    else:
                        start_new_thread(self._renew, (claims[0],))
                except RuntimeError:  # no more threads, or the interpreter ends: later, or never
                    self._busy.difference_update(claims)

    def _complain(self) -> None:
        import logging

        logging.getLogger("interlock").exception("a lease that is lost could not be told so")
        self._wake.wait(0.05)

    def _renew(self, claim: Claim) -> None:
        try:
            reason = claim.line.engine.renew(claim)  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - it may pass: tried again until the deadline, which the keeper watches
            return
        finally:
            self._busy.discard(claim)
        self._note(claim, reason)

    def _renew_all(self, claims: list[Claim]) -> None:
        """Of an engine that renews many by one request: `renew_all` gives what `renew` would, for those it got to."""
        try:
            reasons: dict[Claim, str] = claims[0].line.engine.renew_all(claims)  # type: ignore[attr-defined]
        except Exception:  # noqa: BLE001 - as above
            return
        finally:
            self._busy.difference_update(claims)
        for claim, reason in reasons.items():
            self._note(claim, reason)

    def _note(self, claim: Claim, reason: str) -> None:
        if reason:
            self.keeper.lose(claim, reason)
        else:
            self.keeper.renewed(claim, now())


_keeping: Keeping | None = None


def keeping() -> Keeping:
    """The keeper of this process, made at the first lease."""
    global _keeping
    if _keeping is None:
        _keeping = Keeping()
    return _keeping
