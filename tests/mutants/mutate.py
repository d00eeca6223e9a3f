"""Small wrong changes of a module: a comparison turned round, `and` for `or`, a `not` or a statement left out, a number
that is one too great. Each is one that a tired person might make."""

from __future__ import annotations

import ast
import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def mutants(source: str) -> list[tuple[str, str]]:
    """All of a module: what was done where, and the source that it gives."""
    tree = ast.parse(source)
    found = []
    for at, node in enumerate(_code(tree)):
        for way in _ways(node):
            changed = copy.deepcopy(tree)
            twin = list(_code(changed))[at]
            what = _apply(twin, way)
            found.append((f"line {node.lineno}: {what}", ast.unparse(ast.fix_missing_locations(changed))))
    return found


def _code(tree: ast.Module) -> Iterator[ast.expr | ast.stmt]:
    """The nodes that run when the protocol does: no annotations, no types, no docstrings."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop(0)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for each in value if isinstance(value, list) else [value]:
                if not isinstance(each, ast.AST) or _idle(each):
                    continue
                todo.append(each)
                if isinstance(each, (ast.expr, ast.stmt)):
                    yield each


def _idle(node: ast.AST) -> bool:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name):
        return node.test.id == "TYPE_CHECKING"
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
        node.ops[0] = _TURNED[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        node.value = (not node.value) if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)
    return f"{before}  ->  {ast.unparse(node)} ({way})"
