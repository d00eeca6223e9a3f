"""Spans and metrics of OpenTelemetry for the locks of this process. Needs `pip install "interlock[otel]"`.

    import interlock.otel

    interlock.otel.instrument()

Spans: `interlock.wait` from asking to the grant (or to giving up, then with an error status), only where somebody
waited; `interlock.hold` from the grant to the release. Both are children of the span that is current where the lock
is acquired. Attributes: `interlock.resource`, `interlock.engine`, `interlock.mode`, `interlock.hold` (one number per
acquire of this process), `thread.name`, `thread.id`; `interlock.task`; `interlock.outcome` of a wait ("acquired",
"withdrawn"); `interlock.slot` of a semaphore's hold. A hold that is lost gets an event `lost` and an error status. A
hold of a read-write lock is one span, with an event `upgraded` or `downgraded` (`interlock.mode`) for each change; an
upgrade that has to wait has a wait of its own, with the attribute `interlock.was`, the mode before.

Metrics, with the attributes `interlock.engine` and `interlock.mode`: histograms `interlock.wait.duration` and
`interlock.hold.duration` (seconds), counters `interlock.acquired`, `interlock.contended` (had to wait),
`interlock.withdrawn`, `interlock.upgraded`, `interlock.downgraded`, `interlock.lost`, and `interlock.held`, how many
are held now. The mode of a hold's duration is the one in which it ended; that of an upgrade, or of the wait for it, is
"write". Not the resource: programs have locks without number, and each would be a time series; see
`interlock.statistics` for figures per lock.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

try:
    from opentelemetry import metrics, trace
    from opentelemetry.trace import Status, StatusCode
except ModuleNotFoundError as error:
    if not (error.name or "").startswith("opentelemetry"):
        raise
    raise ModuleNotFoundError(
        'interlock.otel needs OpenTelemetry: pip install "interlock[otel]"', name=error.name, path=error.path
    ) from error

from . import __version__
from ._observe import Event, Observation, observe

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["instrument", "uninstrument"]

_BOUNDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0)


def instrument(tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None) -> None:
    """Report what all locks of this process do, from now on, to the given providers or the global ones.

    Calling it again replaces the providers. Trouble of the exporters never breaks locking.
    """
    global _bridge
    uninstrument()
    _bridge = _Bridge(tracer_provider, meter_provider)


def uninstrument() -> None:
    """Report no more. Spans of what is held then are ended. Idempotent."""
    global _bridge
    if _bridge is not None:
        _bridge.close()
        _bridge = None


class _Bridge:
    def __init__(self, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None) -> None:
        self._tracer = trace.get_tracer("interlock", __version__, tracer_provider)
        meter = metrics.get_meter("interlock", __version__, meter_provider)
        self._wait = meter.create_histogram(
            "interlock.wait.duration",
            unit="s",
            description="From asking for a lock to getting it",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._hold = meter.create_histogram(
            "interlock.hold.duration",
            unit="s",
            description="From getting a lock to releasing it",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._acquired = meter.create_counter("interlock.acquired", description="Locks acquired")
        self._contended = meter.create_counter("interlock.contended", description="Acquires that had to wait")
        self._withdrawn = meter.create_counter("interlock.withdrawn", description="Acquires given up")
        self._upgraded = meter.create_counter("interlock.upgraded", description="Holds that became write holds")
        self._downgraded = meter.create_counter("interlock.downgraded", description="Holds that gave up their mode")
        self._lost = meter.create_counter("interlock.lost", description="Holds that the world took away")
        self._held = meter.create_up_down_counter("interlock.held", description="Locks held now")
        self._waits: dict[tuple[int, int], Span] = {}
        self._holds: dict[tuple[int, int], Span] = {}
        self._observation: Observation = observe(self._tell)

    def close(self) -> None:
        self._observation.stop()
        for spans in (self._waits, self._holds):
            for (pid, _), span in list(spans.items()):
                if pid == os.getpid():
                    span.end()
            spans.clear()

    def _tell(self, event: Event) -> None:
        labels = {"interlock.engine": event.engine, "interlock.mode": event.mode}
        key = (event.pid, event.hold)
        if event.kind == "waiting":
            self._contended.add(1, labels)
            self._waits[key] = self._begin("interlock.wait", event)
        elif event.kind == "acquired":
            self._acquired.add(1, labels)
            self._held.add(1, labels)
            self._wait.record(event.waited, labels)
            self._end(self._waits.pop(key, None), event, outcome="acquired")
            self._holds[key] = self._begin("interlock.hold", event)
        elif event.kind == "withdrawn":
            self._withdrawn.add(1, labels)
            self._end(self._waits.pop(key, None), event, outcome="withdrawn", error="gave up")
        elif event.kind in ("upgraded", "downgraded"):
            self._change(event, labels)
        elif event.kind == "lost":
            self._lost.add(1, labels)
            span = self._holds.get(key)
            if span is not None:
                span.add_event("lost", {"interlock.reason": event.reason}, _nanoseconds(event))
                span.set_status(Status(StatusCode.ERROR, event.reason))
        elif event.kind == "released":
            held = self._holds.pop(key, None)
            if held is not None:  # else it was acquired before the instrumentation: it was not counted as held
                self._held.add(-1, labels)
            self._hold.record(event.held, labels)
            self._end(held, event)

    def _change(self, event: Event, labels: dict[str, str]) -> None:
        key = (event.pid, event.hold)
        if event.kind == "upgraded":
            self._upgraded.add(1, labels)
            self._wait.record(event.waited, labels)
            self._end(self._waits.pop(key, None), event, outcome="acquired")
        else:
            self._downgraded.add(1, labels)
        span = self._holds.get(key)
        if span is not None:
            self._held.add(-1, {**labels, "interlock.mode": event.was})
            self._held.add(1, labels)
            span.add_event(event.kind, {"interlock.mode": event.mode}, _nanoseconds(event))

    def _begin(self, name: str, event: Event) -> Span:
        attributes: dict[str, str | int] = {
            "interlock.resource": event.resource,
            "interlock.engine": event.engine,
            "interlock.mode": event.mode,
            "interlock.hold": event.hold,
            "thread.name": event.thread,
            "thread.id": event.thread_id,
        }
        if event.task:
            attributes["interlock.task"] = event.task
        if event.was:
            attributes["interlock.was"] = event.was
        if event.slot is not None:
            attributes["interlock.slot"] = event.slot
        return self._tracer.start_span(name, attributes=attributes, start_time=_nanoseconds(event))

    def _end(self, span: Span | None, event: Event, outcome: str = "", error: str = "") -> None:
        if span is None:
            return
        if outcome:
            span.set_attribute("interlock.outcome", outcome)
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(_nanoseconds(event))


_bridge: _Bridge | None = None


def _nanoseconds(event: Event) -> int:
    return round(event.at * 1e9)
