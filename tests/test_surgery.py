"""What tests take out of real daemons is there: a patch of a name that is gone would change nothing, silently."""

from __future__ import annotations

import ast
import importlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def patches(path: Path) -> Iterator[tuple[int, ast.Module]]:
    """The pieces of code in a file's strings that import something of Revolume, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "revolume" in node.value:
            try:
                code = ast.parse(textwrap.dedent(node.value))
            except (SyntaxError, ValueError):
                continue
            if any(isinstance(line, ast.Import | ast.ImportFrom) for line in code.body):
                yield node.lineno, code


def imported(code: ast.Module) -> dict[str, object]:
    """What the names at its top stand for."""
    found = dict[str, object]()
    for line in code.body:
        if isinstance(line, ast.Import):
            for name in line.names:
                if name.asname and name.name.startswith("revolume"):
                    found[name.asname] = importlib.import_module(name.name)
        elif isinstance(line, ast.ImportFrom) and (line.module or "").startswith("revolume"):
            for name in line.names:
                found[name.asname or name.name] = member(str(line.module), name.name)
    return found


def member(module: str, name: str) -> object:
    holder = importlib.import_module(module)
    return getattr(holder, name) if hasattr(holder, name) else importlib.import_module(f"{module}.{name}")


def targets(code: ast.Module) -> Iterator[ast.Attribute]:
    """Attributes that are exchanged, as ``X.name`` on the left of an assignment."""
    for line in ast.walk(code):
        if isinstance(line, ast.Assign):
            for target in line.targets:
                for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
                        yield each


@pytest.mark.parametrize("path", sorted(TESTS.glob("**/*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_what_is_exchanged_is_there(path: Path) -> None:
    for line, code in patches(path):
        exchanged = list(targets(code))
        known = imported(code) if exchanged else {}
        for target in exchanged:
            assert isinstance(target.value, ast.Name)
            if target.value.id in known:
                there = known[target.value.id]
                slots = getattr(there, "__annotations__", {})
                assert hasattr(there, target.attr) or target.attr in slots, f"line {line}: no {target.attr}"
