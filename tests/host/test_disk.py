"""The real disk against real file systems: what is promised in host/disk.py, call by call."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from revolume.host.disk import Buffer
from revolume.host.real import disk as real_disk
from revolume.host.real.disk import VECTORS_MAX, RealDirectory, RealDisk, RealFile
from tests.support.programs import kernel_lacks


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RealDirectory]:
    opened = RealDisk().open(str(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def file(directory: RealDirectory) -> Iterator[RealFile]:
    opened = directory.open("file", create=True)
    yield opened
    opened.close()


def content(file: RealFile) -> bytes:
    buffer = bytearray(file.size())
    assert file.preadv([buffer], 0) == len(buffer)
    return bytes(buffer)


class TestTransfers:
    def test_what_is_written_is_read(self, file: RealFile) -> None:
        file.pwritev([b"one", bytearray(b"two"), memoryview(b"three")], 5)
        assert content(file) == b"\0" * 5 + b"onetwothree"

    def test_nothing_is_a_transfer_too(self, file: RealFile) -> None:
        file.pwritev([], 0)
        file.pwritev([b""], 10)
        assert file.size() == 0
        assert file.preadv([], 0) == 0
        assert file.preadv_nowait([], 0)

    @pytest.mark.parametrize("count", [VECTORS_MAX, VECTORS_MAX + 1, 3 * VECTORS_MAX + 7])
    def test_more_vectors_than_the_kernel_takes(self, file: RealFile, count: int) -> None:
        chance = random.Random(count)
        pieces = [chance.randbytes(chance.choice([0, 1, 17, 512])) for _ in range(count)]
        file.pwritev(pieces, 3)
        buffers = [bytearray(len(piece)) for piece in pieces]
        assert file.preadv(buffers, 3) == sum(map(len, pieces))
        assert buffers == pieces
        cached = [bytearray(len(piece)) for piece in pieces]
        if file.preadv_nowait(cached, 3):
            assert cached == pieces

    def test_a_read_past_the_end_says_how_much_there_was(self, file: RealFile) -> None:
        file.pwritev([b"x" * 100], 0)
        first, second = bytearray(60), bytearray(60)
        assert file.preadv([first, second], 0) == 100
        assert bytes(second) == b"x" * 40 + b"\0" * 20
        assert not file.preadv_nowait([first, second], 0)

    def test_wide_items_are_a_bug_and_said_so(self, file: RealFile) -> None:
        wide = memoryview(bytearray(64)).cast("Q")
        with pytest.raises(TypeError):
            file.pwritev([wide], 0)
        with pytest.raises(TypeError):
            file.preadv([wide], 0)

    def test_cached_data_needs_no_waiting(self, file: RealFile) -> None:
        file.pwritev([b"x" * 8192], 0)
        buffer = bytearray(8192)
        if not file.preadv_nowait([buffer], 0):
            pytest.skip("this file system does not know RWF_NOWAIT")
        assert bytes(buffer) == b"x" * 8192

    def test_uncached_data_is_left_to_a_thread(self, file: RealFile) -> None:
        file.pwritev([b"x" * 8192], 0)
        file.datasync()
        os.posix_fadvise(file._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        buffer = bytearray(8192)
        if file.preadv_nowait([buffer], 0):
            pytest.skip("the kernel kept the pages")
        assert file.preadv([buffer], 0) == 8192
        assert bytes(buffer) == b"x" * 8192

    def test_a_file_system_without_nowait_is_asked_once(self) -> None:
        """tmpfs answers EOPNOTSUPP on many kernels: then reading is a thread's work, without asking."""
        with RealDiskOnMemory() as directory:
            file = directory.open("file", create=True)
            file.pwritev([b"x"], 0)
            answered = file.preadv_nowait([bytearray(1)], 0)
            assert answered == file._nowait
            file.close()

    def test_a_closed_file_is_nobody_elses(self, directory: RealDirectory) -> None:
        file = directory.open("file", create=True)
        file.close()
        file.close()
        other = directory.open("other", create=True)
        with pytest.raises(OSError) as raised:
            file.pwritev([b"x"], 0)
        assert raised.value.errno == errno.EBADF
        assert other.size() == 0
        other.close()


