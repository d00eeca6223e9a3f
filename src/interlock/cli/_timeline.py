"""From what was recorded and sampled to intervals, and from these to a page and a file for Perfetto. Pure functions.

A hold is from its "acquired" to its "released". Where the process ended before, it is to that end, which was noticed a
few milliseconds late; so it is cut where the next one got the lock. A hold that changes its mode is an interval per
mode. Each interval says how it came to its end: "released", "upgraded" and "downgraded" (the hold goes on, in another
mode), "acquired" and "withdrawn" (of waits, the latter in vain), "ended" (with its process), "open" (until the
recording ended).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._sampler import Sample

MOST = 200_000
"""Intervals in a page: what a browser draws without a pause."""


@dataclass
class Span:
    """Somebody holds, or waits for, a lock. Seconds since the recording began."""

    kind: str  # "hold", "wait"
    lock: int
    process: int
    thread: str
    start: float
    end: float
    mode: str = "write"
    until: str = "released"
    task: str = ""
    tid: int = 0
    how: str = "recorded"  # or "sampled"
    note: str = ""
    number: int = 0  # joins the intervals of one hold of a process; 0: unknown


@dataclass
class Process:
    pid: int
    command: str
    start: float
    end: float
    how: str
    parent: int = 0
    full: bool = False


@dataclass
class Timeline:
    """All that is shown. `locks` are (name, engine)."""

    command: str
    began: float  # seconds of the epoch
    duration: float = 0.0
    period: float = 0.0  # seconds between two samples, 0 where nothing was sampled
    processes: list[Process] = field(default_factory=list)
    locks: list[tuple[str, str]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    left_out: int = 0

    def summary(self) -> list[dict[str, Any]]:
        """Per lock: how often and how long it was held and waited for."""
        rows = []
        for number, (name, engine) in enumerate(self.locks):
            holds = [span for span in self.spans if span.lock == number and span.kind == "hold"]
            waits = [span for span in self.spans if span.lock == number and span.kind == "wait"]
            lengths = _lengths(holds)
            rows.append(
                {
                    "lock": name,
                    "engine": engine,
                    "holds": len(lengths),
                    "held": _covered(holds),
                    "longest_hold": max(lengths, default=0.0),
                    "waits": len(waits),
                    "waited": sum(span.end - span.start for span in waits),
                    "longest_wait": max((span.end - span.start for span in waits), default=0.0),
                    "in_vain": sum(span.until == "withdrawn" for span in waits),
                    "processes": len({span.process for span in holds + waits}),
                }
            )
        return rows


def _lengths(holds: Iterable[Span]) -> list[float]:
    """How long each hold was, in all its modes together."""
    lengths: dict[object, float] = {}
    for at, span in enumerate(holds):
        key: object = (span.process, span.number) if span.number else at
        lengths[key] = lengths.get(key, 0.0) + span.end - span.start
    return list(lengths.values())


def _covered(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of them was."""
    total, reached = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        if span.end > reached:
            total += span.end - max(span.start, reached)
            reached = span.end
    return total


