"""What keeps the code easy to read, as numbers: short functions, classes and files, and docstrings that say
something themselves.

Every exception stands here by name, with its reason; one that nothing needs any more fails.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.source import MODULES, SOURCE, Module

FUNCTION_LINES_MAX = 60
"""Without the docstring."""

MEDIAN_LINES_BELOW = 15
"""Of all functions."""

CLASS_METHODS_MAX = 25
"""Public and private ones together."""

FILE_LINES_MAX = 400

LONG_FUNCTIONS: dict[str, str] = {}

LARGE_CLASSES: dict[str, str] = {
    "api.control.AdminApi": "a façade: a method for each control call of a running volume",
    "api.client.ControlClient": "a façade: a method for each call of the control socket",
    "blocks.overlay.Overlay": "what a set has, in one structure that is kept compact",
    "log.write.segment_pool.SegmentPool": "each step of a file's round changes the same state",
    "mirror.link.Link": "receiving, sending, the heartbeat and every way to end share one state",
    "node.role.Role": "a protocol: what the faces ask of a volume in either role",
    "node.secondary_role.SecondaryRole": "a role has what only a primary can do: some are refusals",
    "sim.kernel.wire.SimWire": "receiving, sending and ending share its state",
    "sim.worlds.trio.TrioWorld": "a method for each thing that the world does to its three copies",
    "sim.worlds.primary.PrimaryWorld": "a method for each thing that the world does to its volume",
    "volume.primary.Volume": "a façade: a method for each thing that a volume can do",
    "volume.secondary.Secondary": "a façade: a method for each thing that a mirror's copy can do",
}

LONG_FILES: dict[str, str] = {}

POINTS_ELSEWHERE = re.compile(
    r"(See|As|Like) (``[^`]+``|the (module|package|class|function)\b[^.:;,]*)\.?", re.IGNORECASE
)

POINTERS: dict[str, str] = {}
"""Modules in which a public docstring only points elsewhere."""


@dataclass(frozen=True)
class Definition:
    """A class or function, by its full name without the package."""

    name: str
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def lines(self) -> int:
        """Without the docstring."""
        text = self.node.body[0] if ast.get_docstring(self.node) is not None else None
        own = 0 if text is None else (text.end_lineno or text.lineno) - text.lineno + 1
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1 - own

    @property
    def methods(self) -> int:
        return sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in self.node.body)


def _definitions(name: str, node: ast.AST) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield Definition(f"{name}.{child.name}", child)
            yield from _definitions(f"{name}.{child.name}", child)
        else:
            yield from _definitions(name, child)


def _classes(module: Module) -> Iterator[Definition]:
    return (each for each in _definitions(module.name, module.tree) if isinstance(each.node, ast.ClassDef))


def _functions(module: Module) -> Iterator[Definition]:
    return (each for each in _definitions(module.name, module.tree) if not isinstance(each.node, ast.ClassDef))


def _long_functions(modules: list[Module]) -> set[str]:
    return {each.name for module in modules for each in _functions(module) if each.lines > FUNCTION_LINES_MAX}


def _large_classes(modules: list[Module]) -> set[str]:
    return {each.name for module in modules for each in _classes(module) if each.methods > CLASS_METHODS_MAX}


def _pointers(modules: list[Module]) -> set[str]:
    """Modules with a public docstring that says nothing but where something else stands."""
    return {
        module.name
        for module in modules
        for each in _definitions(module.name, module.tree)
        if not each.node.name.startswith("_")
        and POINTS_ELSEWHERE.fullmatch(" ".join((ast.get_docstring(each.node) or "").split()))
    }


def test_functions_are_short() -> None:
    assert _long_functions(MODULES) == set(LONG_FUNCTIONS)


def test_most_functions_are_seen_at_a_glance() -> None:
    lengths = [each.lines for module in MODULES for each in _functions(module)]
    assert statistics.median(lengths) < MEDIAN_LINES_BELOW


def test_classes_have_few_methods() -> None:
    assert _large_classes(MODULES) == set(LARGE_CLASSES)


def test_files_are_short() -> None:
    long = {module.name for module in MODULES if len(module.path.read_text().splitlines()) > FILE_LINES_MAX}
    assert long == set(LONG_FILES)


def test_docstrings_say_something_themselves() -> None:
    assert _pointers(MODULES) == set(POINTERS)


def _module(code: str) -> Module:
    return Module(SOURCE / "x.py", "x", ast.parse(code))


def test_a_docstring_is_not_counted() -> None:
    body = "\n".join(["    x = 1"] * (FUNCTION_LINES_MAX - 1))
    assert _long_functions([_module(f'def f():\n    """One.\n\n    Two."""\n{body}')]) == set()
    assert _long_functions([_module(f"class C:\n  def f():\n    {body.strip()}\n    y = 1\n    z = 1")]) == {
        "x.C.f"
    }


def test_methods_are_counted() -> None:
    methods = "".join(f"    def f{number}(self): pass\n" for number in range(CLASS_METHODS_MAX))
    assert _large_classes([_module(f"class C:\n{methods}")]) == set()
    assert _large_classes([_module(f"class C:\n{methods}    async def _one_more(self): pass")]) == {"x.C"}


@pytest.mark.parametrize(
    "text",
    ["See the module's text.", "See ``host.Wire``.", "See the function of this name.", "As ``Store.pread``."],
)
def test_what_points_elsewhere_alone_is_found(text: str) -> None:
    assert _pointers([_module(f'class C:\n    def f(self):\n        """{text}"""')]) == {"x"}
    assert _pointers([_module(f'def _f():\n    """{text}"""')]) == set()


@pytest.mark.parametrize(
    "text",
    ["See that it is so.", "See ``host.Wire``. Of bytes only.", "One. See ``x``.", "As ``x``, in a thread."],
)
def test_what_says_more_may_point_elsewhere(text: str) -> None:
    assert _pointers([_module(f'def f():\n    """{text}"""')]) == set()
