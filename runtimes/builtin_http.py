"""Ready-made handlers that talk HTTP: `http.request` and `webhook.call`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, Literal

import httpx
import msgspec
import pydantic

from windlass.runtimes import failures
from windlass.runtimes.builtin_network import Denied, NetworkPolicy, checked_address
from windlass.runtimes.python_context import TaskContext, TaskFailure, to_json
from windlass.runtimes.python_handlers import Handler, handler

_EXCERPT_CHARACTERS: Final = 2_000
_RETRYABLE_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class HttpRequest(_Strict):
    """What to send."""

    url: str
    method: _Method = "GET"
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    #: Sent as JSON. Give this or `text`.
    body: Any = None
    text: str | None = None
    #: False: any status is a success, and the definition looks at it.
    fail_on_error_status: bool = True


class HttpConfig(_Strict):
    """What a definition sets once."""

    headers: dict[str, str] = {}
    timeout_seconds: float = pydantic.Field(default=30.0, gt=0, le=600)
    redirects_max: int = pydantic.Field(default=0, ge=0, le=10)


class HttpResponse(_Strict):
    """What came back. `body` is there when the answer was JSON, `text` when it was something else."""

    status: int
    headers: dict[str, str]
    body: Any = None
    text: str | None = None


class WebhookCall(_Strict):
    """What to tell whom."""

    url: str
    event: str
    payload: Any = None


class WebhookConfig(HttpConfig):
    """`secret`: key of the HMAC-SHA256 of the body, sent as `Windlass-Signature: sha256=<hex>`."""

    secret: pydantic.SecretStr | None = None


class _PinnedTransport(httpx.AsyncBaseTransport):
    """Connects to the address that was checked; name and certificate stay those of the host."""

    def __init__(self, policy: NetworkPolicy, denied: Denied) -> None:
        self._policy = policy
        self._denied = denied
        self._inner = httpx.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Check, then send."""
        url = request.url
        if url.scheme not in ("http", "https"):
            self._denied(f"{url.scheme}://{url.host}")
            bare = str(url.copy_with(userinfo=b"", query=None, fragment=None))[:200]  # a history keeps no secrets
            message = f"the URL {bare!r} begins with neither http:// nor https://"
            raise TaskFailure(failures.ADDRESS_REFUSED, message, retryable=False)
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await checked_address(self._policy, url.host, port, self._denied)
        pinned = httpx.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": url.host},
        )
        return await self._inner.handle_async_request(pinned)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def http_handlers(policy: NetworkPolicy) -> list[Handler]:
    """Return the handlers, bound to what they may talk to."""

    @handler("http.request", name="HTTP request", category="network")
    async def http_request(input: HttpRequest, config: HttpConfig | None, ctx: TaskContext) -> HttpResponse:
        """Send an HTTP request. The task's idempotency key goes along as `Idempotency-Key`."""
        config = config or HttpConfig()
        content = to_json(input.body) if input.body is not None else (input.text or "").encode()
        headers = {**config.headers, **input.headers}
        if input.body is not None:
            headers.setdefault("Content-Type", "application/json")
        headers.setdefault("Idempotency-Key", ctx.task.idempotency_key)
        async with _client(policy, config, partial(ctx.denied, "address", "http.request")) as client:
            request = _request(client, input.method, input.url, headers, content, input.query)
            response = await _send(client, request, policy)
        if input.fail_on_error_status and response.status >= 400:
            raise _error_status(response)
        return response

    @handler("webhook.call", name="Webhook", category="network")
    async def webhook_call(input: WebhookCall, config: WebhookConfig | None, ctx: TaskContext) -> HttpResponse:
        """Tell somebody that something happened: a signed POST with the event and who it comes from."""
        config = config or WebhookConfig()
        task = ctx.task
        content = to_json(
            {"event": input.event, "run_id": task.run_id, "definition": task.definition, "payload": input.payload}
        )
        headers = {**config.headers, "Content-Type": "application/json", "Idempotency-Key": task.idempotency_key}
        if config.secret is not None:
            signature = hmac.new(config.secret.get_secret_value().encode(), content, hashlib.sha256).hexdigest()
            headers["Windlass-Signature"] = f"sha256={signature}"
        async with _client(policy, config, partial(ctx.denied, "address", "webhook.call")) as client:
            response = await _send(client, _request(client, "POST", input.url, headers, content, {}), policy)
        if response.status >= 400:
            raise _error_status(response)
        return response

    return [http_request, webhook_call]


