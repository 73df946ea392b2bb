"""Trusted Python handlers: importing those that the operator named, and telling the engine about them."""

from __future__ import annotations

import os
import sys
import traceback

import pydantic

from windlass.runtimes.python_handlers import BadHandler, HandlerRegistry
from windlass.v1 import common_pb2
from windlass.worker.settings import BadSettings, WorkerSettings


def registry_of(settings: WorkerSettings) -> HandlerRegistry:
    """Import and collect the handlers. Raises BadSettings when a module has none, or cannot be imported."""
    registry = HandlerRegistry()
    if settings.handlers and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # `--handlers mine` means the mine.py here, also for an installed program
    for module in settings.handlers:
        if module.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
            raise BadSettings(f"--handlers takes the name of a module, as pay or shop.pay, and no file; got {module}")
        try:
            registry.add_module(module)
        except ModuleNotFoundError as error:
            raise BadSettings(f"--handlers {module}: {error}{_looked_for(error, module)}") from error
        except (BadHandler, ImportError) as error:
            raise BadSettings(f"--handlers {module}: {error}") from error
        except (Exception, SystemExit) as error:  # the module's own code ran, and is for whoever wrote it to mend
            why = f"{type(error).__name__}: {error}{_place(error)}"
            raise BadSettings(f"--handlers {module}: it cannot be imported: {why}") from error
    if settings.standard_handlers:
        _add_standard(registry, settings)
    return registry


def _looked_for(error: ModuleNotFoundError, module: str) -> str:
    """Where the module was looked for; nothing if it is another one, which it imports."""
    own = error.name is not None and (module + ".").startswith(error.name + ".")
    return f"; it is looked for in {os.getcwd()} and where Python looks" if own else ""


def _place(error: BaseException) -> str:
    """Where it was raised; a SyntaxError says so itself."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames:
        return ""
    return f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"


def _add_standard(registry: HandlerRegistry, settings: WorkerSettings) -> None:
    # Imported here: they bring an HTTP client along, which a worker without them need not load.
    from windlass.runtimes.builtin import standard_handlers
    from windlass.runtimes.builtin_network import NetworkPolicy

    given = {"hosts": settings.allowed_hosts, "networks": settings.allowed_networks}
    try:
        policy = NetworkPolicy.model_validate(given)
        for each in standard_handlers(policy):
            registry.add(each)
    except pydantic.ValidationError as error:
        raise BadSettings(f"allowed networks: {error.errors()[0]['msg']}; write them like 10.1.0.0/16") from error
    except BadHandler as error:
        raise BadSettings(f"--standard-handlers: {error}") from error


def step_types(registry: HandlerRegistry) -> tuple[common_pb2.StepType, ...]:
    """Return what the engine is told, by name."""
    return tuple(
        common_pb2.StepType(
            handler=each.type,
            runtime="python",
            display_name=each.name,
            description=each.description,
            category=each.category,
            stateful=each.stateful,
            input_schema=each.input_schema,
            output_schema=each.output_schema,
            config_schema=each.config_schema,
        )
        for each in registry.descriptions()
    )
