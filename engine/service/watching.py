"""History in pages, and followed live with a resume token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from windlass.engine.core.state import CLOSED, RunState
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.reading import (
    Numbered,
    compacted,
    find_run_id,
    get_run,
    history,
    oldest_number,
    page_position,
    page_size,
    page_token,
)
from windlass.engine.service import convert, show
from windlass.storage.port import Transaction
from windlass.v1 import workflow_service_pb2 as pb

#: Events in one message of a watch.
BATCH: Final = 200
#: An idle watch says "still here" this often, in seconds, so that both ends notice a dead connection.
IDLE_SECONDS: Final = 15.0


async def history_page(engine: Engine, request: pb.GetHistoryRequest) -> pb.GetHistoryResponse:
    """GetHistory."""
    ns, size = request.namespace or "default", page_size(request.page_size)
    position = _number(page_position(request.page_token)) if request.page_token else 0

    async def body(tr: Transaction) -> tuple[list[Numbered], int]:
        run_id = await find_run_id(tr, ns, request.run_id, request.workflow_id)
        await get_run(tr, ns, run_id)
        after, before = (0, position) if request.reverse else (position, 0)
        limit = size + 1
        found = await history(tr, ns, run_id, after=after, before=before, limit=limit, reverse=request.reverse)
        return found, await oldest_number(tr, ns, run_id)

    found, oldest = await engine.storage.read(body)
    full = request.view != pb.VIEW_BASIC
    response = pb.GetHistoryResponse(events=[show.event_out(each, full=full) for each in found[:size]])
    if len(found) > size:
        response.next_page_token = page_token(str(found[size - 1].number))
    response.oldest_number = oldest
    return response


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise EngineError("BAD_PAGE_TOKEN", "the token was not made by this engine", field="page_token")
    return int(text)


def _resumed(token: str) -> int:
    try:
        return _number(page_position(token))
    except EngineError as error:
        raise EngineError(
            "BAD_RESUME_TOKEN", "the resume token was not made by this engine", field="resume_token"
        ) from error


async def watch(engine: Engine, request: pb.WatchRunRequest) -> AsyncIterator[pb.WatchRunResponse]:
    """WatchRun: events as they are committed, until the run has closed and all was told."""
    ns = request.namespace or "default"
    run_id = await engine.storage.read(lambda tr: find_run_id(tr, ns, request.run_id, request.workflow_id))
    at = _resumed(request.resume_token) if request.resume_token else 0
    if request.from_now:
        at = (await engine.storage.read(lambda tr: get_run(tr, ns, run_id))).seq
    oldest = await engine.storage.read(lambda tr: oldest_number(tr, ns, run_id))
    if request.resume_token and at + 1 < oldest:
        raise compacted(oldest)
    full = request.view != pb.VIEW_BASIC
    with engine.notices.watching(ns, run_id) as moved:
        while True:
            moved.clear()
            state, found = await _since(engine, ns, run_id, at)
            at = found[-1].number if found else at
            ended = state.status in CLOSED and at >= state.seq
            yield _message(engine, state, found, at, ended, full)
            if ended:
                return
            if at < state.seq:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await moved.wait()


async def _since(engine: Engine, ns: str, run_id: str, at: int) -> tuple[RunState, list[Numbered]]:
    async def body(tr: Transaction) -> tuple[RunState, list[Numbered]]:
        return await get_run(tr, ns, run_id), await history(tr, ns, run_id, after=at, limit=BATCH)

    return await engine.storage.read(body)


def _message(
    engine: Engine, state: RunState, found: list[Numbered], at: int, ended: bool, full: bool
) -> pb.WatchRunResponse:
    progress = [
        pb.TaskProgress(visit=task[2], path=task[3], progress=value)
        for task, value in engine.notices.progress.items()
        if task[:2] == (state.namespace, state.run_id)
    ]
    return pb.WatchRunResponse(
        events=[show.event_out(each, full=full) for each in found],
        resume_token=page_token(str(at)),
        result=convert.run_result(state) if ended else None,
        state=convert.STATES[state.status],
        progress=progress,
    )
