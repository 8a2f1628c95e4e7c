"""The story: a file system is put on a volume, files are lost, and nothing is.

python -m demo [--keep]        --keep leaves .demo/ to look at
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from demo.filesystem import Edits, apply, listed
from demo.mirror import MirrorStory
from demo.remote import scribble, write_differences
from demo.stage import ClaimFailed, Stage, missing, same, sha256, stage

SIZE = "96M"
LOST = "json/decoder.py"
OVERWRITTEN = "asyncio/base_events.py"
LEFT_OUT = ("__pycache__", "*-packages", "test", "tests", "config-*", "idlelib", "ensurepip")
REVOLUME = Path(sys.executable).with_name("revolume")


def main() -> None:
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    _need_e2fsprogs()
    with stage(_place()) as here:
        story = Story(here)
        mirror = MirrorStory(here, story)
        story.make_file_system()
        mirror.start()
        story.serve(*mirror.options)
        mirror.bring_up()
        story.copy_in()
        story.lose_files()
        story.read_the_past()
        story.scribble_and_bisect()
        story.put_back()
        mirror.cut_the_link()
        mirror.compare()
        mirror.read_its_past()
        mirror.lose_the_primary()
        mirror.promote()
        story.check_what_is_left()
        mirror.bring_the_old_back()
    print("\nEvery claim above was checked. Nothing that was written has been lost.")


def _need_e2fsprogs() -> None:
    """The demo works on a real ext4. Installed where that may be done, named where not."""
    absent = missing("mke2fs", "e2fsck", "debugfs")
    if absent and os.geteuid() == 0 and not missing("apt-get"):
        print("installing e2fsprogs", flush=True)
        subprocess.run(
            "apt-get install -qq -y e2fsprogs || { apt-get update -qq && apt-get install -qq -y e2fsprogs; }",
            shell=True,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        absent = missing("mke2fs", "e2fsck", "debugfs")
    if absent:
        sys.exit(f"The demo works on a real ext4; not found: {', '.join(absent)}. Install e2fsprogs.")


def _place() -> Path:
    """Here, unless that is too deep for the name of a socket."""
    here = Path.cwd() / ".demo"
    return here if len(os.fsencode(here)) < 80 else Path(tempfile.mkdtemp(prefix="revolume-demo-"))


class Story:
    """The acts, in order; each leaves what the next needs."""

    def __init__(self, here: Stage) -> None:
        self.here = here
        self.files = here.directory / "files"
        self.image = here.directory / "disk.img"
        self.volume = here.directory / "vol1"
        self.server: subprocess.Popen[str] | None = None
        self.uri = ""

    # --- acts ---

    def make_file_system(self) -> None:
        self.here.chapter("An ext4 file system from real files: Python's standard library")
        source = sysconfig.get_path("stdlib")
        shutil.copytree(source, self.files, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        count = sum(1 for path in self.files.rglob("*") if path.is_file())
        self.here.run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", self.files, self.image, SIZE)
        self.here.say(f"{count} files in {self.image.name}")

    def serve(self, *options: str) -> None:
        self.here.chapter("A volume, served over NBD")
        words: tuple[str | Path, ...] = ("serve", self.volume, "--size", SIZE, "--cp-interval", "1s", *options)
        self.server = self.here.start(REVOLUME, *words, name="revolume")
        assert self.server.stdout is not None
        ready = self.server.stdout.readline().split()
        self.here.claim("one ready line, with the URI to paste into any NBD client", ready[:1] == ["ready"])
        self.uri = ready[1]
        self.here.say(self.uri.replace(f"{self.here.directory}/", ""))

    def copy_in(self) -> None:
        self.here.chapter("The file system goes in through a real NBD client, and comes out equal")
        back = self.here.directory / "back.img"
        if missing("nbdcopy"):
            self.here.say("(nbdcopy is not installed: revolume's own client copies)")
            self.revolume("copy", self.image, self.volume)
            self.revolume("copy", self.volume, back)
        else:
            self.here.run("nbdcopy", "--flush", self.image, self.uri)
            self.here.run("nbdcopy", self.uri, back)
        self.here.claim("what comes out is what went in (byte for byte)", same(self.image, back))
        named = self.revolume("snapshot", self.volume, "before")
        self.here.say(named.stdout.strip())

    def lose_files(self) -> None:
        self.here.chapter("Files are deleted and overwritten, through the file system")
        present = self._pull("present.img")
        nonsense = self.here.directory / "nonsense"
        nonsense.write_text("all work and no play\n" * 400)
        how = apply(self.here, self.uri, present, Edits([LOST], {OVERWRITTEN: nonsense}))
        self.here.say(f"done {how}")
        present = self._pull("present.img", force=True)
        self.here.run("e2fsck", "-fn", present)
        self.here.claim("the present file system is clean (e2fsck)", True)
        self.here.claim(f"{LOST} is gone from it", not listed(self.here, present, LOST))
        overwritten = self._dump(present, OVERWRITTEN)
        self.here.claim(f"{OVERWRITTEN} holds something else", same(overwritten, nonsense))
        self.revolume("snapshot", self.volume, "after")

    def read_the_past(self) -> None:
        self.here.chapter("The moment called 'before' still has everything")
        past = self._pull("past.img", "before")
        self.here.claim("vol1@before is the first image, byte for byte", same(past, self.image))
        for name in (LOST, OVERWRITTEN):
            found = self._dump(past, name)
            intact = sha256(found) == sha256(self.files / name)
            self.here.claim(f"{name} read out of vol1@before with debugfs is intact (sha256)", intact)

    def scribble_and_bisect(self) -> None:
        self.here.chapter("Something scribbles over the file system; bisect finds the last good moment")
        last_good = self._last_write()
        writes = scribble(self.uri)
        self.here.say(f"superblock, group descriptors and inode tables: overwritten, in {writes} writes")
        present = self._pull("present.img", force=True)
        broken = self.here.run("e2fsck", "-fn", present, expect=None)
        status = broken.returncode
        self.here.claim(f"the present file system is broken (e2fsck ends with {status})", status != 0)
        found = self._bisect()
        good, bad = found["good"], found["bad"]
        self.here.say(f"last good: {good['export']} of {good['time']}")
        self.here.say(f"first bad: {bad['export']} of {bad['time']}   ({found['runs']} runs)")
        self.here.claim(f"it is w{last_good}, the write before the scribble", good["write"] == last_good)
        self.here.claim("the first bad moment is the very next write", bad["write"] == last_good + 1)
        rescued = self._pull("rescued.img", f"w{last_good}")
        after = self._pull("after.img", "after")
        self.here.claim("that moment is the file system as it was before the scribble", same(rescued, after))

    def put_back(self) -> None:
        """What was good goes back over what was scribbled on; only the blocks that differ are written."""
        write_differences(self.uri, self.here.directory / "rescued.img")
        self.here.say("(the blocks that were scribbled on are written back from that moment)")

    def check_what_is_left(self) -> None:
        """The primary was killed: its directory holds together all the same."""
        self.here.chapter("The primary that was killed: every structure and digest verified, the past still there")
        checked = self.revolume("check", self.volume)
        self.here.claim(f"check: {checked.stdout.strip()}", checked.stdout.startswith("good"))
        past = self._pull("past.img", "before", force=True)
        self.here.claim("vol1@before, from the stopped volume, is still the first image", same(past, self.image))

    # --- means ---

    def revolume(self, *words: str | Path, show: bool = True) -> subprocess.CompletedProcess[str]:
        return self.here.run(REVOLUME, *words, show=show)

    def _pull(self, name: str, moment: str | None = None, *, force: bool = False) -> Path:
        target = self.here.directory / name
        source = f"{self.volume}@{moment}" if moment else str(self.volume)
        self.revolume("copy", source, target, *(["--force"] if force else []))
        return target

    def _dump(self, image: Path, name: str) -> Path:
        target = self.here.directory / "dumped"
        target.unlink(missing_ok=True)
        self.here.run("debugfs", "-R", f"dump /{name} {target}", image)
        if not target.exists():
            raise ClaimFailed(f"debugfs finds no {name} in {image.name}")
        return target

    def _last_write(self) -> int:
        told = self.revolume("points", self.volume, "--at", "now", "--json", show=False)
        return int(json.loads(told.stdout)["at"]["write"])

    def _bisect(self) -> Any:
        words = ("bisect", self.volume, "--json", "--", "e2fsck", "-fn", "{file}")
        return json.loads(self.revolume(*words).stdout)


main()
