"""Fetches the missing files of the sources (`config.corpus.download=true`); without that key nothing here touches the
network.

A file grows under the name `FILE.part` and gets its own when it is whole and its checksum is right. A dropped
connection, now or in an earlier run, is taken up where it broke (HTTP Range; If-Range where the server names a version,
kept in `FILE.part.version`). A second process that wants the same file waits for the first.
"""

import errno
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path

from cprec_jax.config.build import nearest
from cprec_jax.config.corpus import CorpusSpec
from cprec_jax.config.source import FILES, RemoteSpec
from cprec_jax.errors import UserError, one_line, shown
from cprec_jax.progress import say
from data_prep.file_lock import alone_with
from data_prep.source_files import target_path, target_paths

ATTEMPTS = 5  # in a row without a single new byte
PAUSE = 1.0  # seconds, doubled with every attempt in vain
TIMEOUT = 60.0  # seconds without an answer
SAY_EVERY = 30.0  # seconds
_CHUNK = 1 << 20
_DROPPED = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors
_HASHES = {32: "md5", 64: "sha256"}
_HEX = re.compile(r"\b(?:[0-9a-fA-F]{64}|[0-9a-fA-F]{32})\b")
_MOST_BYTES_OF_LIST = 16 << 20  # bytes of a file of checksums


def download_missing(spec: CorpusSpec) -> None:
    """Fetch every file that a source has a URL for and that is not there yet. What cannot be had is a `UserError`."""
    _refuse_what_has_no_url(spec)
    for source in spec.sources:
        for which, remote in source.urls.items():
            where = f"config.corpus.sources.{source.name}.urls.{which}"
            path = target_path(spec.root, source, which)
            if path.is_file():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with alone_with(path):
                    if not path.is_file():  # another process may have been at it
                        _bring(remote, path, where)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise UserError(
                        f"{path}: the disk is full; free some space and run again, the download goes on where it is"
                    ) from error
                raise UserError(
                    f"{path}: cannot be written ({error.strerror or one_line(error)}); check config.corpus.root"
                ) from error


def _refuse_what_has_no_url(spec: CorpusSpec) -> None:
    """Before hours of fetching, not after: every file that is not there and that nothing says where to get."""
    named = [
        (source, which)
        for source in spec.sources
        for which in FILES
        if getattr(source, which) and which not in source.urls
    ]
    paths = [
        (path, f"{source.name}.{which}") for source, which in named for path in target_paths(spec.root, source, which)
    ]
    missing = [f"{shown(path)} (config.corpus.sources.{where})" for path, where in paths if not path.exists()]
    if missing:
        raise UserError(
            "config.corpus.download: files that are not there and have no URL; put them in place first: "
            f"{', '.join(missing)}"
        )


def _bring(remote: RemoteSpec, path: Path, where: str) -> None:
    if remote.member is None:
        return fetch(remote, path, where)
    archive = path.parent / remote.url.rstrip("/").rpartition("/")[2]
    with alone_with(archive):
        if not archive.is_file():
            fetch(remote, archive, where)
    _take_out(archive, remote.member, path, where)


def fetch(remote: RemoteSpec, path: Path, where: str) -> None:
    """One file, whole and with the right checksum, or a `UserError` that starts with `where`."""
    expected = _expected(remote, where)
    part, version = Path(f"{path}.part"), Path(f"{path}.part.version")
    say(f"{path.name}: fetching {remote.url}")
    resumed = _fill(remote.url, part, version, where)
    checksum = _checksum(part, expected)
    if expected and checksum != expected[1] and resumed:  # the beginning may be that of another version of the file
        say(f"{path.name}: wrong {expected[0]} after going on from an earlier part; once more from the start")
        part.unlink()
        _fill(remote.url, part, version, where)
        checksum = _checksum(part, expected)
    if expected and checksum != expected[1]:
        part.unlink()
        version.unlink(missing_ok=True)
        raise UserError(
            f"{where}: the checksum of {remote.url} is wrong: {expected[0]} {checksum}, not {expected[1]}; "
            "it came damaged or is another version of the file, and is not kept"
        )
    if not expected:
        say(f"{path.name}: no checksum in the config; its sha256 is {checksum}")
    os.replace(part, path)
    version.unlink(missing_ok=True)


