"""`interlock store`: what it says, prints and returns. The work itself is tested next door."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from interlock.store import Store

from ..support import need_module
from .support import hashes, numbered
from .test_mirror import DOCUMENTS, second, third

if TYPE_CHECKING:
    from ..servers import Redis

need_module("click")


def run(*words: str | Path, cwd: Path | None = None, status: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "interlock", "store", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout, done.stderr


def call(*words: str | Path, status: int = 0) -> Any:
    out, _err = run(*words, "--json", status=status)
    return json.loads(out)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    document, archive = numbered(3)
    (tmp_path / "a.tar.gz").write_bytes(archive)
    path = tmp_path / "a.spec.json"
    path.write_text(json.dumps(document))
    return path


HASH = numbered(3)[0]["spec"]["nodes"][0]["hash"]


def test_from_put_to_gc(tmp_path: Path, root: Path, spec: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    [put] = call("put", root, spec, archive, "--view", "e4s", "--job", "job 7")
    assert put["hash"] == HASH
    assert put["provenance"]["job"] == "job 7"
    listed = call("list", root, "--view", "e4s")
    assert [build["hash"] for build in listed["builds"]] == [HASH]
    got = call("get", root, HASH[:5], "--output", tmp_path / "copy")
    assert got["leased"]
    assert (tmp_path / "copy").read_bytes() == archive.read_bytes()
    assert run("get", root, HASH)[0].strip() == got["archive"]
    assert call("index", root) == {"root": 1, "e4s": 1}
    assert call("verify", root)["clean"]
    assert "nothing was removed" in run("gc", root, "--keep", "other", status=3)[1]
    assert call("gc", root, "--keep", "package3@*")["builds"] == []
    assert call("gc", root, "--max-age", "30d", "--max-size", "1G")["builds"] == []
    (tmp_path / "keep").write_text("# nothing\n\n")
    assert "names nothing" in run("gc", root, "--keep-list", tmp_path / "keep", "--grace", "0s", status=2)[1]
    assert call("gc", root, "--max-age", "0", "--dry-run")["builds"] == [HASH]
    assert run("gc", root, "--max-age", "0", "--grace", "0s")[0].startswith(f"removed {HASH}\n")
    assert run("list", root, status=1) == ("", "")


def test_get_runs_a_command_that_holds_the_build(root: Path, spec: Path, tmp_path: Path) -> None:
    run("put", root, spec, tmp_path / "a.tar.gz")
    program = "import os, sys; from interlock.store import Store; print(len(open(os.environ['INTERLOCK_ARCHIVE'], 'rb')"
    program += ".read()), Store(sys.argv[1]).gc(keep=[], grace=0).builds); sys.exit(7)"
    out, _err = run("get", root, HASH, "--", sys.executable, "-c", program, root, status=7)
    assert out == f"{len(numbered(3)[1])} ()\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there an open file cannot be deleted")
def test_the_command_holds_the_build_when_get_is_killed(root: Path, spec: Path, tmp_path: Path) -> None:
    run("put", root, spec, tmp_path / "a.tar.gz")
    program = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read(); print(os.path.exists(sys.argv[1]))"
    archive = run("get", root, HASH)[0].strip()
    command = [sys.executable, "-c", program, archive]
    words = [sys.executable, "-m", "interlock", "store", "get", root, HASH, "--", *command]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as get:
        assert get.stdin is not None
        assert get.stdout is not None
        assert int(get.stdout.readline()) != get.pid
        get.kill()
        get.wait(60)
        store = Store(root)
        assert store.gc(keep=[], grace=0).builds == ()
        get.stdin.close()
        assert get.stdout.read() == "True\n"
    deadline = time.monotonic() + 60
    while not store.gc(keep=[], grace=0).builds:  # the kernel closes a process's files one by one
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_output_that_cannot_be_written(root: Path, spec: Path, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    run("put", root, spec, tmp_path / "a.tar.gz")
    for words in (["list", root], ["get", root, HASH], ["verify", root, "--json"], ["gc", root, "-n"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "interlock", "store", *map(str, words)],
                stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
            )  # fmt: skip
        assert done.returncode == 125, words
        assert done.stderr == "interlock: standard output: No space left on device\n"


def test_bad_input_makes_no_store(root: Path, spec: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    run("put", root, archive, spec, status=3)
    run("put", root, spec, tmp_path / "none", status=3)
    run("put", root, spec, archive, "--view", "../x", status=3)
    run("put", root, spec, archive, "--lock", "gopher://x", status=3)
    run("import", root, tmp_path, status=3)
    assert not root.exists()


def test_many_are_put_from_a_listing(tmp_path: Path, root: Path, spec: Path) -> None:
    item = {"spec": str(spec), "archive": str(tmp_path / "a.tar.gz"), "views": ["a", "b"]}
    (tmp_path / "listing").write_text(json.dumps(item) + "\n")
    run("put", root, "--from", tmp_path / "listing", "--view", "c")
    [entry] = Store(root).entries()
    assert entry.views == ("a", "b", "c")
    (tmp_path / "listing").write_text("{}\n")
    assert "line 1 of" in run("put", root, "--from", tmp_path / "listing", status=3)[1]
    run("put", root, spec, status=2)


def test_build(root: Path, spec: Path, tmp_path: Path) -> None:
    shell = ("sh", "-c")
    out, err = run("build", root, spec, "--", *shell, "echo working; echo made > $INTERLOCK_ARCHIVE")
    assert "working" in err
    assert Path(out.strip()).read_text() == "made\n"
    again, _err = run("build", root, spec, "--output", tmp_path / "copy", "--", *shell, "exit 1")
    assert again == f"{tmp_path / 'copy'}\n"
    assert (tmp_path / "copy").read_text() == "made\n"


def test_a_build_that_fails(root: Path, spec: Path) -> None:
    _out, err = run("build", root, spec, "--", "false", status=1)
    assert HASH in err
    assert "exit status: 1" in err
    _out, err = run("build", root, spec, "--", "true", status=1)
    assert "nothing was written to $INTERLOCK_ARCHIVE" in err
    _out, err = run("build", root, spec, "--", "no-such-command", status=1)
    assert "no-such-command: No such file" in err
    assert hashes(Store(root)) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_build_that_is_asked_to_end_leaves_no_command_behind(root: Path, spec: Path, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    script = f"trap 'exit 9' TERM; echo $$ > {started}.part; mv {started}.part {started}; while :; do sleep 0.05; done"
    command = [sys.executable, "-m", "interlock", "store", "build", root, spec, "--", "sh", "-c", script]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True) as builder:
        while not started.exists():
            time.sleep(0.01)
        builder.terminate()
        _, said = builder.communicate(timeout=100)
    assert builder.returncode == 1
    assert "exit status: 9" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_what_is_wrong_is_named_with_its_status(tmp_path: Path, root: Path, spec: Path) -> None:
    assert run("get", root, HASH, status=3)[1].startswith(f"interlock: {root} is not there")
    run("put", root, spec, tmp_path / "a.tar.gz")
    assert "has no build" in run("get", root, "zzz", status=1)[1]
    archive = call("get", root, HASH)["archive"]
    os.truncate(archive, 3)
    assert archive in run("get", root, HASH, status=3)[1]
    out, _err = run("verify", root, status=1)
    assert out.startswith(f"damaged-blob: {archive}: ")
    assert out.endswith("1 problems, not clean\n")
    assert call("verify", root, "--repair", "--grace", "0")["clean"]
    run("verify", root)
    assert "is not JSON" in run("put", root, tmp_path / "a.tar.gz", spec, status=3)[1]
    assert "No such file" in run("put", root, spec, tmp_path / "none", status=3)[1]
    assert "no engine" in run("put", root, spec, tmp_path / "a.tar.gz", "--lock", "gopher://x", status=3)[1]
    run("gc", root, "--max-age", "3x", status=2)
    run("nothing", status=2)


def test_a_second_gc(root: Path, spec: Path, tmp_path: Path) -> None:
    run("put", root, spec, tmp_path / "a.tar.gz")
    hold = Store(root).locks.named("gc").try_acquire()
    assert hold is not None
    assert "another gc" in run("gc", root, status=1)[1]
    hold.release()


def test_import(tmp_path: Path, root: Path) -> None:
    third(tmp_path / "mirror", DOCUMENTS[:2])
    second(tmp_path / "mirror", DOCUMENTS[2], b"\x1f\x8bgood")
    assert run("import", root, tmp_path / "mirror", "--view", "all")[0] == "imported 3, had 0, refused 0\n"
    bad = second(tmp_path / "mirror", DOCUMENTS[3], b"\x1f\x8bgood")
    os.truncate(bad, 1)
    out, err = run("import", root, tmp_path / "mirror", "--view", "all", status=1)
    assert out == "imported 0, had 3, refused 1\n"
    assert bad in err
    assert len(hashes(Store(root), "all")) == 3


def test_a_bar_on_a_terminal(root: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    third(tmp_path / "mirror", DOCUMENTS)
    main, other = pty.openpty()
    command = [sys.executable, "-m", "interlock", "store", "import", str(root), str(tmp_path / "mirror")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=other, timeout=60)
    os.close(other)
    shown = os.read(main, 10_000).decode()
    os.close(main)
    assert done.returncode == 0
    assert "builds" in shown
    assert "100%" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("verify", ".", "--grace", "-1"), "'-1': a time in seconds is a number from 0 on"),
        (("verify", ".", "--grace", "nan", "--repair"), "'nan': a time in seconds is a number from 0 on"),
        (("build", ".", "--timeout", "-1", "spec", "--", "true"), "'-1': a time in seconds is a number from 0 on; 0"),
        (("build", ".", "--timeout", "nan", "spec", "--", "true"), "'nan': a time in seconds is a number from 0 on"),
        (("build", ".", "spec", "--", ""), "the command is an empty word"),
        (("get", ".", "a", "--", ""), "the command is an empty word"),
        (("get", ".", ""), "'' is no hash"),
        (("gc", ".", "--max-age", "-5"), "'-5': an age is a number from 0 on, with or without s, m, h, d, w"),
        (("gc", ".", "--max-size", "1X"), "'1X': a size is a number from 0 on, with or without K, M, G, T"),
        (("gc", ".", "--max-size", "9" * 400 + "T"), "T': a size is a number from 0 on, with or without K, M, G, T"),
    ],
)
def test_wrong_values_are_2_and_change_nothing(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    _out, err = run(*words, cwd=tmp_path, status=2)
    assert says in err
    assert list(tmp_path.iterdir()) == []


def test_locks_on_a_server(root: Path, spec: Path, tmp_path: Path, redis_server: Redis) -> None:
    """They save work there as they do on files; what is true is in the store. A server that is away is an error."""
    url = f"{redis_server.url}?il_settle=0&il_namespace={tmp_path.name}#store/"
    marker = tmp_path / "built"
    script = f"echo x >> {marker}; sleep 0.3; cp {tmp_path}/a.tar.gz $INTERLOCK_ARCHIVE"
    (tmp_path / "a.tar.gz").write_bytes(b"archive")
    command = [sys.executable, "-m", "interlock", "store", "build", root, spec, "--lock", url, "--", "sh", "-c", script]
    builders = [subprocess.Popen(list(map(str, command))) for _ in range(3)]
    assert [builder.wait(60) for builder in builders] == [0, 0, 0]
    assert marker.read_text() == "x\n"
    assert call("verify", root, "--lock", url)
    said = run("put", root, spec, tmp_path / "a.tar.gz", "--lock", "redis://u:sesame@127.0.0.1:1/0", status=3)[1]
    assert "gives no answer" in said
    assert "sesame" not in said
