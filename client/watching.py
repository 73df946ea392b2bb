"""Following a run while it happens, across broken connections and restarts of the engine.

Every message brings a resume token; after a break the watch goes on just behind the last message that was given to the
caller, so no event is missed and none comes twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from windlass.client.connection import Patience
from windlass.client.errors import error_of_call, stream_ended
from windlass.client.runs import RunCalls
from windlass.client.values import Which, ids
from windlass.v1 import workflow_service_pb2 as wire


class Watching(RunCalls):
    """Part of `Client`: following runs."""

    async def watch(
        self, run: Which, *, full: bool = False, from_now: bool = False, resume_token: str = "", idle: bool = False
    ) -> AsyncIterator[wire.WatchRunResponse]:
        """Yields what happens to a run until it closes; the last message has `result`.

        `resume_token`: from an earlier message, to go on behind it. `idle`: give the engine's signs of life too,
        which have no events. Raises WindlassError (RUN_NOT_FOUND, HISTORY_COMPACTED), or UNAVAILABLE once retries have
        used up their time.
        """
        run_id, workflow_id = ids(run)
        request = wire.WatchRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            view=wire.VIEW_FULL if full else wire.VIEW_BASIC,
            from_now=from_now,
            resume_token=resume_token,
        )
        patience = Patience(self.connection.backoff, self.connection.retry_for)
        while True:
            call = self._workflows.WatchRun(request)
            try:
                async for message in call:
                    patience.restart()
                    request.resume_token = message.resume_token or request.resume_token
                    if idle or message.events or message.progress or message.HasField("result"):
                        yield message
                    if message.HasField("result"):
                        return
                await patience.after(stream_ended())
            except grpc.aio.AioRpcError as error:
                await patience.after(error_of_call(error))
            finally:
                call.cancel()
