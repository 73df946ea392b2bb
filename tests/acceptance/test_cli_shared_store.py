"""`windlass storage check --deep --storage`: the deep check of a store that several engines share."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.acceptance.programs import EXAMPLES, Engine, Terminal
from tests.storage.backends_postgres import fresh_url, missing
from windlass.engine import keys
from windlass.storage.port import Transaction
from windlass.storage.postgres import open_postgres


async def _forget_a_queue_entry(url: str) -> None:
    storage = await open_postgres(url)

    async def body(tr: Transaction) -> None:
        head = keys.queue("default", "default", "javascript")
        tr.clear_range(head, keys.end(head))

    await storage.transact(body)
    await storage.close()


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_shared_store_is_checked_by_its_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = fresh_url()
    running = Engine(tmp_path, "--storage", url)
    windlass = Terminal(capsys, running.address)
    try:
        windlass.good("register", str(EXAMPLES / "hello.yaml"))
        windlass.good("start", "hello", "--input", '{"name": "Ada"}')
    finally:
        running.stop()
    check = ("storage", "check", "--deep", "--storage", url, "-o", "json")
    assert json.loads(windlass.good(*check, engine=False))["findings"] == []
    asyncio.run(_forget_a_queue_entry(url))
    code, out, err = windlass(*check, engine=False)
    assert code == 3
    assert json.loads(out)["findings"]
    assert "breaks 1 invariants" in err


def test_a_check_without_a_directory_takes_the_one_that_the_engine_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WINDLASS_DATA_DIR", raising=False)
    windlass = Terminal(capsys, "")
    code, _, err = windlass("storage", "check", engine=False)
    assert code == 3
    assert ".windlass" in err
    code, _, err = windlass("storage", "check", "--storage", "postgres://nowhere", engine=False)
    assert code == 2
    assert "--deep" in err
