"""Files that are closed behind their user's back: never one that is needed, never one that means another file."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.host.disk import File
from revolume.host.open_files import OpenFiles, PooledFile
from revolume.host.real.disk import RealDirectory, RealDisk

KEPT = 4
FILES = 32


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RealDirectory]:
    for number in range(FILES):
        (tmp_path / str(number)).write_bytes(b"%08d" % number)
    opened = RealDisk().open(str(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def files(directory: RealDirectory) -> OpenFiles:
    return OpenFiles(directory, kept_max=KEPT)


def content(file: File) -> bytes:
    buffer = bytearray(8)
    assert file.preadv([buffer], 0) == 8
    return bytes(buffer)


def open_here(directory: Path) -> list[str]:
    """Names of the directory that this process has open, as often as it has."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if os.path.dirname(path) == str(directory):
            found.append(os.path.basename(path))
    return sorted(found)


def test_as_many_stay_open_as_may(files: OpenFiles, tmp_path: Path) -> None:
    handles = [files.file(str(number)) for number in range(FILES)]
    for _ in range(2):
        assert [content(handle) for handle in handles] == [b"%08d" % number for number in range(FILES)]
        assert len(open_here(tmp_path)) == KEPT


def test_what_is_used_again_and_again_stays_open(files: OpenFiles, tmp_path: Path) -> None:
    often = files.file("0")
    content(often)
    for number in range(1, FILES):
        content(often)
        content(files.file(str(number)))
        assert "0" in open_here(tmp_path)


def test_a_written_file_keeps_its_descriptor_until_it_is_synced(files: OpenFiles, tmp_path: Path) -> None:
    """A write that fails on its way to the disk is reported to descriptors that were open then."""
    written = files.file("0")
    written.pwritev([b"new"], 0)
    descriptor = id(written.file)
    touch_all_others(files)
    assert id(written.file) == descriptor and "0" in open_here(tmp_path)
    written.datasync()
    touch_all_others(files)
    assert "0" not in open_here(tmp_path)
    assert content(written) == b"new00000"


def touch_all_others(files: OpenFiles) -> None:
    for _ in range(2):
        for number in range(1, FILES):
            content(files.file(str(number)))


def test_a_write_beside_a_sync_keeps_it_open(files: OpenFiles, tmp_path: Path) -> None:
    class WritesInside:
        def __init__(self, behind: File, handle: PooledFile) -> None:
            self.behind, self.handle = behind, handle
            self.pwritev, self.preadv = behind.pwritev, behind.preadv

        def datasync(self) -> None:
            self.behind.datasync()
            self.handle.pwritev([b"late"], 0)

    handle = files.file("0")
    handle.pwritev([b"new"], 0)
    assert handle.file is not None
    handle.file = WritesInside(handle.file, handle)  # type: ignore[assignment]
    handle.datasync()
    assert handle.needed


def test_a_held_file_stays_open(files: OpenFiles, tmp_path: Path) -> None:
    held = files.file("0")
    held.hold()
    touch_all_others(files)
    assert "0" in open_here(tmp_path)
    held.release()
    touch_all_others(files)
    assert "0" not in open_here(tmp_path)


def test_a_closed_handle_never_reads_again(files: OpenFiles, tmp_path: Path) -> None:
    """The name may mean another use of the file by then."""
    handle = files.file("0")
    content(handle)
    handle.close()
    assert open_here(tmp_path) == []
    with pytest.raises(OSError) as failed:
        content(handle)
    assert failed.value.errno == errno.EBADF
    assert content(files.file("0")) == b"00000000"


def test_threads_read_while_files_are_closed(files: OpenFiles) -> None:
    """A number that means another file by now would give that file's content."""
    wrong: list[object] = []

    def read() -> None:
        try:
            for _ in range(300):
                found = [content(handles[number]) for number in range(0, FILES, 5)]
                assert found == [b"%08d" % number for number in range(0, FILES, 5)]
        except (OSError, AssertionError) as error:
            wrong.append(error)

    handles = [files.file(str(number)) for number in range(FILES)]
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_a_descriptor_one_of_its_own_is_given_up(directory: RealDirectory, tmp_path: Path) -> None:
    files = OpenFiles(directory, kept_max=FILES)
    handles = [files.file(str(number)) for number in range(FILES)]
    for handle in handles[:8]:
        content(handle)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard))
        with pytest.raises(OSError):
            while True:
                taken.append(os.dup(0))
        assert [content(handle) for handle in handles] == [b"%08d" % number for number in range(FILES)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in taken:
            os.close(number)


def test_what_is_held_is_not_closed_while_it_is_being_opened(
    files: OpenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, others = files.file("0"), [files.file(str(number)) for number in range(1, 2 * KEPT)]
    opened = OpenFiles.opened

    def beside(self: OpenFiles, pooled: PooledFile) -> File:
        file = opened(self, pooled)
        if pooled is held:  # other threads open files now
            for other in others:
                content(other)
        return file

    monkeypatch.setattr(OpenFiles, "opened", beside)
    held.hold()
    assert held.file is not None


def test_a_file_that_is_closed_while_it_is_being_opened_stays_closed(
    files: OpenFiles, directory: RealDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = files.file("0"), RealDirectory.open

    def slowly(self: RealDirectory, name: str, **options: bool) -> File:
        found = real(self, name, **options)
        file.close()  # by its owner, who gives the name another meaning
        return found

    monkeypatch.setattr(RealDirectory, "open", slowly)
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor"):
            content(file)
    assert open_here(tmp_path) == []
