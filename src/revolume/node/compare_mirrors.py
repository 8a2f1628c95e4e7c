"""Before a mirror is promoted: is it the one that has most? Other mirrors are asked, where they are named."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from revolume.errors import Refused, RevolumeError
from revolume.host import Host
from revolume.host.error_text import error_text
from revolume.mirror.recovery.examine import examine, has_more
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.secondary import Secondary


async def refuse_shorter(
    host: Host, mirror: Secondary, node: bytes, others: Sequence[str], context: ssl.SSLContext | None
) -> None:
    """Refused if a mirror at one of these addresses has more than this one, or can't be asked."""
    own = mirror.end
    asked = Fetch(mirror.volume_id, node, own)
    for address in others:
        try:
            more = has_more(await examine(host, address, context, asked), mirror.volume_id, own)
        except (OSError, RevolumeError) as error:
            raise Refused(
                "other-not-asked",
                f"The mirror at {address} can't be asked how far it is: {error_text(error)}",
                f"This one's log ends at position {own.position} (w{own.write}). Start the other; or promote this "
                "one with --yes.",
            ) from error
        if more:
            raise Refused(
                "other-is-longer",
                f"The mirror at {address} has more than this one: {more}; this one's log ends at position "
                f"{own.position} (w{own.write}, opening {own.epoch}).",
                "Promote that one. With --yes this one is promoted: what only the other has is no part of the "
                "volume any more; 'revolume resync --take-back' keeps it there as a branch.",
            )
