"""A host that is paused beyond its lease on real NFSv4.2. All of it: `python -m tests.network --chaos`."""

from __future__ import annotations

import sys

import pytest

from ..support import need, need_root
from . import chaos
from .guests import missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="guests are user-mode Linux"),
]


def test_who_was_paused_beyond_the_lease_is_told_before_its_next_write() -> None:
    need_root()
    for tool in missing():
        need(tool)
    cells = chaos.run(["pause"], ["NFSv4.2"], ["auto", "flock"], patience=120)["cells"]
    assert [(cell["check"]["said"], cell["write"]["said"], cell["verdict"]) for cell in cells] == [
        ("lost", "lost", "told")
    ] * 2, cells
