"""What the engine reads of task code when it is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.served import Served, refused, serving
from tests.runtimes.guests import COMMAND_ECHO, ECHO, assemble
from windlass.engine.code_checks import read_code
from windlass.runtimes.javascript_source import SOURCE_BYTES_MAX
from windlass.v1 import definition_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        engine.engine.modules.read = read_code
        yield engine


async def upload(served: Served, data: bytes, runtime: str) -> pb.Module:
    call = served.definitions.UploadModule()
    await call.write(pb.UploadModuleRequest(header=pb.ModuleHeader(runtime=runtime)))
    for at in range(0, len(data), 1 << 20):
        await call.write(pb.UploadModuleRequest(chunk=data[at : at + (1 << 20)]))
    await call.done_writing()
    reply: pb.UploadModuleResponse = await call
    return reply.module


@pytest.mark.parametrize(("text", "abi"), [(ECHO, "ptr"), (COMMAND_ECHO, "wasi")])
async def test_the_calling_convention_of_a_module_is_kept(text: str, abi: str, served: Served) -> None:
    data = assemble(text)
    checked = await served.definitions.CheckModule(pb.CheckModuleRequest(runtime="wasm", data=data))
    assert checked.module.abi == abi
    assert (await upload(served, data, "wasm")).abi == abi
    (listed,) = (await served.definitions.ListModules(pb.ListModulesRequest())).modules
    assert listed.abi == abi


async def test_javascript_over_its_own_limit_is_too_large(served: Served) -> None:
    refusal = await refused(upload(served, b" " * SOURCE_BYTES_MAX + b"1", "javascript"), "MODULE_TOO_LARGE")
    assert refusal.metadata["limit"] == str(SOURCE_BYTES_MAX)
    assert f"{SOURCE_BYTES_MAX:,}" in refusal.message
    await refused(upload(served, b" ", "javascript"), "BAD_MODULE")