class Builder:
    """Puts the parts together. Times come in as monotonic seconds."""

    def __init__(self, command: str, began: float, epoch: float) -> None:
        self._zero = began
        self.timeline = Timeline(command, epoch)
        self._locks: dict[str, int] = {}
        self._pids: dict[int, int] = {}

    def read(self, directory: str, ended: dict[int, float], now: float) -> None:
        """The files of all recorded processes."""
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as file:
                lines = [parsed for line in file if isinstance(parsed := _json(line), dict)]
            if lines:
                self.process(lines, ended, now)

    def process(self, lines: list[dict[str, Any]], ended: dict[int, float], now: float) -> None:
        """The lines of one process. What it did not write as `_record` does is not shown: the directory is open to the
        command that is traced."""
        count = len(self.timeline.processes)
        spans = len(self.timeline.spans)
        try:
            self._process(lines[0], lines[1:], ended, now)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            del self.timeline.processes[count:], self.timeline.spans[spans:]
            self._pids = {pid: number for pid, number in self._pids.items() if number < count}

    def _process(self, head: dict[str, Any], events: list[dict[str, Any]], ended: dict[int, float], now: float) -> None:
        pid = int(head.get("pid", 0))
        last = max([float(head.get("at", now)), *(float(event["at"]) for event in events)])
        end = max(ended.get(pid, now), last)
        number = len(self.timeline.processes)
        self._pids[pid] = number
        self.timeline.processes.append(
            Process(
                pid,
                _command(head.get("argv") or []),
                float(head.get("at", now)) - self._zero,
                end - self._zero,
                "recorded",
                int(head.get("forked_from") or head.get("ppid", 0)),
                any("full" in event for event in events),
            )
        )
        waiting: dict[int, dict[str, Any]] = {}
        held: dict[int, dict[str, Any]] = {}
        for event in events:
            kind, hold, at = event.get("k"), event.get("n", 0), float(event["at"])
            if kind == "waiting":
                waiting[hold] = event
            elif kind == "acquired":
                self._close(waiting.pop(hold, None), "wait", at, "acquired", number)
                held[hold] = event
            elif kind == "withdrawn":
                self._close(waiting.pop(hold, None), "wait", at, "withdrawn", number)
            elif kind in ("upgraded", "downgraded"):
                self._close(waiting.pop(hold, None), "wait", at, kind, number)
                before = {**event, "at": at - float(event.get("h", 0)), "m": event.get("was") or "update"}
                self._close(held.pop(hold, before), "hold", at, kind, number)
                held[hold] = event
            elif kind == "lost" and hold in held:
                held[hold]["note"] = f"lost: {event.get('why', '')}"
            elif kind == "released":
                began = held.pop(hold, None) or {**event, "at": at - float(event.get("h", 0))}
                self._close(began, "hold", at, "released", number)
        until = "ended" if pid in ended else "open"
        for event in waiting.values():
            self._close(event, "wait", end, until, number)
        for event in held.values():
            self._close(event, "hold", end, until, number)

    def _close(self, event: dict[str, Any] | None, kind: str, end: float, until: str, process: int) -> None:
        if event is None:
            return
        self._add(
            Span(
                kind=kind,
                lock=self._lock(str(event["key"]), str(event["r"]), str(event["e"])),
                process=process,
                thread=str(event.get("t", "")),
                start=float(event["at"]) - self._zero,
                end=end - self._zero,
                mode=str(event.get("m", "write")),
                until=until,
                task=str(event.get("task", "")),
                tid=int(event.get("tid", 0)),
                note=str(event.get("note", "")) or ("" if event.get("slot") is None else f"slot {event['slot']}"),
                number=int(event.get("n", 0)),
            )
        )

    def sampled(self, samples: Iterable[Sample], commands: dict[int, str], period: float, now: float) -> None:
        """What was seen from outside, but for what the processes have recorded themselves."""
        self.timeline.period = period
        recorded = {(self.timeline.processes[span.process].pid, span.lock) for span in self.timeline.spans}
        inodes = {_inode(key): key for key in self._locks}
        for sample in samples:
            key = sample.path or inodes.get(sample.inode, "")
            if (sample.pid, self._locks.get(key)) in recorded:
                continue
            key = key or f"inode {sample.inode} of device {sample.device}"
            process = self._pids.get(sample.pid)
            if process is None:
                process = self._pids[sample.pid] = len(self.timeline.processes)
                command = commands.get(sample.pid, "")
                self.timeline.processes.append(
                    Process(sample.pid, command, sample.start - self._zero, sample.end - self._zero, "sampled")
                )
            seen = self.timeline.processes[process]
            seen.end = max(seen.end, sample.end - self._zero)
            until = "open" if sample.end >= now else "released" if sample.kind == "hold" else "acquired"
            self._add(
                Span(
                    kind=sample.kind,
                    lock=self._lock(key, key, sample.how),
                    process=process,
                    thread="",
                    start=sample.start - self._zero,
                    end=sample.end - self._zero,
                    mode=sample.mode,
                    until=until,
                    how="sampled",
                )
            )

    def _lock(self, key: str, name: str, engine: str) -> int:
        if key not in self._locks:
            self._locks[key] = len(self.timeline.locks)
            self.timeline.locks.append((name, engine))
        return self._locks[key]

    def _add(self, span: Span) -> None:
        span.start = max(0.0, span.start)
        span.end = max(span.start, span.end)
        self.timeline.spans.append(span)

    def finish(self, end: float) -> Timeline:
        done = self.timeline
        self._cut()
        done.duration = max([end - self._zero, *(span.end for span in done.spans)])
        done.spans.sort(key=lambda span: (span.start, span.end))
        done.left_out = max(0, len(done.spans) - MOST)
        del done.spans[MOST:]
        return done

    def _cut(self) -> None:
        holds = sorted((span for span in self.timeline.spans if span.kind == "hold"), key=lambda span: span.start)
        for at, span in enumerate(holds):
            if span.until == "ended" and span.mode == "write":
                later = (next_.start for next_ in holds[at + 1 :] if next_.lock == span.lock)
                span.end = max(span.start, min(span.end, next(later, span.end)))


