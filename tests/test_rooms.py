"""The house rules that a reader relies on, checked on every module.

Rooms are ordered: one imports only itself, the rooms before it and ``revolume.errors``; so each can be
read, and tested, with what comes before it alone. Within a room its sub-rooms are ordered in the same way,
and nowhere do modules import each other in a circle. Nothing outside ``host/`` reads a clock, opens a file or
a socket, or draws a random number, except the outermost faces. Every module begins with a text.

Every exception stands here by name, with its reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.source import MODULES, SOURCE, Module, unit_of

ROOMS = (
    "host", "blocks", "log", "chain", "pace", "volume", "offline", "history", "mirror", "resync", "nbd", "cluster",
    "jobs", "api", "node", "cli", "web",
)  # fmt: skip
"""Low to high, as in docs/ARCHITECTURE.md."""

SUB_ROOMS: dict[str, tuple[str, ...]] = {
    "host": (
        "address clock command descriptors disk entropy error_text local_time log_sink owner receive_buffer",
        "stopped_process",
        "text tls work",
        "file_slice medium_file network open_files",
        "activation",
        "real",
        "shadow_disk tidy",
    ),
    "blocks": (
        "block_location geometry numbers ordering page_directory reserved",
        "digest extents",
        "block_set root",
        "ranges",
        "delta_map overlay",
    ),
    "log": ("format", "write", "read"),
    "chain": (
        "point versions",
        "reference_resolver",
        "newest_first point_deltas",
        "page_cache map_file",
        "map_builder",
        "rung_builder",
        "layered_map",
    ),
    "pace": ("limits governor", "pacer"),
    "volume": (
        "uncancelled_tasks size_history unread",
        "metadata state clocks",
        "footer_writer open_log context",
        "suspect",
        "image",
        "rescue",
        "heal",
        "dirty",
        "livemap",
        "branches",
        "points members space",
        "jump",
        "scrub",
        "clone_detaching",
        "whole_writes",
        "volume_base primary_status primary_upkeep secondary_upkeep primary secondary secondary_status open",
    ),
    "offline": ("walk", "check salvage"),
    "history": (
        "allocation changes label_scale moments resolved_moment usage",
        "suspect_moment",
        "block_scan resolver",
        "open_history offline_volume view_source snapshot_room",
        "branch_source resolved_places view_map",
        "views",
        "writable_overlay clone_maker origin_view",
        "live_export",
        "view_export",
        "exports",
        "restoring",
    ),
    "mirror": (
        "wire",
        "wording base_plan catch_up_plan counters link sent_references storage_protocols copy_protocols",
        "healing held_moments log_sender mirror_status readable_content",
        "recorded_status volume_examination",
        "target",
        "source",
        "recovery",
    ),
    "resync": (
        "suspect_walk",
        "suspect_history reviser fixup_merge scanner compare_map host_changes",
        "comparer copier cuts",
        "region_scan history_marks",
        "overwritten_findings",
        "fetched_moment",
        "moment_fetch verification",
    ),
    "nbd": ("wire", "client_connection", "client_handshake", "client", "export", "bounds", "server"),
    "jobs": ("job", "jobs"),
    "api": (
        "problems keep_text proof_schemas", "schemas moment_schemas clone_schemas keep_schemas", "control bounds",
        "retention_routes", "app client server",
    ),
    "node": (
        "alarm event_log",
        "addresses mirror_to resync_preference service_options takeover listening tls_contexts",
        "completed_options",
        "scrub_jobs detach_jobs clone_status",
        "compare_mirrors export_switch mirror_links mirror_schemas role",
        "mirror_orders resync_orders verify_orders fetch_jobs new_primary",
        "clone_face clone_making",
        "clones",
        "primary_role secondary_role",
        "role_changes",
        "promotion demotion",
        "restore switchover",
        "service",
    ),
    "cli": ("*", "verbs", "main"),
    "sim": ("kernel", "oracle", "actors", "checks", "worlds", "campaigns", "__main__"),
}
"""Of each room, low to high: its sub-rooms and the modules at its top, those of one line beside each other.
One imports only what stands in its own line or before it; ``*`` is every module that is not named."""

UPWARDS: dict[tuple[str, str], str] = {
    ("volume.clocks.clock_step", "volume.open_log.OpenLog"): "names the type of the log that its steps go into",
    ("volume.context", "volume.open.options.OpenOptions"): "names the type of what a volume was opened with",
    ("volume.livemap.base_map_renewal", "volume.points.retained_points.RetainedPoints"): "reads points only",
    ("volume.livemap.base_map_renewal", "volume.space.reserve.Reserve"): "its files may take the reserved room",
    ("volume.livemap.ladder", "volume.points.retained_points.RetainedPoints"): "reads points only",
    ("volume.livemap.ladder", "volume.space.reserve.Reserve"): "gives way where that lacks room",
    ("volume.livemap.open_rungs", "volume.points.retained_points.RetainedPoints"): "reads points only",
    ("volume.livemap.log_ranges", "volume.points.retained_points.RetainedPoints"): "reads points only",
    ("volume.livemap.replay", "volume.points.retained_points.LastPoint"): "replay ends with the last point",
    ("volume.members.received_log", "volume.open.log_identity.End"): "names the type of who ends a log",
    ("volume.state.damage", "volume.livemap.reader.Reader"): "names the type of what met the damage",
    ("volume.state.status", "volume.space.holder.Holder"): "says who holds space",
}
"""(module, module of the same room that it imports although it comes later): the reason."""

CYCLES: dict[tuple[str, ...], str] = {
    ("sim.kernel.fabric", "sim.kernel.network", "sim.kernel.wire"): "one network, which makes wires",
    ("volume.primary", "volume.primary_status"): "names the type of the volume that it describes",
}
"""Modules, by name, that import each other in a circle: the reason."""

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
    ("blocks.reserved", "mmap"): "anonymous memory that stays untouched until used; no file is mapped",
    ("chain.page_cache", "threading"): "a lock around what threads of host/work.py share; it starts none",
    ("mirror.recovery.examine", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.recovery.promotion_proof", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.recovery.newest_opening", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.recovery.tail_fetcher", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.recovery.recover_from_mirrors", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.source.mirror_source", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.target.link_listener", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.target.primary_listener", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.target.target", "ssl"): "names the type of a context that host/tls.py has built",
    ("mirror.recovery.recall", "ssl"): "names the type of a context that host/tls.py has built",
    ("node.fetch_jobs", "ssl"): "names the type of a context that host/tls.py has built",
    ("node.new_primary", "ssl"): "names the type of a context that host/tls.py has built",
    ("nbd.client", "ssl"): "names the type of a context that host/tls.py has built",
    ("nbd.client_handshake", "ssl"): "names the type of a context that host/tls.py has built",
    ("nbd.server.server", "ssl"): "names the type of a context that host/tls.py has built",
    ("nbd.server.session", "ssl"): "names the type of a context that host/tls.py has built",
    ("node.compare_mirrors", "ssl"): "names the type of a context that host/tls.py has built",
    ("node.mirror_links", "ssl"): "names the type of a context that host/tls.py has built",
    ("node.mirror_orders", "ssl"): "names the type of a context that host/tls.py has built",
    ("node.resync_orders", "ssl"): "names the type of a context that host/tls.py has built",
    ("node.tls_contexts", "ssl"): "names the type of a context that host/tls.py has built",
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


def _place(room: str, unit: str) -> int | None:
    """Which line of its room's order a unit stands in; None: in none."""
    lines = [line.split() for line in SUB_ROOMS[room]]
    named = [number for number, line in enumerate(lines) if unit in line]
    return next(iter(named or [number for number, line in enumerate(lines) if line == ["*"]]), None)


