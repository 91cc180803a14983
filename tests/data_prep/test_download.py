"""Downloads against a server on this machine that misbehaves as servers do."""

import errno
import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cprec_jax.config.source import RemoteSpec
from cprec_jax.corpus import Corpus
from cprec_jax.errors import UserError
from data_prep import download
from data_prep.download import download_missing, fetch
from tests.data_prep.tables import numbered_titles, random_interactions, table_source
from tests.run_jobs import corpus_spec, prepare, state

CONTENT = bytes(range(256)) * 400


class Server(ThreadingHTTPServer):
    """Serves `files`; what goes wrong is set by the attributes below, `asked` holds every path with its Range
    header."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/a.gz": CONTENT}
        self.asked: list[tuple[str, str | None]] = []
        self.drop_after: int | None = None  # bytes of an answer, then the connection ends
        self.ranges, self.length, self.etag = True, True, '"v1"'
        self.errors: list[int] = []  # codes of the next answers

    def url(self, path: str = "/a.gz") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, given = self.server, self.headers.get("Range")
        server.asked.append((self.path, given))
        if server.errors:
            return self.send_error(server.errors.pop(0))
        if self.path not in server.files:
            return self.send_error(404)
        content = server.files[self.path]
        start = int(re.fullmatch(r"bytes=(\d+)-", given)[1]) if given and server.ranges else 0
        if self.headers.get("If-Range", server.etag) != server.etag:
            start = 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(content[start:][: server.drop_after])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def remote(server: Server, **rest) -> RemoteSpec:
    return RemoteSpec(url=server.url(), **{"sha256": hashlib.sha256(CONTENT).hexdigest(), **rest})


def test_files_without_a_url_are_named_before_anything_is_fetched(server: Server, tmp_path: Path):
    there = table_source(tmp_path / "there", random_interactions(1), numbered_titles())
    fetched = {
        "role": "pretrain",
        "interactions": "a.gz",
        "items": "b.gz",
        "urls": {"interactions": {"url": server.url()}},
    }
    by_hand = {"role": "downstream", "interactions": "pairs.csv", "items": "titles.csv"}
    spec = corpus_spec({"corpus": {"root": str(tmp_path), "sources": {"one": there, "two": fetched, "three": by_hand}}})
    with pytest.raises(UserError, match=r"have no URL; put them in place first: [^\n]*$") as caught:
        download_missing(spec)
    for name in ("two.items", "three.interactions", "three.items"):
        assert f"(config.corpus.sources.{name})" in str(caught.value)
    assert "two.interactions" not in str(caught.value) and "sources.one" not in str(caught.value)
    assert server.asked == [] and not (tmp_path / "a.gz").exists()


def test_a_connection_that_drops_is_taken_up_where_it_broke(server: Server, tmp_path: Path):
    server.drop_after = 30_000
    fetch(remote(server), tmp_path / "a.gz", "urls")
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert [given for _, given in server.asked] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz"]


def test_a_part_of_an_earlier_run_is_gone_on_with(server: Server, tmp_path: Path):
    (tmp_path / "a.gz.part").write_bytes(CONTENT[:100])
    fetch(remote(server, sha256=None, md5=hashlib.md5(CONTENT).hexdigest()), tmp_path / "a.gz", "urls")
    assert server.asked == [("/a.gz", "bytes=100-")]
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_part_that_is_whole_already(server: Server, tmp_path: Path):
    (tmp_path / "a.gz.part").write_bytes(CONTENT)
    fetch(remote(server), tmp_path / "a.gz", "urls")
    assert len(server.asked) == 1 and (tmp_path / "a.gz").read_bytes() == CONTENT


@pytest.mark.parametrize("versioned", [True, False])
def test_a_part_of_another_version_is_thrown_away(server: Server, tmp_path: Path, versioned):
    """By If-Range where the server names versions, else by the checksum."""
    (tmp_path / "a.gz.part").write_bytes(b"old" * 1000)
    if versioned:
        (tmp_path / "a.gz.part.version").write_text('"v0"')
    fetch(remote(server), tmp_path / "a.gz", "urls")
    assert [given for _, given in server.asked] == (["bytes=3000-"] if versioned else ["bytes=3000-", None])
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz"]


def test_a_part_longer_than_the_file(server: Server, tmp_path: Path):
    (tmp_path / "a.gz.part").write_bytes(CONTENT + b"more")
    fetch(remote(server), tmp_path / "a.gz", "urls")
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_server_that_ignores_ranges(server: Server, tmp_path: Path):
    server.ranges = False
    (tmp_path / "a.gz.part").write_bytes(b"x" * 500)
    fetch(remote(server), tmp_path / "a.gz", "urls")
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_a_server_that_never_gets_further(server: Server, tmp_path: Path):
    server.ranges, server.drop_after = False, 1000
    with pytest.raises(
        UserError, match=r"urls: http.*the connection broke, 5 times in a row; 1,000 bytes are kept in .*a.gz.part"
    ):
        fetch(remote(server), tmp_path / "a.gz", "urls")
    assert not (tmp_path / "a.gz").exists() and (tmp_path / "a.gz.part").stat().st_size == 1000


def test_neither_length_nor_version_nor_checksum(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    server.length, server.etag = False, ""
    fetch(RemoteSpec(url=server.url()), tmp_path / "a.gz", "urls")
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert f"no checksum in the config; its sha256 is {hashlib.sha256(CONTENT).hexdigest()}" in capsys.readouterr().err


def test_a_wrong_checksum(server: Server, tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"urls: the checksum of http.*/a.gz is wrong: md5 [0-9a-f]{32}, not 0{32}; it came damaged or is another",
    ):
        fetch(remote(server, sha256=None, md5="0" * 32), tmp_path / "a.gz", "urls")
    assert list(tmp_path.iterdir()) == [] and len(server.asked) == 1


def test_a_checksum_that_is_published_beside_the_file(server: Server, tmp_path: Path):
    server.files["/a.md5"] = f"MD5 (a.gz) = {hashlib.md5(CONTENT).hexdigest()}\n".encode()
    fetch(RemoteSpec(url=server.url(), checksum_url=server.url("/a.md5")), tmp_path / "a.gz", "urls")
    server.files["/a.md5"] = b"d41d8cd98f00b204e9800998ecf8427e  a.gz\n"
    with pytest.raises(UserError, match=r"not d41d8cd98f00b204e9800998ecf8427e"):
        fetch(RemoteSpec(url=server.url(), checksum_url=server.url("/a.md5")), tmp_path / "b.gz", "urls")
    server.files["/a.md5"] = b"nothing here"
    with pytest.raises(UserError, match=r"holds neither an MD5 nor a SHA-256"):
        fetch(RemoteSpec(url=server.url(), checksum_url=server.url("/a.md5")), tmp_path / "b.gz", "urls")


def test_a_list_of_checksums_gives_the_one_of_the_line_that_names_the_file(server: Server, tmp_path: Path):
    right, wrong = hashlib.md5(CONTENT).hexdigest(), "0123456789abcdef" * 2
    listed = RemoteSpec(url=server.url(), checksum_url=server.url("/MD5SUMS"))
    server.files["/MD5SUMS"] = f"{wrong}  b.gz\n{wrong}  data.gz\n{wrong}  a.gz.old\n{right} *./set/a.gz\n".encode()
    server.errors = [503]
    fetch(listed, tmp_path / "kept_as.gz", "urls")
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    server.files["/MD5SUMS"] = f"MD5 (a.gz) = {wrong}\nSHA256 (b.gz) = {'0' * 64}\nSHA256 (a.gz) = {sha256}\n".encode()
    fetch(listed, tmp_path / "again.gz", "urls")
    server.files["/MD5SUMS"] = f"{wrong}  b.gz\n{right}  c.gz\n".encode()
    with pytest.raises(
        UserError,
        match=r"checksum_url: .*MD5SUMS holds 2 checksums, and none of them beside the name 'a.gz'; .*urls.md5$",
    ):
        fetch(listed, tmp_path / "b.gz", "urls")
    del server.files["/MD5SUMS"]
    with pytest.raises(UserError, match=r"urls.checksum_url: .*MD5SUMS cannot be had \(HTTP Error 404"):
        fetch(listed, tmp_path / "b.gz", "urls")


def test_what_is_not_there_is_not_asked_for_again(server: Server, tmp_path: Path):
    with pytest.raises(UserError, match=r"urls: http.*/b.gz answers 404 Not Found; check the address"):
        fetch(RemoteSpec(url=server.url("/b.gz")), tmp_path / "b.gz", "urls")
    assert len(server.asked) == 1 and list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path):
    server.errors = [503, 429, 500]
    fetch(remote(server), tmp_path / "a.gz", "urls")
    assert len(server.asked) == 4
    server.errors = [503] * 9
    with pytest.raises(UserError, match=r"it answers 503 Service Unavailable, 5 times in a row$"):
        fetch(remote(server), tmp_path / "b.gz", "urls")


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with Server() as closed:
        url = closed.url()
    with pytest.raises(UserError, match=r"Connection refused, 5 times in a row$"):
        fetch(RemoteSpec(url=url), tmp_path / "a.gz", "urls")


def source_of(server: Server, folder: Path, **urls: dict) -> dict:
    """A source whose files lie on the server and will lie in `folder`."""
    source = table_source(folder / "made", random_interactions(0), numbered_titles(), "downstream")
    urls = {}
    for which, name in (("interactions", "inter.tsv"), ("items", "item.tsv")):
        server.files[f"/{name}"] = Path(source[which]).read_bytes()
        source[which] = str(folder / "raw" / name)
        urls[which] = {"url": server.url(f"/{name}")}
    return {**source, "urls": urls}


def test_prepare_fetches_what_is_missing_and_only_when_it_may(server: Server, tmp_path: Path):
    corpus = {"sources": {"books": source_of(server, tmp_path)}, "candidates": {"protocols": ["u3"]}}
    with pytest.raises(
        UserError,
        match=r"sources.books.interactions: .*inter.tsv is not a file; .*config.corpus.download=true from http",
    ):
        prepare({"corpus": corpus}, tmp_path)
    assert server.asked == []
    asking = {"corpus": {**corpus, "download": True}}
    prepare(asking, tmp_path)
    assert sorted(server.asked) == [("/inter.tsv", None), ("/item.tsv", None)]
    assert state({"corpus": corpus}, tmp_path, "corpus").word == "current"
    assert Corpus.open(tmp_path / "corpus").manifest["sources"]["books"]["rows"]["interactions"] == 900


def test_members_of_an_archive_that_is_fetched_once(server: Server, tmp_path: Path):
    source = source_of(server, tmp_path)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("inter.tsv", "item.tsv"):
            archive.writestr(f"set/{name}", server.files[f"/{name}"])
    server.files["/set.zip"] = content.getvalue()
    names = {"interactions": "set/inter.tsv", "items": "set/item.tsv"}
    source["urls"] = {which: {"url": server.url("/set.zip"), "member": member} for which, member in names.items()}
    spec = corpus_spec({"corpus": {"sources": {"books": source}}})
    download_missing(spec)
    download_missing(spec)
    assert server.asked == [("/set.zip", None)]
    assert Path(source["items"]).read_bytes() == server.files["/item.tsv"]
    Path(source["items"]).unlink()
    source["urls"]["items"]["member"] = "set/itme.tsv"
    with pytest.raises(
        UserError, match=r"urls.items.member: .*set.zip has no 'set/itme.tsv'; did you mean 'set/item.tsv'"
    ):
        download_missing(corpus_spec({"corpus": {"sources": {"books": source}}}))
    (tmp_path / "raw" / "set.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"set.zip: damaged or no zip archive"):
        download_missing(spec)


def test_a_second_process_waits_and_finds_the_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = {"role": "pretrain", "interactions": "a.gz", "urls": {"interactions": {"url": server.url()}}}
    spec = corpus_spec({"corpus": {"root": str(tmp_path), "sources": {"shop": source}, "download": True}})
    begun, go_on, fetched = threading.Event(), threading.Event(), []

    def slow(_: object, path: Path, __: str) -> None:
        fetched.append(path)
        begun.set()
        assert go_on.wait(20)
        path.write_bytes(CONTENT)

    monkeypatch.setattr(download, "fetch", slow)
    first, second = (threading.Thread(target=download_missing, args=(spec,)) for _ in range(2))
    first.start()
    assert begun.wait(20)
    second.start()
    second.join(0.2)
    assert second.is_alive(), "it waits"
    go_on.set()
    first.join()
    second.join()
    assert fetched == [tmp_path / "a.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz"]


def test_a_full_disk_keeps_the_part(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = source_of(server, tmp_path)

    def full(*args: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_receive", full)
    with pytest.raises(
        UserError, match=r"inter.tsv: the disk is full; free some space and run again, the download goes on"
    ):
        download_missing(corpus_spec({"corpus": {"sources": {"books": source}}}))


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ({"interactions": {"url": "file:///etc/passwd"}}, "only http:// and https:// can be fetched"),
        ({"interactions": {"url": "http://x/a", "sha256": "abc"}}, "64 hexadecimal digits are needed"),
        ({"reviews": {"url": "http://x/a"}}, r"urls.reviews: urls are for 'interactions' and 'items'"),
        (
            {"items": {"url": "http://x/a"}},
            r"urls.items: urls are for 'interactions' and 'items', where the source names such a file",
        ),
    ],
)
def test_mistakes_in_the_config(urls, message):
    with pytest.raises(UserError, match=message):
        corpus_spec({"corpus": {"sources": {"books": {"role": "pretrain", "interactions": "inter.tsv", "urls": urls}}}})
