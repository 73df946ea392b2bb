"""Signatures are kept beside modules: several, later ones too, of the right shape and not too many."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.served import Served, refused, serving
from tests.engine.test_definitions import upload
from windlass.v1 import definition_service_pb2 as pb
from windlass.v1 import worker_service_pb2 as worker_pb
from windlass.v1.common_pb2 import ModuleSignature


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        yield engine


def signature(signer: int, text: int = 0) -> ModuleSignature:
    return ModuleSignature(public_key=bytes([signer]) * 32, signature=bytes([text]) * 64)


async def signed(served: Served, digest: str, *signatures: ModuleSignature) -> pb.Module:
    request = pb.SignModuleRequest(digest=digest, signatures=signatures)
    return (await served.definitions.SignModule(request)).module  # type: ignore[no-any-return]


async def test_signatures_come_with_the_upload_and_later(served: Served) -> None:
    first = (await upload(served, b"1", signatures=[signature(1)])).module
    assert list(first.signatures) == [signature(1)]
    again = await upload(served, b"1", signatures=[signature(2)])
    assert (again.created, list(again.module.signatures)) == (False, [signature(1), signature(2)])
    newer = await signed(served, "sha256:" + first.digest, signature(1, 9), signature(3))
    assert list(newer.signatures) == [signature(1, 9), signature(2), signature(3)]
    plain = (await upload(served, b"1")).module
    (listed,) = (await served.definitions.ListModules(pb.ListModulesRequest())).modules
    read = [part async for part in served.definitions.GetModule(pb.GetModuleRequest(digest=first.digest))]
    assert plain == listed == read[0].module == newer


async def test_a_worker_can_ask_for_them_alone(served: Served) -> None:
    module = (await upload(served, b"1", signatures=[signature(1)])).module
    request = worker_pb.FetchModuleRequest(digest=module.digest, signatures_only=True)
    (part,) = [part async for part in served.workers.FetchModule(request)]
    assert (list(part.signatures), part.chunk, part.total_bytes) == ([signature(1)], b"", 1)


@pytest.mark.parametrize(
    "wrong",
    [
        [ModuleSignature()],
        [ModuleSignature(public_key=b"1" * 31, signature=b"2" * 64)],
        [signature(1), ModuleSignature(public_key=b"1" * 32, signature=b"2" * 65)],
        [signature(number) for number in range(17)],
    ],
)
async def test_what_cannot_be_a_signature_changes_nothing(served: Served, wrong: list[ModuleSignature]) -> None:
    module = (await upload(served, b"1", signatures=[signature(1)])).module
    request = pb.SignModuleRequest(digest=module.digest, signatures=wrong)
    await refused(served.definitions.SignModule(request), "INVALID_FIELD")
    await refused(upload(served, b"2", signatures=wrong), "INVALID_FIELD")
    (listed,) = (await served.definitions.ListModules(pb.ListModulesRequest())).modules
    assert listed == module


async def test_a_module_that_is_not_there_cannot_be_signed(served: Served) -> None:
    request = pb.SignModuleRequest(digest="0" * 64, signatures=[signature(1)])
    await refused(served.definitions.SignModule(request), "MODULE_NOT_FOUND")
