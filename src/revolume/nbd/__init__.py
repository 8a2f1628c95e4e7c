"""NBD: the face that disks are plugged into.

Reading order: ``constants.py`` (the numbers), ``handshake.py`` with ``options.py`` (bytes in, events out),
``transmission.py`` (bytes in, requests out), ``replies.py`` (answers as bytes), ``export.py`` (what a volume
has to offer), ``session.py`` (one connection), ``server.py`` (all of them), ``client.py`` (the other end).
"""
