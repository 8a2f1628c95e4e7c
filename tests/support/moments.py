"""What was seen at a moment when it was first looked at, and whether it still is."""

from __future__ import annotations

import random

from revolume.api.client import ControlClient, connect
from tests.support.servers import Server
from tests.support.wire import WireError, digest


def control(server: Server) -> ControlClient:
    """The verbs of a running server, without a process for each."""
    client = connect(str(server.directory))
    assert client is not None, server.said()
    return client


class Moments:
    """A named one, a point and a single write of a volume, each time. All of them hold the log: a named one for
    good, the others while they are read."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seen: dict[str, str] = {}
        self.read = 0

    def remember(self, number: int) -> None:
        """One of each, of now."""
        name = f"round-{number}"
        with control(self.server) as verbs:
            verbs.snapshot(name)
            newest = verbs.points()["points"][-1]
        for moment in (name, f"cp{newest['number']}", f"w{newest['write']}"):
            if moment not in self.seen:
                self.seen[moment] = digest(self.server.uri(f"vol@{moment}"))

    def changed(self, chance: random.Random) -> list[str]:
        """The newest three, and three others."""
        names = list(self.seen)
        some = names[-3:] + chance.sample(names, min(3, len(names)))
        told = []
        for name in dict.fromkeys(some):
            try:
                now = digest(self.server.uri(f"vol@{name}"))
            except (WireError, OSError) as error:
                told.append(f"{name} cannot be read: {error}")
                continue
            self.read += 1
            if now != self.seen[name]:
                told.append(f"{name} has changed")
        return told
