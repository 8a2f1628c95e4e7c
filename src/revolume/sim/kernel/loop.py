"""An asyncio loop without a machine below it: time goes on when nothing else can.

There is no selector, no descriptor, no thread. When no callback is ready the clock is set to the next timer's.
All that is simulated is timers, so ``asyncio`` itself (timeouts, sleeps, ``wait``) works as ever.

Order. asyncio promises that callbacks run in the order in which they were called for, and code may rely on it
within one chain of causes; between two chains a real loop promises nothing, since there it is the kernel that says
who comes first. ``Lanes`` keeps the first and gives the second to chance: what one callback calls for is a lane,
kept in order; which lane goes on is drawn. Some seeds run in plain order, as most real moments do.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import inspect
from asyncio.events import Handle, TimerHandle
from collections import deque
from collections.abc import Coroutine
from typing import Any

from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.process import PROCESS, Gone, Process
from revolume.sim.kernel.trace import Trace

AWAITS_MAX = 100
"""How often a coroutine may await something more while it is closed."""
BUSY_MAX = 200_000
"""Callbacks at one instant: more, and somebody goes round in circles without waiting."""


class Stalled(Exception):
    """Nothing is left to happen and what is waited for has not, or everything happens at one instant."""


class Lanes:
    """Ready callbacks by the callback that called for them. ``chance``: None keeps one order for all."""

    def __init__(self, chance: Chance | None) -> None:
        self._chance = chance
        self._lanes: list[deque[Handle]] = []
        self._open: deque[Handle] = deque()

    def __len__(self) -> int:
        return len(self._lanes) + len(self._open)

    def append(self, handle: Handle) -> None:
        """ExportSource what the same callback has called for before."""
        self._open.append(handle)

    def alone(self, handle: Handle) -> None:
        """With nothing before it: from outside."""
        if self._chance is None:
            self._open.append(handle)
        else:
            self._lanes.append(deque((handle,)))

    def popleft(self) -> Handle:
        """The next one to run; what it calls for is a new lane."""
        if self._chance is None:
            return self._open.popleft()
        if self._open:
            self._lanes.append(self._open)
            self._open = deque()
        lanes = self._lanes
        at = int(self._chance.random() * len(lanes))
        lane = lanes[at]
        handle = lane.popleft()
        if not lane:
            lanes[at] = lanes[-1]
            lanes.pop()
        return handle

    def clear(self) -> None:
        """Nothing is ready."""
        self._lanes.clear()
        self._open.clear()


class SimLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time; ``chance`` decides which chain of causes goes on."""

    def __init__(self, chance: Chance, trace: Trace) -> None:
        super().__init__()
        self._now_ns = 1_000_000_000
        self._trace = trace
        self.shuffled = chance.hit(0.6)
        self._ready: Lanes = Lanes(chance.stream("order") if self.shuffled else None)
        self._graves: list[asyncio.Task[Any]] = []
        self._cancelled_timers = 0
        self.strays: list[str] = []
        self.callbacks = self._since = 0
        self.set_exception_handler(self._stray)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_ns / 1e9

    @property
    def now_ns(self) -> int:
        """Virtual nanoseconds."""
        return self._now_ns

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Handle:  # type: ignore[override]
        """As asyncio's; what a closed loop is asked for is nothing (the world has ended)."""
        if self.is_closed():
            return Handle(callback, args, self, context)
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(self, *args: Any, context: Any = None) -> Handle:  # type: ignore[override]
        """There are no threads."""
        return self.call_soon(*args, context=context)

    def _run_once(self) -> None:
        ready: Lanes = self._ready
        if not ready:
            self._advance()
        self._take_due()
        while ready and not self._stopping:  # type: ignore[attr-defined]
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
            if process is not None and not process.alive:
                continue
            if process is not None and process.held is not None:
                process.held.append(handle)
                continue
            self.callbacks += 1
            if self.callbacks - self._since > BUSY_MAX:
                self._since = self.callbacks
                raise Stalled(f"time stands still: {handle!r}")
            handle._run()

    def resume(self, process: Process) -> None:
        """What a paused process has to do is ready, in order."""
        held, process.held = process.held or [], None
        for handle in held:
            self._ready.append(handle)

    def _advance(self) -> None:
        """To the next timer."""
        timers = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            self._drop_timer()
        if not timers:
            raise Stalled("nothing is left to happen")
        self._now_ns = max(self._now_ns, int(timers[0]._when * 1e9) + 1)
        self._trace.now_ns = self._now_ns
        self._since = self.callbacks

    def _take_due(self) -> None:
        timers, now = self._scheduled, self.time()  # type: ignore[attr-defined]
        while timers and (timers[0]._when <= now or timers[0]._cancelled):
            timer = self._drop_timer()
            if not timer._cancelled:
                self._ready.alone(timer)

    def _drop_timer(self) -> TimerHandle:
        timer: TimerHandle = heapq.heappop(self._scheduled)  # type: ignore[attr-defined]
        timer._scheduled = False  # type: ignore[attr-defined]
        return timer

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Cancelled timers go when their time comes, or when there are too many of them."""
        self._cancelled_timers += 1
        timers = self._scheduled  # type: ignore[attr-defined]
        if self._cancelled_timers > 64 and self._cancelled_timers * 2 > len(timers):
            timers[:] = [timer for timer in timers if not timer._cancelled]
            heapq.heapify(timers)
            self._cancelled_timers = 0

    def _write_to_self(self) -> None:
        """Nobody sleeps."""

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    # Ends

    def bury(self) -> None:
        """Keep the tasks that there are: a process has died, and they must not run to any end."""
        self._graves.extend(asyncio.all_tasks(self))

    def _stray(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught. Of a dead process nothing is expected."""
        error = context.get("exception")
        if not isinstance(error, Gone) and not self.is_closed():
            self.strays.append(f"{context.get('message')}: {error!r}")

    def end_world(self) -> None:
        """Close what was left unfinished, in a fixed order, with every process dead. A ``finally`` that is run so
        may begin more tasks: they are closed before they have done anything."""
        self.set_exception_handler(lambda loop, context: None)
        closed: set[asyncio.Task[Any]] = set()
        asyncio._set_running_loop(self)
        try:
            while tasks := {*self._graves, *asyncio.all_tasks(self)} - closed:
                for task in sorted(tasks, key=lambda task: (len(task.get_name()), task.get_name())):
                    if not task.done():
                        task._log_destroy_pending = False  # type: ignore[attr-defined]
                        _close(task.get_coro())  # type: ignore[arg-type]
                closed |= tasks
        finally:
            asyncio._set_running_loop(None)
        self._graves.clear()
        self._scheduled.clear()  # type: ignore[attr-defined]
        self._ready.clear()
        self.close()


def _close(coroutine: Coroutine[Any, Any, object]) -> None:
    """To its end. What a ``finally`` awaits is ended as well, which ``close`` would leave half done."""
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        coroutine.close()
        return
    with contextlib.suppress(BaseException):
        for _ in range(AWAITS_MAX):
            coroutine.throw(Gone())
