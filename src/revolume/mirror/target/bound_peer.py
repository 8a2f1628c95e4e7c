"""Who may be a mirror's source, as far as certificates say.

On a TLS link the CA says only that a certificate is one of ours. A target is bound to one name: the certificate's
common name, or its first alternative name where it has none. The name is recorded when a whole copy is first fed
over TLS, or given with ``--source-name``, which also changes it: after a failover the source is another node.
Links on unix sockets have no certificate; who may open the socket is for its file mode to say.
"""

from __future__ import annotations

from revolume.errors import Refused
from revolume.host.network import Peer
from revolume.mirror.copy_protocols import TargetVolume

OTHER_CERTIFICATE = "other-certificate"


def refuse_other(peer: Peer, wanted: str) -> None:
    """Refused unless the peer's certificate has the name that is wanted; "" is any, and so is a unix socket."""
    if not wanted or peer.transport == "unix" or peer.certificate_name == wanted:
        return
    shown = f"names {peer.certificate_name}" if peer.certificate_name else "is missing"
    raise Refused(
        OTHER_CERTIFICATE,
        f"This mirror's source must have the certificate of {wanted}; the certificate shown {shown}.",
        "If that node is the source from now on, serve the mirror with --source-name and its certificate's name.",
    )


async def bind(peer: Peer, secondary: TargetVolume) -> str:
    """Record the peer as the source that this copy is bound to, if it is bound to none; its name if that was
    done."""
    name = peer.certificate_name
    if not name or secondary.bound.source_name:
        return ""
    await secondary.bound.name_source(name)
    return name
