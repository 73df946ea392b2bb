"""Commands about definitions and the modules they run."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from windlass.client.cli.connected import connected, limit_option, output_option, wrong
from windlass.client.cli.extras import load as load_extra
from windlass.client.cli.failures import WRONG, Stop
from windlass.client.cli.plain import enum_name, local_time, plain, value_of
from windlass.client.cli.screen import Screen
from windlass.client.client import Client
from windlass.client.signing import BadKey, SigningKey
from windlass.definition.problems import DefinitionError, Problem
from windlass.definition.source import Authored, load
from windlass.v1 import common_pb2, definition_service_pb2

_file = click.argument("file", type=click.Path(path_type=Path))
_SIGN_HELP = "PEM file with an Ed25519 private key to sign the code with."
_sign_key = click.option("--sign-key", type=click.Path(path_type=Path), metavar="KEY", help=_SIGN_HELP)
_workflow = click.argument("workflow", metavar="NAME")
_revision = click.option("--revision", default="", help="As hex or its first 8 digits. Default: the default one.")


@click.command()
@_file
@output_option
def validate(file: Path, output: str) -> None:
    """Check a definition file; says what is wrong with file, line and path. Needs no engine."""
    from windlass.definition.compile import compile_document  # only here: the CEL and schema compilers load slowly

    screen = Screen(output)
    try:
        compiled = compile_document(load(file), check_code=_check_code())
    except DefinitionError as error:
        if screen.json:
            errors = [_as_value(each) for each in error.problems if not each.warning]
            warnings = [_as_value(each) for each in error.problems if each.warning]
            screen.value({"file": str(file), "errors": errors, "warnings": warnings})
        raise
    name, revision = compiled.definition.name, compiled.revision
    if screen.json:
        warnings = [_as_value(each) for each in compiled.warnings]
        screen.value({"file": str(file), "workflow": name, "revision": revision, "warnings": warnings})
        return
    for warning in compiled.warnings:
        screen.say(str(warning))
    screen.say(f"{file} is valid: workflow {name}, revision {revision[:12]}")


def _check(authored: Authored) -> None:
    """What only this machine can tell: the engine parses no JavaScript, and does not see which files are missing."""
    from windlass.definition.compile import compile_document  # only here: it loads slowly

    compile_document(authored, check_code=_check_code())


def _as_value(problem: Problem) -> dict[str, Any]:
    return {"path": problem.path, "line": problem.line, "column": problem.column, "message": problem.message}


def _check_code() -> Callable[[str, bytes], list[str]] | None:
    """The runtimes' own check, where a worker is installed; without one, the engine and the workers find the rest."""
    try:
        from windlass.worker.composition import check_code
    except ImportError:
        return None
    return check_code


@click.command()
@_file
@click.option("--keep-default", is_flag=True, help="Do not make it the revision that new runs take.")
@click.option("--dry-run", is_flag=True, help="Let the engine check it; store nothing.")
@_sign_key
@connected
async def register(
    client: Client, screen: Screen, file: Path, keep_default: bool, dry_run: bool, sign_key: Path | None
) -> None:
    """Register a definition file, with the code files it names. It is checked here as `validate` does it, too."""
    key = _key(sign_key) if sign_key else None
    authored = load(file)
    await asyncio.to_thread(_check, authored)
    reply = await client.register(authored, validate_only=dry_run, set_default=not keep_default, sign_key=key)
    if screen.json:
        screen.value(plain(reply))
    else:
        for problem in reply.problems:
            screen.say(_problem(problem, file))
        screen.say(_registered(reply, dry_run))
    if any(problem.severity == common_pb2.Problem.SEVERITY_ERROR for problem in reply.problems):
        raise Stop(f"{file} has errors; nothing was stored", WRONG)


