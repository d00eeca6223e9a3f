"""Small wrong changes of a module: a comparison turned round, `and` for `or`, a `not` or a statement left out, a number
that is one too great. Each is one that a tired person might make."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeGuard

_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


class Mutant(NamedTuple):
    place: tuple[int, int]
    code: str
    """The line where it begins, as it stands in the original."""
    change: str
    source: str
    lines: frozenset[int]
    """Of the statement that is changed, as it stands in the original; of an `if` or a loop, without its body. Of a
    function's defaults: its body. Of a constant of the module or a class: where it, or what is made of it, is used."""

    @property
    def what(self) -> str:
        return f"line {self.place[0]}:{self.place[1]}: {self.change}"


def mutants(source: str) -> list[Mutant]:
    """All of a module."""
    tree = ast.parse(source)
    text = source.splitlines()
    used = _used(tree)
    found = []
    for node, lines in list(_code(tree)):
        for way in _ways(node):
            right = vars(node).copy()
            place, code = (node.lineno, node.col_offset + 1), text[node.lineno - 1].strip()
            change = _apply(node, way)
            wrong = ast.unparse(ast.fix_missing_locations(tree))
            vars(node).update(right)
            found.append(Mutant(place, code, change, wrong, used.get(lines, frozenset(lines))))
    return found


def _code(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, range]]:
    """The nodes that run when the protocol does: no annotations, types, docstrings; and their statement's lines."""
    todo: list[tuple[ast.AST, range]] = [(tree, range(0))]
    while todo:
        node, lines = todo.pop(0)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for each in value if isinstance(value, list) else [value]:
                if not isinstance(each, ast.AST) or _idle(each):
                    continue
                within = _lines(each) if isinstance(each, ast.stmt) else lines
                todo.append((each, within))
                if isinstance(each, (ast.expr, ast.stmt)):
                    yield each, within


def _lines(statement: ast.stmt) -> range:
    body = getattr(statement, "body", None)
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return range(statement.body[0].lineno, (statement.end_lineno or statement.lineno) + 1)
    last = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, max(last, statement.lineno) + 1)


def _used(tree: ast.Module) -> dict[range, frozenset[int]]:
    """Where the constants of the module and of its classes, by the lines of their statements, are used in functions."""
    classes = [statement for statement in tree.body if isinstance(statement, ast.ClassDef)]
    constants = {
        _lines(statement): {node.id for node in ast.walk(statement) if _stored(node)}
        for statement in [*tree.body, *(statement for each in classes for statement in each.body)]
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
    }
    at_top = {line for each in constants for line in each}
    mentions = [found for node in ast.walk(tree) for found in _mentioned(node)]
    used = {}
    for lines, names in constants.items():
        meant = set(names)
        for others, made in constants.items():  # in order: what is made of it comes after it
            if any(name in meant and line in others for name, line in mentions):
                meant |= made
        used[lines] = frozenset(line for name, line in mentions if name in meant and line not in at_top)
    return used


def _stored(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _mentioned(node: ast.AST) -> list[tuple[str, int]]:
    if isinstance(node, ast.Attribute):
        return [(node.attr, node.lineno)]
    return [(node.id, node.lineno)] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else []


def _idle(node: ast.AST) -> bool:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
        return node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id == "TYPE_CHECKING"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _ways(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Compare):
        return ["turn"]
    if isinstance(node, ast.BoolOp):
        return ["swap"]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ["bare"]
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int)):
        return ["other"]
    if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Call, ast.Await)):
        return ["omit"]
    return []


def _apply(node: ast.AST, way: str) -> str:
    before = ast.unparse(node)
    if isinstance(node, ast.Compare):
        node.ops = [_TURNED[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)
    return f"{before}  ->  {ast.unparse(node)} ({way})"
