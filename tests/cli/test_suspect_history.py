"""B11: history is told honestly. Marks are shown by every face, nothing suspect is opened without saying so, and
nothing that a copy goes through loses them; by real processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from revolume.host import real_host
from revolume.nbd.client import Client
from tests.cli.test_branches import diverged, taken_back
from tests.cli.test_served_as_recorded import PRIMARY, Nodes
from tests.support.mirrors import MiB, Node, promote, read, refused, revolume, told, until, write
from tests.support.suspect import CAUSE, plant_marks

pytestmark = pytest.mark.timeout(240)
BLOCK = 4096


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


@dataclass
class Pair:
    """A primary, its mirror, and snapshots one to five with the write of each."""

    primary: Node
    mirror: Node
    writes: dict[str, int]


def a_pair(nodes: Nodes, mode: str = "sync") -> Pair:
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m,mode={mode}")
    until("it joins", lambda: primary.mirror["joined"])
    writes = {}
    for name in ("one", "two", "three", "four", "five"):
        write(primary.uri(), (0, name.encode() * 100), (MiB, name.encode() * 3000))
        writes[name] = told("snapshot", primary.directory, name)["write"]
    primary.until_agreed()
    return Pair(primary, mirror, writes)


def marked(nodes: Nodes, pair: Pair, since: str = "two", until_: str | None = "four") -> Node:
    """The mirror again, with marks from one snapshot's write to another's (None: not repaired)."""
    pair.mirror.stop()
    end = (1 << 63) - 1 if until_ is None else pair.writes[until_]
    plant_marks(pair.mirror.directory, (0, 1, pair.writes[since], end), (256, 3, pair.writes[since], end))
    return nodes.serve("m")


def exports(node: Node) -> dict[str, str]:
    async def run() -> dict[str, str]:
        host = real_host()
        try:
            return dict(await Client.list_exports(host, node.uri()))
        finally:
            await host.work.close()

    return asyncio.run(run())


def test_b11_every_face_says_so_and_nothing_is_opened_without(nodes: Nodes) -> None:
    pair = a_pair(nodes)
    held = {name: read(pair.primary.uri(f"p@{name}")) for name in pair.writes}
    mirror = marked(nodes, pair)
    for node in (mirror, None):  # served, and stopped
        if node is None:
            mirror.stop()
        points = told("points", pair.mirror.directory)["points"]
        suspect = {point["write"] for point in points if point["suspect"]}
        assert suspect >= {pair.writes["two"], pair.writes["three"]}
        assert all(pair.writes["two"] <= w < pair.writes["four"] for w in suspect)
        assert all(p["export"].endswith(",suspect") == p["suspect"] for p in points)
        assert "SUSPECT" in revolume("points", pair.mirror.directory).stdout
        at = told("points", pair.mirror.directory, "--at", "three")["at"]
        assert at["suspect"]["blocks"] == 4 and at["suspect"]["causes"] == [CAUSE]
        assert at["suspect"]["good_before"]["write"] < pair.writes["two"]
        assert at["suspect"]["good_after"]["write"] >= pair.writes["four"]
        assert "nearest good point before" in revolume("points", pair.mirror.directory, "--at", "three").stdout
        shots = {s["name"]: s["suspect"] for s in told("snapshot", pair.mirror.directory)["snapshots"]}
        assert {name for name, why in shots.items() if why} == {"two", "three"}
        (period,) = told("status", pair.mirror.directory)["suspect"]
        assert (period["since"], period["until"]) == (pair.writes["two"], pair.writes["four"])
        assert (
            f"from w{pair.writes['two']} to before w{pair.writes['four']}: 4 blocks"
            in revolume("status", pair.mirror.directory).stdout
        )
        out = nodes.folder / "out.img"
        error = refused("copy", f"{pair.mirror.directory}@three", out)
        assert error["code"] == "suspect-moment" and CAUSE in error["cause"]
        assert "before it cp" in error["try"] and "behind it cp" in error["try"] and "primary" in error["try"]
        assert not out.exists()
        revolume("copy", f"{pair.mirror.directory}@three", out, "--suspect")
        assert out.read_bytes() == held["three"]
        for name in ("one", "four", "five"):
            out.unlink()
            revolume("copy", f"{pair.mirror.directory}@{name}", out)
            assert out.read_bytes() == held[name]
        out.unlink()
        search = ("--points-only", "--", "grep", "-q", "one", "{file}")
        said = revolume("bisect", pair.mirror.directory, *search, status=4).stderr
        assert "error[suspect-moment]" in said and "--suspect takes it all the same" in said
        found = json.loads(revolume("bisect", pair.mirror.directory, "--suspect", "--json", *search).stdout)
        assert found["good"]["write"] < pair.writes["two"] <= found["bad"]["write"]
    checked = revolume("check", pair.mirror.directory)
    assert "history is suspect: from w" in checked.stdout
    assert not told("points", pair.primary.directory)["at"]
    assert not any(p["suspect"] for p in told("points", pair.primary.directory)["points"]), (
        "the marks are the copy's"
    )


def test_b11_over_nbd(nodes: Nodes) -> None:
    pair = a_pair(nodes)
    mirror = marked(nodes, pair)
    listed = exports(mirror)
    assert "suspect in 4 blocks" in listed["p@two,suspect"] and "p@two" not in listed
    assert "suspect" not in listed["p@one"] and "suspect" not in listed["p@five"]
    for name in listed:
        read(mirror.uri(name))
    for name in ("p@two", "p@three", f"p@w{pair.writes['two']}", "p@three,rw"):
        with pytest.raises(Exception, match=r"is suspect in 4 blocks.*before it cp.*behind it cp.*,suspect"):
            read(mirror.uri(name))
    write(mirror.uri("p@three,rw,suspect"), (0, b"thrown away"))
    mirror.stop()
    plant_marks(pair.mirror.directory, (5, 1, pair.writes["five"], (1 << 63) - 1))
    mirror = nodes.serve("m")
    until("it is level", lambda: mirror.status["source"]["connected"])
    with pytest.raises(Exception, match="suspect"):
        read(mirror.uri())  # the present, where the differences are not repaired
    read(mirror.uri("p@now,suspect"))
    assert "not repaired yet" in revolume("status", mirror.directory).stdout


def test_b11_marks_survive_kill_promotion_folds_and_demotion(nodes: Nodes) -> None:
    pair = a_pair(nodes, "async")
    mirror = marked(nodes, pair)
    mirror.kill()
    mirror = nodes.serve("m")
    assert told("status", mirror.directory)["suspect"]
    pair.primary.kill()
    promote(mirror.directory, "--yes")
    assert read(mirror.uri("p")) == read(mirror.uri("p@now")), "the live volume is what it is"
    with pytest.raises(Exception, match="suspect"):
        read(mirror.uri("p@three"))
    assert "another copy" in refused("copy", f"{mirror.directory}@three", nodes.folder / "x")["try"]
    mirror.stop()
    mirror = nodes.serve("m", "--keep", "0s", "--cp-interval", "200ms", "--budget", "16M")

    def folded() -> bool:
        write(mirror.uri(), (2 * MiB, b"more" * 500_000))
        return bool(mirror.status["horizon_write"] > pair.writes["five"])

    until("the horizon leaves it", folded, 60)
    with pytest.raises(Exception, match="suspect"):
        read(mirror.uri("p@three"))
    read(mirror.uri("p@one"))
    read(mirror.uri("p@four"))
    mirror.stop()
    revolume("demote", mirror.directory, "--mirror-listen", nodes.link("m"))
    assert told("status", mirror.directory)["suspect"]
    assert refused("copy", f"{mirror.directory}@two", nodes.folder / "x")["code"] == "suspect-moment"
    mirror = nodes.serve("m")
    promote(mirror.directory, "--yes")
    for name in ("two", "three"):
        revolume("snapshot", mirror.directory, name, "--drop")
    for name in ("one",):
        revolume("snapshot", mirror.directory, name, "--drop")
    until("no moment is left that they speak of", lambda: not mirror.status["suspect"], 90)
    assert not list((mirror.directory / "suspect").iterdir())


def test_b11_what_is_taken_back_takes_its_marks_with_it(nodes: Nodes) -> None:
    directory, _, common, _, alone = diverged(nodes)
    points = told("points", directory)["points"]
    (at,) = [point for point in points if point["number"] == common.number]
    end = told("status", directory)["write"]
    plant_marks(directory, (0, 1, at["write"], end), (9, 1, end, (1 << 63) - 1))
    taken_back(directory, common)
    (period,) = told("status", directory)["suspect"]
    assert (period["since"], period["until"]) == (at["write"], None), "what was repaired behind it is so no more"
    assert period["blocks"] == 1
    out = nodes.folder / "out.img"
    assert refused("copy", f"{directory}@branch:alone", out)["code"] == "suspect-moment"
    revolume("copy", f"{directory}@branch:alone", out, "--suspect")
    assert out.read_bytes() == alone
    shots = {s["name"]: s for s in told("snapshot", directory)["snapshots"]}
    assert shots["branch:alone"]["suspect"] and shots["branch:alone"]["export"].endswith(",suspect")


def test_b11_a_copy_that_is_made_from_a_suspect_one_is_told(nodes: Nodes) -> None:
    pair = a_pair(nodes, "async")
    mirror = marked(nodes, pair)
    pair.primary.kill()
    promote(mirror.directory, "--yes")
    new = nodes.mirror("new")
    revolume("mirror", "add", mirror.directory, "new", nodes.link("new"), "--mode", "async")
    until("it has its base", lambda: new.status["volume_id"] and not new.status["source"]["base"])
    until("it is told", lambda: new.status["suspect"])
    shots = {s["name"]: s["suspect"] for s in told("snapshot", new.directory)["snapshots"]}
    assert {name for name, why in shots.items() if why} == {"two", "three"} and {"one", "five"} <= shots.keys()
    assert refused("copy", f"{new.directory}@three", nodes.folder / "x")["code"] == "suspect-moment"
