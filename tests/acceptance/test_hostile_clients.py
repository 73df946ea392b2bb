"""Whatever clients send, the engine answers with a code from its table, keeps its memory, and goes on serving.

WINDLASS_FUZZ_ROUNDS messages per RPC (default 12), from WINDLASS_FUZZ_SEED (default 1).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from random import Random
from typing import Final

import msgspec
import pytest
from google.protobuf.message import Message

from tests.acceptance.hostile.calls import DEFECTS, Rpc, call, rpcs
from tests.acceptance.hostile.messages import MessageMaker
from tests.acceptance.hostile.mutations import Mutator
from tests.acceptance.hostile.target import ATTACKED, Target, target
from windlass.v1 import common_pb2
from windlass.v1 import definition_service_pb2 as definition
from windlass.v1 import worker_service_pb2 as worker
from windlass.v1 import workflow_service_pb2 as workflow

ROUNDS: Final = int(os.environ.get("WINDLASS_FUZZ_ROUNDS", "12"))
SEED: Final = int(os.environ.get("WINDLASS_FUZZ_SEED", "1"))

#: JSON, or what looks like it, near every limit there is: of a message (4 MiB), of a context (1 MB), of nesting.
LARGE: Final = {
    "a long text": b'"' + b"x" * 4_000_000 + b'"',
    "over the message limit": b'"' + b"x" * 5_000_000 + b'"',
    "many small items": b"[" + b"1," * 1_500_000 + b"1]",
    "many keys": b"{" + b",".join(b'"k%d":1' % number for number in range(200_000)) + b"}",
    "deep lists": b"[" * 1_000_000 + b"]" * 1_000_000,
    "deep objects": b'{"a":' * 300_000 + b"1" + b"}" * 300_000,
    "deep enough to pass": b"[" * 900 + b"]" * 900,
    "a long number": b"1" * 1_000_000,
    "a large exponent": b"1e" + b"9" * 1000,
    "many escapes": b'"' + b"\\u0000" * 500_000 + b'"',
    "never closed": b"[" * 3_000_000,
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("hostile")) as made:
        yield made


def _wrong(attacked: Target, calls: Iterable[tuple[Rpc, list[bytes]]], seconds: float) -> list[str]:
    """The calls whose answers mean that the engine did not know what it was doing."""
    wrong: list[str] = []
    with attacked.channel() as channel:
        for rpc, sent in calls:
            answer = call(channel, rpc, sent, seconds)
            if answer.code in DEFECTS:
                wrong.append(f"{rpc}: {answer.code.name} {answer.details[:200]}: {sent}"[:2000])
    return wrong


def test_bytes_that_are_no_messages_are_refused_by_every_method(attacked: Target) -> None:
    random = Random(SEED)
    with attacked.attack():
        assert not _wrong(attacked, [(rpc, [random.randbytes(size)]) for rpc in rpcs() for size in (1, 20, 500)], 0.3)


def test_messages_of_the_right_type_and_the_wrong_content_are_answered_by_every_method(attacked: Target) -> None:
    random = Random(SEED)
    maker = MessageMaker(random, attacked.known)
    calls = [
        (rpc, [maker.message(rpc.request) for _ in range(3 if rpc.client_streams else 1)])
        for rpc in rpcs()
        for _ in range(ROUNDS)
    ]
    random.shuffle(calls)
    with attacked.attack():
        assert not _wrong(attacked, calls, 0.3)


@pytest.mark.parametrize("text", sorted(LARGE))
def test_large_and_deep_json_is_answered_wherever_json_goes_in(attacked: Target, text: str) -> None:
    payload = common_pb2.Payload(data=LARGE[text])
    run = attacked.known["run_id"][attacked.known["workflow"].index("timer")]
    there = {"namespace": ATTACKED, "run_id": run}
    requests: dict[str, Message] = {
        "StartRun": workflow.StartRunRequest(namespace=ATTACKED, workflow="one", input=payload),
        "SignalRun": workflow.SignalRunRequest(**there, name="tick", payload=payload),
        "UpdateRun": workflow.UpdateRunRequest(**there, name="set", input=payload),
        "QueryRun": workflow.QueryRunRequest(**there, selector=payload),
        "SetVariables": workflow.SetVariablesRequest(**there, values={"n": payload.data}),
        "RegisterDefinition": definition.RegisterDefinitionRequest(namespace=ATTACKED, document=payload.data),
        "CompleteTasks": worker.CompleteTasksRequest(
            session_id=attacked.known["session_id"][0],
            results=[worker.TaskResult(task_token=attacked.known["task_token"][0], output=payload.data)],
        ),
    }
    calls = [
        (rpc, [requests[name].SerializeToString()]) for rpc in rpcs() if (name := rpc.path.rsplit("/")[-1]) in requests
    ]
    with attacked.attack():
        assert not _wrong(attacked, calls, 20)


def test_mutated_definitions_are_refused_or_run(attacked: Target) -> None:
    random = Random(SEED)
    mutator = Mutator(random)
    register = next(rpc for rpc in rpcs() if rpc.path.endswith("/RegisterDefinition"))
    start = next(rpc for rpc in rpcs() if rpc.path.endswith("/StartRun"))
    calls: list[tuple[Rpc, list[bytes]]] = []
    for number in range(ROUNDS * 10):
        document = mutator.mutated()
        name = document.get("workflow", "one") if isinstance(document, dict) else "one"
        source = msgspec.json.encode(document)
        asked = definition.RegisterDefinitionRequest(namespace=ATTACKED, document=source, file_name=f"{number}.json")
        calls.append((register, [asked.SerializeToString()]))
        if isinstance(name, str) and name.isprintable():
            begun = workflow.StartRunRequest(namespace=ATTACKED, workflow=name[:200])
            calls.append((start, [begun.SerializeToString()]))
    with attacked.attack():
        assert not _wrong(attacked, calls, 20)
