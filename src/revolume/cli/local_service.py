"""A service in this process, on this machine: its host, its log, its signals.

``serve`` runs one until a signal; verbs that change a stopped volume run one for as long as they work.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from revolume.cli.process_log import configure, log_loop_error
from revolume.errors import RevolumeError
from revolume.host import real_host
from revolume.host.command import run_command
from revolume.host.tidy import Tidy
from revolume.node.alarm import Alarm
from revolume.node.event_log import EventLog
from revolume.node.service import Service, served
from revolume.node.service_options import ServiceOptions

log = structlog.get_logger("revolume")


@asynccontextmanager
async def local_service(
    options: ServiceOptions, *, socket_mode: int = 0o600, on_event: Sequence[str] = ()
) -> AsyncIterator[Service]:
    """The service, for the time of the context. ``socket_mode``: of unix sockets that it makes; ``on_event``: the
    command that is run when something has happened."""
    async with AsyncExitStack() as ends:
        host = real_host(socket_mode=socket_mode)
        ends.push_async_callback(host.work.close)
        tidy = Tidy(host.clock, host.work)
        ends.push_async_callback(tidy.close)
        alarm = Alarm(on_event, run_command) if on_event else None
        if alarm is not None:
            ends.push_async_callback(alarm.close)
        yield await ends.enter_async_context(served(host, options, EventLog(alarm), tidy.note))


def run_until_signal(
    options: ServiceOptions, ready: Callable[[str], None], *, socket_mode: int, on_event: Sequence[str]
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, which stays ignored if it was so when we were started; ``ready`` is
    called with each address's URI once all are served."""
    configure()
    asyncio.run(_run(options, ready, socket_mode, on_event))


async def _run(
    options: ServiceOptions, ready: Callable[[str], None], socket_mode: int, on_event: Sequence[str]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_error)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if _managed():
        loop.add_signal_handler(signal.SIGHUP, _renew_certificates)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it is to outlive its terminal
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    async with local_service(options, socket_mode=socket_mode, on_event=on_event) as service:
        gc.collect()
        gc.freeze()
        for address in service.announced:
            ready(address)
        if service.role.listening:
            ready(f"mirror {service.role.listening}")
        log.info("serving", volume=service.role.name, size=service.role.size)
        await stop.wait()
        log.info("stopping", volume=service.role.name)
    log.info("stopped", volume=service.role.name)


def _managed() -> bool:
    """Whether a service manager started us. It sends SIGHUP for a reload; a terminal sends it when it closes."""
    return any(name in os.environ for name in ("NOTIFY_SOCKET", "INVOCATION_ID"))


def _renew_certificates() -> None:
    """What is on the disk now, for connections from now on. Where that is no good, what there was stays."""
    from revolume.host.tls import renew

    try:
        log.info("certificates renewed", contexts=renew())
    except RevolumeError as error:
        log.error("certificates not renewed", reason=str(error))