@asynccontextmanager
async def _client(policy: NetworkPolicy, config: HttpConfig, denied: Denied) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=_PinnedTransport(policy, denied),
        timeout=config.timeout_seconds,
        follow_redirects=config.redirects_max > 0,
        max_redirects=config.redirects_max,
        trust_env=False,
    ) as client:
        yield client


def _request(
    client: httpx.AsyncClient, method: str, url: str, headers: dict[str, str], content: bytes, query: dict[str, str]
) -> httpx.Request:
    try:
        return client.build_request(method, url, headers=headers, content=content or None, params=query or None)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError, TypeError) as error:
        raise _unsendable(error) from error


def _unsendable(error: Exception) -> TaskFailure:
    return TaskFailure(failures.BAD_INPUT, f"this request cannot be made: {error}", retryable=False)


async def _send(client: httpx.AsyncClient, request: httpx.Request, policy: NetworkPolicy) -> HttpResponse:
    """Send and read at most as much as is allowed. Raises TaskFailure."""
    try:
        response = await client.send(request, stream=True)
        try:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > policy.response_bytes_max:
                    limit = policy.response_bytes_max
                    raise TaskFailure(
                        failures.OUTPUT_TOO_LARGE, f"the answer is larger than {limit} bytes", retryable=False
                    )
        finally:
            await response.aclose()
    except (httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise TaskFailure(failures.REMOTE_ERROR, str(error), retryable=False) from error
    except httpx.LocalProtocolError as error:  # what was given makes no HTTP request: nothing was sent
        raise _unsendable(error) from error
    except httpx.HTTPError as error:
        message = f"{request.method} {request.url.host}: {type(error).__name__}: {error}"
        raise TaskFailure(failures.REMOTE_ERROR, message, retryable=True) from error
    return _response(response, bytes(content))


def _response(response: httpx.Response, content: bytes) -> HttpResponse:
    body, text = None, None
    if "json" in response.headers.get("content-type", ""):
        try:
            body = msgspec.json.decode(content) if content else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            text = content.decode("utf-8", "replace")  # it says JSON and is none: then it is text
    elif content:
        text = _text(content, response.charset_encoding or "utf-8")
    return HttpResponse(status=response.status_code, headers=dict(response.headers), body=body, text=text)


def _text(content: bytes, encoding: str) -> str:
    """The server says the encoding: one that nobody knows must not make a failure of what was done."""
    try:
        return content.decode(encoding, "replace")
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")


def _error_status(response: HttpResponse) -> TaskFailure:
    said = response.text if response.text is not None else to_json(response.body).decode()
    return TaskFailure(
        failures.REMOTE_ERROR,
        f"the server answered {response.status}",
        details={"status": response.status, "answer": said[:_EXCERPT_CHARACTERS]},
        retryable=response.status in _RETRYABLE_STATUS,
        next_delay=_retry_after(response.headers),
    )


def _retry_after(headers: dict[str, str]) -> str | None:
    """Return the Retry-After header's seconds as a duration; a date in it is ignored unless it can be read."""
    value = headers.get("retry-after", "").strip()
    if value.isdigit() and len(value) < 7:
        return f"{value}s"
    sent = headers.get("date", "")
    try:
        seconds = (parsedate_to_datetime(value) - parsedate_to_datetime(sent)).total_seconds()
    except (ValueError, TypeError):
        return None
    return f"{int(seconds)}s" if 0 < seconds < 1_000_000 else None
