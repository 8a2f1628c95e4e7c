"""The house rules that a reader relies on, checked on every module.

Rooms are ordered: one imports only itself, the rooms before it and ``revolume.errors``; so each can be
read, and tested, with what comes before it alone. Nothing outside ``host/`` reads a clock, opens a file or
a socket, or draws a random number, except the outermost faces. And the style does not slide: functions
are short, modules begin with a text.

Every exception stands here by name, with its reason.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "revolume"

ROOMS = (
    "host", "blocks", "log", "chain", "pace", "volume", "offline", "history", "mirror", "resync", "nbd", "cluster",
    "jobs", "node", "api", "cli", "web",
)  # fmt: skip
"""Low to high, as in docs/ARCHITECTURE.md."""

EVERYTHING = {
    "sim": "simulates whole clusters, so it stands beside the rooms and may see all of them",
}

FORESEEN: dict[tuple[str, str], str] = {}
"""(module, module it may import although its room comes later): the reason."""

FACES = {
    "api": "the outermost face: it is handed a socket by its web server, no part of a volume passes here",
    "cli": "the outermost face: files that the user names, the terminal, the process itself",
    "web": "the outermost face",
    "sim": "provides what host/ provides, from a seed",
}

FORBIDDEN_MODULES = {
    "time", "random", "socket", "socketserver", "select", "selectors", "secrets", "uuid", "ssl", "fcntl",
    "tempfile", "shutil", "glob", "mmap", "subprocess", "multiprocessing", "threading",
    "concurrent.futures",
}  # fmt: skip
"""What reaches the machine without asking ``Host``."""

ALLOWED_MODULES: dict[tuple[str, str], str] = {
    ("blocks.overlay", "mmap"): "anonymous memory that stays untouched until used; no file is mapped",
    ("chain.pages", "threading"): "a lock around what threads of host/work.py share; it starts none",
    ("mirror.examine", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.fetch", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.recovery", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.source", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.target", "ssl"): "names the type of a context that host/tls.py has built",
    ("nbd.client", "ssl"): "names the type of a context that host/tls.py has built",
    ("nbd.server", "ssl"): "names the type of a context that host/tls.py has built",
    ("nbd.session", "ssl"): "names the type of a context that host/tls.py has built",
}
"""(module, what it imports): the reason."""

SSL_TYPES = {"SSLContext", "SSLError", "SSLCertVerificationError"}

FORBIDDEN_CALLS = {
    "open", "os.open", "os.fdopen", "os.urandom", "os.getrandom", "os.read", "os.write", "os.pread",
    "os.pwrite", "os.preadv", "os.pwritev", "os.fsync", "os.fdatasync", "os.listdir", "os.scandir",
    "os.unlink", "os.remove", "os.rename", "os.replace", "os.mkdir", "os.makedirs", "os.stat",
    "os.fork", "os.times", "io.open", "datetime.now", "datetime.utcnow", "datetime.today", "date.today",
    "datetime.datetime.now", "datetime.datetime.utcnow", "np.random.default_rng", "np.fromfile",
    "np.memmap", "numpy.memmap", "asyncio.sleep", "asyncio.to_thread", "asyncio.open_connection",
    "asyncio.start_server", "asyncio.open_unix_connection", "asyncio.start_unix_server",
    "Path.cwd", "Path.home",
}  # fmt: skip

ALLOWED_CALLS: dict[tuple[str, str], str] = {}
"""(module, call): the reason."""

MEDIAN_LINES_BELOW = 15


@dataclass(frozen=True)
class Module:
    """One source file, parsed; ``name`` without the package, e.g. ``host.disk``."""

    path: Path
    name: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.path.relative_to(SOURCE).parts[0] if self.path.parent != SOURCE else ""

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

    def functions(self) -> Iterator[int]:
        """Lines of each function, without its docstring."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                text = node.body[0] if ast.get_docstring(node) is not None else None
                own = 0 if text is None else (text.end_lineno or text.lineno) - text.lineno + 1
                yield (node.end_lineno or node.lineno) - node.lineno + 1 - own


def _modules() -> list[Module]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found.append(Module(path, name, ast.parse(path.read_text(), str(path))))
    return found


MODULES = _modules()


def _imported_rooms(module: Module) -> Iterator[tuple[int, str, str]]:
    """(line, room, full name) of the project's own modules; the bare package has no room."""
    for line, name in module.imports():
        if name.startswith("revolume."):
            yield line, name.split(".")[1], name


def test_every_directory_is_a_known_room() -> None:
    rooms = {module.room for module in MODULES} - {""}
    assert rooms <= {*ROOMS, *EVERYTHING}


