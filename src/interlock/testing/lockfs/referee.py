"""A trial: processes contend for one lock, are killed, and are watched by a referee that trusts no clock.

Theory of operation
-------------------
Each contender has a socket to the referee (this process). It says E when it has acquired, and waits for the answer
before it goes on; it says L before it releases. So between the answer to E and the sending of L it was certainly
inside. At each E the referee looks whether somebody else is inside, after it has read what these have sent: a L that
was sent before this E was caused is in the socket by then. What it counts are real overlaps, and it may miss some: the
numbers are lower bounds.

A killed contender counts as inside until the kernel says that it is dead: a dying process loses its locks a little
before. Kills are done by the referee itself, between two messages, often of one that is inside.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Contend = Callable[[int, socket.socket], None]

assert sys.platform == "linux"

PATIENCE = 12.0
"""Seconds without any news after which the contenders count as hanging. More than a marker's ttl needs."""


@dataclass
class Result:
    """What a trial has shown."""

    holds: int = 0
    overlaps: int = 0
    kills: int = 0
    killed_inside: int = 0
    seconds: float = 0.0
    shares: list[int] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    """Of acquiring, by kind."""
    release_errors: dict[str, int] = field(default_factory=dict)
    first_error: str = ""
    unavailable: str = ""
    hung: bool = False


class Contender:
    """A process in a trial; its place is taken by another one when it is killed."""

    def __init__(self, place: int, contend: Contend) -> None:
        self.place = place
        self.inside = False
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            _be(theirs, lambda: contend(place, theirs))
        theirs.close()
        self.socket = mine
        mine.setblocking(False)

    def kill(self, within: float = 5.0) -> bool:
        """SIGKILL; True when it is dead. A process that hangs in the kernel does not die."""
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + within
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0002)
        self.socket.close()
        self.pid = 0
        return True


def _be(keep: socket.socket, contend: Callable[[], None]) -> None:
    """In the child: nothing of the parent's stays open, above all not the pipes of filesystem servers."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        number = keep.fileno()
        os.closerange(3, number)
        os.closerange(number + 1, 4096)
        contend()
        status = 0
    except OSError:  # the referee has gone
        pass
    finally:
        os._exit(status)


class Trial:
    """`count` processes in `contend(place, socket)`, until there were `holds` holds, or `seconds` have passed."""

    def __init__(self, contend: Contend, *, count: int, holds: int, kill_every: int, seconds: float) -> None:
        self._contend = contend
        self._target = holds
        self._kill_every = kill_every
        self._limit = seconds
        self._chance = random.Random(0)
        self._errors: Counter[str] = Counter()
        self._release_errors: Counter[str] = Counter()
        self.result = Result(shares=[0] * count)
        self._contenders = [Contender(place, contend) for place in range(count)]
        self._poll = select.poll()
        self._by_fd: dict[int, Contender] = {}
        for contender in self._contenders:
            self._watch(contender)

    def _watch(self, contender: Contender) -> None:
        self._by_fd[contender.socket.fileno()] = contender
        self._poll.register(contender.socket, select.POLLIN)

    def _unwatch(self, contender: Contender) -> None:
        self._poll.unregister(contender.socket)
        del self._by_fd[contender.socket.fileno()]

    def run(self) -> Result:
        """To the end. What hangs in the kernel then is left to `bury`."""
        result = self.result
        began = heard = time.monotonic()
        next_kill = self._kill_every
        try:
            while result.holds < self._target and not result.unavailable and not result.hung:
                ready = self._poll.poll(1000)
                now = time.monotonic()
                if now - began > self._limit or self._only_errors():
                    break
                if now - heard > PATIENCE:
                    result.hung = True
                    break
                for fd, _ in ready:
                    contender = self._by_fd.get(fd)
                    if contender is None:
                        continue
                    heard = now
                    if self._kill_every and result.holds >= next_kill:
                        next_kill += self._kill_every
                        self._replace(self._victim(contender))
                        break  # of the others nothing is lost: they are still ready
                    self._hear(contender)
        finally:
            result.seconds = time.monotonic() - began
            result.errors, result.release_errors = dict(self._errors), dict(self._release_errors)
        return result

    def _only_errors(self) -> bool:
        return self.result.holds == 0 and sum(self._errors.values()) >= 5 * len(self._contenders)

    def _victim(self, speaker: Contender) -> Contender:
        """Half of the time one that is inside, if there is one."""
        inside = [one for one in self._contenders if one.inside]
        if inside and self._chance.random() < 0.5:
            return inside[0]
        return speaker if self._chance.random() < 0.2 else self._chance.choice(self._contenders)

    def _replace(self, victim: Contender) -> None:
        # Stopped first, so that what it has said by now is all that it will ever say.
        os.kill(victim.pid, signal.SIGSTOP)
        while self._hear(victim, answer=False):
            pass
        inside = victim.inside
        self._unwatch(victim)
        if not victim.kill():
            self.result.hung = True
            return
        self.result.kills += 1
        self.result.killed_inside += inside
        fresh = self._contenders[victim.place] = Contender(victim.place, self._contend)
        self._watch(fresh)

    def _hear(self, contender: Contender, answer: bool = True) -> bool:
        """One message, if there is one."""
        try:
            message = contender.socket.recv(65536)
        except BlockingIOError:
            return False
        except ConnectionError:
            message = b""
        what = message[:1]
        if what == b"E":
            self._enter(contender)
        elif what == b"L":
            contender.inside = False
            return True
        elif what == b"X":
            self._error(self._errors, message)
        elif what == b"Y":
            self._error(self._release_errors, message)
        else:
            self.result.unavailable = message[1:].decode() or "the contender has ended by itself"
            return False
        if answer:
            try:
                contender.socket.send(b"k")
            except (BrokenPipeError, ConnectionError):
                pass
        return True

    def _enter(self, contender: Contender) -> None:
        overlaps = False
        for other in self._contenders:
            if other is not contender and other.inside:
                self._hear(other)  # it has at most its L to say
                overlaps = overlaps or other.inside
        contender.inside = True
        self.result.overlaps += overlaps
        self.result.holds += 1
        self.result.shares[contender.place] += 1

    def _error(self, counter: Counter[str], message: bytes) -> None:
        kind, text = json.loads(message[1:])
        counter[kind] += 1
        if not self.result.first_error:
            self.result.first_error = text

    def bury(self, within: float = 5.0) -> bool:
        """Kill all contenders. False: some hang in the kernel, until their filesystem is unmounted; then once more."""
        alive = [contender for contender in self._contenders if contender.pid]
        for contender in alive:
            os.kill(contender.pid, signal.SIGKILL)
        deadline = time.monotonic() + within
        dead = [contender.kill(max(deadline - time.monotonic(), 0.0)) for contender in alive]
        return all(dead)
