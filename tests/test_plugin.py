"""The pytest plugin, in runs of pytest of their own, with and without xdist."""

from __future__ import annotations

import pytest

from .support import need_module

need_module("xdist")

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest('pytest_plugins = ["interlock.testing.plugin"]')
    return pytester


def run(project: pytest.Pytester, *words: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "xdist.plugin", "-p", "no:cacheprovider", "-W", "error", *words)


LEAKS = """
import threading
import pytest
from interlock import AsyncLock, Lock, RLock

@pytest.fixture
def tidy(tmp_path):
    with Lock(tmp_path / "f.lock"):
        yield

@pytest.fixture
def untidy(tmp_path):
    return Lock(tmp_path / "u.lock").acquire()

@pytest.fixture(scope="module")
def wide():
    with Lock("wide.lock") as hold:
        yield hold

kept = []

def test_clean(tmp_path, tidy):
    with Lock(tmp_path / "x.lock"): pass

def test_with_a_wide_fixture(wide):
    assert wide.held

def test_leaks():
    kept.append(Lock("leaked.lock").acquire())

def test_does_not_wait_for_the_leaked_one(wide):
    with Lock("leaked.lock", timeout=1): pass

def test_leaks_by_a_fixture(untidy):
    pass

def test_leaks_from_a_thread():
    thread = threading.Thread(target=lambda: kept.append(Lock("thread.lock").acquire()), name="helper")
    thread.start()
    thread.join()

@pytest.mark.interlock_leaks
def test_may_leak():
    kept.append(Lock("allowed.lock").acquire())

def test_fails_and_leaks():
    kept.append(RLock("failed.lock").acquire())
    assert False

def test_twice(wide):
    for lock in ("one.lock", "two.lock"):
        kept.append(Lock(lock).acquire())
"""


def test_a_leaked_hold_fails_its_test(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=LEAKS)
    done = run(project)
    done.assert_outcomes(passed=8, failed=1, errors=5)
    text = done.stdout.str()
    leaky = [line for line in text.splitlines() if line.startswith("ERROR test_it.py::")]
    assert [line.split("::")[1].split()[0] for line in leaky] == [
        "test_leaks", "test_leaks_by_a_fixture", "test_leaks_from_a_thread", "test_fails_and_leaks", "test_twice",
    ]  # fmt: skip
    done.stdout.fnmatch_lines(["*leaked.lock (MainThread), acquired at *test_it.py:* in test_leaks"])
    done.stdout.fnmatch_lines(["*thread.lock (helper), acquired at *"])
    done.stdout.fnmatch_lines(["*one.lock*", "*two.lock*"])
    assert "ResourceWarning" not in text


def test_the_check_can_be_turned_off(project: pytest.Pytester) -> None:
    project.makepyfile(test_it="from interlock import Lock\nkept = []\ndef test(): kept.append(Lock('x').acquire())")
    run(project, "-o", "interlock_leaks=false").assert_outcomes(passed=1)
    run(project).assert_outcomes(passed=1, errors=1)


def test_the_plugin_comes_only_when_it_is_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("from interlock import Lock\nkept = []\ndef test(): kept.append(Lock('x').acquire())")
    run(pytester).assert_outcomes(passed=1)
    run(pytester, "-p", "interlock.testing.plugin").assert_outcomes(passed=1, errors=1)


def test_async_holds_leak_too(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import asyncio\nfrom interlock import AsyncLock\nkept = []\n"
        "async def main(): kept.append(await AsyncLock('x.lock').acquire())\n"
        "def test(): asyncio.run(main())"
    )
    run(project).assert_outcomes(passed=1, errors=1)


