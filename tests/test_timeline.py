"""From recorded lines to intervals, the page and the trace file: pure functions, without processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from interlock.cli._sampler import Sample
from interlock.cli._timeline import Builder, Span, Timeline, _covered, chrome_trace, page

if TYPE_CHECKING:
    from pathlib import Path


class Files:
    """A directory of recordings, made by hand. The recording began at second 100."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def process(self, pid: int, *events: dict[str, Any], torn: str = "", command: str = "work") -> None:
        lines: list[dict[str, Any]] = [{"pid": pid, "ppid": 1, "argv": [command, str(pid)], "at": 100.5}, *events]
        text = "".join(json.dumps(line) + "\n" for line in lines) + torn
        (self.directory / f"{pid}-00000000.jsonl").write_text(text)

    def build(self, samples: tuple[Sample, ...] = (), ended: dict[int, float] | None = None) -> Timeline:
        builder = Builder("cmd", 100.0, 1e9)
        builder.read(str(self.directory), ended or {}, 110.0)
        builder.sampled(samples, {9: "flock x"}, 0.01, 110.0)
        return builder.finish(110.0)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def event(kind: str, at: float, hold: int = 1, key: str = "/x", **more: object) -> dict[str, Any]:
    return {
        "k": kind,
        "r": key,
        "key": key,
        "e": "kernel",
        "m": "write",
        "t": "T",
        "tid": 5,
        "n": hold,
        "at": at,
        **more,
    }


def shape(timeline: Timeline) -> list[tuple[str, float, float, str]]:
    return [(span.kind, round(span.start, 6), round(span.end, 6), span.until) for span in timeline.spans]


def test_a_wait_and_a_hold(files: Files) -> None:
    files.process(7, event("waiting", 101), event("acquired", 102), event("released", 103))
    done = files.build()
    assert shape(done) == [("wait", 1, 2, "acquired"), ("hold", 2, 3, "released")]
    assert done.locks == [("/x", "kernel")]
    assert done.processes[0].command == "work 7"
    assert done.duration == 10


def test_a_wait_in_vain_and_a_loss(files: Files) -> None:
    files.process(
        7,
        event("acquired", 101), event("lost", 101.5, why="unlinked"), event("waiting", 101, 2),
        event("withdrawn", 102, 2), event("withdrawn", 102, 3), event("released", 103),
    )  # fmt: skip
    done = files.build()
    assert sorted(shape(done)) == [("hold", 1, 3, "released"), ("wait", 1, 2, "withdrawn")]
    assert [span.note for span in done.spans if span.kind == "hold"] == ["lost: unlinked"]
    (row,) = done.summary()
    assert (row["holds"], row["waits"], row["in_vain"], row["held"]) == (1, 1, 1, 2.0)


def test_what_was_held_before_the_recording(files: Files) -> None:
    files.process(7, event("released", 103, h=1.5))
    assert shape(files.build()) == [("hold", 1.5, 3, "released")]


def test_a_killed_holder_ends_where_the_next_one_begins(files: Files) -> None:
    files.process(7, event("acquired", 101), torn='{"k":"rel')
    files.process(8, event("waiting", 101.5), event("acquired", 102), event("released", 103))
    done = files.build(ended={7: 102.2})
    assert shape(done) == [
        ("hold", 1, 2, "ended"),
        ("wait", 1.5, 2, "acquired"),
        ("hold", 2, 3, "released"),
    ]


def test_a_hold_that_changes_its_mode_is_an_interval_per_mode(files: Files) -> None:
    files.process(
        7,
        event("acquired", 101, m="update"),
        event("waiting", 102, m="write", was="update"),
        event("withdrawn", 102.5, m="write", was="update"),
        event("waiting", 103, m="write", was="update"),
        event("upgraded", 104, m="write", was="update", h=3),
        event("downgraded", 105, m="read", was="write", h=1),
        event("released", 107, m="read", h=6),
        event("acquired", 108, 2, m="permit", slot=3),
    )
    done = files.build()
    assert [(span.kind, span.mode, span.start, span.end, span.until) for span in done.spans] == [
        ("hold", "update", 1, 4, "upgraded"),
        ("wait", "write", 2, 2.5, "withdrawn"),
        ("wait", "write", 3, 4, "upgraded"),
        ("hold", "write", 4, 5, "downgraded"),
        ("hold", "read", 5, 7, "released"),
        ("hold", "permit", 8, 10, "open"),
    ]
    assert done.spans[-1].note == "slot 3"
    (row,) = done.summary()
    assert (row["holds"], row["held"], row["longest_hold"], row["waits"], row["in_vain"]) == (2, 8, 6, 2, 1)


