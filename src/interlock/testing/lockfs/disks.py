"""Real filesystems to mount for a test: images over a loop device, tmpfs, overlay; each seen at two places.

with disk("xfs", tmp_path) as (one, two): ...
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DISKS = {
    # name: the size of the image in MiB (the smallest that is made without complaint), and how it is made
    "ext4": (64, ["mkfs.ext4", "-q", "-F"]),
    "xfs": (320, ["mkfs.xfs", "-q"]),
    "btrfs": (128, ["mkfs.btrfs", "-q"]),
    "tmpfs": (0, []),
    "overlay": (0, []),
}


def missing(kind: str) -> str:
    """Why there can be no such filesystem here; empty if there can."""
    if sys.platform != "linux":
        return "mounting filesystems needs Linux"
    if os.geteuid() != 0:
        return "mounting filesystems needs root"
    for program in ("mount", "umount", *DISKS[kind][1][:1]):
        if shutil.which(program) is None:
            return f"{kind} needs the program {program}"
    return ""


@contextmanager
def disk(kind: str, where: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """A fresh filesystem of this kind below the directory `where`: yields two paths at which it is mounted. At the end
    it is gone, image and all."""
    reason = missing(kind)
    if reason:
        raise RuntimeError(reason)
    base = os.path.join(os.path.realpath(where), kind)
    one, two = os.path.join(base, "one"), os.path.join(base, "two")
    with ExitStack() as stack:
        for directory in (base, one, two):
            os.makedirs(directory)
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        if kind == "overlay":
            layers = [os.path.join(base, layer) for layer in ("lower", "upper", "work")]
            scratch = os.path.join(base, "scratch")  # an upper layer cannot lie on another overlay
            os.makedirs(scratch)
            _mount(stack, ["-t", "tmpfs", "tmpfs"], scratch)
            layers = [os.path.join(scratch, layer) for layer in ("lower", "upper", "work")]
            for layer in layers:
                os.makedirs(layer)
            options = "lowerdir={},upperdir={},workdir={}".format(*layers)
            _mount(stack, ["-t", "overlay", "-o", options, "overlay"], one)
        elif kind == "tmpfs":
            _mount(stack, ["-t", "tmpfs", "tmpfs"], one)
        else:
            size, make = DISKS[kind]
            image = os.path.join(base, "image")
            with open(image, "wb") as file:
                file.truncate(size << 20)
            _run([*make, image])
            _mount(stack, ["-o", "loop", image], one)
        _mount(stack, ["--bind", one], two)
        yield one, two


def read_only(*paths: str) -> None:
    """Remount so that nothing can be written; while a file is open for writing it is refused (EBUSY)."""
    for path in paths:
        _run(["mount", "-o", "remount,bind,ro", path])


def _mount(stack: ExitStack, words: list[str], path: str) -> None:
    _run(["mount", *words, path])
    stack.callback(_run, ["umount", "-l", path])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
