"""What `start --wait` does meanwhile: it follows the run, so that it sees when it is parked on an incident and ends,
and when it has not closed after a few seconds it says on stderr why, so that nobody stares at nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Container

from windlass.client.cli.failures import PARKED, STILL_OPEN, Stop
from windlass.client.cli.plain import harmless
from windlass.client.client import Client
from windlass.client.errors import WindlassError
from windlass.client.values import RunResult, Started, result_of, state_name
from windlass.v1 import workflow_service_pb2

#: Seconds after which it is said why the run has not closed.
SILENT_SECONDS = 3.0
#: Reasons of `explain` that move by themselves: nothing that somebody has to know.
_MOVING = ("leased", "deferred", "closed")


async def result_of_wait(client: Client, started: Started, timeout: float | None) -> RunResult:
    """How the run ended. Raises Stop if it stands on an incident, or is still open after `timeout` seconds.

    Who gives up waiting, or has lost the engine, is told which run goes on: nothing else has named it yet.
    """
    following = asyncio.create_task(_followed(client, started))
    telling = asyncio.create_task(_tell_why(client, started))
    try:
        return await asyncio.wait_for(following, timeout)
    except TimeoutError:
        run = await client.get(started, full=False)
        state = state_name(run.state)
        goes_on = "" if state in ("paused", "incident") else "; it goes on"
        raise Stop(f"run {started.run_id} is still {state} after {timeout:g} s{goes_on}", STILL_OPEN) from None
    except (asyncio.CancelledError, WindlassError):  # ctrl-c is the first one
        _tell(
            f"run {started.run_id} is started, and is not waited for any more; windlass watch shows what becomes of it"
        )
        raise
    finally:
        telling.cancel()


async def _followed(client: Client, started: Started) -> RunResult:
    """The end of the run. The watch begins with how it stands, and then has every change."""
    async for message in client.watch(started, from_now=True, idle=True):
        if message.HasField("result"):
            return result_of(message.result)
        if state_name(message.state) == "incident":
            await _stop_at_incident(client, started)
    raise AssertionError("a watch ends with a result or an error")


async def _stop_at_incident(client: Client, started: Started) -> None:
    """Raises Stop with the first incident; does nothing if somebody has resolved it meanwhile."""
    if parked := await parked_at(client, started.run_id):
        raise Stop(f"run {started.run_id} is {parked}", PARKED)


async def parked_at(client: Client, run_id: str, *, but: Container[str] = ()) -> str:
    """Where a run is parked and what repairs it, by its first incident; "" if somebody has resolved it meanwhile.

    `but`: ids of incidents that are not meant.
    """
    async for each in client.incidents(run_id=run_id):
        if each.incident_id not in but:
            return (
                f"parked on an incident in state {each.state}: {each.code}: {each.message}; "
                f"repair it with: windlass incidents resolve {run_id} {each.incident_id}"
            )
    return ""


async def _tell_why(client: Client, started: Started) -> None:
    await asyncio.sleep(SILENT_SECONDS)
    try:
        reply = await client.explain(started)
    except WindlassError:
        return  # the watch meets the same error, and reports it
    for each in reply.explanations:
        if each.kind not in _MOVING:
            _tell(f"still waiting: {_sentence(each)}")


def _tell(text: str) -> None:
    sys.stderr.write(f"windlass: {harmless(text)}\n")
    sys.stderr.flush()


def _sentence(each: workflow_service_pb2.Explanation) -> str:
    return each.summary + (f"; {each.advice}" if each.advice else "")
