"""Who may ask: checked on the raw request, before anything else looks at it.

Closed by default: a path is open to everybody only when it is in `OPEN`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from codellama.server import playground
from codellama.server.refusals import Refusal, encode, shape_of
from codellama.server.settings import Settings

OPEN = frozenset({"/", "/health", "/ready", "/v1/health"}) | playground.PATHS
EDITORS = ("vscode-webview://", "vscode-file://")

_HOST = re.compile(rb"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_KEY_HEADERS = (b"authorization", b"x-api-key", b"api-key")


class Access:
    """ASGI middleware: Host, Origin, media type and key, in this order.

    Puts `codellama.key` into the scope: what tells the key's cache from those of others.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Sequence[str]) -> None:
        self._app = app
        self._settings = settings
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._origins = frozenset(o for o in settings.origins if o != "editors")
        self._has_editors = "editors" in settings.origins
        self._hosts = frozenset(host.lower().encode() for host in settings.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        try:
            self._check_host(scope, headers)
            origin = self._check_origin(scope, headers)
            if scope["method"] == "OPTIONS":
                await _preflight(send, origin)
                return
            self._check_key(scope, headers)
        except Refusal as refusal:
            await _refuse(send, scope["path"], refusal)
            return
        if origin is not None:
            send = _with_origin(send, origin)
        await self._app(scope, receive, send)

    def _check_host(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
            raise Refusal(400, "the Host header is missing, doubled or no host", code="bad_host")
        host = hosts[0].lower()
        server = scope.get("server") or ("", self._settings.port)
        allowed = {b"127.0.0.1", b"localhost", b"[::1]", self._settings.host.encode()}
        port = server[1]
        names = {b"%s:%d" % (name, port) for name in allowed}
        if port == 80:
            names |= allowed
        if host not in names and host not in self._hosts:
            raise Refusal(421, "this server does not answer to that host", code="unknown_host")

    def _check_origin(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """The other origin to answer to, if the request names one that is allowed.

        The server's own page names the host that it was read from, which was checked before; what
        stands in front of the server may have made its scheme https.
        """
        origins = [value for name, value in headers if name == b"origin"]
        if not origins:
            return None
        origin = origins[0].decode("latin-1")
        is_editor = self._has_editors and origin.startswith(EDITORS)
        host = next(value for name, value in headers if name == b"host").decode("latin-1").lower()
        is_own = origin in (f"http://{host}", f"https://{host}")
        if len(origins) > 1 or not (is_own or origin in self._origins or is_editor):
            raise Refusal(403, "pages of this origin may not call", code="origin_not_allowed")
        kinds = [value for name, value in headers if name == b"content-type"]
        is_json = len(kinds) == 1 and kinds[0].split(b";")[0].strip().lower() == b"application/json"
        if scope["method"] == "POST" and not is_json:
            raise Refusal(415, "pages send application/json", code="unsupported_media_type")
        return None if is_own else origins[0]

    def _check_key(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
        path = scope["path"]
        if not self._digests or path in OPEN:
            return
        if path == "/metrics" and self._settings.public_metrics:
            return
        found = [(name, value) for name, value in headers if name in _KEY_HEADERS]
        if len({name for name, _ in found}) != len(found):
            raise _unauthorised()
        known = None
        presented = 0
        for name, value in found:
            key = value
            if name == b"authorization":
                if value[:7].lower() != b"bearer ":
                    raise _unauthorised()
                key = value[7:]
            if not key or key == b"undefined":
                continue  # clients without a key send the header all the same
            presented += 1
            digest = hashlib.sha256(key).digest()
            # Every key is compared, so that time tells nothing about which one was near.
            matches = [hmac.compare_digest(digest, one) for one in self._digests]
            if not any(matches):
                raise _unauthorised()
            known = matches.index(True)
        if known is None or not presented:
            raise _unauthorised()
        if not self._settings.share_across_keys:
            scope["codellama.key"] = self._digests[known]


def _unauthorised() -> Refusal:
    return Refusal(401, "there is no valid key in the request", code="invalid_api_key")


async def _refuse(send: Send, path: str, refusal: Refusal) -> None:
    data = encode(refusal.body(shape_of(path)))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(data)),
        *refusal.headers(),
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _preflight(send: Send, origin: bytes | None) -> None:
    headers = [(b"content-length", b"0")]
    if origin is not None:
        headers += [
            *_cors(origin),
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, x-api-key, api-key"),
            (b"access-control-max-age", b"600"),
        ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _cors(origin: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]


def _with_origin(send: Send, origin: bytes) -> Send:
    async def wrapped(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers")
            assert isinstance(headers, list), "the answer's headers are a list"
            message["headers"] = [*headers, *_cors(origin)]
        await send(message)

    return wrapped  # type: ignore[return-value]  # an ASGI application as well
