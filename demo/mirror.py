"""The second half: the same volume with a synchronous mirror, a link that breaks, a primary that dies."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.cable import Cable
from demo.filesystem import listed
from demo.remote import churn
from demo.stage import ClaimFailed, Stage, same, sha256

if TYPE_CHECKING:
    from demo.__main__ import Story

REVOLUME = Path(sys.executable).with_name("revolume")
LOST = "json/decoder.py"
WRITES = 400


class MirrorStory:
    """The acts of the mirror; the volume and its files are the first half's."""

    def __init__(self, here: Stage, story: Story) -> None:
        self.here = here
        self.story = story
        self.copy = here.directory / "vol1-mirror"
        self.cable = Cable(here.directory / "cable", here.directory / "link")
        here.at_the_end(self.cable.close)
        self.server: subprocess.Popen[str] | None = None

    # --- acts ---

    def start(self) -> None:
        """An empty directory that waits for its source."""
        self.here.chapter("A mirror: an empty directory that waits for a source")
        listen = f"unix:{self.here.directory / 'link'}"
        self.server = self.here.start(REVOLUME, "serve", self.copy, "--mirror-listen", listen, name="mirror")

    @property
    def options(self) -> tuple[str, ...]:
        """What makes the volume its source."""
        return ("--mirror-to", f"unix:{self.here.directory / 'cable'},mode=sync,name=m")

    def bring_up(self) -> None:
        self._until("base and log have met at the mirror: from now on answers wait for it", self._joined)

    def cut_the_link(self) -> None:
        self.here.chapter("The link is cut and restored under writes: answers wait, none is lost")
        answered: list[int] = []
        writer = threading.Thread(target=churn, args=(self.story.uri, WRITES, answered), daemon=True)
        writer.start()
        self._until("a client writes", lambda: len(answered) > WRITES // 8)
        self.cable.cut()
        time.sleep(0.3)
        before = len(answered)
        time.sleep(0.7)
        self.here.claim(f"with the link cut no write is answered ({before} so far)", len(answered) == before)
        self.here.say(self._mirror()["waits"])
        self.cable.mend()
        writer.join(30)
        self.here.claim(f"with the link back all {WRITES} are", len(answered) == WRITES)

    def compare(self) -> None:
        self.here.chapter("Equal volumes, proved by their roots")
        point = int(
            json.loads(self._revolume("points", self.story.volume, "--json").stdout)["points"][-1]["number"]
        )
        self._until("the mirror agrees to the last point", lambda: self._mirror()["agreed_point"] >= point)
        roots = [self._root(directory, point) for directory in (self.story.volume, self.copy)]
        self.here.claim(f"at cp{point} both sides have the root {roots[0]}", roots[0] == roots[1])
        self._table()

    def read_its_past(self) -> None:
        self.here.chapter("The lost file, out of the mirror's past")
        past = self.here.directory / "mirror-past.img"
        self._revolume("copy", f"{self.copy}@before", past)
        self.here.claim("vol1-mirror@before is the first image, byte for byte", same(past, self.story.image))
        found = self.here.directory / "found"
        self.here.run("debugfs", "-R", f"dump /{LOST} {found}", past)
        intact = sha256(found) == sha256(self.story.files / LOST)
        self.here.claim(f"{LOST} read out of it with debugfs is intact (sha256)", intact)

    def lose_the_primary(self) -> None:
        self.here.chapter("The primary is killed with a write just answered, and the mirror promoted")
        answered: list[int] = []
        churn(self.story.uri, 50, answered)
        assert self.story.server is not None
        self.here.stop(self.story.server, signal.SIGKILL)
        self.here.say("kill -9")

    def promote(self) -> None:
        promoted = self._revolume("promote", self.copy)
        self.here.say(promoted.stdout.strip())
        image = self.here.directory / "promoted.img"
        self._revolume("copy", self.copy, image)
        self.here.run("e2fsck", "-fn", image)
        self.here.claim("the file system on the promoted mirror is clean (e2fsck)", True)
        self.here.claim(f"{LOST} is not in it, as the client left it", not listed(self.here, image, LOST))
        digest = sha256(image)
        assert self.server is not None
        self.here.claim("SIGTERM ends it with status 0", self.here.stop(self.server) == 0)
        checked = self._revolume("check", self.copy)
        self.here.claim(f"check: {checked.stdout.strip()}", checked.stdout.startswith("good"))
        again = self.here.directory / "again.img"
        self._revolume("copy", self.copy, again)
        self.here.claim("stopped and opened again it is the same, byte for byte", sha256(again) == digest)

    def bring_the_old_back(self) -> None:
        self.here.chapter("The primary that was killed comes back as a mirror, and gets only what it lacks")
        self.server = self.here.start(REVOLUME, "serve", self.copy, name="mirror")
        assert self.server.stdout is not None
        uri = self.server.stdout.readline().split()[1]
        churn(uri, WRITES // 4, [])
        old, address = self.story.volume, f"unix:{self.here.directory / 'link-back'}"
        self._revolume("demote", old, "--mirror-listen", address)
        self.here.start(REVOLUME, "serve", old, name="revolume")
        self._revolume("mirror", "add", self.copy, "old", address)
        self._revolume("wait", self.copy, "--mirror", "old")
        told = self._mirror(self.copy)
        sent = sum(told[f"{kind}_bytes"] for kind in ("base", "difference", "log"))
        size = self.story.image.stat().st_size
        self.here.claim(f"{sent:,} bytes were sent, of a volume of {size:,}", 0 < sent < size // 16)
        images = [self.here.directory / name for name in ("new.img", "old.img")]
        for directory, image in zip((self.copy, old), images, strict=True):
            self._revolume("copy", directory, image)
        self.here.claim("both hold the same, byte for byte", same(*images))

    # --- means ---

    def _revolume(self, *words: str | Path, show: bool = True) -> subprocess.CompletedProcess[str]:
        return self.here.run(REVOLUME, *words, show=show)

    def _mirror(self, primary: Path | None = None) -> dict[str, Any]:
        told = self._revolume("status", primary or self.story.volume, "--json", show=False)
        found: dict[str, Any] = json.loads(told.stdout)["mirrors"][0]
        return found

    def _root(self, directory: Path, number: int) -> str:
        told = json.loads(self._revolume("points", directory, "--json", show=False).stdout)
        return next((str(p["root"]) for p in told["points"] if p["number"] == number), f"none at {directory.name}")

    def _joined(self) -> bool:
        return bool(self._mirror()["joined"])

    def _last_point(self) -> int:
        told = json.loads(self._revolume("points", self.story.volume, "--json", show=False).stdout)
        return int(told["points"][-1]["number"])

    def _until(self, what: str, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not happened():
            if time.monotonic() > deadline:
                raise ClaimFailed(f"{what}: not within 30 s")
            time.sleep(0.05)
        self.here.say(f"✓ {what}")

    def _table(self) -> None:
        """What the link carried, and what it did not have to."""
        told = self._mirror()
        rows = (
            ("written by clients", "client_bytes"),
            ("sent as log", "log_bytes"),
            ("of it at consistency points", "point_bytes"),
            ("saved by references", "saved_bytes"),
        )
        for text, name in rows:
            self.here.say(f"{text:>30} {told[name]:>12,} bytes")
