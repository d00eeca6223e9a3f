"""What an index of 100,000 builds costs: python -m tests.store.scale [--entries N]

Only the lists are made, not the files of the builds.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from typing import TYPE_CHECKING

from interlock.store import Store
from interlock.store.layout import Manifest
from interlock.store.scan import rows_for
from interlock.store.spec import read_spec

from .support import node, spec

if TYPE_CHECKING:
    from collections.abc import Callable


def timed(what: str, work: Callable[[], object]) -> None:
    began = time.perf_counter()
    work()
    print(f"{what}: {(time.perf_counter() - began) * 1000:.0f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=100_000)
    entries = parser.parse_args().entries
    with tempfile.TemporaryDirectory(prefix="interlock-scale-") as place:
        store = Store(place, durable=False)
        bases = [node(f"base{number}", note="x" * 800) for number in range(20)]

        def fill() -> None:
            for start in range(0, entries, 64):
                rows = []
                for number in range(start, min(start + 64, entries)):
                    needs = bases[number % 5 : number % 5 + 10]
                    root = node(f"package{number % 2000}", f"{number}", needs, note="x" * 500)
                    rows += rows_for(read_spec(spec(root, *needs)), Manifest(()), (f"stack{number % 8}",))
                store.chain.commit(rows, lambda _state: True)

        timed(f"committing {entries} builds, 64 per generation, with all snapshots", fill)
        listing = store.chain.listing()
        size = os.path.getsize(os.path.join(store.layout.chain, listing.snapshots[listing.snapshot]))
        print(f"the snapshot has {size >> 20} MiB; {len(listing.deltas)} deltas are kept")
        timed("one more commit", lambda: store.chain.commit(rows_for(read_spec(spec(bases[0])), Manifest(())), bool))
        fresh = Store(place, durable=False)
        timed("a fresh process reads the state", fresh.snapshot)
        timed("the same, when nothing is new", fresh.snapshot)
        timed("one build is found", lambda: fresh.find("a" * 32))
        timed("a snapshot is written", fresh.chain.compact)
        store.index([])
        store.chain.commit(rows_for(read_spec(spec(bases[1])), Manifest(())), bool)
        timed("Spack's index, root", lambda: store.index([]))
        print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
