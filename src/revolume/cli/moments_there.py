"""The moments that another copy's node holds, for ``revolume points --from``."""

from __future__ import annotations

import os
from typing import Any, Final

from revolume.cli.output import print_note, print_table
from revolume.cli.values import show_time

_SHOWN: Final = 20


def held_there(
    volume: str, source: str, tls_dir: str | None, peer: str | None, *, as_json: bool
) -> dict[str, Any]:
    """What the node of another copy holds, asked by the one that serves ``volume``, or from here."""
    from revolume.api.client import connect
    from revolume.cli.job_wait import run_job
    from revolume.cli.mirror_options import place

    client = connect(volume) if os.path.isdir(volume) else None
    if client is None:
        return _asked_from_here(volume, place(source), tls_dir, peer)
    with client:
        job = run_job(client, "list-moments", {"from": place(source)}, timeout_s=None, as_json=as_json)
    return dict(job["result"])


def _asked_from_here(volume: str, source: str, tls_dir: str | None, peer: str | None) -> dict[str, Any]:
    import asyncio

    from revolume.host import real_host
    from revolume.node.addresses import refuse_plaintext_links
    from revolume.node.fetch_jobs import moments_at, recorded_place
    from revolume.node.service_options import ServiceOptions
    from revolume.node.tls_contexts import source_context

    async def asked() -> dict[str, Any]:
        host = real_host()
        try:
            address, known = recorded_place(host, volume, source)
            refuse_plaintext_links([address], tls_dir)
            context = source_context(ServiceOptions(volume, (), tls_dir=tls_dir))
            return await moments_at(host, address, context, peer or known)
        finally:
            await host.work.close()

    return asyncio.run(asked())


def print_held(held: list[dict[str, Any]], *, every: bool) -> None:
    """As a table: all that are named or isolated, and of the others the newest, or ``every`` one."""
    if not held:
        print_note("It holds no consistency point.")
        return
    named = [moment for moment in held if moment["names"] or moment["isolated"]]
    rest = [moment for moment in held if not (moment["names"] or moment["isolated"])]
    shown = sorted(held if every else named + rest[-_SHOWN:], key=lambda moment: int(moment["write"]))
    rows = [
        (
            f"cp{moment['point']}",
            f"w{moment['write']}",
            show_time(moment["time_ns"]),
            ", ".join(moment["names"]),
            "isolated" if moment["isolated"] else "",
            "suspect" if moment["suspect"] else "",
        )
        for moment in shown
    ]
    print_table(("POINT", "WRITE", "TIME", "SNAPSHOT", "KEPT", "SUSPECT"), rows)
    if len(shown) < len(held):
        print_note(f"{len(held) - len(shown)} other ones: --all shows them.")
