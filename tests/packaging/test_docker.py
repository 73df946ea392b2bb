"""What can be held of the images and the cluster where no container engine is at hand.

The files are parsed, their parts are held against each other, and the programs that go into the image are run.
docs/docker.md says what remains untried.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.packaging.project import PYPROJECT, ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
COMMANDS = sorted({tuple(service["command"]) for service in OURS.values() if "command" in service})


def test_services_wait_only_for_what_exists_and_can_answer() -> None:
    for name, service in SERVICES.items():
        for other, wanted in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}, which is not there"
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for the health of {other}, which has no check"


def test_volumes_and_networks_are_declared_and_used() -> None:
    volumes = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert volumes == set(COMPOSE["volumes"])
    networks = {network for service in SERVICES.values() for network in service["networks"]}
    assert networks == set(COMPOSE["networks"])


def test_coordinators_are_the_addresses_of_the_database_processes() -> None:
    databases = {name: service for name, service in SERVICES.items() if re.fullmatch(r"fdb-\d", name)}
    given = {service["networks"]["windlass"]["ipv4_address"] for service in databases.values()}
    named = set(re.findall(r"([\d.]+):4500", COMPOSE["x-coordinators"]))
    assert given == named
    assert len(given) == 3


def test_library_servers_and_package_are_of_one_foundationdb_series() -> None:
    version = COMPOSE["x-fdb-version"]
    assert COMPOSE["x-fdb-image"] == f"foundationdb/foundationdb:{version}"
    assert f"ARG FDB_VERSION={version}\n" in DOCKERFILE
    pinned = next(line for line in PYPROJECT["project"]["optional-dependencies"]["engine"] if "foundationdb" in line)
    assert f">={version.rpartition('.')[0]}," in pinned


def test_two_engines_share_one_name_and_untrusted_code_gets_little() -> None:
    engines = [service for name, service in SERVICES.items() if name.startswith("engine-")]
    assert [service["networks"]["windlass"]["aliases"] for service in engines] == [["engine"], ["engine"]]
    worker = SERVICES["worker"]
    assert worker["read_only"]
    assert worker["cap_drop"] == ["ALL"]
    assert worker["deploy"]["replicas"] >= 2


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_commands_use_options_that_exist(command: tuple[str, ...]) -> None:
    windlass = Path(sys.executable).with_name("windlass")
    shown = subprocess.run([windlass, command[0], "--help"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    missing = [option for option in command if option.startswith("--") and not re.search(rf"{option}\b", shown.stdout)]
    assert not missing, f"windlass {command[0]} has no {missing}"


def test_every_copied_file_is_there_and_reaches_the_builder() -> None:
    sources = re.search(r"^COPY --chmod=755 (.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert sources
    for name in sources.group(1).split():
        assert os.access(ROOT / name, os.X_OK), f"{name} must be executable"
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    folders = {path.split("/")[0] for path in PYPROJECT["tool"]["setuptools"]["package-dir"].values()}
    assert sent == folders | {"README.md", "docker", "pyproject.toml"}


@pytest.fixture
def engine_like() -> Iterator[tuple[str, health.HealthServicer]]:
    """A real gRPC server with the standard health service, as every engine has one."""
    servicer = health.HealthServicer()
    with futures.ThreadPoolExecutor(max_workers=2) as threads:
        server = grpc.server(threads)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}", servicer
        server.stop(grace=None).wait()


def asked(address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docker" / "engine_health.py"), address]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_health_check_follows_what_the_engine_says(engine_like: tuple[str, health.HealthServicer]) -> None:
    address, servicer = engine_like
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert (asked(address).returncode, asked(address).stdout) == (0, f"{address}: SERVING\n")
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (asked(address).returncode, asked(address).stdout) == (1, f"{address}: NOT_SERVING\n")


def test_health_check_fails_where_nobody_listens() -> None:
    answer = asked("127.0.0.1:1")
    assert (answer.returncode, answer.stdout) == (1, "127.0.0.1:1: UNAVAILABLE\n")


def started(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the entry point with a `windlass` that prints its arguments."""
    program = tmp_path / "bin" / "windlass"
    program.parent.mkdir(exist_ok=True)
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(ROOT / "docker" / "entrypoint.sh"), "engine", "--storage", "x y"]
    return subprocess.run(command, env={"PATH": path, **environment}, capture_output=True, text=True, check=False)


def test_entry_point_writes_the_cluster_file_once(tmp_path: Path) -> None:
    cluster = tmp_path / "new" / "fdb.cluster"
    assert started(tmp_path).stdout == "engine --storage x y\n"
    started(tmp_path, FDB_CLUSTER_FILE=str(cluster), FDB_CLUSTER_FILE_CONTENTS="a:b@10.0.0.1:4500")
    started(tmp_path, FDB_CLUSTER_FILE=str(cluster), FDB_CLUSTER_FILE_CONTENTS="a:b@10.0.0.9:4500")
    assert cluster.read_text() == "a:b@10.0.0.1:4500\n"


def test_entry_point_refuses_contents_without_a_file(tmp_path: Path) -> None:
    refused = started(tmp_path, FDB_CLUSTER_FILE_CONTENTS="a:b@10.0.0.1:4500")
    assert refused.returncode != 0
    assert "FDB_CLUSTER_FILE" in refused.stderr
