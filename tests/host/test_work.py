"""Threads and the helper process: results and errors come back, losses are told and survived."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from revolume.errors import Damaged
from revolume.host.disk import Disk
from revolume.host.real.disk import RealDisk
from revolume.host.real.work import RealWork
from revolume.host.work import JobFailed


def run(scenario: Callable[[RealWork], Awaitable[None]]) -> None:
    async def main() -> None:
        work = RealWork()
        try:
            await asyncio.wait_for(scenario(work), 60)
        finally:
            await work.close()

    asyncio.run(main())


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("odd")


def job_pid(disk: Disk) -> int:
    return os.getpid()


def job_sum(disk: Disk, path: str, name: str) -> int:
    file = disk.open(path).open(name, write=False)
    buffer = bytearray(file.size())
    file.preadv([buffer], 0)
    return sum(buffer)


def job_dies(disk: Disk) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def job_exits(disk: Disk) -> None:
    sys.exit(3)


def job_sleeps(disk: Disk, path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


def job_damaged(disk: Disk) -> None:
    raise Damaged("map-damaged", "Page 3 is not what was written.", "Run check.")


def job_missing(disk: Disk) -> None:
    disk.open("/nonexistent-directory")


def job_odd(disk: Disk) -> None:
    raise OddError(1, 2)


def job_lambda(disk: Disk) -> object:
    return lambda: None


def job_echo(disk: Disk, data: bytes) -> bytes:
    return data


def job_files(disk: Disk) -> list[str]:
    """What this process has open, its standard streams left out."""
    numbers = [number for number in os.listdir("/proc/self/fd") if int(number) > 2]
    return [
        os.readlink(f"/proc/self/fd/{number}") for number in numbers if os.path.lexists(f"/proc/self/fd/{number}")
    ]


def job_manners(disk: Disk) -> tuple[int, bool, bool]:
    ignored = [signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM)]
    return os.nice(0), ignored[0], ignored[1]


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_call_runs_in_a_thread() -> None:
    async def scenario(work: RealWork) -> None:
        name = await work.call(lambda: threading.current_thread().name)
        assert name.startswith("revolume-call")
        with pytest.raises(ZeroDivisionError):
            await work.call(divmod, 1, 0)

    run(scenario)


def test_a_sync_gets_through_when_all_readers_wait() -> None:
    async def scenario(work: RealWork) -> None:
        gate = threading.Event()
        readers = [asyncio.create_task(work.call(gate.wait, 20)) for _ in range(12)]
        await asyncio.sleep(0)
        name = await asyncio.wait_for(work.call_sync(lambda: threading.current_thread().name), 60)
        assert name.startswith("revolume-sync")
        assert not any(reader.done() for reader in readers)
        gate.set()
        await asyncio.gather(*readers)

    run(scenario)


def test_a_job_runs_in_one_process_with_a_disk(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(bytes(range(100)))

    async def scenario(work: RealWork) -> None:
        assert await work.job(job_sum, str(tmp_path), "numbers") == sum(range(100))
        pids = await asyncio.gather(*[work.job(job_pid) for _ in range(4)])
        assert len(set(pids)) == 1
        assert pids[0] != os.getpid()

    run(scenario)


def test_the_helper_is_nice_and_ignores_the_groups_signals() -> None:
    async def scenario(work: RealWork) -> None:
        assert await work.job(job_manners) == (os.nice(0) + 5, True, True)

    run(scenario)


def test_what_a_job_raises_is_raised_here() -> None:
    async def scenario(work: RealWork) -> None:
        with pytest.raises(Damaged) as damaged:
            await work.job(job_damaged)
        error = damaged.value
        assert (error.code, error.hint) == ("map-damaged", "Run check.")
        assert str(error) == "Page 3 is not what was written. Run check."
        assert "job_damaged" in error.__notes__[0]
        with pytest.raises(FileNotFoundError) as missing:
            await work.job(job_missing)
        assert missing.value.filename == "/nonexistent-directory"
        with pytest.raises(JobFailed, match="OddError"):
            await work.job(job_odd)
        with pytest.raises(JobFailed, match="SystemExit"):
            await work.job(job_exits)
        assert await work.job(job_pid) > 0

    run(scenario)


def test_a_crashed_job_fails_and_the_next_works() -> None:
    async def scenario(work: RealWork) -> None:
        first = await work.job(job_pid)
        crash = asyncio.create_task(work.job(job_dies))
        waiting = asyncio.create_task(work.job(job_pid))
        with pytest.raises(JobFailed, match="job_dies"):
            await crash
        assert await waiting != first

    run(scenario)


def test_a_helper_lost_while_idle_costs_no_job() -> None:
    async def scenario(work: RealWork) -> None:
        first = await work.job(job_pid)
        os.kill(first, signal.SIGKILL)
        await until(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE)
        assert await work.job(job_pid) != first
        await until(lambda: not psutil.pid_exists(first))

    run(scenario)


def test_a_cancelled_job_is_killed_and_the_next_works(tmp_path: Path) -> None:
    marker = tmp_path / "pid"

    async def scenario(work: RealWork) -> None:
        sleeping = asyncio.create_task(work.job(job_sleeps, str(marker)))
        await until(lambda: marker.exists() and marker.read_text() != "")
        waiting = asyncio.create_task(work.job(job_pid))
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        assert await waiting != int(marker.read_text())
        await until(lambda: not psutil.pid_exists(int(marker.read_text())))

    run(scenario)


def test_closing_ends_a_running_job_and_those_that_wait(tmp_path: Path) -> None:
    marker = tmp_path / "pid"

    async def scenario(work: RealWork) -> None:
        sleeping = asyncio.create_task(work.job(job_sleeps, str(marker)))
        await until(lambda: marker.exists() and marker.read_text() != "")
        waiting = asyncio.create_task(work.job(job_pid))
        await asyncio.sleep(0)
        await work.close()
        for task in (sleeping, waiting):
            with pytest.raises(JobFailed):
                await task
        await until(lambda: not psutil.pid_exists(int(marker.read_text())))

    run(scenario)


def test_an_argument_that_cannot_be_sent_is_a_bug_not_a_loss() -> None:
    async def scenario(work: RealWork) -> None:
        first = await work.job(job_pid)
        with pytest.raises((AttributeError, TypeError)):
            await work.job(job_sum, threading.Lock(), "")  # type: ignore[arg-type]
        assert await work.job(job_pid) == first

    run(scenario)


def test_a_result_that_cannot_be_sent_is_told(tmp_path: Path) -> None:
    async def scenario(work: RealWork) -> None:
        first = await work.job(job_pid)
        with pytest.raises((AttributeError, TypeError, JobFailed), match="lambda"):
            await work.job(job_lambda)
        assert await work.job(job_pid) == first

    run(scenario)


def test_much_goes_to_and_fro() -> None:
    data = os.urandom(1 << 20) * 40

    async def scenario(work: RealWork) -> None:
        assert await work.job(job_echo, data) == data

    run(scenario)


def test_the_helper_holds_no_file_of_its_parents(tmp_path: Path) -> None:
    """A lock that it had inherited would outlive the parent's."""

    async def scenario(work: RealWork) -> None:
        with open(tmp_path / "held", "wb") as held:
            os.set_inheritable(held.fileno(), True)
            found = await work.job(job_files)
        assert len([name for name in found if name.startswith("socket:")]) == 1
        assert not [name for name in found if name.startswith("/")], found

    run(scenario)


