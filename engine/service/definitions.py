"""DefinitionService: definitions, revisions, modules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import grpc

from windlass.definition.compile import compile_document, read_canonical
from windlass.definition.graph import dot, mermaid
from windlass.definition.problems import DefinitionError, Problem
from windlass.definition.source import Authored, loads
from windlass.engine import keys, step_types
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.modules import MODULE_BYTES_MAX, bare, digest_of
from windlass.engine.reading import open_runs, page_number, page_position, page_size, page_token
from windlass.engine.records import DefinitionRecord, ModuleRecord, RevisionRecord, get_large, unpack
from windlass.engine.registering import delete, set_default, store_modules, stored_modules, write_revision
from windlass.engine.service import convert
from windlass.engine.service.asking import Asked, namespace_of, once
from windlass.engine.service.status import Context, refuse, rpc, rpc_stream
from windlass.engine.starting import check_name
from windlass.engine.unit import Unit
from windlass.storage.port import Transaction
from windlass.v1 import common_pb2, definition_service_pb2_grpc
from windlass.v1 import definition_service_pb2 as pb

CHUNK_BYTES: Final = 256 * 1024
#: Runtimes that run modules; the other's code is with its workers.
MODULE_RUNTIMES: Final = ("javascript", "wasm")
RUNTIMES: Final = (*MODULE_RUNTIMES, "python")
_JSON: Final = {pb.DOCUMENT_FORMAT_YAML: False, pb.DOCUMENT_FORMAT_JSON: True}


class DefinitionServicer(definition_service_pb2_grpc.DefinitionServiceServicer):
    """Handlers of DefinitionService."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @rpc
    async def RegisterDefinition(self, request: pb.RegisterDefinitionRequest) -> pb.RegisterDefinitionResponse:
        ns = await namespace_of(self._engine, request)
        files: dict[str, bytes | str] = {}
        for module in request.modules:
            in_place = module.WhichOneof("content") == "data"
            files[module.path] = module.data if in_place else "sha256:" + bare(module.digest)
        try:
            authored = _authored(request, files)
            stored = await stored_modules(self._engine, ns, authored)
            compiled = await asyncio.to_thread(
                compile_document, authored, check_code=self._engine.modules.check, has_module=stored.__contains__
            )  # a large one takes seconds
        except DefinitionError as error:
            if request.validate_only:
                return pb.RegisterDefinitionResponse(problems=[problem_out(each) for each in error.problems])
            raise _bad(error) from error
        response = pb.RegisterDefinitionResponse(
            workflow=compiled.definition.name,
            revision=compiled.revision,
            problems=[problem_out(each) for each in compiled.warnings],
        )
        if request.validate_only:
            return response
        make_default = request.set_default if request.HasField("set_default") else True
        await store_modules(self._engine, ns, compiled)

        async def work(unit: Unit) -> pb.RegisterDefinitionResponse:
            done = await write_revision(
                self._engine, unit.tr, ns, compiled, make_default, request.etag, request.document
            )
            response.created, response.etag = done.created, done.record.etag
            response.is_default = done.record.default_revision == compiled.revision
            return response

        asked = Asked(ns, request.request_id, request)
        return await once(self._engine, asked, pb.RegisterDefinitionResponse, work)

    @rpc
    async def GetDefinition(self, request: pb.GetDefinitionRequest) -> pb.GetDefinitionResponse:
        ns = request.namespace or "default"

        async def body(tr: Transaction) -> tuple[DefinitionRecord, RevisionRecord, int]:
            record = await self._engine.definitions.record(tr, ns, request.workflow)
            wanted = request.revision or record.default_revision
            revision = await self._engine.definitions.revision(tr, ns, request.workflow, wanted)
            value = await get_large(tr, keys.revision(ns, request.workflow, revision))
            assert value is not None
            counts = await open_runs(tr, ns, request.workflow)
            return record, unpack(RevisionRecord, value), counts.get(revision, 0)

        record, revision, count = await self._engine.storage.read(body)
        return pb.GetDefinitionResponse(
            definition=_definition(ns, record, revision, count),
            document=revision.document,
            source=revision.source or revision.document,
        )

    @rpc
    async def ListDefinitions(self, request: pb.ListDefinitionsRequest) -> pb.ListDefinitionsResponse:
        ns, size = await namespace_of(self._engine, request), page_size(request.page_size)
        head = keys.definition(ns)
        begin = keys.definition(ns, page_position(request.page_token)) + b"\x00" if request.page_token else head

        async def body(tr: Transaction) -> list[pb.Definition]:
            found = []
            for _, value in await tr.get_range(begin, keys.end(head), limit=size + 1):
                record = unpack(DefinitionRecord, value)
                stored = await get_large(tr, keys.revision(ns, record.name, record.default_revision))
                if stored is None:
                    continue
                count = sum((await open_runs(tr, ns, record.name)).values())
                found.append(_definition(ns, record, unpack(RevisionRecord, stored), count))
            return found

        found = await self._engine.storage.read(body)
        token = page_token(found[size - 1].workflow) if len(found) > size else ""
        return pb.ListDefinitionsResponse(definitions=found[:size], next_page_token=token)

    @rpc
    async def ListRevisions(self, request: pb.ListRevisionsRequest) -> pb.ListRevisionsResponse:
        ns, name, size = request.namespace or "default", request.workflow, page_size(request.page_size)
        before = page_number(request.page_token)  # by their numbers, which stay when others come and go

        async def body(tr: Transaction) -> pb.ListRevisionsResponse:
            record = await self._engine.definitions.record(tr, ns, name)
            counts = await open_runs(tr, ns, name)
            head = keys.revision(ns, name)
            names = {str(keys.unpack(key)[3]) for key, _ in await tr.get_range(head, keys.end(head))}
            stored = [await get_large(tr, keys.revision(ns, name, each)) for each in names]
            revisions = sorted((unpack(RevisionRecord, value) for value in stored if value), key=lambda r: -r.number)
            chosen = [each for each in revisions if not before or each.number < before]
            shown = [_definition(ns, record, each, counts.get(each.revision, 0)) for each in chosen[:size]]
            token = page_token(str(chosen[size - 1].number)) if len(chosen) > size else ""
            return pb.ListRevisionsResponse(revisions=shown, next_page_token=token)

        return await self._engine.storage.read(body)

    @rpc
    async def SetDefaultRevision(self, request: pb.SetDefaultRevisionRequest) -> pb.SetDefaultRevisionResponse:
        ns = request.namespace or "default"
        engine, name = self._engine, request.workflow

        async def work(unit: Unit) -> pb.SetDefaultRevisionResponse:
            record = await set_default(engine, unit.tr, ns, name, request.revision, request.etag)
            value = await get_large(unit.tr, keys.revision(ns, name, record.default_revision))
            assert value is not None
            count = (await open_runs(unit.tr, ns, name)).get(record.default_revision, 0)
            definition = _definition(ns, record, unpack(RevisionRecord, value), count)
            return pb.SetDefaultRevisionResponse(definition=definition)

        return await once(engine, Asked(ns, request.request_id, request), pb.SetDefaultRevisionResponse, work)

    @rpc
    async def DeleteDefinition(self, request: pb.DeleteDefinitionRequest) -> pb.DeleteDefinitionResponse:
        ns = request.namespace or "default"
        engine = self._engine

        async def work(unit: Unit) -> pb.DeleteDefinitionResponse:
            deleted = await delete(engine, unit.tr, ns, request.workflow, request.revision, request.etag)
            return pb.DeleteDefinitionResponse(deleted=deleted)

        response = await once(engine, Asked(ns, request.request_id, request), pb.DeleteDefinitionResponse, work)
        engine.definitions.forget(ns, request.workflow)
        return response

    async def UploadModule(self, request_iterator: object, context: Context) -> pb.UploadModuleResponse:
        """A header, then chunks."""
        try:
            return await self._upload(context)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await refuse(context, error)
            raise AssertionError("abort returns never") from error

    async def _upload(self, context: Context) -> pb.UploadModuleResponse:
        first = await context.read()
        if first is grpc.aio.EOF or first.WhichOneof("part") != "header":
            raise EngineError("INVALID_FIELD", "the first message must carry `header`", field="header")
        header = first.header
        ns = await namespace_of(self._engine, header)
        _check_runtime(header.runtime)
        data = bytearray()
        while (message := await context.read()) is not grpc.aio.EOF:
            data += message.chunk
            if len(data) > MODULE_BYTES_MAX:
                message = f"the module is over the limit of {MODULE_BYTES_MAX:,} bytes"
                raise EngineError("MODULE_TOO_LARGE", message, limit=str(MODULE_BYTES_MAX))
        signatures = convert.signatures_in(header.signatures)
        record, created = await self._engine.modules.put(
            ns,
            header.runtime,
            bytes(data),
            header.digest,
            signatures,
            check_name(header.display_name, "display_name", required=False),
        )
        return pb.UploadModuleResponse(module=_module(record), created=created)

    @rpc
    async def SignModule(self, request: pb.SignModuleRequest) -> pb.SignModuleResponse:
        ns = await namespace_of(self._engine, request)
        signatures = convert.signatures_in(request.signatures)
        return pb.SignModuleResponse(module=_module(await self._engine.modules.sign(ns, request.digest, signatures)))

    @rpc_stream
    async def GetModule(self, request: pb.GetModuleRequest) -> AsyncIterator[pb.GetModuleResponse]:
        record, data = await self._engine.modules.get(request.namespace or "default", request.digest)
        yield pb.GetModuleResponse(module=_module(record))
        for at in range(0, len(data), CHUNK_BYTES):
            yield pb.GetModuleResponse(chunk=data[at : at + CHUNK_BYTES])

    @rpc
    async def ListModules(self, request: pb.ListModulesRequest) -> pb.ListModulesResponse:
        ns, size = await namespace_of(self._engine, request), page_size(request.page_size)
        after = page_position(request.page_token) if request.page_token else ""
        found = await self._engine.modules.page(ns, after, size + 1)
        token = page_token(found[size - 1].digest) if len(found) > size else ""
        return pb.ListModulesResponse(modules=[_module(each) for each in found[:size]], next_page_token=token)

    @rpc
    async def CheckModule(self, request: pb.CheckModuleRequest) -> pb.CheckModuleResponse:
        _check_runtime(request.runtime)
        try:
            abi = await self._engine.modules.verify(request.runtime, request.data)
        except EngineError as error:
            if error.reason == "MODULE_TOO_LARGE":
                raise
            problem = common_pb2.Problem(
                severity=common_pb2.Problem.SEVERITY_ERROR, code=error.reason, message=str(error)
            )
            return pb.CheckModuleResponse(problems=[problem])
        size, digest = len(request.data), digest_of(request.data)
        module = pb.Module(digest=digest, runtime=request.runtime, size_bytes=size, abi=abi)
        return pb.CheckModuleResponse(module=module)

    @rpc
    async def ListStepTypes(self, request: pb.ListStepTypesRequest) -> pb.ListStepTypesResponse:
        ns = await namespace_of(self._engine, request)
        sessions = [each.session for each in await self._engine.sessions.all() if each.namespace == ns]
        found = await step_types.offered_by(self._engine.storage, sessions)
        size = page_size(request.page_size)
        after = page_position(request.page_token) if request.page_token else ""
        names = sorted(name for name in found if name > after)
        token = page_token(names[size - 1]) if len(names) > size else ""
        return pb.ListStepTypesResponse(step_types=[found[name] for name in names[:size]], next_page_token=token)

    @rpc
    async def RenderGraph(self, request: pb.RenderGraphRequest) -> pb.RenderGraphResponse:
        get = pb.GetDefinitionRequest(namespace=request.namespace, workflow=request.workflow, revision=request.revision)
        found = await DefinitionServicer.GetDefinition.__wrapped__(self, get)  # type: ignore[attr-defined]
        model = read_canonical(found.document)
        render = dot if request.format == pb.RenderGraphRequest.FORMAT_DOT else mermaid
        return pb.RenderGraphResponse(graph=render(model))


