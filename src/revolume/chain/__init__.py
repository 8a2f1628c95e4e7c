"""The chain of consistency points: what each changed, and where every block was as of a write.

Read in this order: ``point`` (a point and its record), ``reference_resolver`` (a received record as a delta map of
this node), ``versions`` (the newest version of every block of a range of the log), ``point_deltas`` (the same out
of many points' records), ``map_file`` over ``page_cache`` (a delta map on disk), ``map_builder`` (from log to map
file).
"""
