"""Spans and metrics, as the SDK's in-memory exporters get them."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from .support import need_module

need_module("opentelemetry.sdk")

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

from interlock import AsyncLock, Lock, RWLock, Semaphore, Timeout, observe, otel  # noqa: E402
from interlock._core import arbiter  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Sink:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[Any]:
        """All data points of one metric."""
        data: Any = self.reader.get_metrics_data()
        (found,) = (m for m in data.resource_metrics[0].scope_metrics[0].metrics if m.name == name)
        return list(found.data.data_points)

    def metrics(self) -> dict[str, Any]:
        """The first data point of each metric."""
        data: Any = self.reader.get_metrics_data()
        found = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            found[metric.name] = metric.data.data_points[0]
        return found


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    otel.instrument(sink.tracers, sink.meters)
    yield sink
    otel.uninstrument()
    sink.meters.shutdown()
    sink.tracers.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_hold_is_a_span_of_the_callers(tmp_path: Path, sink: Sink) -> None:
    path = str(tmp_path / "x.lock")
    with sink.tracers.get_tracer("test").start_as_current_span("job") as job, Lock(path):
        pass
    (hold,) = sink.spans("interlock.hold")
    assert sink.spans("interlock.wait") == []
    assert hold.parent is not None
    assert hold.parent.span_id == job.get_span_context().span_id
    found = attributes(hold)
    assert (found["interlock.resource"], found["interlock.engine"], found["interlock.mode"]) == (
        path,
        "kernel",
        "write",
    )
    assert found["thread.name"] == threading.current_thread().name
    assert hold.start_time is not None
    assert hold.end_time is not None
    assert 0 <= hold.end_time - hold.start_time < 10e9
    assert hold.status.is_unset


def test_a_wait_is_a_span_with_its_outcome(tmp_path: Path, sink: Sink) -> None:
    path = tmp_path / "x.lock"
    hold = Lock(path).acquire()
    with pytest.raises(Timeout):
        Lock(path).acquire(0.02)
    waiting = threading.Event()

    def enter() -> None:
        waiting.set()
        with Lock(path):
            pass

    other = threading.Thread(target=enter)
    other.start()
    assert waiting.wait(60)
    while len(resolve_queue(path)) < 1:
        pass
    hold.release()
    other.join()
    vain, got = sink.spans("interlock.wait")
    assert attributes(vain)["interlock.outcome"] == "withdrawn"
    assert not vain.status.is_ok
    assert vain.end_time is not None
    assert vain.start_time is not None
    assert vain.end_time - vain.start_time >= 0.02e9 * 0.99
    assert attributes(got)["interlock.outcome"] == "acquired"
    assert got.status.is_unset
    found = sink.metrics()
    assert found["interlock.acquired"].value == 2
    assert found["interlock.contended"].value == 2
    assert found["interlock.withdrawn"].value == 1
    assert found["interlock.held"].value == 0
    assert found["interlock.wait.duration"].count == 2
    assert found["interlock.hold.duration"].count == 2
    assert found["interlock.hold.duration"].sum >= 0.02
    assert dict(found["interlock.acquired"].attributes) == {"interlock.engine": "kernel", "interlock.mode": "write"}


def resolve_queue(path: Path) -> Any:
    from interlock._target import resolve

    return resolve(path).queue


def test_a_loss_is_an_error(tmp_path: Path, sink: Sink) -> None:
    path = tmp_path / "x.lock"
    with Lock(path) as hold:
        path.unlink()
        assert hold.lost
    (span,) = sink.spans("interlock.hold")
    assert [event.name for event in span.events] == ["lost"]
    assert "unlinked" in str(span.status.description)
    assert sink.metrics()["interlock.lost"].value == 1


def test_a_hold_that_changes_its_mode_is_one_span(sink: Sink) -> None:
    lock = RWLock("memory://#otel-modes")
    with lock.update() as hold:
        with lock.read(), pytest.raises(Timeout):
            hold.upgrade(0.02)
        hold.upgrade()
        held = {dict(point.attributes)["interlock.mode"]: point.value for point in sink.points("interlock.held")}
        assert held == {"read": 0, "update": 0, "write": 1}
        hold.downgrade()
    read, update = sink.spans("interlock.hold")
    assert attributes(read)["interlock.mode"] == "read"
    assert attributes(update)["interlock.mode"] == "update"
    assert [(event.name, dict(event.attributes or {})) for event in update.events] == [
        ("upgraded", {"interlock.mode": "write"}),
        ("downgraded", {"interlock.mode": "read"}),
    ]
    (wait,) = sink.spans("interlock.wait")
    found = attributes(wait)
    assert (found["interlock.was"], found["interlock.mode"], found["interlock.outcome"]) == (
        "update",
        "write",
        "withdrawn",
    )
    assert {point.value for point in sink.points("interlock.held")} == {0}
    metrics = sink.metrics()
    assert (metrics["interlock.upgraded"].value, metrics["interlock.downgraded"].value) == (1, 1)


def test_an_upgrade_that_had_to_wait(tmp_path: Path, sink: Sink) -> None:
    lock = RWLock("memory://#otel-upgrade")
    reader = lock.read()
    waits = threading.Event()

    def update() -> None:
        with lock.update() as hold:
            hold.upgrade()

    other = threading.Thread(target=update)
    with observe(lambda event: waits.set() if event.kind == "waiting" else None):
        other.start()
        assert waits.wait(60)
        reader.release()
        other.join()
    (wait,) = sink.spans("interlock.wait")
    assert attributes(wait)["interlock.outcome"] == "acquired"
    update_span = next(span for span in sink.spans("interlock.hold") if attributes(span)["interlock.mode"] == "update")
    assert attributes(wait)["interlock.hold"] == attributes(update_span)["interlock.hold"]


def test_permits_have_slots(sink: Sink) -> None:
    with Semaphore("memory://#otel-permits", 2), Semaphore("memory://#otel-permits", 2):
        pass
    spans = sink.spans("interlock.hold")
    assert sorted(attributes(span)["interlock.slot"] for span in spans) == [0, 1]
    assert {attributes(span)["interlock.mode"] for span in spans} == {"permit"}


def test_a_loss_that_nobody_asked_about(tmp_path: Path, sink: Sink) -> None:
    """Found out by the keeper of a lease."""
    lost = threading.Event()
    hold = Lock(tmp_path / "x.lock", primitive="marker", ttl=0.6).acquire()
    hold.on_lost(lambda reason: lost.set())
    line: Any = hold._claim.line  # type: ignore[union-attr]
    line.engine.break_stale(line, force=True)
    assert lost.wait(60)
    hold.release()
    (span,) = sink.spans("interlock.hold")
    assert [event.name for event in span.events] == ["lost"]
    assert attributes(span)["interlock.engine"] == "marker lease"
    assert sink.metrics()["interlock.lost"].value == 1


def test_tasks_are_named(sink: Sink) -> None:
    import asyncio

    async def main() -> None:
        async with AsyncLock("memory://#otel"):
            pass

    asyncio.run(main())
    (span,) = sink.spans("interlock.hold")
    assert attributes(span)["interlock.task"].startswith("Task-")


def test_the_end(sink: Sink) -> None:
    with Lock("memory://#before"):
        otel.uninstrument()
        otel.uninstrument()
        assert arbiter.listener is None
        assert len(sink.spans("interlock.hold")) == 1, "what is held then is ended"
    with Lock("memory://#after"):
        pass
    assert len(sink.spans("interlock.hold")) == 1


def test_again_replaces(sink: Sink) -> None:
    second = Sink()
    otel.instrument(second.tracers, second.meters)
    with Lock("memory://#again"):
        pass
    assert sink.spans("interlock.hold") == []
    assert len(second.spans("interlock.hold")) == 1
    second.meters.shutdown()
    second.tracers.shutdown()


def test_without_a_provider_it_does_nothing() -> None:
    otel.instrument()
    try:
        with Lock("memory://#none"):
            assert not trace.get_current_span().is_recording()
    finally:
        otel.uninstrument()


def test_the_library_does_not_load_it() -> None:
    code = "import sys, interlock\nwith interlock.observe(print): pass\nsys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


def test_without_opentelemetry_it_says_what_to_install() -> None:
    code = "import sys\nsys.modules['opentelemetry'] = None\nimport interlock.otel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert 'ModuleNotFoundError: interlock.otel needs OpenTelemetry: pip install "interlock[otel]"' in done.stderr
