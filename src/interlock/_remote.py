"""From a URL to the engine of a server: the built-in ones, and those that other packages bring by an entry point."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from ._address import Address, key_of
from ._core.arbiter import Line, line_for
from ._errors import UnsupportedError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from ._model import Engine

    class EngineModule(Protocol):
        """What a package of engines has: for a scheme, an entry point of the group `interlock.engines` names it."""

        @property
        def OPTIONS(self) -> frozenset[str]:  # noqa: N802 - a constant
            """The keys of ours in a URL that it knows, with their prefix "il_"."""

        def open_engine(self, address: Address, ttl: float | None) -> Engine:
            """Makes no request. Raises `ValueError` for a URL or a ttl that makes no sense, `UnsupportedError` where
            the client library is missing."""

__all__ = ["BUILT_IN", "GROUP", "engine_for", "line"]

GROUP = "interlock.engines"

BUILT_IN = {
    scheme: "interlock.engines." + module
    for module, schemes in {
        "redis": (
            "redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
            "valkey", "valkeys",
        ),
        "postgres": ("postgresql", "postgres"),
        "etcd": ("etcd", "etcds"),
        "zookeeper": ("zookeeper", "zk", "zookeepers", "zks"),
    }.items()
    for scheme in schemes
}  # fmt: skip

_engines: dict[tuple[Address, float | None], Engine] = {}


def line(url: str, scheme: str, fair: bool, ttl: float | None, primitive: str) -> Line:
    """The line of a URL. Makes no request."""
    module = _module(scheme)
    address = Address.parse(url)
    if not address.name:
        raise ValueError(f"{address.public!r} names no lock: put its name behind a '#'")
    if primitive != "auto":
        raise UnsupportedError(f"{address.public}: primitive={primitive!r} is for lock files")
    engine = _engine(module, address.without_name(), ttl)
    key = key_of(address, address.name)
    if fair:
        engine.require_fair(key)
    found = line_for(engine, key, key)
    found.secret = address.has_credentials
    return found


def engine_for(address: Address, ttl: float | None = None) -> Engine:
    """The process's engine of this server; there is one for each address and ttl. Makes no request."""
    return _engine(_module(address.scheme), address.without_name(), ttl)


def _engine(module: EngineModule, address: Address, ttl: float | None) -> Engine:
    if ttl is not None:
        ttl = _seconds(ttl, "ttl")
    found = _engines.get((address, ttl))
    if found is not None:
        return found
    unknown = sorted(address.options.keys() - module.OPTIONS)
    if unknown:
        known = ", ".join(sorted(module.OPTIONS)) or "none"
        raise ValueError(f"{address.public}: unknown options {printable(', '.join(unknown))}; there are {known}")
    chosen = ttl
    if "il_ttl" in address.options:
        if ttl is not None:
            raise ValueError(f"{address.public} says how long a lease lasts, so leave ttl out")
        chosen = _seconds(address.options["il_ttl"], "il_ttl")
    engine: Any = module.open_engine(address, chosen)
    if ttl is not None:
        engine.options = {"ttl": ttl}  # what makes a pickled lock come to this engine again
    return _engines.setdefault((address, ttl), engine)


def _seconds(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{what} is a number of seconds, not {type(value).__name__}")
    try:
        found = float(value)
    except ValueError:
        raise ValueError(f"{what} is a number of seconds, not {value!r}") from None
    if not 0 < found < float("inf"):
        raise ValueError(f"{what} is a number of seconds greater than 0, not {value!r}")
    return found


def _module(scheme: str) -> EngineModule:
    name = BUILT_IN.get(scheme)
    if name is not None and (name in sys.modules or find_spec(name) is not None):
        module: Any = import_module(name)
        return module  # type: ignore[no-any-return]
    return _plugin(scheme)


def _plugin(scheme: str) -> EngineModule:
    from importlib.metadata import entry_points

    found = list(entry_points(group=GROUP, name=scheme))
    if not found:
        known = sorted({*BUILT_IN, "file", "marker", "memory", *entry_points(group=GROUP).names})
        raise UnsupportedError(f"there is no engine for {printable(scheme)}:// URLs; there are {', '.join(known)}")
    if len({point.value for point in found}) > 1:
        where = ", ".join(sorted(point.value for point in found))
        raise UnsupportedError(f"several packages bring an engine for {scheme}:// URLs: {where}")
    module: Any = found[0].load()
    return module  # type: ignore[no-any-return]
