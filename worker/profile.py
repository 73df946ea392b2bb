"""What a worker says about itself when it registers."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from windlass.runtimes.jail_settings import JailReport
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.settings import WorkerSettings, instance_id


def profile_of(
    settings: WorkerSettings, jail: JailReport | None, handlers: Sequence[common_pb2.StepType]
) -> wire.RegisterWorkerRequest:
    """Return the registration, without what changes from stream to stream."""
    profile = wire.RegisterWorkerRequest(
        namespace=settings.namespace,
        worker_id=settings.name(),
        instance_id=instance_id(),
        slots=settings.slots,
        offered_units=settings.offer,
        queues=settings.queues,
        handlers=handlers,
        labels=settings.labels,
        host=platform.node(),
        sdk=f"windlass-python/{_version()}",
    )
    if jail is not None:
        profile.active_guards.extend(layer.name for layer in jail.layers if layer.active)
        profile.missing_guards.extend(f"{layer.name}: {layer.detail}" for layer in jail.layers if not layer.active)
        profile.runtimes.extend(
            common_pb2.RuntimeInfo(name=runtime.name, version=runtime.version)
            for runtime in jail.runtimes
            if not runtime.missing
        )
    if handlers:
        profile.runtimes.add(name="python", version=platform.python_version())
    return profile


def _version() -> str:
    try:
        return metadata.version("windlass")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "source"
