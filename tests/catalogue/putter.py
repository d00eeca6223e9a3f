"""A job that puts its share of the seed's builds into a store; prints each hash once it is acknowledged.

    python -m tests.catalogue.putter STORE SHARE SHARES [stepped]

Stepped, it waits for a line of input before each build: so it can be killed before it has done all of them.
"""

from __future__ import annotations

import sys
from typing import Any

from interlock.store import Store

from .indexes import STACKS, Spec, seed_specs


def document(spec: Spec) -> dict[str, Any]:
    """The spec file of a build: its node, and those of all that it depends on."""
    nodes: dict[str, Spec] = {}
    waiting = [spec]
    while waiting:
        here = waiting.pop()
        if here.hash not in nodes:
            nodes[here.hash] = here
            waiting += [dep.spec for dep in here.deps]
    return {"spec": {"_meta": {"version": 5}, "nodes": [{**s.node(8), "hash": s.hash} for s in nodes.values()]}}


def archive(spec: Spec) -> bytes:
    return b"\x1f\x8b" + f"package {spec.hash}".encode() * 40


def main(place: str, share: int, shares: int, stepped: bool) -> None:
    store = Store(place)
    for number, (spec, around, labels) in enumerate(seed_specs()):
        if number % shares != share:
            continue
        if stepped:
            sys.stdin.readline()
        views = [label for label in labels if label in STACKS]
        # What it depends on is shared between builds: several jobs put the same at once. Compilers are not put.
        for other in around[:3] if number % 3 == 0 else []:
            if other.name != "gcc" and other.name != "apple-clang":
                store.put(document(other), archive(other), views=views)
        print(store.put(document(spec), archive(spec), views=views).hash, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "stepped" in sys.argv)
