"""DefinitionService held to the comments of its proto: what a review of the API found not to be so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.engine.documents import instant
from tests.engine.served import Served, refused, serving
from windlass.storage.port import Unavailable
from windlass.v1 import definition_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as workflow_pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        yield engine


async def register(served: Served, description: str = "", **more: Any) -> pb.RegisterDefinitionResponse:
    document = {**instant("z"), "description": description}
    request = pb.RegisterDefinitionRequest(document=msgspec.json.encode(document), **more)
    response: pb.RegisterDefinitionResponse = await served.definitions.RegisterDefinition(request)
    return response


async def test_a_revision_that_is_registered_again_is_the_default_again(served: Served) -> None:
    first = await register(served, "a")
    await register(served, "b")
    again = await register(served, "a")
    assert (again.created, again.is_default, again.revision) == (False, True, first.revision)
    assert not (await register(served, "b", set_default=False)).is_default


async def test_an_etag_comes_never_back_and_stays_while_nothing_changes(served: Served) -> None:
    seen = [(await register(served, each)).etag for each in "aba"]
    assert (await register(served, "a")).etag == seen[-1]
    for each in "ba":
        chosen = pb.SetDefaultRevisionRequest(workflow="z", revision=(await register(served, each)).revision)
        seen.append((await served.definitions.SetDefaultRevision(chosen)).definition.etag)
    await served.definitions.DeleteDefinition(pb.DeleteDefinitionRequest(workflow="z"))
    seen += [(await register(served, each)).etag for each in "aba"]
    assert len(set(seen)) == len(seen)


async def test_a_document_is_read_as_what_it_is_said_to_be(served: Served) -> None:
    flow = b'{"workflow": f, initial: end, states: {end: {}}}'
    block = b"workflow: b\ninitial: end\nstates: {end: {}}\n"
    call = served.definitions.RegisterDefinition
    for document, name in ((flow, ""), (block, "b.json")):
        request = pb.RegisterDefinitionRequest(document=document, file_name=name)
        await refused(call(request), "BAD_DEFINITION")
        request.format = pb.DOCUMENT_FORMAT_YAML
        assert (await call(request)).created
        request.format = pb.DOCUMENT_FORMAT_JSON
        await refused(call(request), "BAD_DEFINITION")


async def test_a_page_of_revisions_goes_on_where_the_last_one_ended(served: Served) -> None:
    for each in "abcd":
        await register(served, each)
    request = pb.ListRevisionsRequest(workflow="z", page_size=2)
    first = await served.definitions.ListRevisions(request)
    await register(served, "new")
    request.page_token = first.next_page_token
    rest = await served.definitions.ListRevisions(request)
    assert [each.description for each in rest.revisions] == ["b", "a"]


async def test_a_module_is_refused_with_a_reason_while_the_store_is_away(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put(*_: object) -> None:
        raise Unavailable("gone")

    monkeypatch.setattr(served.engine.modules, "put", put)
    header = pb.UploadModuleRequest(header=pb.ModuleHeader(runtime="javascript"))
    await refused(served.definitions.UploadModule(iter([header])), "STORE_UNAVAILABLE")


async def test_a_check_of_what_is_no_module_is_refused(served: Served) -> None:
    await refused(served.definitions.CheckModule(pb.CheckModuleRequest(runtime="cobol")), "RUNTIME_UNSUPPORTED")


async def test_the_problems_of_a_definition_are_told_as_far_as_an_error_holds_them(served: Served) -> None:
    """gRPC drops an error whose text is too long, and tells the caller of that instead."""
    states = {f"a_state_with_a_rather_long_name_{number}": {"next": "ä" * 100} for number in range(150)}
    document = {"workflow": "x", "initial": "a", "states": states}
    request = pb.RegisterDefinitionRequest(document=msgspec.json.encode(document))
    refusal = await refused(served.definitions.RegisterDefinition(request), "BAD_DEFINITION")
    assert 5 < len(refusal.fields()) < 100
    request.validate_only = True
    assert len((await served.definitions.RegisterDefinition(request)).problems) > 150
    for long in ("x" * 100_000, "ä" * 100_000):
        check = pb.CheckModuleRequest(runtime=long)
        await refused(served.definitions.CheckModule(check), "RUNTIME_UNSUPPORTED")


async def test_inline_code_without_a_runtime_is_kept_as_what_it_runs_as(served: Served) -> None:
    await served.runs.StartTask(workflow_pb.StartTaskRequest(inline=b"1"))
    (module,) = (await served.definitions.ListModules(pb.ListModulesRequest())).modules
    assert module.runtime == "javascript"
