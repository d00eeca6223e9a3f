"""Bugs that the errno matrix must find: its negative controls."""

from __future__ import annotations

from errno import EIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlock.engines.kernel import KernelEngine
    from interlock.engines.kernel.ops import Ops


def _an_error_is_a_grant() -> None:
    from interlock.engines.kernel.ops import EXCLUSIVE, Ops

    real = Ops.try_lock

    def try_lock(self: Ops, fd: int, path: str, operation: int = EXCLUSIVE) -> bool:
        try:
            return real(self, fd, path, operation)
        except OSError as error:
            if error.errno == EIO:
                return True
            raise

    Ops.try_lock = try_lock  # type: ignore[method-assign]


def _an_error_is_the_end_of_a_release() -> None:
    from interlock.engines.kernel import KernelEngine
    from interlock.engines.kernel.ops import UNLOCK

    real = KernelEngine.drop

    def drop(self: KernelEngine, claim: Any) -> None:
        if claim.fd is not None:
            try:
                self.flock(claim.fd, UNLOCK)
            except OSError:
                claim.fd = None
        real(self, claim)

    KernelEngine.drop = drop  # type: ignore[method-assign]


PLANTS = {"grant": _an_error_is_a_grant, "leak": _an_error_is_the_end_of_a_release}
