"""``revolume`` without importing it anew for each start: a process that has imported what verbs need, and forks.

What it forks is a process of its own, with its own arguments, environment, streams and signals, that runs ``main``
and ends with its status. Only the interpreter's start and the imports are shared: 0.7 s of CPU for each of well
over a thousand servers. Tests that are about those, that run it under another program, or that set variables which
the interpreter or the loader reads, start it as it is installed; with REVOLUME_TEST_EXEC=1 all do.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO, Any, Final, NoReturn, cast

import revolume
from revolume.host.real import work
from tests.support.forked_helper import become_helper, fork_helper

REQUEST_BYTES_MAX: Final = 1 << 20
_HARMLESS: Final = frozenset({"NO_COLOR", "REVOLUME_TRACEBACK", "PATH"})
"""Variables that the program reads, if at all, when it runs."""


def may_fork(environment: Mapping[str, str]) -> bool:
    """Whether a process with these variables beside the tests' own can be forked."""
    return not os.environ.get("REVOLUME_TEST_EXEC") and _HARMLESS.issuperset(environment)


class Forked:
    """One of its processes, as ``subprocess.Popen`` shows it. Its parent is the fork server."""

    def __init__(self, server: ForkServer, pid: int, stdout: IO[str] | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._server = server
        self._ended = os.pidfd_open(pid)
        self._turn = threading.Lock()

    def poll(self) -> int | None:
        """Its status, once it has ended."""
        return self._status(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its status. TimeoutExpired: it goes on."""
        status = self._status(None if timeout is None else timeout)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def _status(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._ended, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                return None
            with self._turn:
                if self.returncode is None:
                    self.returncode = self._server.status(self.pid)
                    os.close(self._ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class ForkServer:
    """Of one process that runs tests; it ends with it."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = threading.Lock()
        with theirs:
            command = [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())]
            root = Path(__file__).parent.parent.parent
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=root, stdin=subprocess.DEVNULL, start_new_session=True
            )
        atexit.register(self.close)

    def close(self) -> None:
        self._link.close()
        self._process.wait(30)

    def start(self, words: Sequence[str], environment: Mapping[str, str], streams: Sequence[int]) -> int:
        """Fork one that runs ``revolume`` with these words; its process id. ``streams``: the descriptors that
        become its standard input, output and error."""
        asked = {"words": list(words), "environment": dict(environment), "folder": os.getcwd()}
        return self._ask(asked, streams)

    def helper(self, fd: int, niceness: int) -> int:
        """Fork one that runs a helper's jobs, which come through this descriptor; its process id."""
        return self._ask({"niceness": niceness, "imports": sys.path}, [fd])

    def status(self, pid: int) -> int:
        """Of one that has ended, asked once."""
        return self._ask({"ended": pid}, [])

    def _ask(self, asked: dict[str, Any], streams: Sequence[int]) -> int:
        with self._turn:
            body = json.dumps(asked).encode()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))] if streams else []
            self._link.sendmsg([body], rights)
            answer = self._link.recv(64)
            assert answer, "the fork server has ended"
            return int(answer)


@functools.cache
def fork_server() -> ForkServer:
    """The one of this process."""
    return ForkServer()


def forked(words: Sequence[str], environment: Mapping[str, str], stderr: IO[Any] | None = None) -> Forked:
    """``revolume`` with these words. Its output is ``stdout`` of what is returned; ``stderr`` in it, or apart."""
    out, into = os.pipe()
    try:
        return _started(words, environment, into, into if stderr is None else stderr.fileno(), os.fdopen(out, "r"))
    finally:
        os.close(into)


def forked_helper(fd: int, niceness: int) -> Forked:
    """The helper of a volume that is open in this process, in place of ``revolume.host.real.work.spawned``."""
    server = fork_server()
    return Forked(server, server.helper(fd, niceness), None)


def run_forked(words: Sequence[str], environment: Mapping[str, str], timeout: float) -> CompletedProcess[str]:
    """``revolume`` with these words, to its end. TimeoutExpired: it was killed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = _started(words, environment, out.fileno(), err.fileno(), None)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return CompletedProcess(["revolume", *words], status, out.read(), err.read())


def _started(
    words: Sequence[str], environment: Mapping[str, str], out: int, err: int, reads: IO[str] | None
) -> Forked:
    server = fork_server()
    with open(os.devnull) as nothing:
        pid = server.start(words, {**os.environ, **environment}, [nothing.fileno(), out, err])
    return Forked(server, pid, reads)


# The fork server itself


def main(fd: int) -> None:
    """Fork whoever is asked for, until the other end is closed."""
    _import_all()
    with socket.socket(fileno=fd) as link:
        while True:
            body, streams, _, _ = socket.recv_fds(link, REQUEST_BYTES_MAX, 3)
            if not body:
                return
            asked = json.loads(body)
            if "ended" in asked:
                _, status = os.waitpid(asked["ended"], 0)
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = _fork(link, asked, streams)
            link.send(str(answer).encode())
            for stream in streams:
                os.close(stream)


def _import_all() -> None:
    """All that a server, a verb or a job comes to import, and what the first HTTP application leaves in caches.
    What is there by then is no garbage: no process that is forked has to look through it, and so to copy it."""
    from revolume.api.app import application

    for name in ("numpy.ma", "uvicorn.lifespan.off"):
        importlib.import_module(name)
    for found in pkgutil.walk_packages(revolume.__path__, "revolume."):
        if not found.name.startswith("revolume.sim"):
            importlib.import_module(found.name)
    application(cast(Any, None))  # nobody asks it
    gc.collect()
    gc.freeze()


def _fork(link: socket.socket, asked: dict[str, Any], streams: Sequence[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        link.close()
        if "niceness" in asked:
            sys.path += [path for path in asked["imports"] if path not in sys.path]
            become_helper(streams[0], parent, asked["niceness"])
        _become(asked, streams)
    return pid


def _become(asked: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    status = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.argv = ["revolume", *asked["words"]]
        work.spawned = fork_helper  # type: ignore[assignment]
        from revolume.cli.main import main as revolume

        status = revolume()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    main(int(sys.argv[1]))