def _problem(problem: common_pb2.Problem, file: Path) -> str:
    severity = enum_name(common_pb2.Problem.Severity.DESCRIPTOR, problem.severity)
    line = f":{problem.line}:{problem.column}" if problem.line else ""
    return f"{problem.file or file}{line}: {problem.path}: {severity}: {problem.message}"


def _registered(reply: definition_service_pb2.RegisterDefinitionResponse, dry_run: bool) -> str:
    if dry_run:
        return f"{reply.workflow or 'the definition'}: checked, nothing stored"
    how = "registered" if reply.created else "was registered already"
    default = "; new runs take it" if reply.is_default else "; new runs take another revision"
    return f"{reply.workflow} @ {reply.revision[:12]} {how}{default}"


@click.group()
def definitions() -> None:
    """Workflows that are registered."""


@definitions.command("list")
@limit_option
@connected
async def list_definitions(client: Client, screen: Screen, limit: int) -> None:
    """List workflows with their default revisions."""
    headers = ("workflow", "revision", "version", "registered", "description")
    none = "no workflows yet; register one with: windlass register FILE"
    await screen.rows(headers, client.definitions(), _definition, limit=limit, none=none)


def _definition(each: definition_service_pb2.Definition) -> tuple[Any, ...]:
    return each.workflow, each.revision[:12], each.version, local_time(each.create_time), each.description


@definitions.command()
@_workflow
@limit_option
@connected
async def revisions(client: Client, screen: Screen, workflow: str, limit: int) -> None:
    """List the revisions of a workflow, newest first."""
    found = client.revisions(workflow)
    headers = ("revision", "default", "version", "registered", "open runs")
    await screen.rows(headers, found, _revision_row, limit=limit, none="no revisions")


def _revision_row(each: definition_service_pb2.Definition) -> tuple[Any, ...]:
    default = "default" if each.is_default else ""
    return each.revision, default, each.version, local_time(each.create_time), each.open_runs


@definitions.command()
@_workflow
@_revision
@click.option("--canonical", is_flag=True, help="The canonical JSON instead of what the author wrote.")
@connected
async def show(client: Client, screen: Screen, workflow: str, revision: str, canonical: bool) -> None:
    """Print a workflow as its author wrote it."""
    reply = await client.get_definition(workflow, revision)
    if screen.json:
        screen.value({"definition": plain(reply.definition), "document": value_of(reply.document)})
    else:
        sys.stdout.write((reply.document if canonical or not reply.source else reply.source).decode().rstrip() + "\n")


@definitions.command()
@_workflow
@_revision
@click.option("--format", type=click.Choice(["mermaid", "dot"]), default="mermaid", show_default=True)
@connected
async def graph(client: Client, screen: Screen, workflow: str, revision: str, format: str) -> None:
    """Draw a workflow as text for Mermaid or Graphviz."""
    drawn = await client.graph(workflow, revision, format=format)
    if screen.json:
        screen.value({"graph": drawn})
    else:
        sys.stdout.write(drawn.rstrip() + "\n")


@definitions.command("set-default")
@_workflow
@click.argument("revision")
@connected
async def set_default(client: Client, screen: Screen, workflow: str, revision: str) -> None:
    """Make REVISION the one that new runs take."""
    definition = await client.set_default_revision(workflow, revision)
    if screen.json:
        screen.value(plain(definition))
    else:
        screen.say(f"new runs of {workflow} take {definition.revision[:12]}")


@definitions.command()
@_workflow
@click.option("--revision", default="", help="Only this revision. Default: all of them.")
@connected
async def delete(client: Client, screen: Screen, workflow: str, revision: str) -> None:
    """Remove a workflow or one of its revisions; refused while open runs need it."""
    deleted = await client.delete_definition(workflow, revision)
    if screen.json:
        screen.value({"deleted": deleted})
    else:
        screen.say(f"removed {deleted} {'revision' if deleted == 1 else 'revisions'} of {workflow}")


@click.group()
def modules() -> None:
    """Task code that is stored, by digest."""


