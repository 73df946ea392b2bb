"""Each kind of install imports its own packages with its own dependencies, and a client's stays small.

The check needs no second environment: what an install would bring is the closure of its requirements in the metadata
of what is installed here, and a fresh process that is refused everything else must still import all it needs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.project import PYPROJECT

SANDBOX_AND_ENGINE = {
    "foundationdb",
    "grpcio-reflection",
    "lmdb",
    "psycopg",
    "psycopg-binary",
    "pyseccomp",
    "quickjs-ng",
    "uvloop",
    "wasmtime",
}

# Refuses every distribution that the install would not bring, then imports every module of the named packages.
PROBE = """
import importlib, importlib.metadata, json, pkgutil, re, sys

allowed = set(json.loads(sys.argv[1]))
owners = importlib.metadata.packages_distributions()

class Absent:
    def find_spec(self, name, path=None, target=None):
        owning = {re.sub("[-_.]+", "-", owner).lower() for owner in owners.get(name.partition(".")[0], ())}
        if owning and not owning & allowed:
            raise ModuleNotFoundError(f"{name} of {sorted(owning)} is not among the requirements", name=name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[2:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def closure(*extras: str) -> set[str]:
    """Canonical names of all distributions that `pip install windlass[extras]` brings, ours included."""
    found: set[tuple[str, str]] = set()
    waiting = [("windlass", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for line in metadata.requires(name) or ():
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            waiting += [(canonicalize_name(wanted.name), each) for each in ("", *wanted.extras)]
    return {name for name, _ in found}


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in requirements}


def test_a_client_install_brings_no_sandbox_and_no_engine() -> None:
    assert closure() & SANDBOX_AND_ENGINE == set()


def test_an_engine_brings_no_sandbox_and_a_worker_no_store() -> None:
    assert closure("engine") & {"pyseccomp", "quickjs-ng", "wasmtime"} == set()
    assert closure("worker") & {"foundationdb", "lmdb", "psycopg"} == set()


def test_all_is_engine_and_worker_together() -> None:
    assert closure("all") == closure("engine") | closure("worker")


def test_the_packages_that_were_asked_for_are_used() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    everything = names(PYPROJECT["project"]["dependencies"]).union(*(names(listed) for listed in extras.values()))
    asked = {"foundationdb", "grpcio", "grpcio-tools", "protobuf", "pydantic", "pytest", "quickjs-ng", "wasmtime"}
    assert asked <= everything


@pytest.mark.parametrize(
    ("extras", "packages"),
    [
        ((), ("windlass.client", "windlass.definition", "windlass.v1")),
        (("engine",), ("windlass.engine", "windlass.storage")),
        (("worker",), ("windlass.worker", "windlass.runtimes")),
    ],
    ids=["client", "engine", "worker"],
)
def test_each_install_can_import_its_packages(extras: tuple[str, ...], packages: tuple[str, ...]) -> None:
    probe = [sys.executable, "-c", PROBE, json.dumps(sorted(closure(*extras))), *packages]
    result = subprocess.run(probe, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
