"""What this process knows of itself and its claims, as `Party`. Loaded where somebody looks."""

from __future__ import annotations

import os
import socket
import sys
import time

from ._address import command_line
from ._errors import printable
from ._identity import names
from ._report import Party

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._model import Claim

__all__ = ["own", "printable", "short"]


def own(claim: Claim) -> Party:
    """A claim of this process, holder or waiter."""
    thread, task = names(claim)
    since, monotonic = claim.since or claim.began, time.monotonic()
    return Party(
        os.getpid(),
        command=short(command_line(sys.orig_argv)),
        user=_user(),
        host=socket.gethostname(),
        since=time.time() - (monotonic - since) if since else None,
        since_exact=bool(since),
        thread=thread,
        task=task,
        mode=claim.manner,
        slot=claim.slot,
        waited=max(0.0, (claim.since or monotonic) - claim.began) if claim.began else 0.0,
    )


def short(text: str) -> str:
    """A command line for messages."""
    text = printable(text)
    return text if len(text) <= 80 else text[:79] + "…"


def _user() -> str:
    if sys.platform == "win32":
        return os.environ.get("USERNAME", "")
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
