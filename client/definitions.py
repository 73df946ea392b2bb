"""Registering and reading definitions, and the modules they run."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc

from windlass.client.connection import Patience
from windlass.client.errors import WindlassError, error_of_call
from windlass.client.part import Part
from windlass.client.signing import SigningKey
from windlass.client.values import Json, choice, encode, new_id
from windlass.definition.source import Authored, load
from windlass.v1 import common_pb2
from windlass.v1 import definition_service_pb2 as wire
from windlass.v1 import definition_service_pb2_grpc as stubs

CHUNK_BYTES = 512 * 1024  #: of an upload; the engine takes 1 MiB
INLINE_BYTES_MAX = 1024 * 1024  #: files of a definition together; more is uploaded first and named by digest

_GRAPHS = {"mermaid": 1, "dot": 2}


class DefinitionCalls(Part):
    """Part of `Client`: definitions and modules."""

    @property
    def _definitions(self) -> stubs.DefinitionServiceAsyncStub:
        return stubs.DefinitionServiceStub(self.connection.channel)

    async def register(
        self,
        source: str | Path | Authored,
        *,
        validate_only: bool = False,
        set_default: bool = True,
        etag: str = "",
        sign_key: SigningKey | None = None,
    ) -> wire.RegisterDefinitionResponse:
        """Registers a definition: a file, or what `windlass.definition.load` or the builder gave.

        Files that it names (`module: ./x.wasm`, `code_file: ./x.js`) go with it. The same content again gives the
        same revision. `etag`: only if the name's etag is still this one. With `validate_only` the reply has the
        problems and nothing is stored. With `sign_key` the code that comes with it, in place or in files, is stored
        first and signed; modules that it names by digest are not. Raises DefinitionError if the file cannot be read,
        WindlassError (BAD_DEFINITION with its violations).
        """
        authored = source if isinstance(source, Authored) else load(source)
        if sign_key is not None and not validate_only:
            await self._store_signed(authored, sign_key)
        document = authored.text.encode() if authored.text else encode(authored.value)
        request = wire.RegisterDefinitionRequest(
            namespace=self.namespace,
            document=document,
            file_name=authored.name,
            modules=await self._files(authored),
            validate_only=validate_only,
            set_default=set_default,
            etag=etag,
            request_id=new_id(),
        )
        return await self.connection.call(self._definitions.RegisterDefinition, request)

    async def _store_signed(self, authored: Authored, sign_key: SigningKey) -> None:
        """Before the definition, so that no run of it can meet code that is not signed yet."""
        from windlass.definition.compile import compile_document  # only here: it loads slowly

        for module in (await asyncio.to_thread(compile_document, authored)).modules:
            await self.upload_module(module.content, module.runtime, sign_key=sign_key)

    async def _files(self, authored: Authored) -> list[wire.ModuleFile]:
        files = list(files_of(authored))
        if sum(len(data) for _, data, _ in files) <= INLINE_BYTES_MAX:
            return [wire.ModuleFile(path=path, data=data) for path, data, _ in files]
        uploaded = [(path, await self.upload_module(data, runtime)) for path, data, runtime in files]
        return [wire.ModuleFile(path=path, digest=module.digest) for path, module in uploaded]

    async def get_definition(self, workflow: str, revision: str = "") -> wire.GetDefinitionResponse:
        """A revision with its document. Raises WindlassError (WORKFLOW_NOT_REGISTERED, REVISION_NOT_FOUND)."""
        request = wire.GetDefinitionRequest(namespace=self.namespace, workflow=workflow, revision=revision)
        return await self.connection.call(self._definitions.GetDefinition, request)

    async def definitions(self) -> AsyncIterator[wire.Definition]:
        """The default revision of each name, by name."""
        request = wire.ListDefinitionsRequest(namespace=self.namespace)
        while True:
            reply = await self.connection.call(self._definitions.ListDefinitions, request)
            for definition in reply.definitions:
                yield definition
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def revisions(self, workflow: str) -> AsyncIterator[wire.Definition]:
        """The revisions of a name, newest first. Raises WindlassError (WORKFLOW_NOT_REGISTERED)."""
        request = wire.ListRevisionsRequest(namespace=self.namespace, workflow=workflow)
        while True:
            reply = await self.connection.call(self._definitions.ListRevisions, request)
            for definition in reply.revisions:
                yield definition
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def set_default_revision(self, workflow: str, revision: str, *, etag: str = "") -> wire.Definition:
        """Makes a revision the one that new runs take."""
        request = wire.SetDefaultRevisionRequest(
            namespace=self.namespace, workflow=workflow, revision=revision, etag=etag, request_id=new_id()
        )
        return (await self.connection.call(self._definitions.SetDefaultRevision, request)).definition

    async def delete_definition(self, workflow: str, revision: str = "", *, etag: str = "") -> int:
        """Removes a revision, or all. Gives how many. Raises WindlassError (REVISION_IN_USE while runs need it)."""
        request = wire.DeleteDefinitionRequest(
            namespace=self.namespace, workflow=workflow, revision=revision, etag=etag, request_id=new_id()
        )
        return (await self.connection.call(self._definitions.DeleteDefinition, request)).deleted

    async def graph(self, workflow: str, revision: str = "", *, format: str = "mermaid") -> str:
        """A definition drawn as text for Mermaid or Graphviz (`dot`)."""
        request = wire.RenderGraphRequest(
            namespace=self.namespace,
            workflow=workflow,
            revision=revision,
            format=wire.RenderGraphRequest.Format.ValueType(choice("format", format, _GRAPHS)),
        )
        return (await self.connection.call(self._definitions.RenderGraph, request)).graph

    async def upload_module(
        self, data: bytes, runtime: str = "wasm", *, display_name: str = "", sign_key: SigningKey | None = None
    ) -> wire.Module:
        """Stores task code under its digest, signed if there is a key, in chunks; a broken upload is begun again.

        Raises WindlassError (BAD_MODULE).
        """
        patience = Patience(self.connection.backoff, self.connection.retry_for)
        digest = hashlib.sha256(data).hexdigest()
        header = wire.ModuleHeader(
            namespace=self.namespace,
            runtime=runtime,
            digest=digest,
            display_name=display_name,
            signatures=[sign_key.sign(digest)] if sign_key else [],
        )
        while True:
            try:
                return (await self._definitions.UploadModule(_parts(header, data))).module
            except grpc.aio.AioRpcError as error:
                await patience.after(_answer_lost(error) or error_of_call(error))

    async def sign_module(self, data: bytes, sign_key: SigningKey) -> wire.Module:
        """Signs a stored module; `data` is its code, as you have it. Raises WindlassError (MODULE_NOT_FOUND)."""
        digest = hashlib.sha256(data).hexdigest()
        request = wire.SignModuleRequest(namespace=self.namespace, digest=digest, signatures=[sign_key.sign(digest)])
        return (await self.connection.call(self._definitions.SignModule, request)).module

    async def get_module(self, digest: str) -> bytes:
        """A module's bytes. Raises WindlassError (MODULE_NOT_FOUND)."""
        patience = Patience(self.connection.backoff, self.connection.retry_for)
        while True:
            try:
                call = self._definitions.GetModule(wire.GetModuleRequest(namespace=self.namespace, digest=digest))
                return b"".join([part.chunk async for part in call])
            except grpc.aio.AioRpcError as error:
                await patience.after(error_of_call(error))

    async def modules(self) -> AsyncIterator[wire.Module]:
        """Stored modules, by digest."""
        request = wire.ListModulesRequest(namespace=self.namespace)
        while True:
            reply = await self.connection.call(self._definitions.ListModules, request)
            for module in reply.modules:
                yield module
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def step_types(self) -> AsyncIterator[common_pb2.StepType]:
        """The handlers that live workers offer, with their schemas, by name."""
        request = wire.ListStepTypesRequest(namespace=self.namespace)
        while True:
            reply = await self.connection.call(self._definitions.ListStepTypes, request)
            for step_type in reply.step_types:
                yield step_type
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token


