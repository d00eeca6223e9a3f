"""A pytest plugin: fixtures that are built once for all xdist workers, and a check for leaked holds.

Load it where you want it, in the `conftest.py` at the root of the tests, or with `-p`:

    pytest_plugins = ["interlock.testing.plugin"]

It does not load itself: interlock comes with other packages, too, and their users asked for no check.

**Leaks.** A test that ends, its function fixtures included, with a hold that it acquired and did not release fails (an
error at its teardown) with the line that acquired it; the hold is then released, so that the next test does not wait
for it. Holds of fixtures with a wider scope may live as long as these, and what threads hold that ran before the test
is theirs. `@pytest.mark.interlock_leaks` lets one test leak, `interlock_leaks = false` in the ini file turns the check
off.

**Shared fixtures.** See `shared_fixture`.

(A conftest.py imports this module before pytest loads it as a plugin. PYTEST_DONT_REWRITE: so no warning about that.)
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from interlock import Event, observe, once
from interlock._core import arbiter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path
    from types import FrameType

    from interlock import Observation

__all__ = ["shared_fixture"]

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the package: not where anybody acquires
_leaks: pytest.StashKey[_Leaks] = pytest.StashKey()


# ---- shared fixtures


def shared_fixture(build: Callable[..., Any]) -> Any:
    """A session fixture that is built once per test run, by whichever xdist worker comes first. ::

        @shared_fixture
        def dataset(shared_directory):
            (shared_directory / "data.bin").write_bytes(download())
            return {"rows": 1000}

        def test_rows(dataset):
            ...

    The function may use other session fixtures. `shared_directory` among its arguments is a new directory of its own,
    for files that all workers then see at the same path. What it returns must be JSON; every worker gets its own copy.
    The other workers wait while one builds. If a build fails, it fails in all workers that waited for it; if the
    builder dies, a waiting worker builds at once. Without xdist it is an ordinary session fixture.

    There is no teardown: no worker can know that it is the last one. What must be ended, a server say, is better
    started once per worker. The directory goes when pytest removes its temporary directories.
    """
    if inspect.isgeneratorfunction(build):
        raise TypeError(
            f"{build.__name__}: a shared fixture returns its value; it cannot yield, for it has no teardown"
        )
    parameters = list(inspect.signature(build).parameters.values())
    name = build.__name__

    def fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, **others: Any) -> Any:
        place = _run_directory(request.config, tmp_path_factory) / _file_name(f"{build.__module__}.{name}")
        arguments = {key: others[key] for key in others if key in wanted}

        def make(staged: Path) -> None:
            staged.mkdir()
            files = place.with_name(f"{place.name}.files-{os.urandom(4).hex()}")
            if "shared_directory" in named:
                files.mkdir()
                arguments["shared_directory"] = files
            value = build(**arguments)
            (staged / "value.json").write_text(_json(value, name), encoding="utf-8")

        once(place, make)
        return json.loads((place / "value.json").read_text(encoding="utf-8"))

    named = {parameter.name for parameter in parameters}
    wanted = named - {"shared_directory"}
    functools.update_wrapper(fixture, build)
    own = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in ("request", "tmp_path_factory")]
    asked = [parameter for parameter in parameters if parameter.name in wanted]
    keep = {parameter.name for parameter in asked}
    fixture.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*(each for each in own if each.name not in keep), *(each.replace(kind=each.KEYWORD_ONLY) for each in asked)]
    )
    del fixture.__wrapped__  # type: ignore[attr-defined]
    return pytest.fixture(scope="session", name=name)(fixture)


def _json(value: object, name: str) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the shared fixture {name} must return what JSON can hold, for other workers: {error}"
        ) from error


def _run_directory(config: pytest.Config, factory: pytest.TempPathFactory) -> Path:
    """One directory for all workers of this run."""
    base = factory.getbasetemp()
    run = getattr(config, "workerinput", {}).get("testrunuid")
    if run is None:
        directory = base / "interlock-shared"
    else:
        directory = base.parent / f"interlock-shared-{_file_name(run)}"
    directory.mkdir(exist_ok=True)
    return directory


def _file_name(text: str) -> str:
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in text)[-100:]


# ---- leaks


class _Leaks:
    """The holds of this process, and who may keep them."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, int], tuple[Event, str]] = {}
        self.before: set[tuple[int, int]] = set()
        self.threads: set[int] = set()
        """Native ids of threads that ran before the test, other than the test's own."""
        self.allowed: set[tuple[int, int]] = set()
        """Acquired by fixtures with a wider scope than a function."""
        self.observation: Observation = observe(self._note)

    def _note(self, event: Event) -> None:
        key = (event.pid, event.hold)
        if event.kind == "acquired":
            self.held[key] = (event, _where(sys._getframe(1)))
        elif event.kind == "released":
            self.held.pop(key, None)
            self.allowed.discard(key)

    def mine(self) -> set[tuple[int, int]]:
        pid = os.getpid()
        return {key for key in list(self.held) if key[0] == pid}

    def leaked(self) -> list[tuple[Event, str]]:
        found = [self.held[key] for key in sorted(self.mine() - self.before - self.allowed)]
        return [(event, where) for event, where in found if event.thread_id not in self.threads]

    def begin(self) -> None:
        """A test begins."""
        self.before = self.mine()
        here = threading.get_native_id()
        self.threads = {each.native_id for each in threading.enumerate() if each.native_id not in (None, here)}  # type: ignore[misc]

    def release(self, event: Event) -> None:
        """What the test's hold would do; the hold itself may be lost in a traceback."""
        for claim in (*list(arbiter.turns.values()), *list(getattr(arbiter, "granted", ()))):
            story = claim.story
            if story is not None and story.number == event.hold and claim.since:
                claim.depth = 0
                arbiter.abandon(claim)
        self.held.pop((event.pid, event.hold), None)


def _where(frame: FrameType | None) -> str:
    """The innermost line outside of this package, its engine room and pytest's."""
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith((_HERE, "<frozen")) and os.path.basename(path) != "contextlib.py":
            return f"{path}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("interlock_leaks", "fail tests that leak holds of interlock's locks", type="bool", default=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "interlock_leaks: this test may leave locks held")
    if config.getini("interlock_leaks"):
        config.stash[_leaks] = _Leaks()


def pytest_unconfigure(config: pytest.Config) -> None:
    leaks = config.stash.get(_leaks, None)
    if leaks is not None:
        leaks.observation.stop()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    leaks = item.config.stash.get(_leaks, None)
    if leaks is not None:
        leaks.begin()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    leaks = request.config.stash.get(_leaks, None)
    if leaks is None or fixturedef.scope == "function":
        return (yield)
    before = leaks.mine()
    try:
        return (yield)
    finally:
        leaks.allowed |= leaks.mine() - before


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    leaks = item.config.stash.get(_leaks, None)
    if leaks is None:
        return result
    leaked = leaks.leaked()
    for event, _ in leaked:
        leaks.release(event)
    if leaked and item.get_closest_marker("interlock_leaks") is None:
        lines = [f"  {event.resource} ({event.thread}), acquired at {where}" for event, where in leaked]
        pytest.fail("the test leaves locks held:\n" + "\n".join(lines), pytrace=False)
    return result
