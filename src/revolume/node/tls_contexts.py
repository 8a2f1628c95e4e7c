"""The TLS contexts of a service, from its certificates: one for NBD, one for each end of a mirror's link."""

from __future__ import annotations

import ssl

from revolume.node.service_options import ServiceOptions


def nbd_context(options: ServiceOptions) -> ssl.SSLContext | None:
    """For NBD clients, who must show a certificate of the same authority. None: there is no TLS."""
    if options.tls_dir is None:
        return None
    from revolume.host.tls import server_context

    return server_context(options.tls_dir, verify_peer=True)


def source_context(options: ServiceOptions) -> ssl.SSLContext | None:
    """For connections to mirrors. None: there is no TLS."""
    if options.tls_dir is None:
        return None
    from revolume.host.tls import client_context

    return client_context(options.tls_dir, only_tls13=True)


def target_context(options: ServiceOptions) -> ssl.SSLContext | None:
    """For the connection of a mirror's source. None: there is no TLS, or the link stays on this machine."""
    if options.tls_dir is None or options.mirror_listen is None or options.mirror_listen.startswith("unix:"):
        return None
    from revolume.host.tls import server_context

    return server_context(options.tls_dir, verify_peer=True, only_tls13=True)
