"""What is looked at before a job is made of an activation: sizes, JSON, the digest, the most memory there may be."""

from __future__ import annotations

import msgspec

from windlass.runtimes import failures
from windlass.runtimes.jail_settings import JailSettings
from windlass.runtimes.json_text import not_json
from windlass.runtimes.port import Activation, Completion, digest_of, failed


def completed(activation: Activation, settings: JailSettings) -> Activation:
    """Return the activation with a digest, and with no more memory than there may be."""
    limits = activation.limits
    if limits.memory_bytes > settings.memory_bytes_max:
        limits = msgspec.structs.replace(limits, memory_bytes=settings.memory_bytes_max)
    elif activation.digest:
        return activation
    digest = activation.digest or digest_of(activation.code)
    return msgspec.structs.replace(activation, digest=digest, limits=limits)


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
