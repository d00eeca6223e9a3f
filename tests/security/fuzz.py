"""The fuzzer: mutations of good inputs, through each parser of the table.

    python -m tests.security.fuzz --inputs 1000000          # of each parser; what was found, and how fast
    python -m tests.security.fuzz --only URLs --seed 7
    python -m tests.security.fuzz --inputs 1000000 --record # adds a line per parser to fuzzed.jsonl
    python -m tests.security.fuzz --sum                     # adds that ledger up

Rules for every input: nothing is raised but what the parser's documentation allows; neither an error's text nor what
is shown to people has anything that a terminal obeys; no input takes seconds; memory does not grow. `BOMBS` are given
to each parser first. A finding is printed with the input, which can be given again: `--input FILE`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import resource
import subprocess
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, NamedTuple

from ..faults.words import positive
from .parsers import PARSERS, Parser

if TYPE_CHECKING:
    from collections.abc import Iterator

LEDGER = pathlib.Path(__file__).with_name("fuzzed.jsonl")
LONGEST = 20_000
"""Bytes of a mutated input; bombs are longer."""
SLOW = 10.0
"""Seconds of processor time in which any one input must be done, on a machine that is as slow as it likes. The record
has the slowest; it is far below."""
SPECIAL = (
    b"\0", b"\xff", b"\x1b[2J", b"\xc2\x9b", b"\xe2\x80\xae", b"\r\n", b"\n", b" ", b"-1", b"0", b"1e400",
    b"\xed\xa0\x80", b"99999999999999999999", b"9" * 4400, b"A" * 300, b"%00", b"../", b"\xf0\x9f\x98\x80", b"\xd9\xa3",
)  # fmt: skip
BOMBS = (
    b"", b"\0" * 100_000, b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\n" * 100_000, b"=" * 100_000,
    b'{"pid":' + b"1" * 4000 + b"}", b'{"since":' + b"1" * 400 + b"}", b'{"since":NaN,"pid":true}', b"\xff" * 1000,
    b"[]", b"1", b"null", b'""', b'{"awaits":7,"permits":"x","mode":[1]}', b"\x1f\x8b\x08" + b"\0" * 50,
    b"a " * 50_000, b"," * 100_000, b"-" * 100_000, b"%" * 100_000, b"://" * 30_000, b'"' + b"\\" * 100_000,
)  # fmt: skip


class Finding(NamedTuple):
    parser: str
    why: str
    data: bytes


class Tally(NamedTuple):
    parser: str
    inputs: int
    accepted: int
    seconds: float
    slowest: float
    grown: int
    """Megabytes."""
    findings: tuple[Finding, ...]


def mutations(parser: Parser, source: random.Random) -> Iterator[bytes]:
    """For ever."""
    seeds = [*parser.seeds]
    words = [*SPECIAL, *parser.words]
    below, choice = source.randrange, source.choice
    while True:
        data = choice(seeds)
        for _ in range(1 + (source.getrandbits(8) & source.getrandbits(8) & 3)):
            kind, length = below(9), len(data)
            at = below(length + 1)
            to = min(length, at + 1 + below(8))
            if kind == 0 and at < length:
                data = data[:at] + bytes([data[at] ^ 1 << below(8)]) + data[at + 1 :]
            elif kind == 1:
                data = data[:at] + data[to:]
            elif kind == 2:
                data = data[:at] + choice(words) + data[at:]
            elif kind == 3:
                data = data[:at] + choice(words) + data[to:]
            elif kind == 4:
                data = data[:at]
            elif kind == 5:
                data = data[:at] + data[at : at + 40] * below(4) + data[at:]
            elif kind == 6:
                other = choice(seeds)
                data = data[:at] + other[below(len(other) + 1) :]
            elif kind == 7 and at < length:
                data = data[:at] + bytes([below(256)]) + data[at + 1 :]
            else:  # a field's value: from one separator to the next
                ends = [data.find(mark, at) for mark in (b"\n", b'"', b",", b"&", b"\t", b" ")]
                data = data[:at] + choice(words) + data[min((end for end in ends if end > 0), default=length) :]
        data = data[:LONGEST]
        if parser.seal is not None and below(4):
            data = parser.seal(data)
        yield data


def hostile(text: str) -> bool:
    """Is there something in it that a terminal obeys, or that looks like another line?"""
    return not all(line.isprintable() for line in text.split("\n")) if not text.isprintable() else False


def trial(parser: Parser, data: bytes) -> tuple[str, bool]:
    """What is wrong, if anything; and whether the input was taken."""
    try:
        found = parser.call(data)
    except parser.allowed as error:
        return (f"a message with control characters: {error!s:.200}" if hostile(str(error)) else ""), False
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        return f"{type(error).__name__}: {error!s:.200}", False
    if parser.shown is not None and found is not None:
        try:
            shown = parser.shown(found)
        except Exception as error:  # noqa: BLE001 - the same
            return f"shown: {type(error).__name__}: {error!s:.200}", True
        if hostile(shown):
            return f"shown with control characters: {shown!r:.200}", True
    return "", True


def run(parser: Parser, inputs: int, seed: int, most: int = 5) -> Tally:
    source = random.Random(f"{parser.name} {seed}")
    findings: dict[str, Finding] = {}
    accepted, slowest, done = 0, 0.0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    clock = time.thread_time
    for data in _all(parser, source, inputs):
        start = clock()
        wrong, taken = trial(parser, data)
        took = clock() - start
        done += 1
        accepted += taken
        if took > slowest:
            slowest = took
            if took > SLOW:
                wrong = wrong or f"it took {took:.1f} s"
        if wrong:
            findings.setdefault(wrong[:40], Finding(parser.name, wrong, data))
            if len(findings) >= most:
                break
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    return Tally(parser.name, done, accepted, time.monotonic() - began, slowest, grown, tuple(findings.values()))


def _all(parser: Parser, source: random.Random, inputs: int) -> Iterator[bytes]:
    yield from parser.seeds
    yield from BOMBS
    made = mutations(parser, source)
    for _ in range(inputs):
        yield next(made)


def peak(parser: Parser, inputs: int, seed: int) -> int:
    """Bytes that the hungriest of some inputs needed, beyond 64 times its length."""
    most = 0
    tracemalloc.start()
    try:
        for data in _all(parser, random.Random(f"{parser.name} {seed}"), inputs):
            tracemalloc.reset_peak()
            base = tracemalloc.get_traced_memory()[0]
            trial(parser, data)
            most = max(most, tracemalloc.get_traced_memory()[1] - base - 64 * len(data))
    finally:
        tracemalloc.stop()
    return most


def recorded(tally: Tally, seed: int) -> dict[str, object]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    return {
        "parser": tally.parser, "date": time.strftime("%Y-%m-%d"), "commit": commit.strip(), "seed": seed,
        "inputs": tally.inputs, "taken": tally.accepted, "seconds": round(tally.seconds),
        "slowest_ms": round(tally.slowest * 1e3, 1), "grown_mb": tally.grown, "findings": len(tally.findings),
    }  # fmt: skip


def added_up() -> int:
    sums: dict[str, int] = {parser.name: 0 for parser in PARSERS}
    found, slowest = 0, 0.0
    with open(LEDGER, encoding="utf-8") as file:
        for each in map(json.loads, file):
            sums[each["parser"]] = sums.get(each["parser"], 0) + each["inputs"]
            found += each["findings"]
            slowest = max(slowest, each["slowest_ms"])
    for name, inputs in sums.items():
        print(f"{inputs:12,}  {name}")
    print(f"{sum(sums.values()):12,}  in all; least {min(sums.values()):,}; {found} findings; slowest {slowest} ms")
    return 0


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--inputs", type=positive, default=20_000)
    words.add_argument("--seed", type=int, default=int(time.time()))
    words.add_argument("--only", action="append", default=[], choices=[parser.name for parser in PARSERS])
    words.add_argument("--input")
    words.add_argument("--record", action="store_true")
    words.add_argument("--sum", action="store_true")
    asked = words.parse_args()
    if asked.sum:
        return added_up()
    found = 0
    print(f"seed {asked.seed}")
    for parser in PARSERS:
        if asked.only and parser.name not in asked.only:
            continue
        if asked.input:
            with open(asked.input, "rb") as file:
                print(parser.name, trial(parser, file.read()))
            continue
        tally = run(parser, asked.inputs, asked.seed)
        found += len(tally.findings)
        print(
            f"{tally.parser}: {tally.inputs:,} inputs, {tally.accepted:,} taken, {tally.seconds:.0f} s, slowest "
            f"{tally.slowest * 1e3:.1f} ms, memory +{tally.grown} MB, {len(tally.findings)} findings", flush=True,
        )  # fmt: skip
        if asked.record:
            with open(LEDGER, "a", encoding="utf-8") as file:
                file.write(json.dumps(recorded(tally, asked.seed)) + "\n")
        for finding in tally.findings:
            print(f"  {finding.why}\n    {finding.data[:300]!r}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