def _parts(header: wire.ModuleHeader, data: bytes) -> Iterator[wire.UploadModuleRequest]:
    yield wire.UploadModuleRequest(header=header)
    for start in range(0, len(data), CHUNK_BYTES):
        yield wire.UploadModuleRequest(chunk=data[start : start + CHUNK_BYTES])


def _answer_lost(error: grpc.aio.AioRpcError) -> WindlassError | None:
    """What to make of a call that failed in this process.

    An engine may refuse before all parts are there. gRPC, if it writes the next one just then, tells that it could not,
    and not what the engine has said; asked again, the engine says it again.
    """
    if error.code() is not grpc.StatusCode.INTERNAL or error.trailing_metadata():
        return None
    return WindlassError("UNAVAILABLE", "the engine's answer was lost", code=grpc.StatusCode.UNAVAILABLE)


def files_of(authored: Authored) -> Iterator[tuple[str, bytes, str]]:
    """Each file that a document names, once: its path as written there, its bytes, its runtime.

    Files that cannot be read are left out: the engine's check then says which state needs them, at which line.
    """
    seen: set[str] = set()
    for path, runtime in _named(authored.value):
        file = None if authored.folder is None else authored.folder / path
        if path not in seen and file is not None and file.is_file():
            seen.add(path)
            yield path, file.read_bytes(), runtime


def _named(value: Json) -> Iterator[tuple[str, str]]:
    """Paths of code files in a document, wherever tasks can stand."""
    if isinstance(value, list):
        for each in value:
            yield from _named(each)
    elif isinstance(value, dict):
        for key, runtime in (("module", "wasm"), ("code_file", "javascript")):
            if isinstance(value.get(key), str):
                yield value[key], str(value.get("runtime", runtime))
        for each in value.values():
            yield from _named(each)
