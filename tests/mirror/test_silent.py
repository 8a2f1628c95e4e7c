"""A mirror that accepts and then says nothing is not waited for, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from revolume.host import real_host
from revolume.mirror.recovery.tail_fetcher import fetch_tail
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.open.log_identity import End
from tests.mirror.harness import run


class TransferStore:
    """Is never given anything."""

    received = 0


def test_nothing_is_logged_for_a_mirror_that_did_not_answer_in_time(tmp_path: Path) -> None:
    complaints: list[dict[str, Any]] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        held = []
        server = await asyncio.start_unix_server(lambda *stream: held.append(stream), str(tmp_path / "link"))
        host = real_host()
        fetch = Fetch(bytes(16), bytes(16), End(1, 1, bytes(16), bytes(16), 0, 0))
        with pytest.raises(TimeoutError):
            keeper: Any = TransferStore()
            await fetch_tail(host, f"unix:{tmp_path}/link", None, fetch, keeper, 16, 0.1)
        gc.collect()
        await asyncio.sleep(0)
        for _, writer in held:
            writer.close()
        server.close()
        await host.work.close()

    run(scenario, 10)
    assert not complaints