def _fill(url: str, part: Path, version: Path, where: str) -> bool:
    """Bring `part` to its full length over as many connections as it takes; returns whether it began with bytes of an
    earlier run."""
    resumed, in_vain = part.is_file() and part.stat().st_size > 0, 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            if _receive(url, part, version):
                return resumed
            trouble = "the connection broke"
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing comes after the part: it is whole, or too long
                if error.headers.get("Content-Range", "") == f"bytes */{before}":
                    return resumed
                part.unlink()
                continue
            if error.code < 500 and error.code not in (408, 425, 429):
                raise UserError(f"{where}: {url} answers {error.code} {error.reason}; check the address") from error
            trouble = f"it answers {error.code} {error.reason}"
        except _DROPPED as error:
            if isinstance(error, OSError) and error.errno in (
                errno.ENOSPC,
                errno.EDQUOT,
                errno.EFBIG,
                errno.EACCES,
                errno.EROFS,
            ):
                raise
            trouble = one_line(getattr(error, "reason", None) or error or type(error).__name__)
        after = part.stat().st_size if part.is_file() else 0
        in_vain = 0 if after > before else in_vain + 1
        if in_vain == ATTEMPTS:
            kept = f"; {after:,} bytes are kept in {part}, run again to go on" if after else ""
            raise UserError(f"{where}: {url}: {trouble}, {ATTEMPTS} times in a row{kept}")
        time.sleep(PAUSE * 2**in_vain if in_vain else 0)


def _receive(url: str, part: Path, version: Path) -> bool:
    """One connection: append to `part` what comes, or start it again if the server does not go on where it ends;
    whether all came."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "cprec_jax", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if version.is_file():
            request.add_header("If-Range", version.read_text(encoding="ascii"))
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        goes_on = (
            answer.status == 206 and re.match(rf"bytes {have}-", answer.headers.get("Content-Range", "")) is not None
        )
        if answer.status == 206 and not goes_on:
            part.unlink()  # another piece than was asked for
            return False
        _keep_version(answer.headers, version)
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if goes_on else 0)
        with open(part, "ab" if goes_on else "wb") as stream:
            last_said = time.monotonic()
            while chunk := answer.read1(_CHUNK):
                stream.write(chunk)
                if time.monotonic() - last_said > SAY_EVERY:
                    last_said = time.monotonic()
                    say(f"{part.name}: {stream.tell():,} of {total or 0:,} bytes")
            return total is None or stream.tell() >= total


def _keep_version(headers: "http.client.HTTPMessage", version: Path) -> None:
    """What names this version of the file for If-Range: a strong ETag, or the date."""
    tag = headers.get("ETag", "")
    name = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
    if name and name.isascii():
        version.write_text(name, encoding="ascii")
    else:
        version.unlink(missing_ok=True)


def _expected(remote: RemoteSpec, where: str) -> tuple[str, str] | None:
    """(algorithm, hex digits) that the config gives, or the file at `checksum_url`: in the line that names the file,
    where one does."""
    if remote.checksum_url is None:
        given = [(name, value) for name in ("sha256", "md5") if (value := getattr(remote, name))]
        return (given[0][0], given[0][1].lower()) if given else None
    text = _list_of_checksums(remote.checksum_url, where)
    name = urllib.parse.unquote(urllib.parse.urlsplit(remote.url).path.rstrip("/").rpartition("/")[2])
    whole_name = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])") if name else None
    named = [line for line in text.splitlines() if whole_name and whole_name.search(line)]
    digests = sorted(set(_HEX.findall("\n".join(named).lower()) or _HEX.findall(text.lower())), key=len)
    if not digests:
        raise UserError(f"{where}.checksum_url: {remote.checksum_url} holds neither an MD5 nor a SHA-256")
    digest = digests[-1]  # a SHA-256 where there are both
    if sum(len(candidate) == len(digest) for candidate in digests) > 1:
        raise UserError(
            f"{where}.checksum_url: {remote.checksum_url} holds {len(digests)} checksums, and "
            f"{'more than one' if named else 'none'} "
            f"of them beside the name {name!r}; give the right one as {where}.{_HASHES[len(digest)]}"
        )
    return _HASHES[len(digest)], digest


def _list_of_checksums(url: str, where: str) -> str:
    for in_vain in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                return answer.read(_MOST_BYTES_OF_LIST).decode(errors="replace")
        except _DROPPED as error:
            refused = (
                isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 425, 429)
            )
            if refused or in_vain == ATTEMPTS:
                raise UserError(f"{where}.checksum_url: {url} cannot be had ({one_line(error)})") from error
        time.sleep(PAUSE * 2**in_vain)
    raise AssertionError("the last attempt returns or raises")


def _checksum(path: Path, expected: tuple[str, str] | None) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, expected[0] if expected else "sha256").hexdigest()


def _take_out(archive: Path, member: str, path: Path, where: str) -> None:
    """One member of a zip archive as `path`, whole or not at all."""
    part = Path(f"{path}.part")
    try:
        with zipfile.ZipFile(archive) as opened:
            if member not in opened.namelist():
                raise UserError(f"{where}.member: {archive} has no {member!r}{nearest(member, opened.namelist())}")
            with opened.open(member) as source, open(part, "wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive}: damaged or no zip archive ({one_line(error)}); delete it and run again") from error
    os.replace(part, path)
