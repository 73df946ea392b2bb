"""What is looked at before a job is made of an activation: sizes, JSON, the digest, the most memory there may be."""

from __future__ import annotations

import msgspec

from windlass.runtimes import failures
from windlass.runtimes.jail_settings import JailSettings
from windlass.runtimes.json_text import not_json
from windlass.runtimes.port import Activation, Completion, Limits, digest_of, failed


def completed(activation: Activation, settings: JailSettings) -> Activation:
    """Return the activation with a digest, and with no more of anything than there may be."""
    limits = _capped(activation.limits, settings)
    if limits is activation.limits and activation.digest:
        return activation
    digest = activation.digest or digest_of(activation.code)
    return msgspec.structs.replace(activation, digest=digest, limits=limits)


def _capped(limits: Limits, settings: JailSettings) -> Limits:
    most = {
        "memory_bytes": settings.memory_bytes_max,
        "stack_bytes": settings.stack_bytes_max,
        "log_lines": settings.log_lines_max,
        "log_bytes": settings.log_bytes_max,
        "cpu_us": limits.wall_us,
    }
    beyond = {name: value for name, value in most.items() if getattr(limits, name) > value}
    return msgspec.structs.replace(limits, **beyond) if beyond else limits


def refusal_of(activation: Activation, settings: JailSettings) -> Completion | None:
    """Return the outcome of an activation that need not be tried, or None."""
    if not activation.code:
        return failed(failures.BAD_CODE, "the code is empty")
    if len(activation.code) > settings.module_bytes_max:
        limit = settings.module_bytes_max
        return failed(failures.BAD_CODE, f"the code is {len(activation.code)} bytes; the limit is {limit}")
    size = len(activation.input) + len(activation.config) + len(activation.context)
    if size > settings.input_bytes_max:
        limit = settings.input_bytes_max
        return failed(failures.BAD_INPUT, f"input, config and context are {size} bytes; the limit is {limit}")
    wrong = _bad_values(activation)
    return failed(failures.BAD_INPUT, wrong) if wrong else None


def _bad_values(activation: Activation) -> str:
    for what in ("input", "config", "context", "checkpoint", "resume"):
        text = getattr(activation, what)
        if text is not None and (wrong := not_json(text)):
            return f"the {what} is {wrong}"
    if not activation.context.lstrip().startswith(b"{"):
        return "the context is not a JSON object"
    return ""
