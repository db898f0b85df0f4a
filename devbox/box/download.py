"""Streams a URL into a partial file while hashing it; resumes, is bounded, never takes a wrong byte for a right one.

In: an https URL (http only from this computer itself), the partial file, the published digest if there is one.
Out: `Downloaded`, the whole content being in the partial file. Publishing it is the store's work.
"""

import ipaddress
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from devbox import fs, ui
from devbox.box import partial
from devbox.box.partial import Partial
from devbox.config.model import Digest
from devbox.errors import DevboxError, ExitCode
from devbox.version import __version__

_REDIRECTS = 10
_PROGRESS = 64 << 10  # fewer new bytes than this do not count as an attempt that got on
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
ADD = "Or take the file from elsewhere: devbox box add FILE"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """`digests` always holds the sha256, and the published algorithm's if that is another."""

    sha256: str
    size: int
    digests: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes and seconds. `attempts` counts those in a row that brought nothing new."""

    size: int = 32 << 30
    connect: float = 15.0
    stall: float = 30.0
    slowest: int = 1 << 10  # bytes a second, over `stall` seconds
    attempts: int = 5
    pause: float = 0.5


class _Interrupted(Exception):
    """The transfer broke off, and going on may succeed."""


@dataclass(frozen=True, slots=True)
class _Job:
    url: httpx.URL
    digest: Digest | None
    title: str
    bounds: Bounds
    otherwise: str


def fetch(
    url: str,
    part: Path,
    digest: Digest | None,
    *,
    title: str = "",
    bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    otherwise: str = ADD,
) -> Downloaded:
    """Raises `download.…` errors and `store.full`; after those the partial file is kept wherever it can be of use.

    `otherwise` is the hint that says what else can be done about a file that cannot be fetched.
    """
    algorithms = ("sha256", "sha512") if digest and digest.algorithm == "sha512" else ("sha256",)
    job = _Job(_address(url), digest, title or "Fetching an image", bounds, otherwise)
    for last in (False, True):
        with Partial(part, algorithms) as file:
            if digest is None or digest not in file.digests():  # else an earlier run ended after the last byte
                _fill(job, file)
            found, resumed = file.digests(), file.resumed
        if digest is None or digest in found:
            return Downloaded(found[0].value, file.size, found)
        partial.discard(part)
        if not resumed or last:
            break
        # Bytes of an earlier run may have been lost in a crash or belong to an older file, so they prove nothing
        # against the server. A download in one piece does.
        ui.warn("What was already here did not fit the rest; fetching all of it anew.")
    assert digest is not None
    raise _mismatch(job.url, digest, found)


def _fill(job: _Job, file: Partial) -> None:
    failures, begin = 0, file.size
    timeout = httpx.Timeout(job.bounds.stall, connect=job.bounds.connect)
    headers = {"User-Agent": f"devbox/{__version__}", "Accept-Encoding": "identity"}
    with httpx.Client(timeout=timeout, headers=headers, trust_env=not _is_loopback(job.url)) as client:
        while True:
            before = file.size
            try:
                _attempt(client, job, file)
                return
            except (_Interrupted, httpx.TransportError) as trouble:
                failures = 0 if file.size > before + _PROGRESS else failures + 1
                # Without a first connection it is the name, the certificate or the network: waiting is no help.
                alone = isinstance(trouble, httpx.ConnectError) and file.size <= begin
                if alone or failures >= job.bounds.attempts:
                    raise _gave_up(job, file, trouble) from trouble
                ui.note(f"{_reason(trouble)}; going on after {ui.size(file.size)}")
                # A server that is overloaded or restarting needs a moment; there is no event to wait for.
                time.sleep(min(job.bounds.pause * 2**failures, 8.0) if failures else 0)


def _attempt(client: httpx.Client, job: _Job, file: Partial) -> None:
    """One request, and all that it brings, appended to the file."""
    with _open(client, job.url, _resume(job, file)) as response:
        if response.status_code == 416:
            file.keep(0)
            raise _Interrupted("the server has fewer bytes than before")
        _judge_status(response, job)
        total = _total(response, file)
        _judge_total(total, response, job)
        partial.require_space(file.path.parent, (total or 0) - file.size)
        if not file.size:
            headers = response.headers
            file.remember(
                url=str(job.url), etag=headers.get("etag"), modified=headers.get("last-modified"), total=total
            )
        with ui.transfer(job.title, total, already=file.size) as advance:
            _receive(response, file, job.bounds, advance)
        if total is not None and file.size != total:
            if file.size > total:
                file.keep(0)
            raise _Interrupted(f"{ui.size(file.size)} of {ui.size(total)} arrived")


def _receive(response: httpx.Response, file: Partial, bounds: Bounds, advance: Callable[[int], None]) -> None:
    """Takes what comes; raises where it is too much, or slower than any honest server sends."""
    since, arrived, told = time.monotonic(), 0, file.size
    for chunk in response.iter_raw():
        if file.size + len(chunk) > bounds.size:
            file.keep(0)
            raise _too_large(bounds)
        file.write(chunk)
        arrived += len(chunk)
        if file.size - told >= fs.CHUNK:
            advance(file.size - told)
            told = file.size
        now = time.monotonic()
        if now - since > bounds.stall:
            if arrived < bounds.slowest * bounds.stall:
                raise _Interrupted(f"only {ui.size(arrived)} came in {ui.duration(now - since)}")
            since, arrived = now, 0


def _resume(job: _Job, file: Partial) -> dict[str, str]:
    """The headers that ask for the rest. Without a digest only a validator proves that it is the same file still."""
    total = file.state.get("total")
    if file.size and isinstance(total, int) and file.size >= total:
        # The last byte is asked for once more: the answer tells whether the file is still the same.
        file.keep(max(total - 1, 0))
    etag, modified = file.state.get("etag"), file.state.get("modified")
    validator = etag if isinstance(etag, str) and not etag.startswith("W/") else modified
    if job.digest is None and (not validator or file.state.get("url") != str(job.url)):
        file.keep(0)
    if not file.size:
        return {}
    headers = {"Range": f"bytes={file.size}-"}
    return {**headers, "If-Range": validator} if isinstance(validator, str) else headers


def _total(response: httpx.Response, file: Partial) -> int | None:
    """How long the whole file is; the partial file is cut to where this answer begins."""
    if response.status_code == 206:
        unit, _, rest = response.headers.get("content-range", "").partition(" ")
        span, _, whole = rest.partition("/")
        begin = span.partition("-")[0]
        if unit != "bytes" or begin != str(file.size) or not (whole.isdigit() or whole == "*"):
            file.keep(0)
            raise _Interrupted("the server sent another part than the one asked for")
        file.resumed = True
        return int(whole) if whole.isdigit() else None
    if file.size:  # The server ignores ranges, or the file has changed.
        file.keep(0)
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


@contextmanager
def _open(client: httpx.Client, url: httpx.URL, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The answer after all redirects, each of which is held to the same rules as the first address."""
    for _ in range(_REDIRECTS + 1):
        response = client.send(client.build_request("GET", url, headers=headers), stream=True)
        try:
            if not response.has_redirect_location:
                yield response
                return
            url = _follow(url, response.headers["location"])
        finally:
            response.close()
    raise DevboxError("download.redirects", f"{url.host} redirects in circles (more than {_REDIRECTS} times).")


