"""The ready-made network handlers: what they send, what they refuse. The servers are real and on this machine."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.server
import ipaddress
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
import pytest

from tests.runtimes.guests import task
from windlass.runtimes import failures
from windlass.runtimes.builtin import standard_handlers
from windlass.runtimes.builtin_network import NetworkPolicy, checked_address
from windlass.runtimes.port import Activation, Completion, Denial
from windlass.runtimes.python import PythonHandlers
from windlass.runtimes.python_context import TaskFailure
from windlass.runtimes.python_handlers import HandlerRegistry

LOCAL = NetworkPolicy(networks=(ipaddress.ip_network("127.0.0.0/8"),), response_bytes_max=10_000)


class _Answering(http.server.BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[str, dict[str, str], bytes]]] = []

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.path, dict(self.headers), body))
        status, headers, content = {
            "/json": (200, {"Content-Type": "application/json"}, b'{"ok":true}'),
            "/broken": (200, {"Content-Type": "application/json"}, b"{nope"),
            "/latin": (200, {"Content-Type": "application/json"}, b'{"a":"\xe4"}'),
            "/odd": (200, {"Content-Type": "text/plain; charset=nope"}, "hä".encode()),
            "/busy": (503, {"Retry-After": "7"}, b"later"),
            "/gone": (410, {}, b"gone"),
            "/large": (200, {}, b"x" * 20_000),
            "/inside": (302, {"Location": "http://10.0.0.1/secret"}, b""),
            "/moved": (302, {"Location": "/json"}, b""),
        }.get(self.path.partition("?")[0], (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A small web server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


async def run(type: str, input: object, config: object = None, policy: NetworkPolicy = LOCAL) -> Completion:
    """Run one of the ready-made handlers."""
    python = PythonHandlers(HandlerRegistry(standard_handlers(policy)))
    try:
        return await python.run(
            Activation(
                task=task(),
                runtime="python",
                entry=type,
                input=msgspec.json.encode(input),
                config=msgspec.json.encode(config),
            )
        )
    finally:
        await python.close()


def failure_of(done: Completion) -> tuple[str, bool | None]:
    """Return code and retryable."""
    assert done.failure is not None, done
    return done.failure.code, done.failure.retryable


async def test_request_and_answer(site: str) -> None:
    done = await run("http.request", {"url": f"{site}/json", "method": "POST", "body": {"a": 1}, "query": {"q": "x y"}})
    assert done.failure is None, done
    answer = msgspec.json.decode(done.output)
    assert (answer["status"], answer["body"]) == (200, {"ok": True})
    path, headers, body = _Answering.seen[-1]
    assert path in ("/json?q=x+y", "/json?q=x%20y")
    assert body == b'{"a":1}'
    assert headers["Idempotency-Key"].startswith("run-1:")
    assert headers["Host"] == site.removeprefix("http://")


@pytest.mark.parametrize(
    ("path", "code", "retryable"),
    [
        ("/busy", failures.REMOTE_ERROR, True),
        ("/gone", failures.REMOTE_ERROR, False),
        ("/large", failures.OUTPUT_TOO_LARGE, False),
    ],
)
async def test_errors_of_the_other_side(site: str, path: str, code: str, retryable: bool) -> None:
    done = await run("http.request", {"url": site + path})
    assert failure_of(done) == (code, retryable)
    if path == "/busy":
        assert done.failure is not None
        assert done.failure.next_delay_us == 7_000_000
        assert msgspec.json.decode(done.failure.details) == {"status": 503, "answer": "later"}


async def test_error_status_may_be_a_success(site: str) -> None:
    done = await run("http.request", {"url": f"{site}/gone", "fail_on_error_status": False})
    assert msgspec.json.decode(done.output)["status"] == 410


async def test_json_that_is_none_is_text(site: str) -> None:
    for path, text in (("broken", "{nope"), ("latin", '{"a":"\ufffd"}')):
        done = await run("http.request", {"url": f"{site}/{path}"})
        assert done.failure is None, done
        assert msgspec.json.decode(done.output)["text"] == text


async def test_an_answer_in_an_encoding_that_nobody_knows_is_an_answer(site: str) -> None:
    """As a failure it would be tried again, and the request was done."""
    done = await run("http.request", {"url": f"{site}/odd", "method": "POST"})
    assert done.failure is None, done
    assert msgspec.json.decode(done.output)["text"] == "hä"


@pytest.mark.parametrize(
    "wrong", [{"headers": {"X": "a\nb"}}, {"url": f"http://{'a' * 70}.com/"}, {"url": "http://a..b/"}]
)
async def test_what_cannot_be_sent_is_the_inputs_fault(site: str, wrong: dict[str, object]) -> None:
    assert failure_of(await run("http.request", {"url": site, **wrong})) == (failures.BAD_INPUT, False)


@pytest.mark.parametrize(
    ("url", "named"), [("example.com/x", "example.com/x'"), ("ftp://me:hush@h.com/x?key=hush", "'ftp://h.com/x'")]
)
async def test_a_url_of_another_kind_is_named_without_its_secrets(url: str, named: str) -> None:
    done = await run("http.request", {"url": url})
    assert failure_of(done) == (failures.ADDRESS_REFUSED, False)
    assert done.failure is not None
    assert named in done.failure.message
    assert "hush" not in done.failure.message


async def test_redirects_are_followed_only_when_asked_and_checked_again(site: str) -> None:
    plain = await run("http.request", {"url": f"{site}/moved"})
    assert msgspec.json.decode(plain.output)["status"] == 302
    followed = await run("http.request", {"url": f"{site}/moved"}, {"redirects_max": 3})
    assert msgspec.json.decode(followed.output)["body"] == {"ok": True}
    inside = await run("http.request", {"url": f"{site}/inside"}, {"redirects_max": 3})
    assert failure_of(inside) == (failures.ADDRESS_REFUSED, False)
    assert inside.denials == (Denial("address", "http.request", "10.0.0.1:80 = 10.0.0.1"),)
    assert followed.denials == ()


async def test_each_handler_writes_down_what_it_was_refused() -> None:
    listed = NetworkPolicy(hosts=("api.example.com",))
    hook = await run("webhook.call", {"url": "https://evil.test/x?secret=1", "event": "e"}, policy=listed)
    assert failure_of(hook) == (failures.ADDRESS_REFUSED, False)
    assert hook.denials == (Denial("address", "webhook.call", "evil.test:443"),)
    config = {"host": "127.0.0.1", "sender": "a@example.com", "port": 25}
    mail = await run("email.send", {"to": ["b@example.com"], "subject": "s"}, config, NetworkPolicy())
    assert mail.denials == (Denial("address", "email.send", "127.0.0.1:25 = 127.0.0.1"),)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost:8080/",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data",
        "http://192.168.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://0.0.0.0/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://224.0.0.1/",
        "http://[fd00::1]/",
        "http://100.64.0.1/",
    ],
)
async def test_addresses_that_are_not_public_are_refused(url: str) -> None:
    done = await run("http.request", {"url": url}, policy=NetworkPolicy())
    code, _ = failure_of(done)
    assert code in (failures.ADDRESS_REFUSED, failures.REMOTE_ERROR), done
    assert code == failures.ADDRESS_REFUSED or "resolve" in (done.failure.message if done.failure else "")


async def test_only_listed_hosts_when_there_is_a_list() -> None:
    policy = NetworkPolicy(hosts=("api.example.com", "*.example.org"), networks=(ipaddress.ip_network("127.0.0.0/8"),))
    for host in ("api.example.com", "API.example.com.", "a.b.example.org"):
        assert policy.allows_host(host)
    for host in ("example.org", "badexample.org", "api.example.com.evil.net", "127.0.0.1"):
        assert not policy.allows_host(host)
    with pytest.raises(TaskFailure, match="list of allowed hosts"):
        await checked_address(policy, "localhost", 80, print)


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/", "file:///etc/passwd", "http://", "nonsense", "http://127.0.0.1:1/"]
)
async def test_urls_that_lead_nowhere(url: str) -> None:
    done = await run("http.request", {"url": url})
    assert failure_of(done)[0] in (failures.REMOTE_ERROR, failures.BAD_INPUT, failures.ADDRESS_REFUSED)


async def test_webhook_is_signed(site: str) -> None:
    done = await run("webhook.call", {"url": f"{site}/json", "event": "paid", "payload": [1]}, {"secret": "key"})
    assert done.failure is None, done
    _, headers, body = _Answering.seen[-1]
    assert msgspec.json.decode(body) == {"event": "paid", "run_id": "run-1", "definition": "orders", "payload": [1]}
    assert headers["Windlass-Signature"] == "sha256=" + hmac.new(b"key", body, hashlib.sha256).hexdigest()


async def test_log_writes_to_the_run() -> None:
    for fields in ({"a": 1}, {"level": "x", "message": "y", "self": "z"}):
        done = await run("log.write", {"message": "hello", "level": "warn", "fields": fields})
        assert [(line.level, line.message) for line in done.logs] == [("warn", "hello")], done.failure
        assert msgspec.json.decode(done.logs[0].metadata) == fields


@asynccontextmanager
async def _mail_server(refuse: str = "", answer: str = "451 not now") -> AsyncIterator[tuple[int, list[str]]]:
    """A mail server of a few words: enough of SMTP to take one message."""
    lines: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        in_data = False
        while data := await reader.readline():
            line = data.decode().rstrip("\r\n")
            lines.append(line)
            if in_data and line != ".":
                continue
            in_data = line.upper() == "DATA"
            refused = refuse and line.upper().startswith(refuse)
            writer.write(b"354 go on\r\n" if in_data else f"{answer}\r\n".encode() if refused else b"250 ok\r\n")
            if line.upper() == "QUIT":
                break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], lines


def _mail_config(port: int) -> dict[str, object]:
    return {"host": "127.0.0.1", "port": port, "sender": "Windlass <w@example.com>", "security": "none"}


async def test_email_is_sent() -> None:
    async with _mail_server() as (port, lines):
        done = await run("email.send", {"to": ["a@example.com"], "subject": "Hi", "text": "Hello"}, _mail_config(port))
    assert done.failure is None, done
    assert msgspec.json.decode(done.output)["message_id"].endswith("@example.com>")
    assert "Subject: Hi" in lines
    assert any("a@example.com" in line for line in lines if line.upper().startswith("RCPT"))


async def test_email_that_is_not_taken_now_may_be_tried_again() -> None:
    async with _mail_server("MAIL") as (port, _):
        done = await run("email.send", {"to": ["a@example.com"], "subject": "Hi"}, _mail_config(port))
    assert failure_of(done) == (failures.REMOTE_ERROR, True)


@pytest.mark.parametrize(("answer", "retryable"), [("451 greylisted", True), ("550 nobody", False)])
async def test_recipients_that_are_not_taken_now_may_be_tried_again(answer: str, retryable: bool) -> None:
    async with _mail_server("RCPT", answer) as (port, _):
        done = await run("email.send", {"to": ["a@example.com"], "subject": "Hi"}, _mail_config(port))
    assert failure_of(done) == (failures.REMOTE_ERROR, retryable)
    assert done.failure is not None
    assert answer in done.failure.message
    assert msgspec.json.decode(done.failure.details) == {"refused": {"a@example.com": answer}}


async def test_email_headers_cannot_be_smuggled() -> None:
    bad = {"to": ["a@example.com"], "subject": "Hi\r\nBcc: everybody@example.com"}
    assert failure_of(await run("email.send", bad, _mail_config(1)))[0] == failures.BAD_INPUT


async def test_mail_server_must_be_public_too() -> None:
    done = await run("email.send", {"to": ["a@example.com"], "subject": "Hi"}, _mail_config(25), policy=NetworkPolicy())
    assert failure_of(done) == (failures.ADDRESS_REFUSED, False)