class TestPrewrite:
    SIZE = 9 << 20  # more than one piece

    def test_zeroes_are_data(self, file: RealFile) -> None:
        file.allocate(0, self.SIZE)
        file.prewrite(0, self.SIZE)
        file.datasync()
        assert content(file) == bytes(self.SIZE)
        assert list(file.data_extents(0, self.SIZE)) == [(0, self.SIZE)]
        file.pwritev([b"unaligned"], 4095)  # the descriptor is an ordinary one again
        assert content(file)[4095:4104] == b"unaligned"

    def test_what_was_there_is_gone(self, file: RealFile) -> None:
        file.pwritev([b"x" * self.SIZE], 0)
        file.prewrite(4096, 8192)
        assert content(file)[:16384] == b"x" * 4096 + bytes(8192) + b"x" * 4096

    def test_a_file_system_without_direct_writes(self) -> None:
        with RealDiskOnMemory() as directory:
            file = directory.open("file", create=True)
            file.pwritev([b"x" * self.SIZE], 0)
            file.prewrite(0, self.SIZE)
            assert content(file) == bytes(self.SIZE)
            file.close()

    def test_a_refused_direct_write_is_done_through_the_page_cache(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(real_disk, "write_zeroes", lambda fd, offset, length: 4096)  # the first block only
        file.pwritev([b"x" * self.SIZE], 0)
        file.prewrite(0, self.SIZE)
        assert content(file) == b"x" * 4096 + bytes(self.SIZE - 4096)


class RealDiskOnMemory:
    """A directory on a tmpfs, which every Linux has at /dev/shm."""

    def __enter__(self) -> RealDirectory:
        if not os.path.ismount("/dev/shm"):
            pytest.skip("no tmpfs at /dev/shm")
        self.path = f"/dev/shm/revolume-test-{os.getpid()}"
        self.directory = RealDisk().open(self.path, create=True)
        return self.directory

    def __exit__(self, *_: object) -> None:
        for name in self.directory.names():
            self.directory.remove(name)
        self.directory.close()
        os.rmdir(self.path)


class TestFullDisk:
    def test_a_short_write_goes_on_until_the_error(self, file: RealFile) -> None:
        """The limit lies within the transfer: the kernel writes up to it, then says EFBIG."""
        pieces = [bytes([number]) * 1000 for number in range(1, 9)]
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5500, hard))
        try:
            with pytest.raises(OSError) as raised:
                file.pwritev(pieces, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        assert raised.value.errno == errno.EFBIG
        assert content(file) == b"".join(pieces)[:5500]

    @pytest.mark.parametrize("seed", range(5))
    def test_short_transfers_go_on_until_whole(
        self, file: RealFile, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        """The kernel may take or give any part, at whatever byte it stops."""
        chance = random.Random(seed)

        def some(buffers: Sequence[Buffer]) -> list[memoryview]:
            count = chance.randint(1, len(buffers))
            views = [memoryview(buffer) for buffer in buffers[:count]]
            views[-1] = views[-1][: chance.randint(1, max(1, len(views[-1])))]
            return views

        monkeypatch.setattr(real_disk, "_pwritev", lambda fd, b, o: os.pwritev(fd, some(b), o))
        monkeypatch.setattr(real_disk, "_preadv", lambda fd, b, o, f=0: os.preadv(fd, some(b), o, f))
        pieces = [chance.randbytes(chance.choice([1, 100, 4096])) for _ in range(200)]
        file.pwritev(pieces, 11)
        buffers = [bytearray(len(piece)) for piece in pieces]
        assert file.preadv(buffers, 11) == sum(map(len, pieces))
        assert buffers == pieces

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
    def test_no_space_passes_through(self, tmp_path: Path) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
        if subprocess.run(mount, capture_output=True).returncode:
            kernel_lacks("mounting a tmpfs is not allowed here")
        try:
            directory = RealDisk().open(str(tmp_path))
            file = directory.open("file", create=True)
            pieces = [bytes([number + 1]) * 4096 for number in range(32)]
            with pytest.raises(OSError) as raised:
                file.pwritev(pieces, 0)
            assert raised.value.errno == errno.ENOSPC
            written = content(file)
            assert written == b"".join(pieces)[: len(written)]
            assert directory.free_bytes() == 0
            with pytest.raises(OSError) as raised:
                file.allocate(0, 1 << 20)
            assert raised.value.errno == errno.ENOSPC
            file.close()
            directory.close()
        finally:
            subprocess.run(["umount", str(tmp_path)], check=True)


class TestSpace:
    def test_allocate_makes_room(self, file: RealFile) -> None:
        file.allocate(0, 1 << 20)
        assert file.size() == 1 << 20
        assert content(file) == bytes(1 << 20)

    def test_punched_reads_as_zeroes_and_keeps_the_size(self, file: RealFile) -> None:
        file.pwritev([b"x" * 20000], 0)
        file.punch(5000, 10000)
        file.punch(19000, 100000)
        assert content(file) == b"x" * 5000 + bytes(10000) + b"x" * 4000 + bytes(1000)

    def test_punching_where_holes_are_unknown(self, file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
        def unsupported(*_: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "no holes here")

        monkeypatch.setattr("revolume.host.real.libc.punch_hole", unsupported)
        self.test_punched_reads_as_zeroes_and_keeps_the_size(file)
        file.truncate(0)
        file.pwritev([b"x" * (3 << 20)], 0)
        file.punch(1, (3 << 20) - 2)
        assert content(file) == b"x" + bytes((3 << 20) - 2) + b"x"

    def test_data_extents_cover_all_data(self, file: RealFile) -> None:
        file.truncate(1 << 20)
        file.pwritev([b"x" * 4096], 1 << 16)
        file.pwritev([b"y" * 4096], 1 << 18)
        extents = list(file.data_extents(0, 1 << 20))
        assert all(length > 0 for _, length in extents)
        assert any(start <= 1 << 16 and start + length >= (1 << 16) + 4096 for start, length in extents)
        assert any(start <= 1 << 18 and start + length >= (1 << 18) + 4096 for start, length in extents)
        assert list(file.data_extents((1 << 16) + 100, 50)) == [((1 << 16) + 100, 50)]
        assert list(file.data_extents(1 << 20, 4096)) == []

    def test_data_extents_where_holes_are_unknown(self, file: RealFile) -> None:
        file.pwritev([b"x" * 10000], 0)

        def unsupported(*_: object) -> int:
            raise OSError(errno.EINVAL, "no holes here")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "lseek", unsupported)
            assert list(file.data_extents(100, 50000)) == [(100, 9900)]

    def test_writeback_is_only_a_hint(self, file: RealFile) -> None:
        file.pwritev([b"x" * 8192], 0)
        file.writeback(0, 8192)
        file.datasync()
        file.close()
        file.writeback(0, 8192)


class TestNames:
    def test_missing_is_missing(self, directory: RealDirectory) -> None:
        with pytest.raises(FileNotFoundError):
            directory.open("nothing")
        with pytest.raises(FileNotFoundError):
            directory.child("nothing")
        with pytest.raises(FileNotFoundError):
            directory.remove("nothing")
        with pytest.raises(FileNotFoundError):
            RealDisk().open(directory.path + "/nothing")
        assert not directory.exists("nothing")

    def test_exclusive_creates_once(self, directory: RealDirectory) -> None:
        directory.open("file", create=True, exclusive=True).close()
        with pytest.raises(FileExistsError):
            directory.open("file", create=True, exclusive=True)

    def test_links_are_not_followed(self, directory: RealDirectory, tmp_path: Path) -> None:
        (tmp_path / "target").write_bytes(b"precious")
        (tmp_path / "link").symlink_to("target")
        (tmp_path / "elsewhere").symlink_to("/")
        with pytest.raises(OSError) as raised:
            directory.open("link")
        assert raised.value.errno == errno.ELOOP
        with pytest.raises(OSError):
            directory.child("elsewhere")
        assert directory.exists("link")

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd"])
    def test_a_path_is_not_a_name(self, directory: RealDirectory, name: str) -> None:
        for call in (directory.open, directory.child, directory.exists, directory.remove):
            with pytest.raises(ValueError):
                call(name)

    def test_a_directory_is_not_a_file(self, directory: RealDirectory) -> None:
        directory.child("child", create=True).close()
        with pytest.raises(OSError):
            directory.open("child", write=False)

    def test_read_only_is_read_only(self, directory: RealDirectory) -> None:
        directory.open("file", create=True).close()
        file = directory.open("file", write=False)
        with pytest.raises(OSError):
            file.pwritev([b"x"], 0)
        file.close()

    def test_rename_replaces_and_names_are_sorted(self, directory: RealDirectory) -> None:
        for name, data in (("b", b"old"), ("a", b"new"), ("c", b"")):
            file = directory.open(name, create=True)
            file.pwritev([data], 0)
            file.close()
        directory.rename("a", "b")
        directory.sync()
        assert directory.names() == ["b", "c"]
        file = directory.open("b")
        assert content(file) == b"new"
        file.close()

    def test_children_and_parents_are_made(self, directory: RealDirectory) -> None:
        child = directory.child("log", create=True)
        assert directory.child("log", create=True).path == child.path == directory.path + "/log"
        deep = RealDisk().open(directory.path + "/one/two/three", create=True)
        deep.open("file", create=True).close()
        assert Path(deep.path, "file").exists()

    def test_a_moved_parent_changes_nothing(self, directory: RealDirectory, tmp_path: Path) -> None:
        child = directory.child("child", create=True)
        os.rename(tmp_path / "child", tmp_path / "moved")
        child.open("file", create=True).close()
        assert (tmp_path / "moved" / "file").exists()

    def test_one_locks_the_others_hear_of_it(self, directory: RealDirectory) -> None:
        other = RealDisk().open(directory.path)
        directory.lock()
        with pytest.raises(BlockingIOError):
            other.lock()
        directory.close()
        other.lock()
        other.close()