def test_what_was_held_before_the_recording_is_known_from_its_change(files: Files) -> None:
    files.process(7, event("upgraded", 104, m="write", was="update", h=3), event("released", 105, m="write", h=4))
    assert shape(files.build()) == [("hold", 1, 4, "upgraded"), ("hold", 4, 5, "released")]


def test_what_is_not_over_is_open(files: Files) -> None:
    files.process(7, event("acquired", 101), event("waiting", 102, 2, "/y"))
    assert shape(files.build()) == [("hold", 1, 10, "open"), ("wait", 2, 10, "open")]


def sample(pid: int, path: str, start: float = 101, end: float = 102) -> Sample:
    return Sample(pid, "hold", "flock", "write", "fe:00", 77, start, end, path)


def test_samples_of_what_was_recorded_are_left_out(files: Files) -> None:
    files.process(7, event("acquired", 101), event("released", 103))
    done = files.build((sample(7, "/x"), sample(7, "/other"), sample(9, "/x", 103, 104), sample(9, "", 105, 106)))
    seen = [
        (done.processes[span.process].pid, done.locks[span.lock][0]) for span in done.spans if span.how == "sampled"
    ]
    assert seen == [(7, "/other"), (9, "/x"), (9, "inode 77 of device fe:00")]
    assert done.processes[-1].command == "flock x"
    assert done.processes[-1].how == "sampled"


def test_hostile_names_end_no_script(files: Files) -> None:
    name = "/</script><script>alert(1)</script>\u2028\x1b&"
    files.process(7, event("acquired", 101, key=name), event("released", 102, key=name), command="<!--")
    text = page(files.build())
    body = text.split('<script type="application/json" id="data">')[1]
    data, rest = body.split("</script>", 1)
    assert json.loads(data)["locks"] == [[name, "kernel"]]
    assert "alert(1)" not in rest
    assert "alert(1)" not in text.split("<script")[0]
    for outside in ("http:", "https:", "src=", "@import", "url("):
        assert outside not in text, "the page needs nothing from elsewhere"


def test_garbage_in_a_recording_is_passed_over(files: Files) -> None:
    files.process(7, event("acquired", 101), torn="\0\xff[1]\n{}garbage\n")
    (files.directory / "8-1.jsonl").write_bytes(b"")
    (files.directory / "9-1.jsonl").write_bytes(b"\xff\xfe")
    assert len(files.build().spans) == 1


def test_the_trace_file_is_what_perfetto_reads(files: Files) -> None:
    files.process(
        7, event("waiting", 101), event("acquired", 102), event("released", 103), event("acquired", 102, 2, "/y")
    )
    trace = chrome_trace(files.build())
    assert json.loads(json.dumps(trace)) == trace
    events = trace["traceEvents"]
    names = {(each["name"], each["args"]["name"]) for each in events if each["ph"] == "M"}
    assert ("process_name", "work 7 (recorded)") in names
    assert ("thread_name", "T") in names
    begun = {each["id"]: each for each in events if each["ph"] == "b"}
    ended = {each["id"]: each for each in events if each["ph"] == "e"}
    assert begun.keys() == ended.keys()
    assert len(begun) == 3
    for key, begin in begun.items():
        end = ended[key]
        assert [begin[name] for name in ("cat", "name", "pid", "tid")] == [
            end[name] for name in ("cat", "name", "pid", "tid")
        ]
        assert begin["ts"] <= end["ts"]
    assert begun["0x1"]["ts"] == 1e6  # microseconds
    times = [each["ts"] for each in events if "ts" in each]
    assert times == sorted(times)


def test_time_that_is_covered() -> None:
    def span(start: float, end: float) -> Span:
        return Span("hold", 0, 0, "", start, end)

    assert _covered([span(0, 2), span(1, 3), span(5, 6), span(5.5, 5.6)]) == 4


def test_too_many_intervals_are_said(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock.cli._timeline.MOST", 3)
    events = [
        event(kind, 101 + n / 10 + later, n) for n in range(5) for kind, later in (("acquired", 0), ("released", 0.05))
    ]
    files.process(7, *events)
    done = files.build()
    assert (len(done.spans), done.left_out) == (3, 2)
