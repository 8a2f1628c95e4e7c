"""The n-th call of every kind to a disk fails, for n = 1, 2, … until none is left to fail.

    python -m revolume.sim.campaigns.call_failures [--stages NAMES] [--all] [--every N]
        [--minutes M] [--jobs N] [--kind CALLS]
    python -m revolume.sim.campaigns.call_failures --case mirror:write:17:EIO:once

A *stage* is a fixed history, and whose disk fails in it:

    alone     a lone volume (``single.py``)
    mirror    a pair in sync mode (``mirrored.py``), its mirror's disk
    source    the same pair, its primary's disk

A pair's history is long. Unless ``--all`` is given, of its calls the first of each place in the code fails, in
each step of the history in which that place makes a call.

Of every kind of call that the history makes to that disk one fails, once or from then on: with EIO, where
something is to grow with ENOSPC too, a write also after a part of it has been written, and a sync that fails has
lost what it was to make durable, while memory goes on showing it. Whatever is called says so with an error of
ours, or the kernel's, or takes no notice. Then the fault is gone, and what is asked then each history says.
"""
