"""Builds to publish, made up but shaped like real ones."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlock.store import Store


def hash_of(text: str) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest())[:32].decode().lower()


def node(name: str, version: str = "1.0", needs: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    found = {
        "name": name,
        "version": version,
        "arch": {"platform": "linux", "platform_os": "ubuntu24.04", "target": "x86_64_v3"},
        "namespace": "builtin",
        "parameters": {"build_system": "generic"},
        "dependencies": [
            {"name": other["name"], "hash": other["hash"], "parameters": {"deptypes": ["link"], "virtuals": []}}
            for other in needs or []
        ],
        **more,
    }
    found["hash"] = hash_of(json.dumps(found, sort_keys=True))
    return found


def spec(root: dict[str, Any], *others: dict[str, Any], version: int = 5) -> dict[str, Any]:
    return {"spec": {"_meta": {"version": version}, "nodes": [root, *others]}}


def numbered(number: int) -> tuple[dict[str, Any], bytes]:
    """A build: some share a dependency, some an archive."""
    base = node("base", f"{number % 7}")
    root = node(f"package{number % 13}", f"{number}.1", [base])
    return spec(root, base), b"\x1f\x8b" + b"archive %d\n" % (number // 2) * 40


def hashes(store: Store, view: str | None = None) -> list[str]:
    return [entry.hash for entry in store.entries(view)]
