"""A mirror compared with its primary, and put right where it differs.

``verification.py`` follows one comparison from its first cut to its end; each step is a part of its own, which can
be seen and driven alone: ``scanner.py`` reads the primary, ``comparer.py`` compares with the copy,
``host_changes.py`` has what clients changed between two cuts, ``reviser.py`` takes that out, ``compare_map.py``
keeps what differs durably, ``copier.py`` reads and sends a batch, ``fixup_merge.py`` merges it under what clients
changed. What it means for the copy's history: ``suspect_walk.py``, ``suspect_history.py``.
"""
