"""Reading everything that a copy keeps, before anybody needs it: what no longer is what was written is found,
healed from a sibling where there is one, and named.

``scrubber.py`` goes through a volume that is being served, a slice at a time; ``log_stage.py``, ``image_stage.py``
and ``map_stages.py`` know what the next slice is, and what may move beneath it. What it holds is read and compared
in the helper process, past the page cache: ``segment_check.py``, ``image_check.py``, ``map_check.py``.
"""
