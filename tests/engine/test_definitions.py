"""DefinitionService over the wire: registering, revisions, defaults, deletion, modules, step types, graphs."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.engine.documents import instant, one_task, waiting
from tests.engine.served import Refusal, Served, refused, refused_stream, serving
from windlass.engine.code_checks import read_code
from windlass.engine.modules import MODULE_BYTES_MAX, CodeFacts
from windlass.v1 import admin_service_pb2, common_pb2, worker_service_pb2
from windlass.v1 import definition_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

BROKEN = """\
workflow: broken
initial: first
states:
  first:
    task: {runtime: cobol, code: x}
    transitions:
      - {on: success, when: "1 +", to: nowhere}
  island: {}
"""

BAD_MODULES = f"""\
workflow: modules
initial: a
states:
  a:
    task: {{runtime: wasm, module: "sha256:{"0" * 64}"}}
    next: b
  b:
    task: {{runtime: wasm, module: ./bad.wasm}}
    next: c
  c:
    task: {{runtime: wasm, code_file: ./gone.wasm}}
    next: nowhere
""".encode()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        yield engine


def register(document: Any, **more: Any) -> pb.RegisterDefinitionRequest:
    text = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return pb.RegisterDefinitionRequest(document=text, file_name="x.yaml", **more)


async def upload(served: Served, data: bytes, runtime: str = "javascript", **more: Any) -> pb.UploadModuleResponse:
    call = served.definitions.UploadModule()
    await call.write(pb.UploadModuleRequest(header=pb.ModuleHeader(runtime=runtime, **more)))
    for at in range(0, len(data), 1 << 20):
        await call.write(pb.UploadModuleRequest(chunk=data[at : at + (1 << 20)]))
    await call.done_writing()
    response: pb.UploadModuleResponse = await call
    return response


async def download(served: Served, digest: str) -> bytes:
    call = served.definitions.GetModule(pb.GetModuleRequest(digest=digest))
    return b"".join([part.chunk async for part in call])


async def test_a_module_keeps_the_name_for_people(served: Served) -> None:
    named = await upload(served, b"1 + 1", display_name="total.js")
    assert named.module.display_name == "total.js"
    (listed,) = (await served.definitions.ListModules(pb.ListModulesRequest())).modules
    assert listed.display_name == "total.js"
    again = await upload(served, b"1 + 1", display_name="copy.js")
    assert (again.created, again.module.display_name) == (False, "total.js")
    await refused(upload(served, b"2 + 2", display_name="x" * 300), "INVALID_FIELD")


async def test_a_definition_is_stored_once_per_content(served: Served) -> None:
    first = await served.definitions.RegisterDefinition(register(instant("a")))
    again = await served.definitions.RegisterDefinition(register(instant("a")))
    other = await served.definitions.RegisterDefinition(register(instant("a", description="new")))
    assert (first.created, again.created, other.created) == (True, False, True)
    assert first.revision == again.revision != other.revision
    got = await served.definitions.GetDefinition(pb.GetDefinitionRequest(workflow="a"))
    assert got.definition.revision == other.revision == hashlib.sha256(got.document).hexdigest()
    assert msgspec.json.decode(got.source)["description"] == "new"
    assert got.definition.HasField("create_time")
    old = await served.definitions.GetDefinition(pb.GetDefinitionRequest(workflow="a", revision=first.revision[:12]))
    assert old.definition.revision == first.revision
    assert not old.definition.is_default


async def test_all_mistakes_are_told_at_once_each_with_its_place(served: Served) -> None:
    before = await served.dump()
    refusal: Refusal = await refused(served.definitions.RegisterDefinition(register(BROKEN.encode())), "BAD_DEFINITION")
    assert len(refusal.fields()) >= 3
    assert any("states.first" in field for field in refusal.fields())
    checked = await served.definitions.RegisterDefinition(register(BROKEN.encode(), validate_only=True))
    assert {problem.line for problem in checked.problems} >= {5, 7}
    assert not checked.revision
    assert await served.dump() == before


@pytest.mark.parametrize("document", [b"", b"\xff\xfe", b"[1, 2", b"- a\n- b", b"workflow: x", b"{" * 100_000])
async def test_a_document_that_is_none_is_refused(served: Served, document: bytes) -> None:
    await refused(served.definitions.RegisterDefinition(register(document)), "BAD_DEFINITION")


async def test_validate_only_stores_nothing_of_a_good_one(served: Served) -> None:
    before = await served.dump()
    response = await served.definitions.RegisterDefinition(register(one_task(), validate_only=True))
    assert response.revision
    assert not response.created
    assert await served.dump() == before


async def test_runs_stay_with_the_revision_they_began_with(served: Served) -> None:
    old = await served.register(waiting("w"))
    run_id = await served.start("w")
    new = await served.register(waiting("w", description="other"))
    await served.runs.SignalRun(run_pb.SignalRunRequest(run_id=run_id, name="go"))
    assert (await served.closed(run_id)).ref.revision == old
    assert (await served.run(await served.start("w"))).ref.revision == new
    assert (await served.run(await served.start("w", revision=old))).ref.revision == old


async def test_the_default_revision_is_chosen_and_guarded_by_etags(served: Served) -> None:
    old = await served.register(instant("a"))
    second = register(instant("a", description="b"), set_default=False)
    response = await served.definitions.RegisterDefinition(second)
    assert not response.is_default
    set_default = pb.SetDefaultRevisionRequest(workflow="a", revision=response.revision, etag="stale")
    await refused(served.definitions.SetDefaultRevision(set_default), "ETAG_MISMATCH")
    set_default.etag = response.etag
    done = await served.definitions.SetDefaultRevision(set_default)
    assert done.definition.is_default
    assert done.definition.etag != response.etag
    set_default.etag, set_default.revision = "", "0" * 64
    await refused(served.definitions.SetDefaultRevision(set_default), "REVISION_NOT_FOUND")
    set_default.workflow = "nowhere"
    await refused(served.definitions.SetDefaultRevision(set_default), "WORKFLOW_NOT_REGISTERED")
    await refused(served.definitions.RegisterDefinition(register(instant("a"), etag="0")), "ETAG_MISMATCH")
    assert (await served.definitions.RegisterDefinition(register(instant("new"), etag="0"))).created
    assert (await served.run(await served.start("a"))).ref.revision != old


async def test_a_revision_in_use_cannot_be_deleted(served: Served) -> None:
    old = await served.register(waiting("w"))
    run_id = await served.start("w")
    await served.register(waiting("w", description="other"))
    delete = pb.DeleteDefinitionRequest(workflow="w", revision=old)
    refusal = await refused(served.definitions.DeleteDefinition(delete), "REVISION_IN_USE")
    assert refusal.metadata["open_runs"] == "1"
    listed = await served.definitions.ListRevisions(pb.ListRevisionsRequest(workflow="w"))
    assert [each.open_runs for each in listed.revisions] == [0, 1]
    await served.runs.TerminateRun(run_pb.TerminateRunRequest(run_id=run_id))
    assert (await served.definitions.DeleteDefinition(delete)).deleted == 1
    start = run_pb.StartRunRequest(workflow="w", revision=old)
    await refused(served.runs.StartRun(start), "REVISION_NOT_FOUND")
    await refused(served.definitions.DeleteDefinition(delete), "REVISION_NOT_FOUND")
    delete.revision = ""
    await served.definitions.DeleteDefinition(delete)
    await refused(served.definitions.DeleteDefinition(delete), "WORKFLOW_NOT_REGISTERED")


async def test_the_default_revision_is_not_deleted_from_under_the_name(served: Served) -> None:
    await served.register(instant("a"))
    new = await served.register(instant("a", description="b"))
    delete = pb.DeleteDefinitionRequest(workflow="a", revision=new)
    await refused(served.definitions.DeleteDefinition(delete), "REVISION_IN_USE")


async def test_lists_go_by_pages(served: Served) -> None:
    for number in range(5):
        await served.register(instant(f"w{number}"))
        await served.register(instant("many", description=str(number)))
    seen, token = [], ""
    while True:
        page = await served.definitions.ListDefinitions(pb.ListDefinitionsRequest(page_size=2, page_token=token))
        seen += [each.workflow for each in page.definitions]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["many", "w0", "w1", "w2", "w3", "w4"]
    revisions, token = [], ""
    while True:
        request = pb.ListRevisionsRequest(workflow="many", page_size=2, page_token=token)
        page = await served.definitions.ListRevisions(request)
        revisions += [each.description for each in page.revisions]
        token = page.next_page_token
        if not token:
            break
    assert revisions == ["4", "3", "2", "1", "0"]


async def test_a_module_is_stored_once_and_read_back(served: Served) -> None:
    code = b"// padding\n" * 200_000 + b"input.a"
    first = await upload(served, code)
    again = await upload(served, code, digest=first.module.digest)
    assert (first.created, again.created) == (True, False)
    assert first.module.digest == hashlib.sha256(code).hexdigest()
    assert await download(served, first.module.digest) == code
    assert await download(served, "sha256:" + first.module.digest) == code
    fetched = served.workers.FetchModule(worker_service_pb2.FetchModuleRequest(digest=first.module.digest))
    parts = [part async for part in fetched]
    assert b"".join(part.chunk for part in parts) == code
    assert max(len(part.chunk) for part in parts) <= 256 * 1024
    assert parts[0].total_bytes == len(code)


async def test_modules_that_are_refused(served: Served) -> None:
    await refused(upload(served, b"1", digest="0" * 64), "DIGEST_MISMATCH")
    too_large = await refused(upload(served, b"x" * (MODULE_BYTES_MAX + 1)), "MODULE_TOO_LARGE")
    assert too_large.metadata["limit"] == str(MODULE_BYTES_MAX)
    assert "javascript, wasm" in (await refused(upload(served, b"x = 1", "python"), "RUNTIME_UNSUPPORTED")).message
    await refused(upload(served, b"1", runtime="cobol"), "RUNTIME_UNSUPPORTED")
    await refused(upload(served, b"1", namespace="nowhere"), "NAMESPACE_NOT_FOUND")
    call = served.definitions.UploadModule()
    await call.write(pb.UploadModuleRequest(chunk=b"no header"))
    await call.done_writing()
    await refused(call, "INVALID_FIELD")
    await refused_stream(served.definitions.GetModule(pb.GetModuleRequest(digest="0" * 64)), "MODULE_NOT_FOUND")
    missing = worker_service_pb2.FetchModuleRequest(digest="0" * 64)
    await refused_stream(served.workers.FetchModule(missing), "MODULE_NOT_FOUND")


async def test_a_definition_runs_stored_modules_and_only_those(served: Served) -> None:
    digest = (await upload(served, b"1 + 1")).module.digest
    task = {"runtime": "javascript", "module": f"sha256:{digest}"}
    await served.register(one_task("stored", task=task))
    worker = await served.worker(lambda task: 2)
    await served.closed(await served.start("stored"))
    assert worker.seen[0].module_digest == digest
    missing = {"runtime": "javascript", "module": "sha256:" + "0" * 64}
    request = register(one_task("x", task=missing))
    refusal = await refused(served.definitions.RegisterDefinition(request), "BAD_DEFINITION")
    assert refusal.fields() == ["states.work.task.module"]


async def test_modules_that_are_missing_or_bad_are_told_with_their_places_and_everything_else(served: Served) -> None:
    served.engine.modules.read = read_code
    request = register(BAD_MODULES)
    request.modules.add(path="./bad.wasm", data=b"\0asm\1\0\0\0\xff")
    request.modules.add(path="./gone.wasm", digest="1" * 64)
    refusal = await refused(served.definitions.RegisterDefinition(request), "BAD_DEFINITION")
    assert len(refusal.fields()) == 4
    request.validate_only = True
    checked = await served.definitions.RegisterDefinition(request)
    assert [(each.line, each.path) for each in checked.problems] == [
        (5, "states.a.task.module"),
        (8, "states.b.task.module"),
        (11, "states.c.task.code_file"),
        (12, "states.c.next"),
    ]
    assert "there is no module sha256:000000" in checked.problems[0].message
    assert "there is no module sha256:111111" in checked.problems[2].message


async def test_others_are_served_while_code_is_read(served: Served) -> None:
    """Code of the largest size takes a second to read, and leases are renewed on the same loop."""
    began, read_on = threading.Event(), threading.Event()

    def read_slowly(runtime: str, code: bytes) -> CodeFacts:
        began.set()
        return CodeFacts(() if read_on.wait(5) else ("nobody else was served",))

    served.engine.modules.read = read_slowly
    request = pb.CheckModuleRequest(runtime="javascript", data=b"1")
    checking = asyncio.ensure_future(served.definitions.CheckModule(request))
    await asyncio.to_thread(began.wait, 5)
    await served.definitions.ListModules(pb.ListModulesRequest())
    read_on.set()
    assert not (await checking).problems


async def test_files_beside_the_document_come_with_it(served: Served) -> None:
    task = {"runtime": "javascript", "code_file": "./x.js"}
    request = register(one_task("filed", task=task))
    request.modules.add(path="./x.js", data=b"input.n + 1")
    await served.definitions.RegisterDefinition(request)
    worker = await served.worker(lambda task: 2)
    await served.closed(await served.start("filed"))
    assert await download(served, worker.seen[0].module_digest) == b"input.n + 1"


async def test_modules_are_listed_and_checked(served: Served) -> None:
    digests = sorted([(await upload(served, str(n).encode())).module.digest for n in range(3)])
    first = await served.definitions.ListModules(pb.ListModulesRequest(page_size=2))
    rest = await served.definitions.ListModules(pb.ListModulesRequest(page_token=first.next_page_token))
    assert [each.digest for each in (*first.modules, *rest.modules)] == digests
    checked = await served.definitions.CheckModule(pb.CheckModuleRequest(runtime="javascript", data=b"1"))
    assert not checked.problems
    assert checked.module.size_bytes == 1


async def test_a_definition_is_drawn(served: Served) -> None:
    await served.register(waiting("w"))
    mermaid = await served.definitions.RenderGraph(pb.RenderGraphRequest(workflow="w"))
    assert "hold" in mermaid.graph
    dot = pb.RenderGraphRequest(workflow="w", format=pb.RenderGraphRequest.FORMAT_DOT)
    assert "digraph" in (await served.definitions.RenderGraph(dot)).graph
    await refused(served.definitions.RenderGraph(pb.RenderGraphRequest(workflow="x")), "WORKFLOW_NOT_REGISTERED")


async def test_namespaces_share_nothing(served: Served) -> None:
    for name in ("a", "b"):
        await served.admin.CreateNamespace(
            admin_service_pb2.CreateNamespaceRequest(namespace=admin_service_pb2.Namespace(name=name))
        )
    await served.register(one_task("mine"), ns="a")
    worker = await served.worker(lambda task: 1)
    run_id = await served.start("mine", namespace="a", workflow_id="w")
    await refused(served.runs.StartRun(run_pb.StartRunRequest(workflow="mine")), "WORKFLOW_NOT_REGISTERED")
    for other in ("b", "default"):
        await refused(served.run(run_id, other), "RUN_NOT_FOUND")
        signal = run_pb.SignalRunRequest(namespace=other, workflow_id="w", name="go")
        await refused(served.runs.SignalRun(signal), "RUN_NOT_FOUND")
        assert not (await served.runs.ListRuns(run_pb.ListRunsRequest(namespace=other))).runs
        assert (await served.runs.CountRuns(run_pb.CountRunsRequest(namespace=other))).total == 0
    digest = (await served.definitions.ListModules(pb.ListModulesRequest(namespace="a"))).modules[0].digest
    for other in ("b", ""):
        call = served.definitions.GetModule(pb.GetModuleRequest(namespace=other, digest=digest))
        await refused_stream(call, "MODULE_NOT_FOUND")
    assert not worker.seen
    assert (await served.run(run_id, "a")).state == common_pb2.RUN_STATE_RUNNING
