"""What an old primary wrote alone is a branch: listed, opened, copied out, checked, dropped, by real processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.history.offline_volume import open_offline
from revolume.host import real_host
from revolume.volume.branches.common_point import CommonPoint
from revolume.volume.metadata.manifest_state import Branch
from revolume.volume.open.options import OpenOptions
from revolume.volume.open.rewind import rewind
from tests.cli.test_served_as_recorded import PRIMARY, Nodes
from tests.support.mirrors import MiB, Node, promote, read, refused, revolume, told, until, write

pytestmark = pytest.mark.timeout(240)
SIZE = 8 * MiB


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def diverged(nodes: Nodes) -> tuple[Path, Node, CommonPoint, bytes, bytes]:
    """The old primary's directory, stopped and made a mirror's; the promoted mirror, served; their common point,
    what it held, and what the old primary held at its end."""
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m,mode=async")
    write(primary.uri(), (0, b"first" * 1000), (MiB, b"second" * 1000))
    until("it joins", lambda: primary.mirror["joined"])
    until("it agrees", lambda: mirror.status["write"] == primary.status["write"])
    common, held = _newest_point(mirror), read(primary.uri())
    write(primary.uri(), *((2 * MiB + number * 5120, b"%03d." % number * 256) for number in range(200)))
    write(primary.uri(), (0, bytes(4096)))
    alone = read(primary.uri())
    primary.stop()
    revolume("demote", primary.directory, "--mirror-listen", nodes.link("p"))
    promoted = nodes.serve("m")
    return primary.directory, promoted, common, held, alone


def _newest_point(mirror: Node) -> CommonPoint:
    """The mirror is stopped there, and promoted."""
    mirror.stop()
    state = open_offline(real_host(), str(mirror.directory))
    point = state.kept_points[-1]
    promote(mirror.directory)
    return CommonPoint(point.number, point.position, point.chain)


def taken_back(directory: Path, common: CommonPoint, name: str = "alone") -> Branch:
    branch = asyncio.run(rewind(real_host(), str(directory), OpenOptions(), common, name))
    assert branch is not None
    return branch


def test_a_branch_is_listed_opened_copied_out_and_dropped(nodes: Nodes) -> None:
    directory, promoted, common, held, alone = diverged(nodes)
    branch = taken_back(directory, common)
    assert branch.writes == 201
    out = nodes.folder / "out.img"
    # Stopped
    (row,) = told("branch", "list", directory)["branches"]
    assert (row["name"], row["point"], row["writes"], row["bytes"]) == ("alone", common.number, 201, branch.bytes)
    assert "p@branch:alone" in revolume("branch", "list", directory).stdout
    (snapshot,) = told("snapshot", directory)["snapshots"]
    assert (snapshot["export"], snapshot["holder"]) == ("p@branch:alone", "branch alone")
    assert "branch:alone" in revolume("points", directory).stdout
    status = revolume("status", directory).stdout
    assert "201 writes behind" in status and f"revolume branch drop {directory} alone" in status
    assert told("check", directory)["good"]
    revolume("copy", f"{directory}@branch:alone", out)
    assert out.read_bytes() == alone
    revolume("salvage", directory, nodes.folder / "salvaged.img")
    assert (nodes.folder / "salvaged.img").read_bytes() == held
    # Served as a mirror
    copy = nodes.serve("p")
    assert read(copy.uri("p@branch:alone")) == alone
    assert read(copy.uri()) == held
    write(copy.uri("p@branch:alone,rw"), (3 * MiB, b"thrown away" * 100))
    assert read(copy.uri("p@branch:alone")) == alone
    assert [each["name"] for each in copy.status["branches"]] == ["alone"]
    assert any(each["name"] == "branch alone" and each["pinned"] for each in copy.status["holders"])
    # Promoted
    promoted.stop()
    promote(directory, "--yes")
    assert read(copy.uri("p@branch:alone")) == alone
    assert refused("snapshot", directory, "branch:alone", status=2)["code"] == "bad-snapshot-name"
    copy.stop()
    (row,) = told("branch", "list", directory)["branches"]
    copy = nodes.serve("p")
    revolume("branch", "drop", directory, "alone")
    assert not list((directory / "branches").iterdir())
    assert not told("branch", "list", directory)["branches"]
    assert refused("branch", "drop", directory, "alone", status=3)["code"] == "no-branch"


def with_snapshots(nodes: Nodes) -> tuple[Path, CommonPoint, dict[str, bytes]]:
    """As ``diverged``, with two snapshots taken on the old primary: what each export must show, by its moment."""
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m,mode=async")
    write(primary.uri(), (0, b"first" * 1000), (MiB, b"second" * 1000))
    until("it joins", lambda: primary.mirror["joined"])
    until("it agrees", lambda: mirror.status["write"] == primary.status["write"])
    common, shown = _newest_point(mirror), {}
    for name in ("one", "two", ""):
        write(
            primary.uri(), *((2 * MiB + number * 5120, name.encode() + b"%03d." % number) for number in range(90))
        )
        write(primary.uri(), (0, name.encode() + b"here"), (4 * MiB + 4096 * len(shown), b"only" * 1024))
        if name:
            revolume("snapshot", primary.directory, name)
        shown["branch:alone" + (name and f":{name}")] = read(primary.uri())
    primary.stop()
    revolume("demote", primary.directory, "--mirror-listen", nodes.link("p"))
    return primary.directory, common, shown


def test_snapshots_taken_on_the_old_primary_are_opened_on_its_branch(nodes: Nodes) -> None:
    directory, common, shown = with_snapshots(nodes)
    branch = taken_back(directory, common)
    assert len(set(shown.values())) == 3
    # Stopped
    (row,) = told("branch", "list", directory)["branches"]
    assert [moment["name"] for moment in row["moments"]] == ["one", "two"] and row["bytes"] == branch.bytes
    assert row["moments"][0]["time_ns"] < row["moments"][1]["time_ns"] <= row["time_ns"]
    listed = revolume("branch", "list", directory).stdout
    assert "p@branch:alone:one" in listed and "p@branch:alone:two" in listed and "not kept" not in listed
    assert {each["export"] for each in told("snapshot", directory)["snapshots"]} == {f"p@{m}" for m in shown}
    assert "one, two" in revolume("status", directory).stdout
    assert told("check", directory)["good"]
    out = nodes.folder / "out.img"
    for moment, content in shown.items():
        revolume("copy", f"{directory}@{moment}", out, "--force")
        assert out.read_bytes() == content
    assert refused("copy", f"{directory}@branch:alone:three", out, "--force", status=3)["code"] == "no-snapshot"
    assert refused("branch", "drop", directory, "alone:one", status=2)["code"] == "bad-branch-name"
    # Served as a mirror, again after a kill, and promoted
    copy = nodes.serve("p")
    holders = [each for each in copy.status["holders"] if each["name"] == "branch alone"]
    assert [each["bytes"] for each in holders] == [branch.bytes]
    write(copy.uri("p@branch:alone:one,rw"), (3 * MiB, b"thrown away" * 100))
    _shows(copy, shown)
    names = told_by_nbdinfo(copy)
    assert {f"p@{moment}" for moment in shown} < names
    copy.kill()
    copy = nodes.serve("p")
    _shows(copy, shown)
    promote(directory, "--yes", "--force")
    _shows(copy, shown)
    assert told("points", directory, "--at", "branch:alone:one")["at"]["export"] == "p@branch:alone:one"
    revolume("branch", "drop", directory, "alone")
    assert not list((directory / "branches").iterdir())
    assert {each["name"] for each in told("snapshot", directory)["snapshots"]} == set()


def _shows(node: Node, shown: dict[str, bytes]) -> None:
    for moment, content in shown.items():
        assert read(node.uri(f"p@{moment}")) == content, moment


def told_by_nbdinfo(node: Node) -> set[str]:
    listed = subprocess.run(["nbdinfo", "--list", "--json", node.uri()], capture_output=True, check=True)
    return {each["export-name"] for each in json.loads(listed.stdout)["exports"]}


def test_a_branch_of_a_stopped_copy_is_dropped(nodes: Nodes) -> None:
    directory, _, common, held, _ = diverged(nodes)
    taken_back(directory, common)
    revolume("branch", "drop", directory, "branch:alone")
    assert not list((directory / "branches").iterdir())
    assert refused("branch", "drop", directory, "alone", status=3)["code"] == "no-branch"
    copy = nodes.serve("p")
    assert read(copy.uri()) == held
    copy.stop()
    assert told("check", directory)["good"]


def test_a_new_mirror_does_not_get_the_branches(nodes: Nodes) -> None:
    directory, promoted, common, _, alone = diverged(nodes)
    promoted.stop()
    taken_back(directory, common)
    promote(directory, "--yes")
    nodes.mirror("n")
    copy = nodes.serve("p")
    revolume("mirror", "add", directory, "n", nodes.link("n"))
    until("it joins", lambda: all(each["joined"] for each in copy.status["mirrors"] if each["name"] == "n"))
    assert not told("branch", "list", nodes.folder / "n")["branches"]
    assert read(copy.uri("p@branch:alone")) == alone
