"""What ``keep`` promises is retained whatever clocks do, and so long ago is what it truly was.

The model knows when each write was accepted, in virtual time, which nobody sets. A fold because of age may take
what is older than ``keep`` by that time and nothing else: a node has lived at most so long since.
"""

from __future__ import annotations

from bisect import bisect_right

from revolume.errors import NotFound
from revolume.history.moments import Ago
from revolume.history.open_history import OpenHistory
from revolume.history.resolver import MomentResolver
from revolume.sim.oracle.model import Model
from revolume.volume.volume_base import OpenVolume

SECONDS = (1, 3, 10, 60)


def check_ages(volume: OpenVolume, model: Model, who: str) -> list[str]:
    """The last fold because of age took nothing that was younger than ``keep``."""
    write, at_ns, keep_ms = volume.folder.aged
    place = bisect_right(model.numbers, write)
    when = model.when.get(model.numbers[place - 1]) if place else None
    keep_s = keep_ms / 1000
    if not write or when is None or at_ns - when >= keep_s * 1e9:
        return []
    age = (at_ns - when) / 1e9
    return [f"{who}: everything up to w{write}, {age:.1f} s old, went as older than {keep_s} s"]


def check_ago(volume: OpenVolume, model: Model, who: str) -> list[str]:
    """``@-Ns`` is the last write that was accepted so long ago or earlier, as far as it is retained. The oldest
    may be refused: a copy that began at its point knows it from the time of that point on, which is later."""
    resolver, wrong = MomentResolver(OpenHistory(volume)), list[str]()
    now_ns = volume.context.host.clock.monotonic_ns()
    for seconds in SECONDS:
        upto = now_ns - seconds * 10**9
        accepted = [number for number in model.numbers if model.when.get(number, 0) <= upto]
        want = accepted[-1] if accepted else 0
        if want < max(resolver.oldest.write, 1):
            continue
        try:
            found: int = resolver.resolve(Ago(seconds)).write
        except NotFound:
            found = -1
        if found != want and (found >= 0 or want != resolver.oldest.write):
            wrong.append(f"{who}: @-{seconds}s is w{found}, and it was w{want} then")
    return wrong