def _json(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # the last line of a full disk
        return None


def _command(words: list[str]) -> str:
    text = " ".join("".join(char if char.isprintable() else "?" for char in str(word)) for word in words)
    return text if len(text) <= 120 else text[:119] + "…"


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except (OSError, ValueError):
        return 0


def page(timeline: Timeline) -> str:
    """One HTML page that needs nothing else."""
    path = os.path.join(os.path.dirname(__file__), "timeline.html")
    with open(path, encoding="utf-8") as file:
        template = file.read()
    data = {**asdict(timeline), "summary": timeline.summary()}
    data["spans"] = [
        [
            0 if span.kind == "hold" else 1,
            span.lock,
            span.process,
            span.thread + (f" / {span.task}" if span.task else ""),
            round(span.start * 1e6),
            round(span.end * 1e6),
            span.mode,
            span.until,
            span.how,
            span.note,
        ]
        for span in timeline.spans
    ]
    text = json.dumps(data, separators=(",", ":"))
    # Names are other people's: nothing in them may end the script.
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return template.replace("__DATA__", text)


def chrome_trace(timeline: Timeline) -> dict[str, Any]:
    """The Trace Event Format of Chrome, which Perfetto opens (ui.perfetto.dev, "Open trace file"). Spans are async
    events: those of one thread may overlap without being nested."""
    events: list[dict[str, Any]] = []
    for process in timeline.processes:
        name = f"{process.command or 'unknown'} ({process.how})"
        events.append({"ph": "M", "name": "process_name", "pid": process.pid, "tid": 0, "args": {"name": name}})
    threads = {(timeline.processes[span.process].pid, span.tid, span.thread) for span in timeline.spans if span.thread}
    for pid, tid, thread in sorted(threads):
        events.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid or pid, "args": {"name": thread}})
    for number, span in enumerate(timeline.spans):
        process = timeline.processes[span.process]
        lock, engine = timeline.locks[span.lock]
        common = {
            "cat": span.kind,
            "name": f"{span.kind} {lock}",
            "id": f"0x{number + 1:x}",
            "pid": process.pid,
            "tid": span.tid or process.pid,
        }
        details = {
            "lock": lock, "engine": engine, "mode": span.mode, "until": span.until, "seen": span.how,
            "thread": span.thread, "task": span.task, "note": span.note,
        }  # fmt: skip
        events.append({**common, "ph": "b", "ts": round(span.start * 1e6, 3), "args": details})
        events.append({**common, "ph": "e", "ts": round(span.end * 1e6, 3)})
    events.sort(key=lambda event: (event.get("ts", -1.0), event["ph"] == "e"))
    about = {"command": timeline.command, "began": timeline.began, "tool": "interlock trace"}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