def _check_runtime(runtime: str) -> None:
    """Raises EngineError RUNTIME_UNSUPPORTED for one that runs no modules."""
    if runtime not in MODULE_RUNTIMES:
        known = ", ".join(MODULE_RUNTIMES)
        message = f"no runtime {runtime!r} for modules; known: {known}"
        raise EngineError("RUNTIME_UNSUPPORTED", message, runtime=runtime)


def _authored(request: pb.RegisterDefinitionRequest, files: dict[str, bytes | str]) -> Authored:
    try:
        text = request.document.decode()
    except UnicodeDecodeError as error:
        problem = Problem(message=f"the document is not UTF-8: {error}", file=request.file_name)
        raise DefinitionError([problem]) from error
    authored = loads(text, request.file_name or "definition", json=_JSON.get(request.format))
    return replace(authored, files=files)


def _bad(error: DefinitionError) -> EngineError:
    problems = [each for each in error.problems if not each.warning]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    places = [(each.path, str(replace(each, path=""))) for each in problems]
    return EngineError("BAD_DEFINITION", f"{problems[0]}{more}", violations=places)


def problem_out(problem: Problem) -> common_pb2.Problem:
    """A problem of a document as a message."""
    severity = common_pb2.Problem.SEVERITY_WARNING if problem.warning else common_pb2.Problem.SEVERITY_ERROR
    return common_pb2.Problem(
        severity=severity,
        path=problem.path,
        line=problem.line,
        column=problem.column,
        message=problem.message,
        file=problem.file,
    )


def _definition(ns: str, record: DefinitionRecord, revision: RevisionRecord, count: int) -> pb.Definition:
    model = read_canonical(revision.document)
    return pb.Definition(
        namespace=ns,
        workflow=record.name,
        revision=revision.revision,
        version=model.version,
        display_name=model.display_name,
        description=model.description,
        create_time=convert.timestamp(revision.created_us),
        is_default=record.default_revision == revision.revision,
        etag=record.etag,
        open_runs=count,
        module_digests=revision.modules,
    )


def _module(record: ModuleRecord) -> pb.Module:
    return pb.Module(
        digest=record.digest,
        runtime=record.runtime,
        size_bytes=record.size,
        abi=record.abi,
        display_name=record.name,
        create_time=convert.timestamp(record.created_us),
        signatures=convert.signatures_out(record.signatures),
    )
