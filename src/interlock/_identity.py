"""Who a thread is. Not its ident: the system gives that to the next thread when one ends, and a hold may outlive
the thread that acquired it."""

from __future__ import annotations

from _thread import _local, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._model import Claim


class Token:
    """Stands for one thread, never for another. Its ident may be another's by now."""

    __slots__ = ("__weakref__", "ident")

    def __init__(self) -> None:
        self.ident = get_ident()


class _Me(_local):
    def __init__(self) -> None:
        self.token = Token()


me = _Me()
"""`me.token` is an object of the calling thread's own, never anybody else's."""


def names(claim: Claim) -> tuple[str, str]:
    """The thread and the task that asked for a claim, for people; "" where there is none, or it has ended."""
    token = claim.owner if isinstance(claim.owner, Token) else claim.thread
    return thread_name(token), task_name(claim.owner)


def thread_name(token: object) -> str:
    import threading

    if not isinstance(token, Token):
        return ""
    for thread in threading.enumerate():
        if thread.ident == token.ident:
            return f"{thread.name} (tid {thread.native_id})" if thread.native_id else thread.name
    return ""


def task_name(owner: object) -> str:
    """Of a task of asyncio or trio: they own by a weak reference."""
    from weakref import ref

    task = owner() if isinstance(owner, ref) else None
    get_name = getattr(task, "get_name", None)
    if get_name is not None:
        return str(get_name())
    return str(getattr(task, "name", ""))