def test_a_thread_that_was_there_before_keeps_its_holds(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import threading
import pytest
from interlock import Lock

go, got, done = threading.Event(), threading.Event(), threading.Event()

@pytest.fixture(scope="session", autouse=True)
def background():
    def work():
        go.wait(60)
        with Lock("background.lock"):
            got.set()
            done.wait(60)
    thread = threading.Thread(target=work)
    thread.start()
    yield
    done.set()
    thread.join()

def test_first(): pass

def test_second():
    go.set()
    assert got.wait(60)
"""
    )
    run(project).assert_outcomes(passed=2)


SHARED = """
import os, time
import pytest
from interlock.testing.plugin import shared_fixture

@pytest.fixture(scope="session")
def size():
    return 3

@shared_fixture
def dataset(shared_directory, size):
    with open(os.environ["BUILDS"], "a") as log:
        log.write(f"{os.getpid()}\\n")
    (shared_directory / "data").write_text("x" * size)
    time.sleep(0.3)
    return {"path": str(shared_directory / "data"), "by": os.getpid()}

@pytest.mark.parametrize("number", range(12))
def test_it(dataset, number, request):
    with open(dataset["path"]) as data:
        assert data.read() == "xxx"
    with open(os.environ["BUILDS"] + ".used", "a") as log:
        log.write(f"{os.getpid()} {dataset['by']}\\n")
    time.sleep(0.05)
"""


@pytest.mark.parametrize("workers", [(), ("-n", "3")])
def test_a_shared_fixture_is_built_once(
    project: pytest.Pytester, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.makepyfile(test_it=SHARED)
    monkeypatch.setenv("BUILDS", str(project.path / "builds"))
    for run_number in (1, 2):
        run(project, *workers).assert_outcomes(passed=12)
        builds = (project.path / "builds").read_text().split()
        assert len(builds) == run_number, "once per run, and again in the next run"
        used = [line.split() for line in (project.path / "builds.used").read_text().splitlines()][-12:]
        assert {by for _, by in used} == {builds[-1]}
        assert len({pid for pid, _ in used}) == (3 if workers else 1)


@pytest.mark.slow
def test_a_builder_that_dies_has_a_successor(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDS", str(project.path / "builds"))
    project.makepyfile(
        test_it="""
import os, time
import pytest
from interlock.testing.plugin import shared_fixture

@shared_fixture
def once():
    with open(os.environ["BUILDS"], "a") as log:
        log.write("x\\n")
    if os.path.getsize(os.environ["BUILDS"]) == 2:
        time.sleep(0.5)
        os._exit(9)
    return 5

@pytest.mark.parametrize("number", range(6))
def test_it(once, number):
    assert once == 5
"""
    )
    done = run(project, "-n", "2")
    outcomes = done.parseoutcomes()
    assert outcomes["passed"] >= 5
    assert (project.path / "builds").read_text() == "x\nx\n"


def test_a_build_that_fails_fails_the_tests(project: pytest.Pytester) -> None:
    project.makepyfile(
        "from interlock.testing.plugin import shared_fixture\n"
        "@shared_fixture\n"
        "def broken(): raise ValueError('no such data')\n"
        "@shared_fixture\n"
        "def odd(): return object()\n"
        "def test_one(broken): pass\n"
        "def test_two(odd): pass\n"
    )
    done = run(project)
    done.assert_outcomes(errors=2)
    done.stdout.fnmatch_lines(["*ValueError: no such data*", "*the shared fixture odd must return what JSON can hold*"])


def test_a_shared_fixture_cannot_yield(project: pytest.Pytester) -> None:
    project.makepyfile(
        "from interlock.testing.plugin import shared_fixture\n"
        "@shared_fixture\ndef server(): yield 1\n"
        "def test(server): pass\n"
    )
    run(project).stdout.fnmatch_lines(["*server: a shared fixture returns its value*"])


def test_a_conftest_with_a_shared_fixture_raises_no_warning(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        'pytest_plugins = ["interlock.testing.plugin"]\n'
        "from interlock.testing.plugin import shared_fixture\n"
        "@shared_fixture\n"
        "def dataset(): return 5\n"
    )
    pytester.makepyfile("def test(dataset): assert dataset == 5")
    done = pytester.runpytest_subprocess("-W", "error")
    done.assert_outcomes(passed=1)