def test_helpers_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    async def lose_one(work: RealWork) -> None:
        with pytest.raises(JobFailed):
            await work.job(job_dies)

    others = psutil.Process().children()  # another test's host may live in this process

    async def scenario(work: RealWork) -> None:
        await lose_one(work)
        before = (len(os.listdir("/proc/self/fd")), threading.active_count())
        for _ in range(4):
            await lose_one(work)
        await until(lambda: (len(os.listdir("/proc/self/fd")), threading.active_count()) <= before)
        await until(lambda: all(child in others for child in psutil.Process().children()))

    run(scenario)


PROGRAM = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
print("begun", flush=True)
import test_work
from revolume.host.real.work import RealWork
from revolume.host.work import JobFailed

def job_of_the_program(disk):
    return 1

async def main():
    work = RealWork()
    print(await work.job(test_work.job_pid) != os.getpid())
    try:
        await work.job(job_of_the_program)
    except Exception as error:
        print(type(error).__name__, "job_of_the_program" in str(error))
    await work.close()

asyncio.run(main())
"""


def test_a_program_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    """And a function of its own, which the helper can't import, is an error that names it."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, tmp_path / "program.py", os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout == "begun\nTrue\nAttributeError True\n", done.stderr


def test_modules_in_the_current_directory_are_not_mistaken_for_others(tmp_path: Path) -> None:
    (tmp_path / "pickle.py").write_text("raise SystemExit('not this one')")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:

        async def scenario(work: RealWork) -> None:
            assert await work.job(job_pid) > 0

        run(scenario)
    finally:
        os.chdir(before)


PARENT = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[1])
import test_work
from revolume.host.real.work import RealWork

async def main():
    work = RealWork()
    print(await work.job(test_work.job_pid), flush=True)
    await work.job(test_work.job_sleeps, sys.argv[2])

asyncio.run(main())
"""


@pytest.mark.parametrize("busy", [False, True])
def test_the_helper_dies_with_its_parent(tmp_path: Path, busy: bool) -> None:
    command = [sys.executable, "-c", PARENT, os.path.dirname(__file__), str(tmp_path / "pid")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        helper = psutil.Process(int(parent.stdout.readline()))
        if busy:
            asyncio.run(until((tmp_path / "pid").exists))
        parent.kill()
    asyncio.run(until(lambda: not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE))


def test_a_helper_whose_parent_is_gone_leaves_by_itself() -> None:
    code = "import os; from revolume.host import helper; helper.begin(os.getppid() + 1, 0); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_real_disk_is_a_disk() -> None:
    disk: Disk = RealDisk()
    assert disk.open("/").path == "/"
