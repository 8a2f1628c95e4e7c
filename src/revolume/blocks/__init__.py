"""Blocks: numbers, locations, digests, and the structures that map one to the other. Pure, on numpy arrays.

Read in this order: ``geometry`` (what a block is), ``numbers`` (what counts transfers, writes and the blocks of
the log), ``block_location`` (where a block lies), ``digest`` and ``root`` (what it holds), ``overlay`` and
``ranges`` (the maps in memory), ``extents`` (runs), ``block_set`` and ``delta_map`` (which blocks changed, and how
maps of them are combined).
"""
