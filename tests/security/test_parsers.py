"""Every parser of the table takes whatever it is given, and none is missing from the table."""

from __future__ import annotations

import ast
import pathlib
import re
import sys
from typing import TYPE_CHECKING

import pytest

import interlock

if sys.platform != "linux":
    pytest.skip("the table has the parsers of Linux", allow_module_level=True)

from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from . import fuzz
from .parsers import EXEMPT, PARSERS, Parser, covered

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = pathlib.Path(interlock.__file__).parent
every_parser = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)


@every_parser
def test_mutated_inputs(parser: Parser, request: pytest.FixtureRequest) -> None:
    """The full number: python -m tests.security.fuzz --inputs 1000000."""
    seed = request.config.getoption("randomly_seed", 0)
    tally = fuzz.run(parser, 2000, int(seed) if str(seed).isdigit() else 0)
    assert tally.findings == ()
    assert tally.inputs > 2000


@every_parser
def test_hypothesis(parser: Parser) -> None:
    texts = st.text().map(lambda text: text.encode("utf-8", "replace"))
    spliced = st.builds(
        lambda seed, at, middle: seed[: at % (len(seed) + 1)] + middle + seed[at % (len(seed) + 1) :],
        st.sampled_from(parser.seeds), st.integers(0, 5000), st.binary(max_size=200) | texts,
    )  # fmt: skip

    @how(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=2000) | texts | spliced)
    def holds(data: bytes) -> None:
        assert fuzz.trial(parser, data)[0] == ""

    holds()


@every_parser
def test_memory(parser: Parser) -> None:
    assert fuzz.peak(parser, 100, 0) < 64 << 20


@every_parser
def test_good_inputs_are_taken(parser: Parser) -> None:
    """A seed that is refused at the first check would fuzz nothing."""
    assert [fuzz.trial(parser, seed) for seed in parser.seeds] == [("", True)] * len(parser.seeds)
    if parser.seal is not None:
        assert all(fuzz.trial(parser, parser.seal(seed)) == ("", True) for seed in parser.seeds)


# ---- negative controls


def _careless(data: bytes) -> object:
    return int(data.partition(b"=")[2] or 0)


def _echoing(data: bytes) -> object:
    if data != b"a=1":
        raise ValueError(f"not understood: {data.decode('latin-1')}")
    return None


def _hungry(data: bytes) -> object:
    return [0] * (16 << 20)


def test_a_careless_parser_is_found() -> None:
    found = fuzz.run(Parser("careless", (), _careless, (b"a=1",)), 2000, 1).findings
    assert any(finding.why.startswith("ValueError") for finding in found)
    assert fuzz.run(Parser("careless", (), _careless, (b"a=1",), (ValueError,)), 2000, 1).findings == ()


def test_a_parser_that_echoes_is_found() -> None:
    found = fuzz.run(Parser("echoing", (), _echoing, (b"a=1",), (ValueError,)), 2000, 1).findings
    assert any("control characters" in finding.why for finding in found)
    shows = Parser("showing", (), lambda data: data, (b"a=1",), shown=lambda data: data.decode("latin-1"))
    assert fuzz.run(shows, 2000, 1).findings != ()


def test_a_hungry_and_a_slow_parser_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fuzz.peak(Parser("hungry", (), _hungry, (b"a=1",)), 3, 1) > 64 << 20
    monkeypatch.setattr(fuzz, "SLOW", 0.0)
    found = fuzz.run(Parser("slow", (), lambda data: sum(range(1000)), (b"a=1",)), 100, 1).findings
    assert any("it took" in finding.why for finding in found)


# ---- none is missing

_NAME = re.compile(r"_?(parse|decode|unpack|unseal|unescape|read_record|from_)")
_CALLS = frozenset(
    "loads load raw_decode unpack unpack_from iter_unpack literal_eval fromhex b64decode urlsplit urlparse parse_qsl"
    " strptime fromisoformat decompress decompressobj from_bytes decode".split()
)


def parsers_in(module: str, tree: ast.AST, inside: str = "") -> Iterator[str]:
    """Functions that look as if they made sense of bytes: by their name, or by what they call."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from parsers_in(module, node, inside)
            continue
        name = f"{inside}{node.name}"
        if not isinstance(node, ast.ClassDef):
            functions = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
            called = {function.attr for function in functions if isinstance(function, ast.Attribute)}
            called |= {function.id for function in functions if isinstance(function, ast.Name)}
            if _NAME.match(node.name) or called & _CALLS:
                yield f"{module}:{name}"
        yield from parsers_in(module, node, f"{name}.")


def modules() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def test_every_parser_is_in_the_table() -> None:
    """A new one goes into `PARSERS`, or into `EXEMPT` with a reason. `testing` reads what tests wrote."""
    shipped = [(module, tree) for module, tree in modules() if module.split(".")[0] != "testing"]
    found = {name for module, tree in shipped for name in parsers_in(module, tree)}
    assert sorted(found - covered() - EXEMPT.keys()) == []
    assert sorted(EXEMPT.keys() - found) == []


def test_the_table_names_what_there_is() -> None:
    there = set()
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                there.add(f"{module}:{node.name}")
            elif isinstance(node, ast.ClassDef):
                methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
                there |= {f"{module}:{node.name}.{name}" for name in methods}
    assert sorted(covered() - there) == []
    assert covered() & EXEMPT.keys() == set()


def test_a_new_parser_would_be_found() -> None:
    source = "import json\ndef parse_it(x): ...\nclass C:\n def read(self, x): return json.loads(x)\ndef other(): ..."
    assert list(parsers_in("m", ast.parse(source))) == ["m:parse_it", "m:C.read"]


# ---- nothing that runs what it reads

FORBIDDEN = frozenset("pickle _pickle cPickle dill cloudpickle marshal shelve yaml jsonpickle".split())
MAY_PICKLE = frozenset(["testing.conformance.locks", "testing.conformance.holds"])
"""They pickle a lock or an error, and read that back a line later."""


def running_code(module: str, tree: ast.AST) -> Iterator[str]:
    """Where it imports what can run code that it reads, or does so itself."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
            yield f"{module}: {node.func.id}"
        for name in names:
            if name.split(".")[0] in FORBIDDEN and module not in MAY_PICKLE:
                yield f"{module}: {name}"


def test_nothing_in_the_package_runs_what_it_reads() -> None:
    assert [fault for module, tree in modules() for fault in running_code(module, tree)] == []


@pytest.mark.parametrize("source", ["import pickle", "from yaml import load", "def f():\n import marshal", "eval('1')"])
def test_what_runs_code_would_be_found(source: str) -> None:
    assert list(running_code("m", ast.parse(source))) != []


def test_the_wheel_is_that_package() -> None:
    import tomllib

    configured = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert configured["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["src/interlock"]}
