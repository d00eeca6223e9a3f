"""Serving `import filelock` from here: the public modules, and filelock's private ones by name.

A finder in front of `sys.meta_path` answers for `filelock` and everything below it, so that nothing is loaded before
it is asked for. Private modules are what old code, type checkers and packaging tools list; each is a view of the
modules that hold its names.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

PRIVATE = {
    "_api": ("api", "meta", "options"),
    "_async": ("async_",),
    "_async_read_write": ("async_readwrite",),
    "_descriptor": ("native",),
    "_error": ("errors",),
    "_identity": ("state",),
    "_lease": ("soft_lease",),
    "_marker": ("soft",),
    "_read_write": ("readwrite",),
    "_soft": ("soft",),
    "_soft_protocol": ("soft_strict",),
    "_soft_rw": ("soft_readwrite", "async_readwrite"),
    "_soft_rw._async": ("async_readwrite",),
    "_soft_rw._protocol": ("soft_readwrite",),
    "_soft_rw._storage": ("soft_readwrite",),
    "_soft_rw._sync": ("soft_readwrite",),
    "_strict": ("soft_strict",),
    "_unix": ("native",),
    "_util": ("alias",),
    "_windows": ("native",),
}
"""filelock's private modules, and those of ours where their names live."""


def install() -> None:
    """From now on `import filelock` gives `interlock.filelock`, in this process.

    Call it before anything imports filelock; raises `RuntimeError` afterwards, because then some code has classes of
    the one and some of the other. A second call does nothing.
    """
    present = sys.modules.get("filelock")
    if present is not None and present is not import_module("interlock.filelock"):
        raise RuntimeError(
            f"filelock was imported before interlock.filelock.install(), from {getattr(present, '__file__', '?')}: "
            "call install() first, at the start of the program"
        )
    take_over()


def take_over() -> None:
    """`install` without asking: what the distribution `filelock` of this project does when it is imported."""
    facade = import_module("interlock.filelock")
    sys.modules["filelock"] = facade
    # Not through the finder: importing a submodule sets it on its package, where `version` is the string.
    sys.modules["filelock.version"] = import_module("interlock.filelock.version")
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds and loads `filelock.*`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        if package != "filelock" or (rest not in PRIVATE and rest not in ("", "asyncio", "version")):
            return None
        return ModuleSpec(name, self, is_package=rest == "_soft_rw")  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        rest = name.partition(".")[2]
        if rest in PRIVATE:
            view = _View(name)
            view.__dict__.update(__spec__=module.__spec__, __loader__=self, __package__=module.__package__)
            if rest == "_soft_rw":
                view.__path__ = []
            sys.modules[name] = view
        else:
            sys.modules[name] = import_module("interlock." + name)


class _View(ModuleType):
    """A private module of filelock: the names of some of our modules."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for home in PRIVATE[self.__name__.partition(".")[2]]:
                found = getattr(import_module("interlock._filelock." + home), name, self)
                if found is not self:
                    return found
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


# ---- what others imported from filelock's helpers


def ensure_directory_exists(filename: str | os.PathLike[str]) -> None:
    """Make the directory that is to contain `filename`."""
    os.makedirs(os.path.dirname(os.path.abspath(filename)), exist_ok=True)


def raise_on_not_writable_file(filename: str) -> None:
    """Raise what opening an existing file for writing would raise; a file that is not there is fine."""
    try:
        mode = os.stat(filename, follow_symlinks=False).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        number = errno.EACCES if sys.platform == "win32" else errno.EISDIR
    elif not mode & stat.S_IWUSR and not os.access(filename, os.W_OK):
        number = errno.EACCES
    else:
        return
    raise OSError(number, os.strerror(number), filename)
