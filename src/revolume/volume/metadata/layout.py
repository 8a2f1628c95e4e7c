"""What lies where in a volume's directory."""

from __future__ import annotations

LOG = "log"
MAPS = "maps"
RESCUE = "rescue"
COMPARE = "compare"
BRANCHES = "branches"
MIRRORS = "mirrors"
"""What a primary keeps for mirrors of which it keeps nothing else: their dirty region logs."""
JUMP = "jump"
SUSPECT = "suspect"
PROOFS = "proofs"
"""On which moments a command was run, and how it ended."""
CLONES = "clones"
"""Volumes that lie over points of this one, each in a directory of its name."""
ORIGIN = "origin"
"""In a clone: the digests of the point over which it lies."""
JUMP_BLOCKS = "blocks"
"""In ``jump/``: the content that has arrived, block behind block."""
IMAGE = "image"
SUMS = "image.sums"
PAGES = "image.pages"
RESERVE = "reserve"
DISCARDED = "discarded"
"""What lies here was a copy that its node gave up by itself: it may be overwritten."""
CONTROL_SOCKET = "control.sock"
NBD_SOCKET = "nbd.sock"

DEFAULT_SEGMENT_BYTES = 64 << 20
SMALL_SEGMENT_BYTES = 1 << 20
MIN_SEGMENT_BYTES = 64 << 10
MAX_SEGMENT_BYTES = 1 << 30
SECTOR = 512
MAX_SIZE = 1 << 48
"""256 TiB. What says which digests there are (``image.pages``, 4 bytes for two megabytes) is held in memory and
written at every fold: half a gigabyte then. A size can't be taken back."""
SIZE_RULE = "It is a multiple of 512, 256 TiB at most."


def default_segment_bytes(size: int, budget: int | None = None) -> int:
    """For a volume of so many bytes: a sixteenth of it, as a power of two within bounds, so that a small volume
    does not take many times its size; and a sixteenth of a budget that was given, so that a large write fits the
    log beside the next point."""
    segment, least = DEFAULT_SEGMENT_BYTES, size if budget is None else min(size, budget)
    while segment > SMALL_SEGMENT_BYTES and segment * 16 > least:
        segment //= 2
    return segment


def base_map_name(point: int, edit: int) -> str:
    """File name of the live map's base as of a point; ``edit`` is the last manifest edit before it, so that
    no name comes twice."""
    return f"base-{point}-{edit}.map"


def rung_name(number: int) -> str:
    """File name of a rung of the ladder."""
    return f"rung-{number}.map"


def rescue_table_name(number: int) -> str:
    """File name of a table of rescued blocks."""
    return f"{number:08d}.map"


def rescue_file_name(number: int) -> str:
    """File name of the rescued blocks themselves."""
    return f"{number:08d}.blocks"


def jump_table_name(number: int) -> str:
    """File name of a table of blocks that a jump changes."""
    return f"{number:08d}.map"


def marks_name(number: int) -> str:
    """File name of the marks of a comparison."""
    return f"{number:08d}.marks"


def dirty_name(number: int) -> str:
    """File name of a dirty region log."""
    return f"{number:08d}.dirty"


def view_map_name(token: str) -> str:
    """File name of a moment's map, for as long as a view of it is open."""
    return f"view-{token}.map"


def branch_table_name(number: int) -> str:
    """File name of a branch's table."""
    return f"{number:08d}.map"


def branch_file_name(number: int) -> str:
    """File name of a branch's blocks."""
    return f"{number:08d}.blocks"
