"""What the comparison is made of, without the peers: they are installed when it is run, not for a test."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.compare import rated
from benchmarks.load import started
from benchmarks.peers.http_loop import HttpLoop
from benchmarks.peers.installing import CannotInstall, install_restate
from benchmarks.peers.sides import Compared


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that doubles, and sends its answers in two pieces; above 9 it fails."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        assert head.startswith(b"POST /double HTTP/1.1\r\n")
        number = int(await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])))
        body = b"%d" % (number * 2)
        status = b"200 OK" if number < 10 else b"500 Internal Server Error"
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body[:1])
        await writer.drain()
        writer.write(body[1:])


@pytest.mark.parametrize(("body", "good"), [(b"7", True), (b"10", False)])
async def test_a_closed_loop_over_http(body: bytes, good: bool) -> None:
    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with started(HttpLoop(port, "/double", body, in_flight=3)) as loop:
        load = await loop.window(0.1)
    assert (load.finished > 0) is good
    assert (load.failed == 0) is good
    assert len(load.latencies_ms) == load.finished + load.failed
    server.close()


async def test_a_server_that_goes_away_is_said() -> None:
    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refusing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectionError):
        await HttpLoop(port, "/", b"1", in_flight=1).run()
    server.close()


def test_a_peer_that_cannot_be_had_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotInstall, match="node is not on the PATH"):
        install_restate(tmp_path / "restate")


def line(system: str, in_flight: int, steps: float, p50: float) -> Compared:
    return Compared(system, "dispatched", "w1", in_flight, steps, steps, p50, p50, 0, 0, 0, 0)


def test_the_ratio_is_of_rates_under_load_and_of_latency_alone() -> None:
    under_load = rated(
        [line("Windlass, unary", 64, 500, 9), line("Windlass, batch", 64, 900, 9), line("R", 64, 300, 9)]
    )
    assert [round(each.ahead, 1) for each in under_load] == [1.8, 1.0, 3.0]
    alone = rated([line("Windlass, unary", 1, 500, 2), line("R", 1, 300, 9)])
    assert [each.ahead for each in alone] == [1.0, 4.5]
    assert rated([line("Windlass, unary", 64, 500, 9), line("R", 64, 0, 0)])[1].cells()[-1] == "-"
