"""The playground: a page of static files, built from `web/` and shipped in `static/`.

Only the files that are there when the package is imported are served, by their exact paths; nothing
of a request reaches the file system.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from codellama.server.schema import Body
from codellama.server.web import Call, Endpoint

FOLDER = Path(__file__).parent / "static"

KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}

# Scripts and styles come from this server's files alone, the page speaks to this server alone, no
# page may frame it, and text cannot become markup: with no policy allowed, a browser that knows
# Trusted Types refuses every such assignment.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_FOREVER = b"public, max-age=31536000, immutable"  # the name of such a file holds its hash


@dataclass(frozen=True, kw_only=True)
class File:
    """A file's bytes as they are and compressed, and the tag that tells its versions apart."""

    kind: bytes
    plain: bytes
    packed: bytes
    tag: bytes


@cache
def _read(name: str) -> File:
    path = FOLDER / name
    plain = path.read_bytes()
    tag = hashlib.sha256(plain).hexdigest()[:32]
    return File(
        kind=KINDS[path.suffix],
        plain=plain,
        packed=gzip.compress(plain, 9, mtime=0),
        tag=b'"%s"' % tag.encode(),
    )


async def _send(call: Call, name: str, caching: bytes) -> None:
    file = _read(name)
    headers = dict(call.scope["headers"])
    call.headers += [*_HEADERS, (b"etag", file.tag), (b"cache-control", caching)]
    if file.tag in headers.get(b"if-none-match", b"").split(b", "):
        await call.empty(304)
        return
    content = file.plain
    if b"gzip" in headers.get(b"accept-encoding", b""):
        content = file.packed
        call.headers.append((b"content-encoding", b"gzip"))
    await call.data(content, file.kind)


async def page(call: Call) -> None:
    """The page itself; asked for again each time, and sent again only where it changed."""
    call.headers.append((b"vary", b"accept, accept-encoding"))
    await _send(call, "index.html", b"no-cache")


def _endpoint(name: str) -> Endpoint[Any]:
    async def answer(call: Call, _: Body) -> None:
        call.headers.append((b"vary", b"accept-encoding"))
        await _send(call, name, _FOREVER)

    answer.__doc__ = f"`GET /{name}`: a file of the playground."
    return Endpoint(f"/{name}", ("GET", "HEAD"), answer)


ENDPOINTS: list[Endpoint[Any]] = [
    _endpoint(f"assets/{path.name}") for path in sorted((FOLDER / "assets").glob("*"))
]
PATHS = frozenset(endpoint.path for endpoint in ENDPOINTS)
