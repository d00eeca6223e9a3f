"""What can be said of a name without locking anything."""

from __future__ import annotations

import importlib
import inspect
import pickle
import typing
from typing import Any

from .see import PUBLIC, See, case, filelock, shape


@case(*(name for name, thing in PUBLIC.items() if inspect.isclass(thing) or inspect.isfunction(thing)))
def shapes(see: See, directory: str, thing: Any) -> None:
    see.note("shape", shape(thing))


@case("__version__", "has_fcntl")
def values(see: See, directory: str, thing: Any) -> None:
    see.note("value", thing)


@case("asyncio")
def submodule(see: See, directory: str, thing: Any) -> None:
    see.note("names", sorted(name for name in dir(thing) if not name.startswith("_")))
    version = importlib.import_module("filelock.version").version
    see.note("version", [filelock.version == version, isinstance(filelock.version, str)])


@case("CloseErrorPolicy", "ContextErrorPolicy", "CompromiseReason", "OwnerMode", "StrictSoftFileClaimState")
def literals(see: See, directory: str, thing: Any) -> None:
    see.note("values", typing.get_args(thing))


@case("LockOptions")
def lock_options(see: See, directory: str, thing: Any) -> None:
    see.note("keys", sorted(thing.__annotations__))
    see.note("total", thing.__total__)
    see("use", lambda: dict(thing(timeout=1, mode=0o600)))


@case("Timeout")
def timeouts(see: See, directory: str, thing: Any) -> None:
    for label, error in (("plain", thing("a.lock")), ("held", thing("a.lock", "pid 4 on elsewhere"))):
        see.note(label, [str(error), repr(error), error.lock_file, error.errno, list(error.args)])
        copy = pickle.loads(pickle.dumps(error))
        see.note(label + " pickled", [str(copy), repr(copy), copy.lock_file, type(copy) is thing])

    class Narrow(thing):  # type: ignore[misc]
        def __init__(self, lock_file: str) -> None:
            super().__init__(lock_file)

    globals()["Narrow"] = Narrow
    Narrow.__qualname__ = "Narrow"
    see.note("subclass pickled", repr(pickle.loads(pickle.dumps(Narrow("b.lock")))))


@case("SoftFileLockProtocolError")
def protocol_errors(see: See, directory: str, thing: Any) -> None:
    for claim in (None, "claim-1"):
        error = thing("a.lock", claim, "nonsense")
        see.note(f"error {claim}", [str(error), error.lock_file, error.claim_name, error.reason])
        copy = pickle.loads(pickle.dumps(error))
        see.note(f"pickled {claim}", [str(copy), copy.lock_file, copy.claim_name, copy.reason])


@case("LeaseSettingsMismatch", "SoftFileLockLifetimeWarning")
def plain_errors(see: See, directory: str, thing: Any) -> None:
    see.note("error", thing("why"))
