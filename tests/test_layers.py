"""Imports go downward only, the core knows no outside world, and importing the package does nothing.

The order differs from the list in the design in one point: the core stands below engines and ios. It is written
against their protocols (`_model`) and gets them as arguments, so it imports neither, and they import its nouns.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import interlock

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(interlock.__file__).parent

LAYERS = (
    {"_errors", "_model", "_deadline", "_report", "_identity", "_parties", "_strangers", "_address", "paths"},  # words
    {"_core"},
    {"_io", "_wait", "_fs"},
    {"engines"},
    {
        "_choice", "_probe", "_target", "_remote", "_namespace", "_loads", "_hold", "_rwhold", "_loss", "_inspect",
        "lock", "rwlock", "semaphore", "together", "_order",
        "_observe", "_record", "_statistics", "otel",
        "_filelock", "filelock",
    },  # shells
    {"atomic"},
    {"store"},
    {"catalogue"},
    {"cli", "__main__", "testing"},
)  # fmt: skip
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

CORE_MAY = {"__future__", "collections", "weakref"}
"""What the core imports from the standard library: containers. No os, no socket, no clock, no event loop, no thread."""

LOOPS = {"asyncio", "trio", "anyio", "selectors"}
MAY_KNOW_LOOPS = {"_io", "_filelock", "filelock", "testing"}  # filelock's async API takes loops and executors

BUILT_ON_PUBLIC_NAMES = {"atomic", "store", "catalogue"}


def runtime_imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that a run may execute: those in functions too, those for the type checker not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                yield from runtime_imports(ast.Module([other], []))
        else:
            yield from runtime_imports(node)


def imported(module: str, is_package: bool, tree: ast.AST) -> Iterator[str]:
    """Absolute names of all modules (and names in modules) that this module imports at run time."""
    package = module if is_package else module.rpartition(".")[0]
    for node in runtime_imports(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            base = package
            for _ in range(node.level - 1):
                base = base.rpartition(".")[0]
            base = ".".join(filter(None, (base, node.module))) if node.level else str(node.module)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def faults(module: str, is_package: bool, source: str) -> list[str]:
    """What is wrong with the imports of one module."""
    home = module.removeprefix("interlock").lstrip(".").split(".")[0]
    if not home:
        return []  # the package itself: it names everything, and loads it on use
    if home not in RANK:
        return [f"{module}: give it a layer"]
    found: list[str] = []
    for name in imported(module, is_package, ast.parse(source)):
        top, *inner = name.split(".")
        if top != "interlock":
            if home == "_core" and top not in CORE_MAY:
                found.append(f"{module} imports {top}: the core knows no outside world")
            if top in LOOPS and home not in MAY_KNOW_LOOPS:
                found.append(f"{module} imports {top}: only ios know how to wait")
            continue
        there = inner[0] if inner and inner[0] in RANK else ""
        if there and RANK[there] > RANK[home]:
            found.append(f"{module} imports {name}: upward")
        if there and there != home and there.startswith("_") and home in BUILT_ON_PUBLIC_NAMES:
            found.append(f"{module} imports {name}: private")
        if home == there == "_io" and inner[1:] and inner[1] != module.split(".")[-1] and not is_package:
            found.append(f"{module} imports {name}: ios know nothing of each other")
    return found


def sources() -> list[tuple[str, bool, str]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = list(path.relative_to(SOURCE.parent).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        found.append((".".join(parts[:-1] if is_package else parts), is_package, path.read_text(encoding="utf-8")))
    return found


def test_imports_go_downward_only() -> None:
    modules = sources()
    assert len(modules) > 20
    assert [fault for module in modules for fault in faults(*module)] == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("interlock._core.x", "import os", "outside world"),
        ("interlock._core.x", "def f():\n    from asyncio import sleep", "outside world"),
        ("interlock._core.x", "from ..engines import kernel", "upward"),
        ("interlock.engines.x.y", "from ... import lock", "upward"),
        ("interlock.engines.x", "from ..lock import Lock", "upward"),
        ("interlock.engines.x", "def f():\n    try:\n        import trio\n    finally:\n        pass", "wait"),
        ("interlock._io.x", "from .blocking import io", "each other"),
        ("interlock.store.x", "from .._core.arbiter import turns", "private"),
        ("interlock.novelty", "", "layer"),
        ("interlock._core.x", "if TYPE_CHECKING:\n    pass\nelse:\n    import os", "outside world"),
    ],
)
def test_what_goes_upward_is_found(module: str, source: str, fault: str) -> None:
    found = faults(module, False, source)
    assert found
    assert fault in found[0]


def test_imports_for_the_type_checker_are_free() -> None:
    assert faults("interlock._core.x", False, "if TYPE_CHECKING:\n    import os\n    from ..lock import Lock") == []


# ---- what an import does


def python(program: str) -> dict[str, object]:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


LOADED = """
import sys, json
before = set(sys.modules)
{program}
print(json.dumps(sorted(name for name in set(sys.modules) - before)))
"""

HEAVY = {
    "asyncio", "concurrent", "ctypes", "dataclasses", "email", "hashlib", "inspect", "logging", "multiprocessing",
    "pathlib", "random", "select", "selectors", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading",
    "trio", "typing", "urllib", "click",
}  # fmt: skip


def loaded(program: str) -> set[str]:
    return {str(name).split(".")[0] for name in python(LOADED.format(program=program))}


def test_importing_the_package_loads_nothing() -> None:
    assert loaded("import interlock") <= {"interlock", "__future__", "importlib", "warnings"}
    everything = python(LOADED.format(program="import interlock"))
    assert [name for name in everything if name.startswith("interlock.")] == []


def test_naming_a_lock_loads_nothing_heavy() -> None:
    assert loaded("from interlock import Lock, RLock, AsyncLock, AsyncRLock, Hold, Timeout") & HEAVY == set()


def test_an_uncontended_lock_loads_no_event_loop_and_no_ctypes(tmp_path: Path) -> None:
    used = loaded(f"from interlock import Lock\nwith Lock({str(tmp_path / 'a.lock')!r}):\n    pass")
    assert used & {"asyncio", "trio", "ctypes", "dataclasses", "typing", "logging", "subprocess"} == set()


def test_every_public_name_is_there_and_no_other() -> None:
    for name in interlock.__all__:
        assert getattr(interlock, name) is not None
    assert sorted(dir(interlock)) == sorted(interlock.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = interlock.nothing_like_it  # type: ignore[attr-defined]


SIDE_EFFECTS = """
import json, os, signal, sys, threading
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event in ("sys.addaudithook", "signal.signal") else None)
real = os.register_at_fork
def register(**what):
    if sys._getframe(1).f_globals["__name__"].startswith("interlock"):  # random and threading have their own
        seen.append("register_at_fork")
    real(**what)
os.register_at_fork = register
import atexit
atexit.register = lambda *args, **kwargs: seen.append("atexit")
def handlers():
    return [str(signal.getsignal(number)) for number in signal.valid_signals()]
def state():
    return [sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else [],
            threading.active_count(), handlers(), sorted(os.environ), os.getcwd(), sys.getswitchinterval()]
before = state()
import interlock
import interlock.lock, interlock._io.blocking, interlock._target, interlock.engines.memory, interlock.engines.kernel
interlock.Lock, interlock.Timeout
after = state()
print(json.dumps({"same": before == after, "seen": seen}))
"""


def test_importing_has_no_side_effects() -> None:
    """No threads, no descriptors, no signal handlers, no hooks."""
    assert python(SIDE_EFFECTS) == {"same": True, "seen": []}
