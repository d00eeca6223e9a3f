"""Who a thread is. Not its ident: the system gives that to the next thread when one ends, and a hold may outlive
the thread that acquired it."""

from __future__ import annotations

from _thread import _local


class _Me(_local):
    def __init__(self) -> None:
        self.token = object()


me = _Me()
"""`me.token` is an object of the calling thread's own, never anybody else's."""
