"""The package's source files, parsed: what the tests of the house rules read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent.parent / "src" / "revolume"


@dataclass(frozen=True)
class Module:
    """One source file, parsed; ``name`` without the package, e.g. ``host.disk``."""

    path: Path
    name: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.path.relative_to(SOURCE).parts[0] if self.path.parent != SOURCE else ""

    @property
    def unit(self) -> str:
        """What the module is, or lies in, within its room: a sub-room or a module at the room's top."""
        return unit_of(self.name)

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, full name), wherever it stands: in functions and for type checking as well."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: imports are absolute"
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)

    def calls(self) -> Iterator[tuple[int, str]]:
        """(line, what is called). ``asyncio.sleep(0)`` gives way and takes no time: it is left out."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and ast.unparse(node) != "asyncio.sleep(0)":
                yield node.lineno, ast.unparse(node.func)


def unit_of(name: str) -> str:
    """The sub-room, or the module at the top of a room, that a name without the package lies in; "" the room."""
    return name.split(".")[1] if "." in name else ""


def _modules() -> list[Module]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found.append(Module(path, name, ast.parse(path.read_text(), str(path))))
    return found


MODULES = _modules()
