"""The seams to the machine: clock, chance, disk, helper, network.

Nothing outside this room reads a clock, opens a file or a socket, or draws a random number; it is handed
a ``Host`` and asks that. So a whole cluster can run in one process, in virtual time, from one seed.

Each seam is a protocol in a file of its own (``disk.py``); the real one is beside it (``real_disk.py``).
"""