def _imported_upwards(modules: list[Module]) -> list[str]:
    wrong = []
    for module in modules:
        place = _place(module.room, module.unit) if module.room in SUB_ROOMS and module.unit else None
        for line, name in module.imports() if place is not None else ():
            imported = name.removeprefix("revolume.")
            if not name.startswith(f"revolume.{module.room}.") or _excepted(UPWARDS, module.name, imported):
                continue
            later = _place(module.room, unit_of(imported))
            if later is not None and later > place:
                wrong.append(f"{module.name}:{line} imports {name}")
    return wrong


def _excepted(exceptions: dict[tuple[str, str], str], name: str, imported: str) -> bool:
    parts = imported.split(".")
    return any((name, ".".join(parts[:count])) in exceptions for count in range(1, len(parts) + 1))


def test_a_module_imports_only_what_comes_before_it_in_its_room() -> None:
    assert _imported_upwards(MODULES) == []


def test_every_sub_room_has_its_place() -> None:
    """A new one is named in SUB_ROOMS; one that is no more is taken out."""
    there = {(module.room, module.unit) for module in MODULES if module.room and module.unit}
    homeless = {pair for pair in there if _place(*pair) is None}
    named = {(room, unit) for room, lines in SUB_ROOMS.items() for unit in " ".join(lines).split()}
    assert (sorted(homeless), sorted(named - there - {("cli", "*")})) == ([], [])


