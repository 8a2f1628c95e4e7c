"""What lies where in a volume's directory."""

from __future__ import annotations

LOG = "log"
MAPS = "maps"
IMAGE = "image"
SUMS = "image.sums"
PAGES = "image.pages"
RESERVE = "reserve"
CONTROL_SOCKET = "control.sock"
NBD_SOCKET = "nbd.sock"

DEFAULT_SEGMENT_BYTES = 64 << 20
SMALL_SEGMENT_BYTES = 1 << 20
MIN_SEGMENT_BYTES = 64 << 10
MAX_SEGMENT_BYTES = 1 << 30
SECTOR = 512
MAX_SIZE = 1 << 60


def default_segment_bytes(size: int) -> int:
    """For a volume of so many bytes: a sixteenth of it, as a power of two within bounds, so that a small volume
    does not take many times its size."""
    segment = DEFAULT_SEGMENT_BYTES
    while segment > SMALL_SEGMENT_BYTES and segment * 16 > size:
        segment //= 2
    return segment


def base_map_name(point: int, edit: int) -> str:
    """File name of the live map's base as of a point; ``edit`` is the last manifest edit before it, so that
    no name comes twice."""
    return f"base-{point}-{edit}.map"


def view_map_name(token: str) -> str:
    """File name of a moment's map, for as long as a view of it is open."""
    return f"view-{token}.map"