def _imported_too_early(modules: list[Module]) -> list[str]:
    wrong = []
    for module in modules:
        if module.room in EVERYTHING or module.name == "__init__":  # the library's front door
            continue
        before = ROOMS[: ROOMS.index(module.room) + 1] if module.room else ()
        for line, imported, name in _imported_rooms(module):
            if imported not in {"errors", "__version__", *before} and (module.name, name) not in FORESEEN:
                wrong.append(f"{module.name}:{line} imports {name}")
    return wrong


def test_a_room_imports_only_what_comes_before_it() -> None:
    assert _imported_too_early(MODULES) == []


def test_errors_import_nothing_of_ours() -> None:
    (errors,) = [module for module in MODULES if module.name == "errors"]
    assert list(_imported_rooms(errors)) == []


def _inner(modules: list[Module]) -> list[Module]:
    return [module for module in modules if module.room not in {"host", *FACES}]


def _reaches_out(module: Module, name: str) -> bool:
    parts = name.split(".")
    hits = {".".join(parts[:count]) for count in range(1, len(parts) + 1)} & FORBIDDEN_MODULES
    return any((module.name, hit) not in ALLOWED_MODULES for hit in hits)


def _reaching_out(modules: list[Module]) -> list[str]:
    wrong = []
    for module in _inner(modules):
        for line, name in module.imports():
            if _reaches_out(module, name):
                wrong.append(f"{module.name}:{line} imports {name}")
        for line, call in module.calls():
            if call in FORBIDDEN_CALLS and (module.name, call) not in ALLOWED_CALLS:
                wrong.append(f"{module.name}:{line} calls {call}")
    return wrong


def test_the_machine_is_reached_through_host_alone() -> None:
    assert _reaching_out(MODULES) == []


def _building_contexts(modules: list[Module]) -> list[str]:
    """Naming a type is not using it: a call, or a constant of ``ssl``, is."""
    wrong = []
    for module in _inner(modules):
        for line, call in module.calls():
            if call.startswith("ssl."):
                wrong.append(f"{module.name}:{line} calls {call}")
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Attribute) or ast.unparse(node.value) != "ssl":
                continue
            if node.attr not in SSL_TYPES:
                wrong.append(f"{module.name}:{node.lineno} uses ssl.{node.attr}")
    return wrong


def test_contexts_are_named_elsewhere_but_built_in_host() -> None:
    assert _building_contexts(MODULES) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("log.x", "import time"),
        ("log.x", "from concurrent.futures import ThreadPoolExecutor"),
        ("log.x", "def f():\n    import random"),
        ("log.x", "open('x')"),
        ("log.x", "import os\nos.open('x', 0)"),
        ("log.x", "datetime.now()"),
        ("log.x", "asyncio.sleep(1)"),
        ("log.x", "from revolume.volume import core"),
        ("log.x", "import revolume.cli.main"),
        ("blocks.x", "def f():\n    from revolume.log import pool"),
        ("host.x", "from revolume.blocks import word"),
        ("nbd.client", "import ssl\nssl.create_default_context()"),
        ("nbd.x", "import ssl"),
        ("errors", "from revolume.host import disk"),
    ],
)
def test_the_rules_bite(name: str, code: str) -> None:
    module = Module(SOURCE.joinpath(*name.split(".")).with_suffix(".py"), name, ast.parse(code))
    assert _imported_too_early([module]) + _reaching_out([module]) + _building_contexts([module])


def test_every_module_begins_with_a_text() -> None:
    """One with nothing in it has nothing to tell."""
    silent = [module.name for module in MODULES if module.tree.body and not ast.get_docstring(module.tree)]
    assert silent == []


def test_functions_stay_short() -> None:
    lengths = [lines for module in MODULES for lines in module.functions()]
    assert statistics.median(lengths) < MEDIAN_LINES_BELOW


def test_no_exception_outlives_its_reason() -> None:
    """An exception that nothing needs any more is taken out."""
    imports = {
        (module.name, ".".join(name.split(".")[:count]))
        for module in MODULES
        for _, name in module.imports()
        for count in range(1, name.count(".") + 2)
    }
    calls = {(module.name, call) for module in MODULES for _, call in module.calls()}
    names = {module.name for module in MODULES}
    stale = [entry for entry in (*FORESEEN, *ALLOWED_MODULES) if entry[0] in names and entry not in imports]
    stale += [entry for entry in ALLOWED_CALLS if entry[0] in names and entry not in calls]
    assert stale == []
