"""The members of a volume: as values, as bytes, and as facts in the log of a primary and of its mirror."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.errors import Damaged, NotFound
from revolume.log.format.transfer import Kind
from revolume.log.read.scan import SegmentReader
from revolume.log.write.operations import OP_WRITE
from revolume.volume.members.membership import members_of, mirrors_of_promoted, own_name, reached_at
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_edits import EditKind, apply, state_edits
from revolume.volume.metadata.manifest_state import Listener, Member, MirrorMode, MirrorState, State
from revolume.volume.metadata.member_record import MEMBER, pack_membership, unpack_membership
from revolume.volume.metadata.node_edits import pack_listener, pack_member, unpack_member
from revolume.volume.metadata.on_lost import OnLost
from revolume.volume.metadata.own_listener import record_listener
from revolume.volume.primary import Volume

from .driver import BLOCK, Driver
from .store import TINY, inline_host, payload

SIZE = 1 << 20
HERE, THERE, ELSEWHERE = b"h" * 16, b"t" * 16, b"e" * 16
M1 = MirrorState("m1", MirrorMode.SYNC, True, 7, WriteNumber(99), THERE, address="unix:/m1")
M2 = replace(M1, name="m2", mode=MirrorMode.ASYNC, node=bytes(16), joined=False, address="b:1", advertised="c:2")
OWN = Member("node-68686868", HERE, "unix:/here", None, True)
pytestmark = pytest.mark.timeout(60)


# --- bytes -------------------------------------------------------------------------------------------------


def test_a_member_there_and_back() -> None:
    for member in (OWN, *members_of(State(node=HERE, mirrors=(M1, M2)))):
        assert unpack_membership(pack_membership(member)) == member
        assert facts.unpack(facts.member_stated(member)) == facts.MemberStated(member)
    assert facts.unpack(facts.member_gone("m1")) == facts.MemberGone("m1")


def test_what_is_no_member_is_not_taken_for_one() -> None:
    packed = pack_membership(OWN)
    for body in (packed[:-1], packed + b"x", packed[:10], b"\7" + packed[1:], packed[:1] + b"\x80" + packed[2:]):
        with pytest.raises((ValueError, struct.error)):
            unpack_membership(body)
        assert facts.unpack(facts.KIND.pack(facts.Fact.MEMBER) + body) is None
    nameless = MEMBER.pack(1, 0, 0, HERE, 0, 1) + b"x"
    with pytest.raises(ValueError, match="nobody can read"):
        unpack_membership(nameless)


def test_what_becomes_of_a_lost_mirror_is_in_both_records_and_older_ones_are_read() -> None:
    before = pack_membership(members_of(State(node=HERE, mirrors=(M1,)))[1])
    assert unpack_membership(before).deadline_ms == 0 and before.endswith(b"unix:/m1")
    older = unpack_member(pack_member(M1))
    assert older == M1 and older.on_lost == OnLost()
    for lost in (OnLost(True, 5000), OnLost(True, 5000, True, 77, True), OnLost(False, 20_000, False, 77)):
        mirror = replace(M1, on_lost=lost, pin=Kept(1, WriteNumber(2), 3))
        assert unpack_member(pack_member(mirror)) == mirror
        member = members_of(State(node=HERE, mirrors=(mirror,)))[1]
        assert (member.deadline_ms, member.detached) == (5000 * lost.detaches, lost.detached_ns > 0)
        assert unpack_membership(pack_membership(member)) == member
        assert mirror.required is not lost.counts and mirror.firm is not mirror.detached
    newer = bytearray(pack_member(replace(M1, on_lost=OnLost(True))))
    newer[-16] = 9
    with pytest.raises(Damaged, match="which this version does not know"):
        unpack_member(bytes(newer))


def test_a_promoted_copy_has_the_policies_that_it_knew() -> None:
    lost = OnLost(True, 5000, True, 77, True)
    copy = State(node=ELSEWHERE, members=members_of(State(node=HERE, mirrors=(replace(M1, on_lost=lost),))))
    (mirror,) = mirrors_of_promoted(copy)
    assert mirror.on_lost == OnLost(True, 5000)


def test_the_whole_state_is_written_with_what_the_log_states() -> None:
    state = State(mirrors=(M1, M2), members=(OWN,), listener=Listener("unix:/here", "a:1"), segment_blocks=16)
    again = State()
    for kind, body in state_edits(state):
        again = apply(again, kind, body)
    assert (again.mirrors, again.members, again.listener) == (state.mirrors, state.members, state.listener)
    assert apply(again, EditKind.DROP_MEMBERSHIP, OWN.name.encode()).members == ()
    assert apply(again, EditKind.LISTENER, pack_listener(Listener())).listener == Listener()


# --- values ------------------------------------------------------------------------------------------------


def test_a_volume_without_other_copies_states_nothing() -> None:
    assert members_of(State(node=HERE, listener=Listener("unix:/here"))) == ()


def test_a_primary_states_itself_and_its_mirrors() -> None:
    state = State(node=HERE, listener=Listener("unix:/here"), mirrors=(M1, M2))
    assert members_of(state) == (
        OWN,
        Member("m1", THERE, "unix:/m1", MirrorMode.SYNC, True),
        Member("m2", bytes(16), "c:2", MirrorMode.ASYNC, False),
    )
    assert members_of(replace(state, members=members_of(state))) == members_of(state)


@pytest.mark.parametrize(
    ("listener", "address"),
    [
        (Listener(), ""),
        (Listener("unix:/x"), "unix:/x"),
        (Listener("a:1", "b:2"), "b:2"),
        (Listener("0.0.0.0:10810"), ""),
        (Listener("[::]:10810"), ""),
        (Listener("0.0.0.0:10810", "b:2"), "b:2"),
    ],
)
def test_where_a_node_is_reached(listener: Listener, address: str) -> None:
    assert reached_at(listener) == address


def test_a_promoted_copy_knows_the_other_mirrors_and_who_was_primary() -> None:
    before = members_of(State(node=HERE, listener=Listener("unix:/here"), mirrors=(M1, M2)))
    copy = State(node=THERE, listener=Listener("unix:/m1"), members=before)
    (other,) = mirrors_of_promoted(copy)
    assert (other.name, other.mode, other.joined, other.address) == ("m2", MirrorMode.ASYNC, False, "c:2")
    promoted = replace(copy, mirrors=(other,))
    assert own_name(promoted) == "m1"
    assert members_of(promoted) == (
        OWN,
        Member("m1", THERE, "unix:/m1", None, True),
        Member("m2", bytes(16), "c:2", MirrorMode.ASYNC, False),
    )
    rejoined = replace(promoted, mirrors=(replace(M1, name="old", node=HERE),))
    assert [member.name for member in members_of(rejoined)] == ["m1", "old"]  # one copy is one member


def test_a_copy_that_never_joined_does_not_mirror_to_itself() -> None:
    members = (replace(OWN, name="p"), Member("m1", bytes(16), "unix:/m1", MirrorMode.SYNC, False))
    assert mirrors_of_promoted(State(node=THERE, listener=Listener("unix:/m1"), members=members)) == ()


# --- in the log --------------------------------------------------------------------------------------------


async def stated(volume: Volume) -> list[facts.Stated]:
    """What the log says of members, in order."""
    log, found = volume.log, list[facts.Stated]()
    await volume.tasks.settled()
    for segment in log.segments_between(volume.folder.horizon.address, log.appender.address):
        for each in _facts(SegmentReader(segment, log.volume_id)):
            if isinstance(each, facts.MemberStated | facts.MemberGone):
                found.append(each)
    return found


def _facts(reader: SegmentReader) -> Iterator[facts.Stated | None]:
    first = reader.at(0)
    for found in reader.chain_from(0, first.transfer.previous, None) if first is not None else ():
        if found.transfer.kind == Kind.FACT:
            yield facts.unpack(found.transfer.body)


def test_each_change_is_one_fact_and_an_opening_repeats_nothing(tmp_path: Path) -> None:
    driver = Driver(inline_host(), tmp_path / "v", SIZE, replace(TINY, spare_bytes=1 << 20, mirrors=("m1",)))

    async def run() -> None:
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        assert await stated(driver.volume) == []
        mirrors, node = driver.volume.mirrors, driver.volume.manifest.state.node
        mirror = await mirrors.register("m1", MirrorMode.SYNC, address="unix:/m1")
        own = Member(f"node-{node[:4].hex()}", node, "", None, True)
        m1 = Member("m1", bytes(16), "unix:/m1", MirrorMode.SYNC, False)
        expected = [facts.MemberStated(own), facts.MemberStated(m1)]
        assert await stated(driver.volume) == expected
        await mirrors.pin_base(mirror)
        await mirrors.joined(mirror, THERE, "b:2")
        expected.append(facts.MemberStated(replace(m1, node=THERE, address="b:2", joined=True)))
        assert await stated(driver.volume) == expected
        await driver.volume.close()
        await driver.open()
        assert await stated(driver.volume) == expected
        await record_listener(driver.volume.manifest, Listener("unix:/here"))
        driver.volume.membership.changed()
        expected.append(facts.MemberStated(replace(own, address="unix:/here")))
        assert await stated(driver.volume) == expected
        with pytest.raises(NotFound):
            await driver.volume.membership.forget("m1")
        await driver.volume.mirrors.detach("m1")
        expected.append(facts.MemberGone("m1"))
        assert await stated(driver.volume) == expected
        assert [member.name for member in driver.volume.manifest.state.members] == [own.name]
        await driver.volume.close()

    asyncio.run(run())


def test_what_the_log_had_no_room_for_is_stated_when_it_is_opened(tmp_path: Path) -> None:
    driver = Driver(inline_host(), tmp_path / "v", SIZE, replace(TINY, spare_bytes=1 << 20))

    async def run() -> None:
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        driver.volume.membership.closed = True
        await driver.volume.mirrors.register("m1", MirrorMode.ASYNC, address="unix:/m1")
        assert await stated(driver.volume) == []
        await driver.volume.close()
        await driver.open()
        assert [type(each) for each in await stated(driver.volume)] == [facts.MemberStated] * 2
        await driver.volume.close()

    asyncio.run(run())
