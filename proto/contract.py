"""Compile the wire contract and keep it honest.

    python proto/contract.py generate    write the Python beside the .proto files
    python proto/contract.py check       fail if that Python is stale, a lint rule is broken,
                                         or the contract no longer fits the last release
    python proto/contract.py release     keep today's contract as that of this version

The .proto files import each other as `windlass/v1/x.proto` and this folder is the include root, so the generated
modules import each other as `windlass.v1.x_pb2`: the name under which they are installed.

buf reads an image made by protoc instead of the files. Its own compiler would fetch `google/rpc` from a registry of
its own; protoc finds it in the googleapis-common-protos package that is installed anyway.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import google.rpc
import grpc_tools

ROOT = Path(__file__).resolve().parent
PACKAGE = "windlass/v1"
#: The contracts of released versions, as images; the newest is what callers may rely on.
RELEASED = ROOT / "released"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
INCLUDES = (
    Path(grpc_tools.__file__).parent / "_proto",
    Path(next(iter(google.rpc.__path__))).parent.parent,
)


class ContractError(Exception):
    """The contract cannot be compiled, is stale, or breaks a rule; the message says which and what to do."""


def main() -> int:
    """Run the command named on the command line. Returns 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["generate", "check", "release"])
    command = parser.parse_args().command
    try:
        if not proto_files(ROOT):
            raise ContractError(f"no .proto file in {ROOT / PACKAGE}")
        if command == "generate":
            generate(ROOT)
        elif command == "release":
            release()
        else:
            check()
    except ContractError as error:
        print(f"proto: {error}", file=sys.stderr)
        return 1
    return 0


def generate(target: Path) -> None:
    """Write the messages, stubs and types under `target`, and remove what a deleted .proto left behind."""
    for stale in generated(target):
        stale.unlink()
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    protoc(ROOT, *outputs)
    for stub in (target / PACKAGE).glob("*_pb2_grpc.py*"):
        if "add_" not in stub.read_text():
            stub.unlink()  # a .proto without a service: protoc writes an empty module all the same


def check() -> None:
    """Raise ContractError unless the generated code is fresh, the lint clean and the last release still served."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh(Path(scratch))
        image = Path(scratch) / "new.binpb"
        protoc(ROOT, "--include_imports", "--include_source_info", f"--descriptor_set_out={image}")
        buf("lint", str(image))
        compatible(image)


def fresh(scratch: Path) -> None:
    """Generate again elsewhere and compare name by name and byte by byte."""
    again = scratch / "generated"
    (again / PACKAGE).mkdir(parents=True)
    generate(again)
    expected = {path.name: path.read_bytes() for path in generated(again)}
    present = {path.name: path.read_bytes() for path in generated(ROOT)}
    stale = sorted(name for name in expected.keys() | present.keys() if expected.get(name) != present.get(name))
    if stale:
        raise ContractError(f"generated code is stale ({', '.join(stale)}): run `make proto` and commit the result")
    print(f"proto: {len(present)} generated files are fresh")


def compatible(image: Path) -> None:
    """Compare with the contract of the newest release. Raises ContractError for what would break its callers."""
    releases = sorted(RELEASED.glob("*.binpb"), key=lambda path: [int(part) for part in path.stem.split(".")])
    if not releases:
        raise ContractError(f"no released contract in {RELEASED}: write one with `python proto/contract.py release`")
    buf("breaking", str(image), "--against", str(releases[-1]), "--exclude-imports")
    print(f"proto: compatible with {releases[-1].stem}")


def release() -> None:
    """Keep today's contract as the one of the version in pyproject.toml, for all later ones to be compared with."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    RELEASED.mkdir(exist_ok=True)
    protoc(ROOT, "--include_imports", f"--descriptor_set_out={RELEASED / project['version']}.binpb")


def protoc(root: Path, *outputs: str) -> None:
    """Run the pinned compiler on every .proto below `root`."""
    includes = [f"-I{folder}" for folder in (root, *INCLUDES)]
    names = [str(path.relative_to(root)) for path in proto_files(root)]
    scripts = Path(sys.executable).parent  # where the type plugins lie, in an activated environment or not
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    result = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *includes, *outputs, *names],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise ContractError(f"protoc refused:\n{result.stderr}")


def buf(verb: str, *arguments: str) -> None:
    """Run one check of buf over our own files of an image."""
    program = Path(sys.executable).with_name("buf")
    command = [str(program), verb, *arguments, "--config", str(ROOT / "buf.yaml"), "--path", PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ContractError(f"buf {verb} found:\n{result.stdout}{result.stderr}")
    print(f"proto: buf {verb} is content")


def proto_files(root: Path) -> list[Path]:
    """The contract's files below an include root, in a stable order."""
    return sorted((root / PACKAGE).glob("*.proto"))


def generated(root: Path) -> list[Path]:
    """Everything the compiler wrote below an include root."""
    return sorted(path for pattern in GENERATED for path in (root / PACKAGE).glob(pattern))


if __name__ == "__main__":
    sys.exit(main())
