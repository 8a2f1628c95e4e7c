"""The bench: one table beside the C servers, rows interleaved, with the targets judged in the same run.

Read `plan.py` first: it is the list of rows and targets. `peers.py` starts what is measured, `load.py`
drives it (fio; for FUA, which fio's nbd engine cannot ask for, a small driver of our own, the same for
every peer), `process.py` says what it cost, `report.py` prints, saves and draws.
"""
