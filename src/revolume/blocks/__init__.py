"""Blocks: numbers, words, digests, and the structures that map one to the other. Pure, on numpy arrays.

Read in this order: ``geometry`` (what a block is), ``word`` (where it lies), ``digest`` and ``root`` (what
it holds), ``overlay`` and ``ranges`` (the maps in memory), ``extents`` (runs).
"""
