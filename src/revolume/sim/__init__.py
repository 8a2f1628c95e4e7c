"""Whole clusters in one process, in virtual time, from one seed.

The production code runs unchanged on what ``host/`` asks for: here clock, chance, disk, threads, helper and
network are simulated, one file for each seam, named as there. Nothing waits and nothing is random that the seed
does not decide, so that a run that fails is run again by its number, and the same code does the same again.

    chance trace process loop     the machinery of time and order
    disk network work machine     the seams, and a machine that has them
    model register                what must be there: by write number, and as clients saw it
    worlds/ checks/               clusters with clients and operators; one property a file
    cuts                          every power cut of a short history, not a sample of them
    campaign                      many seeds, and the report
"""
