"""What runs inside the helper process: how it begins, takes jobs, and tells the parent how they ended.

It is an interpreter of its own that imports this module and, by their names, the functions that it is sent; the
program that the parent runs is never imported again. Jobs come and outcomes go, one at a time, pickled, over
a socket pair; when the parent closes its end, the helper ends.

The helper must never outlive its parent, or a new node would find two writers of maps. The kernel kills
it (PR_SET_PDEATHSIG) when the parent's *thread* that started it ends, which is the loop's thread; if the
parent died before that was asked for, the helper has another parent by now and leaves by itself.

It ignores the signals that a terminal or a service manager sends to a whole group: the parent decides
when to end, and may want one more job on its way out.

What a job raises travels as a value. Raised across the process border it would be rebuilt by calling its
class with its ``args``, which for an error with named fields fails, and takes the whole pool down.
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from revolume.errors import RevolumeError
from revolume.host.real import libc
from revolume.host.real.disk import RealDisk


@dataclass(frozen=True, slots=True)
class Returned:
    """The job's result."""

    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    """One of our own errors, by its parts: class, arguments, fields."""

    error_class: type[RevolumeError]
    arguments: tuple[Any, ...]
    fields: dict[str, Any]
    trace: str

    def error(self) -> Exception:
        error = self.error_class.__new__(self.error_class)
        error.args = self.arguments
        error.__dict__.update(self.fields)
        return error


@dataclass(frozen=True, slots=True)
class RaisedForeign:
    """An error of Python or a library that survives pickling."""

    original: Exception
    trace: str

    def error(self) -> Exception:
        return self.original


@dataclass(frozen=True, slots=True)
class Unpicklable:
    """An end that cannot be sent as it is: an exit, or an error that cannot be pickled."""

    what: str
    trace: str


Outcome = Returned | Raised | RaisedForeign | Unpicklable

READY = b"ready"


def main(fd: int, parent_pid: int, niceness: int) -> None:
    """Run jobs until the parent closes its end. ``fd``: the helper's end of the socket pair."""
    begin(parent_pid, niceness)
    connection: Connection[Any, Any] = Connection(fd)
    connection.send_bytes(READY)
    while True:
        try:
            job = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(answer(job))


def answer(job: bytes) -> bytes:
    """The pickled outcome of a pickled job: a function's name, and its arguments."""
    try:
        fn, args = pickle.loads(job)
        return pickle.dumps(run(fn, args))
    except Exception as error:  # what can't be found here, or can't be sent back
        return pickle.dumps(_told(error, traceback.format_exc()))


def begin(parent_pid: int, niceness: int) -> None:
    """The first thing the helper does."""
    libc.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.nice(niceness)


def run(fn: Callable[..., Any], args: tuple[Any, ...]) -> Outcome:
    """One job."""
    try:
        return Returned(fn(RealDisk(), *args))
    except BaseException as error:
        return _told(error, traceback.format_exc())


def _told(error: BaseException, trace: str) -> Outcome:
    if isinstance(error, RevolumeError):
        told: Outcome = Raised(type(error), error.args, dict(error.__dict__), trace)
    elif isinstance(error, Exception):
        told = RaisedForeign(error, trace)
    else:
        return Unpicklable(repr(error), trace)
    try:
        pickle.loads(pickle.dumps(told))
    except Exception:
        return Unpicklable(repr(error), trace)
    return told
