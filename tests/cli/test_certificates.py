"""Links under TLS: the right authority is not enough, it must be the certificate that the copy is bound to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from revolume.cli.main import main
from tests.support.mirrors import SMALL, MiB, Node, read, revolume, told, until, write

PRIMARY = ("--size", str(8 * MiB), "--cp-interval", "200ms", *SMALL)
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def authority(folder: Path) -> trustme.CA:
    """It has signed certificates for a.test, b.test and c.test, each in a directory of its own."""
    signed = trustme.CA()
    for name in ("a", "b", "c"):
        place = folder / f"pki-{name}"
        place.mkdir()
        signed.cert_pem.write_to_path(place / "ca-cert.pem")
        cert = signed.issue_cert(f"{name}.test", "localhost", common_name=f"{name}.test")
        for role in ("server", "client"):
            cert.private_key_pem.write_to_path(place / f"{role}-key.pem")
            cert.cert_chain_pems[0].write_to_path(place / f"{role}-cert.pem")
    return signed


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []

    def serve(self, name: str, certificate: str, *words: str | Path) -> Node:
        self.nodes.append(Node(self.folder / name, *words, "--tls-dir", self.folder / f"pki-{certificate}"))
        return self.nodes[-1]

    def mirror(self, port: str = "0", *more: str) -> Node:
        return self.serve("m", "b", "--mirror-listen", f"localhost:{port}", *SMALL, *more)

    def primary(self, port: str, certificate: str, *options: str, name: str = "p") -> Node:
        to = ",".join((f"localhost:{port}", "name=m", *options))
        return self.serve(name, certificate, *PRIMARY, "--mirror-to", to)


@pytest.fixture
def place(folder: Path, authority: trustme.CA) -> Iterator[Place]:
    made = Place(folder)
    yield made
    for node in made.nodes:
        print(f"--- {node.directory.name}\n{node.log.read_text()}")  # shown with a failing test
        if node.process.poll() is None:
            node.kill()


def says(primary: Node, words: str) -> None:
    until(words, lambda: words in primary.mirror["reason"])


def test_a_copy_is_bound_to_the_certificate_of_its_source(place: Place) -> None:
    mirror = place.mirror()
    port = mirror.link.rpartition(":")[2]
    primary = place.primary(port, "a")
    primary.until_joined()
    write(primary.uri(), (0, b"right" * 800))
    primary.until_agreed()
    assert mirror.status["source"]["source_name"] == "a.test"
    primary.stop()

    # The same directory with a certificate of another name, whoever that is.
    other = place.primary(port, "c")
    says(other, "must have the certificate of a.test; the certificate shown names c.test")
    source = mirror.status["source"]
    assert source["refusals"] >= 1 and "c.test" in source["reason"]
    assert "connections were refused" in revolume("status", mirror.directory).stdout

    # It is told, as after a failover, and remembers that; the one of before is refused then.
    mirror.stop()
    place.mirror(port, "--source-name", "c.test").stop()
    assert told("status", mirror.directory)["source"]["source_name"] == "c.test"
    mirror = place.mirror(port)
    until("it goes on", lambda: other.mirror["state"] == "in sync")
    other.kill()
    again = place.primary(port, "c")
    write(again.uri(), (MiB, b"on" * 800))
    again.until_agreed()
    assert read(mirror.uri())[:5] == b"right"


def test_a_source_takes_no_other_target_than_the_one_named(place: Place) -> None:
    mirror = place.mirror()
    port = mirror.link.rpartition(":")[2]
    primary = place.primary(port, "a", "peer=c.test")
    says(primary, "cannot be reached")
    assert not primary.mirror["joined"]
    primary.stop()
    primary = place.primary(port, "a", "peer=b.test")
    primary.until_joined()
    primary.stop()
    place.primary(port, "a").until_agreed()  # and it remembers


def test_an_empty_directory_may_be_told_whose_it_will_be(place: Place) -> None:
    mirror = place.mirror("0", "--source-name", "c.test")
    port = mirror.link.rpartition(":")[2]
    stranger = place.primary(port, "a")
    says(stranger, "must have the certificate of c.test")
    stranger.stop()
    place.primary(port, "c", name="q").until_joined()
    assert mirror.status["source"]["source_name"] == "c.test"


@pytest.mark.parametrize(
    "words",
    [
        ("--source-name", "a.test"),
        ("--mirror-listen", "unix:/x", "--source-name", "a.test"),
        ("--mirror-listen", "unix:/x", "--tls-dir", "/pki", "--source-name", ""),
    ],
)
def test_a_name_without_certificates_is_refused(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path / "v"), *words, "--json"]) == 2
    assert '"source-name"' in capsys.readouterr().err


def test_moments_are_told_and_given_only_to_whom_the_source_may_be(place: Place, folder: Path) -> None:
    mirror = place.mirror()
    port = mirror.link.rpartition(":")[2]
    primary = place.primary(port, "a")
    primary.until_joined()
    write(primary.uri(), (0, b"mine" * 1000))
    revolume("snapshot", primary.directory, "one")
    primary.until_agreed()
    held = told("points", primary.directory, "--from", "m")["moments"]
    assert "one" in held[-1]["names"]
    primary.stop()
    until("it is gone", lambda: not mirror.status["source"]["connected"])
    words = ("--from", f"localhost:{port}", "--moment", "one", "--tls-dir")
    for verb in (("points", folder / "new"), ("fetch", folder / "new")):
        asked = words if verb[0] == "fetch" else (*words[:2], words[-1])
        revolume(*verb, *asked, folder / "pki-c", status=4)
    assert not (folder / "new" / "log").exists()
    revolume("fetch", folder / "new", *words, folder / "pki-a", "--peer", "c.test", status=6)
    revolume("fetch", folder / "new", *words, folder / "pki-a", "--peer", "b.test")
    assert read(place.serve("new", "a").uri()) == b"mine" * 1000 + bytes(8 * MiB - 4000)
