"""`interlock doctor --peer`: two processes on two mounts of one place, with nothing else between them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("tried on Linux", allow_module_level=True)

from interlock._probe import peer
from interlock._probe.bounded import Child
from interlock._probe.trials import Team

from .support import need_module
from .test_probe import played

if TYPE_CHECKING:
    from pathlib import Path


def doctor(*arguments: str | Path, said: str = "") -> subprocess.Popen[str]:
    need_module("click")
    environment = {**os.environ, "INTERLOCK_PRIMITIVE": said}
    if not said:
        del environment["INTERLOCK_PRIMITIVE"]
    return subprocess.Popen(
        [sys.executable, "-m", "interlock", "doctor", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def meet(one: Path, two: Path, *, said: str = "", said_there: str | None = None) -> tuple[dict[str, Any], int, int]:
    """Do what the printed command says. Returns what the inviting side found, and both statuses."""
    host = doctor(one, "--peer", "--json", "--wait", "60", said=said)
    try:
        assert host.stderr is not None
        token = ""
        while not token:
            line = host.stderr.readline()
            assert line, host.communicate()
            token = (re.search(r"interlock doctor .* --join (\w+)", line) or ["", ""])[1]
        guest = doctor(two, "--join", token, "--json", said=said if said_there is None else said_there)
        there, complaints = guest.communicate(timeout=110)
        assert there, complaints
        out, _ = host.communicate(timeout=100)
    finally:
        host.kill()
        host.communicate()
    found: dict[str, Any] = json.loads(out)["meeting"]
    assert json.loads(there) == found
    return found, host.returncode, guest.returncode


def outcome(found: dict[str, Any]) -> dict[str, bool | None]:
    return {trial["name"]: trial["excludes"] for trial in found["trials"]}


CASES = [
    # mode, as what it is mounted, setting; what excludes; status
    ("coherent", "fuse.juicefs", "", {"flock": True, "dual": True, "ofd": True, "posix": True, "link": True}, 3),
    ("local-lock", "fuse.juicefs", "", {"flock": False, "dual": False, "ofd": False, "excl": True}, 1),
    ("gpfs", "fuse.lockfs", "dual", {"flock": False, "dual": True, "ofd": True, "posix": True}, 3),
    ("always", "fuse.juicefs", "", {"flock": False, "dual": False, "link": True}, 1),
    ("nfs-nolockd", "fuse.juicefs", "", {"flock": None, "dual": None, "link": True, "excl": True}, 3),
]


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kind", "said", "expected", "status"), CASES, ids=[case[0] for case in CASES])
def test_two_sides(
    mode: str, kind: str, said: str, expected: dict[str, bool | None], status: int, tmp_path: Path
) -> None:
    with played(tmp_path, mode, kind) as (_, one, two):
        found, here, there = meet(one, two, said=said)
    assert {name: outcome(found)[name] for name in expected} == expected
    assert found["same_machine"] is True  # so the best answer is "not known"
    assert (here, there) == (status, status)
    for trial in found["trials"]:
        if trial["excludes"] and trial["holds"]:
            assert trial["overlaps"] == 0
            assert trial["holds"] > 50


@pytest.mark.slow
def test_two_sides_that_see_each_other_late(tmp_path: Path) -> None:
    """Caches of 3 s that opening a file does not refresh."""
    with played(tmp_path, "stale", "fuse.juicefs") as (_, one, two):
        found, *statuses = meet(one, two)
    assert outcome(found)["flock"] is True
    assert statuses == [3, 3]


@pytest.mark.slow
def test_two_sides_that_were_told_different_things(tmp_path: Path) -> None:
    with played(tmp_path, "nfs-nolockd", "fuse.juicefs") as (_, one, two):
        found, *statuses = meet(one, two, said_there="marker")
    assert (found["here"]["primitive"], found["there"]["primitive"]) == ("flock", "marker")
    assert statuses == [1, 1]


def test_nobody_comes(tmp_path: Path) -> None:
    host = doctor(tmp_path, "--peer", "--wait", "0.2")
    out, complaints = host.communicate(timeout=100)
    assert host.returncode == 4, complaints
    assert "--join" in out
    assert "no answer within" in complaints
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("token", ["0123abcd", "../../x", "zzz"])
def test_an_invitation_that_is_not_there(token: str, tmp_path: Path) -> None:
    guest = doctor(tmp_path, "--join", token)
    _, complaints = guest.communicate(timeout=100)
    assert guest.returncode == 4
    assert token in complaints
    assert "Traceback" not in complaints
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "letter",
    [
        {},
        {"do": "clean", "path": "/"},
        {"do": "write", "name": "x", "text": "x"},
        {"do": "create", "kind": "excl", "name": "../x"},
        {"do": "create", "kind": "excl"},
        {"do": "lock", "kind": "flock", "name": 3},
        {"do": ["lock"]},
        {"do": "__init__"},
    ],
)
def test_a_guest_does_nothing_but_what_a_trial_needs(letter: dict[str, Any], tmp_path: Path) -> None:
    """Anybody who can write in the directory can write letters."""
    base = tmp_path / "base"
    base.mkdir()
    team = Team(str(base), "", float("inf"))
    try:
        assert peer._obey(letter, team)["errno"] == 22
    finally:
        team.close()
    assert os.listdir(base) == []
    assert os.listdir(tmp_path) == ["base"]


def test_half_a_letter_is_none(tmp_path: Path) -> None:
    letters = peer.Letters(str(tmp_path), "a", "b")
    other = Child()
    try:
        other.ask(5, "use", path=str(tmp_path))
        for text in ("", "0", "zzzzzzzz{}", '00000000{"number": 1}', '{"number": 1}'):
            other.ask(5, "post", name="b", text=text)
            with pytest.raises(peer.PeerError):
                letters.read(1, 0)
    finally:
        letters.close()
        other.close()