@modules.command("list")
@limit_option
@connected
async def list_modules(client: Client, screen: Screen, limit: int) -> None:
    """List stored modules."""
    headers = ("digest", "runtime", "bytes", "abi", "stored", "name", "signed by")
    await screen.rows(headers, client.modules(), _module, limit=limit, none="no modules")


def _module(each: definition_service_pb2.Module) -> tuple[Any, ...]:
    stored = local_time(each.create_time)
    signers = ", ".join(signature.public_key.hex()[:16] for signature in each.signatures)
    return each.digest, each.runtime, each.size_bytes, each.abi, stored, each.display_name, signers


@modules.command()
@_file
@click.option("--runtime", type=click.Choice(["wasm", "javascript"]), default="wasm", show_default=True)
@_sign_key
@connected
async def upload(client: Client, screen: Screen, file: Path, runtime: str, sign_key: Path | None) -> None:
    """Store a module and print its digest."""
    key = _key(sign_key) if sign_key else None
    data = _bytes_of(file)
    if runtime == "javascript":  # the engine does not parse it; a WebAssembly module it reads itself
        _check_script(file, data)
    module = await client.upload_module(data, runtime, display_name=file.name, sign_key=key)
    if screen.json:
        screen.value(plain(module))
    else:
        screen.say(module.digest)


def _check_script(file: Path, data: bytes) -> None:
    check = _check_code()
    if check is not None and (problems := check("javascript", data)):
        raise wrong(f"{file}: {'; '.join(problems)}")


@modules.command()
@_file
@click.option("--sign-key", type=click.Path(path_type=Path), metavar="KEY", required=True, help=_SIGN_HELP)
@connected
async def sign(client: Client, screen: Screen, file: Path, sign_key: Path) -> None:
    """Sign a module that is stored already; FILE is its code, as you have it."""
    key = _key(sign_key)
    module = await client.sign_module(_bytes_of(file), key)
    if screen.json:
        screen.value(plain(module))
    else:
        screen.say(f"{module.digest} signed by {key.public_key.hex()[:16]}")


@modules.command()
@click.argument("digest")
@click.argument("file", type=click.Path(path_type=Path))
@connected
async def download(client: Client, screen: Screen, digest: str, file: Path) -> None:
    """Write a stored module to FILE."""
    data = await client.get_module(digest)
    _write(data, digest, file)
    if screen.json:
        screen.value({"digest": digest.removeprefix("sha256:"), "file": str(file), "size_bytes": len(data)})
    else:
        screen.say(f"{len(data)} bytes written to {file}")


def _key(file: Path) -> SigningKey:
    load_extra("cryptography", "signing")
    try:
        return SigningKey.load(file)
    except BadKey as error:
        raise wrong(str(error)) from error


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise wrong(f"cannot read {file}: {error.strerror}") from error


def _write(data: bytes, digest: str, file: Path) -> None:
    if hashlib.sha256(data).hexdigest() != digest.removeprefix("sha256:"):  # as definitions write it
        raise wrong(f"what came does not have the digest {digest}; nothing was written")
    try:
        file.write_bytes(data)
    except OSError as error:
        raise wrong(f"cannot write {file}: {error.strerror}") from error


@click.group("step-types")
def step_types() -> None:
    """Handlers that workers offer, for `task: {runtime: python, handler: NAME}`."""


@step_types.command("list")
@limit_option
@connected
async def list_step_types(client: Client, screen: Screen, limit: int) -> None:
    """List the handlers of the workers that are there now; --output json has their schemas, too."""
    headers = ("handler", "runtime", "category", "workers", "description")
    none = "no worker that is there offers a handler"
    await screen.rows(headers, client.step_types(), _step_type, limit=limit, none=none)


def _step_type(each: common_pb2.StepType) -> tuple[Any, ...]:
    return each.handler, each.runtime or "python", each.category, each.workers, each.description


COMMANDS = (validate, register, definitions, modules, step_types)