def _circles(modules: list[Module]) -> set[tuple[str, ...]]:
    """Groups of modules each of which is reached from each by imports."""
    names = {module.name for module in modules}
    direct = {module.name: set(_imported_modules(module, names)) for module in modules}
    reached = {name: _reached(direct, name) for name in names}
    circles = {name: [other for other in ahead if name in reached[other]] for name, ahead in reached.items()}
    return {tuple(sorted(circle)) for circle in circles.values() if circle}


def _reached(direct: dict[str, set[str]], name: str) -> set[str]:
    found: set[str] = set()
    ahead = [name]
    while ahead:
        more = direct[ahead.pop()] - found
        found |= more
        ahead += more
    return found


def _imported_modules(module: Module, names: set[str]) -> Iterator[str]:
    """The modules among ``names`` that are imported, or a thing of theirs is."""
    for _, name in module.imports():
        own = name.removeprefix("revolume.")
        found = own if own in names else own.rpartition(".")[0]
        if found in names and found != module.name:
            yield found


def test_modules_import_each_other_in_no_circle() -> None:
    assert _circles(MODULES) == set(CYCLES)


def test_circles_are_found() -> None:
    codes = {
        "a": "from revolume.b import f",
        "b": "def g():\n    import revolume.c",
        "c": "from revolume import a",
        "d": "import revolume.a",
    }
    modules = [Module(SOURCE / f"{name}.py", name, ast.parse(code)) for name, code in codes.items()]
    assert _circles(modules) == {("a", "b", "c")}


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
        ("log.format.x", "from revolume.log.read import scan"),
        ("log.write.x", "def f():\n    import revolume.log.read.scan"),
        ("mirror.link", "from revolume.mirror.target.target import MirrorTarget"),
        ("mirror.source.x", "from revolume.mirror import recovery"),
        ("nbd.wire.x", "from revolume.nbd import server"),
        ("volume.metadata.x", "from revolume.volume.points import compose"),
        ("volume.space.x", "from revolume.volume import primary"),
        ("offline.walk.x", "from revolume.offline.check import check"),
        ("cli.x", "from revolume.cli.verbs import serve"),
        ("cli.verbs.x", "from revolume.cli import main"),
        ("node.role", "from revolume.node import service"),
        ("sim.kernel.x", "from revolume.sim.worlds import world"),
    ],
)
def test_the_rules_bite(name: str, code: str) -> None:
    module = Module(SOURCE.joinpath(*name.split(".")).with_suffix(".py"), name, ast.parse(code))
    rules = (_imported_too_early, _imported_upwards, _reaching_out, _building_contexts)
    assert any(rule([module]) for rule in rules)


def test_every_module_begins_with_a_text() -> None:
    """One with nothing in it has nothing to tell."""
    silent = [module.name for module in MODULES if module.tree.body and not ast.get_docstring(module.tree)]
    assert silent == []


def test_no_exception_outlives_its_reason() -> None:
    """An exception that nothing needs any more is taken out."""
    imports = {
        (module.name, ".".join(name.split(".")[:count]))
        for module in MODULES
        for _, name in module.imports()
        for count in range(1, name.count(".") + 2)
    }
    calls = {(module.name, call) for module in MODULES for _, call in module.calls()}
    stale = [entry for entry in (*FORESEEN, *ALLOWED_MODULES) if entry not in imports]
    stale += [entry for entry in UPWARDS if (entry[0], f"revolume.{entry[1]}") not in imports]
    stale += [entry for entry in ALLOWED_CALLS if entry not in calls]
    assert stale == []
