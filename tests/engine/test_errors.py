"""The public error table: documented, used, and nothing beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from windlass.engine.errors import CODES, RETRYABLE, EngineError
from windlass.engine.service.status import to_status

ROOT = Path(__file__).parents[2]
#: Reasons of the core that never reach a caller: the shell acts on them.
INTERNAL = {"ALREADY_RECORDED", "TASK_NOT_QUEUED"}


def raised() -> set[str]:
    sources = [path.read_text() for path in (ROOT / "engine").rglob("*.py")]
    pattern = re.compile(r'(?:EngineError|Rejection|EngineError\.__init__)\(\s*"([A-Z_]+)"')
    return {reason for source in sources for reason in pattern.findall(source)}


def documented() -> set[str]:
    text = (ROOT / "docs" / "errors.md").read_text().split("## RPC errors")[1].split("\n## ")[0]
    return set(re.findall(r"^\|(?: [A-Z_]+ \|)? ?`([A-Z_]+)` \|", text, re.MULTILINE))


def test_every_reason_raised_is_in_the_table() -> None:
    assert raised() - INTERNAL <= set(CODES)


def test_the_documentation_lists_the_table() -> None:
    assert documented() == set(CODES)


@pytest.mark.parametrize("reason", sorted(CODES))
def test_a_status_has_one_error_info(reason: str) -> None:
    status = to_status(EngineError(reason, "what was wrong", thing="x"))
    kinds = [detail.type_url.rsplit(".", 1)[1] for detail in status.details]
    assert kinds.count("ErrorInfo") == 1
    assert len(set(kinds)) == len(kinds)
    assert ("RetryInfo" in kinds) == (reason in RETRYABLE)