def _follow(url: httpx.URL, location: str) -> httpx.URL:
    try:
        target = url.join(location)
    except (httpx.InvalidURL, ValueError) as bad:
        raise DevboxError("download.refused", f"{url.host} redirects to an address that is none.") from bad
    if url.scheme == "https" and target.scheme != "https":
        raise DevboxError("download.insecure", f"{url.host} redirects from https to {target.scheme}; that is refused.")
    return _address(str(target))


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
        if not address.host and address.scheme in {"http", "https"}:
            raise ValueError("no host")
    except (httpx.InvalidURL, ValueError) as bad:
        raise DevboxError("download.url", f"{url!r} is not an address.", exit_code=ExitCode.USAGE) from bad
    if address.scheme != "https" and not (address.scheme == "http" and _is_loopback(address)):
        raise DevboxError(
            "download.insecure",
            f"Files are fetched by https only, and {_shown(address)} is not.",
            hint="Use the https address; or fetch the file yourself (an image is then added by devbox box add FILE)",
            exit_code=ExitCode.USAGE,
        )
    return address


def _is_loopback(url: httpx.URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def _judge_status(response: httpx.Response, job: _Job) -> None:
    status = response.status_code
    if status in {200, 206}:
        return
    if status in _TRANSIENT:
        raise _Interrupted(f"{response.url.host} answers {status}")
    where = _shown(job.url)
    if status in {404, 410}:
        raise DevboxError("download.gone", f"The file is not there any more ({status}): {where}", hint=job.otherwise)
    raise DevboxError(
        "download.refused", f"{response.url.host} refuses the download ({status}): {where}", hint=job.otherwise
    )


def _judge_total(total: int | None, response: httpx.Response, job: _Job) -> None:
    if total is not None and total > job.bounds.size:
        raise _too_large(job.bounds)
    if total is None and job.digest is None and response.headers.get("transfer-encoding") != "chunked":
        raise DevboxError(
            "download.refused",
            f"{response.url.host} does not say how long the file is, so nothing would tell whether all of it arrived.",
            hint=job.otherwise,
        )


def _too_large(bounds: Bounds) -> DevboxError:
    return DevboxError(
        "download.too-large", f"The file is larger than the {ui.size(bounds.size)} that a file may have."
    )


def _gave_up(job: _Job, file: Partial, trouble: Exception) -> DevboxError:
    after = f"; it goes on after {ui.size(file.size)}" if file.size else ""
    return DevboxError(
        "download.failed",
        f"The download from {job.url.host} failed: {_reason(trouble)}.",
        hint=f"Run the same command again{after}. {job.otherwise}",
        details=_shown(job.url),
    )


def _shown(url: httpx.URL) -> str:
    """The address without what may be secret in it."""
    return str(url.copy_with(userinfo=b"", query=None))


def _reason(trouble: Exception) -> str:
    names: dict[type[Exception], str] = {
        httpx.ReadTimeout: "nothing more came",
        httpx.ConnectTimeout: "no answer came",
        httpx.ConnectError: "no connection",
        httpx.ReadError: "the connection was cut",
        httpx.RemoteProtocolError: "the connection ended too early",
    }
    known = names.get(type(trouble))
    return f"{known} ({trouble})" if known and str(trouble) else known or str(trouble) or type(trouble).__name__


def _mismatch(url: httpx.URL, digest: Digest, found: tuple[Digest, ...]) -> DevboxError:
    got = next(each for each in found if each.algorithm == digest.algorithm)
    return DevboxError(
        "download.digest",
        f"{_shown(url)} is not the file asked for: its digest is {got}, and {digest} was expected. It was removed.",
        hint="Do not use it. If the publisher has replaced the file on purpose, put the new digest into the Devboxfile",
        details=f"expected {digest}\nreceived {got}",
    )
