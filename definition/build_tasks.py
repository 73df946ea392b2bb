"""Tasks of the document: their code found, named by digest, and checked."""

from __future__ import annotations

from windlass.definition.code import CODE_BYTES_MAX, RUNTIMES, CodeError, Module, digest_of, is_digest, read_code
from windlass.definition.likeness import meant
from windlass.definition.model_bodies import LimitsModel, RetryModel, TaskModel, TimeoutsModel
from windlass.definition.parts import Parts
from windlass.definition.problems import Place
from windlass.engine.core import units
from windlass.engine.core.definition import Limits, RetryPolicy, TaskBody, Timeouts

_SOURCES = ("code", "code_file", "module", "handler")
_ALLOWED = {"python": ("handler",), "javascript": ("code", "code_file", "module"), "wasm": ("module", "code_file")}


def build_task(parts: Parts, model: TaskModel, place: Place) -> TaskBody:
    """The task's record.

    Its code goes to `parts.modules`, or only its digest to `parts.digests` if it is stored already.
    """
    known = (*RUNTIMES, *parts.runtimes)
    if model.runtime not in known:
        hint = meant(model.runtime, known)
        parts.report.error((*place, "runtime"), f"unknown runtime {model.runtime!r}: use {', '.join(known)}{hint}")
    digest = _digest(parts, model, place) if _one_source(parts, model, place) else ""
    if digest:
        parts.digests.add((digest, model.runtime))
        parts.code_places[place] = digest
    return TaskBody(
        runtime=model.runtime,
        digest=digest,
        handler=model.handler or "",
        queue=model.queue or "",
        limits=build_limits(parts, model.limits, (*place, "limits")),
        at_most_once=model.at_most_once,
        context=None if model.context is None else tuple(model.context),
        needs=_needs(parts, model.needs, (*place, "needs")),
    )


def _needs(parts: Parts, needs: dict[str, int], place: Place) -> str:
    for name, amount in needs.items():
        if flaw := units.flaw(name, amount):
            parts.report.error((*place, name), f"{name[:60]!r} {flaw}")
    return units.text_of(needs)


def _one_source(parts: Parts, model: TaskModel, place: Place) -> bool:
    """True if the task has exactly one source of code, of a kind that its runtime can take."""
    given = [source for source in _SOURCES if getattr(model, source) is not None]
    allowed = _ALLOWED.get(model.runtime, _SOURCES)
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else "has none"
        parts.report.error(
            place, f"a {model.runtime} task needs exactly one of {', '.join(allowed)}; it {what}", at_key=True
        )
        return False
    if given[0] not in allowed:
        message = f"a {model.runtime} task takes {' or '.join(allowed)}, not {given[0]!r}"
        parts.report.error((*place, given[0]), message, at_key=True)
        return False
    return True


def _digest(parts: Parts, model: TaskModel, place: Place) -> str:
    if model.handler is not None:
        if not model.handler or len(model.handler) > 200:
            parts.report.error((*place, "handler"), "a handler's name has 1 to 200 characters")
        return ""
    if model.module is not None and is_digest(model.module):
        return _stored(parts, model.module, (*place, "module"))
    if model.code is not None:
        return _store(parts, model, model.code.encode(), (*place, "code"))
    source = "module" if model.module is not None else "code_file"
    name = model.module or model.code_file or ""
    if name in parts.files:
        content = parts.files[name]
        if isinstance(content, bytes):
            return _store(parts, model, content, (*place, source))
        return _stored(parts, content, (*place, source))
    if source == "module" and model.runtime == "wasm" and not name.endswith(".wasm"):
        parts.report.error((*place, source), f"{name!r} is no .wasm file and no sha256:… digest of a stored module")
        return ""
    try:
        return _store(parts, model, read_code(name, parts.folder), (*place, source))
    except CodeError as error:
        parts.report.error((*place, source), str(error))
        return ""


def _stored(parts: Parts, digest: str, place: Place) -> str:
    if parts.has_module is not None and not parts.has_module(digest):
        parts.report.error(place, f"there is no module {digest} in this namespace: upload it first")
    return digest


def _store(parts: Parts, model: TaskModel, content: bytes, place: Place) -> str:
    digest = digest_of(content)
    if len(content) > CODE_BYTES_MAX:
        parts.report.error(place, f"the code has {len(content):,} bytes; a module has at most {CODE_BYTES_MAX:,}")
    elif not content.strip():
        parts.report.error(place, "the code is empty")
    elif model.runtime == "wasm" and not content.startswith(b"\0asm"):
        parts.report.error(
            place, "not a WebAssembly module: it does not start with \\0asm (text format must be compiled)"
        )
    elif parts.check_code is not None and digest not in parts.modules:
        for finding in parts.check_code(model.runtime, content):
            parts.report.error(place, finding)
    parts.modules.setdefault(digest, Module(digest=digest, runtime=model.runtime, content=content))
    return digest


def build_limits(parts: Parts, model: LimitsModel, place: Place) -> Limits:
    if model.cpu == 0:
        parts.report.error((*place, "cpu"), "'cpu' must be longer than 0s")
    if model.deterministic and "clock" in model.grants:
        message = "a deterministic task sees the same in every attempt: it cannot be granted a real clock"
        parts.report.error((*place, "grants"), message)
    return Limits(
        memory_bytes=model.memory,
        fuel=model.fuel,
        output_bytes=model.output,
        log_lines=model.log_lines,
        deterministic=model.deterministic,
        stack_bytes=model.stack,
        cpu_us=model.cpu,
        log_bytes=model.log_bytes,
        grants=tuple(dict.fromkeys(model.grants)),
    )


def build_retry(parts: Parts, model: RetryModel | None, place: Place) -> RetryPolicy | None:
    if model is None:
        return None
    policy = RetryPolicy(
        max_attempts=model.max_attempts,
        initial_delay_us=model.initial_delay,
        max_delay_us=model.max_delay,
        multiplier=float(model.multiplier),
        jitter=float(model.jitter),
        non_retryable=tuple(model.non_retryable),
        retryable=tuple(model.retryable),
    )
    if policy.initial_delay_us > policy.max_delay_us:
        at = "max_delay" if "max_delay" in model.model_fields_set else "initial_delay"
        parts.report.error((*place, at), "'initial_delay' is longer than 'max_delay' (which is 1m if not given)")
    for code in sorted(set(policy.retryable) & set(policy.non_retryable)):
        parts.report.error((*place, "retryable"), f"{code!r} is both retryable and non_retryable")
    return policy


def build_timeouts(parts: Parts, model: TimeoutsModel | None, timeout_us: int | None, place: Place) -> Timeouts:
    """The four timeouts of a task; `timeout` is the short form of `timeouts.start_to_close`."""
    model = model or TimeoutsModel()
    if timeout_us is not None and model.start_to_close is not None:
        message = "'timeout' is the short form of 'timeouts.start_to_close': give one of them"
        parts.report.error((*place, "timeout"), message, at_key=True)
    timeouts = Timeouts(
        schedule_to_start_us=model.schedule_to_start,
        start_to_close_us=model.start_to_close if timeout_us is None else timeout_us,
        schedule_to_close_us=model.schedule_to_close,
        heartbeat_us=model.heartbeat,
    )
    for name, value in (
        ("timeout", timeout_us),
        *((name, getattr(model, name)) for name in TimeoutsModel.model_fields),
    ):
        if value == 0:
            at = (*place, name) if name == "timeout" else (*place, "timeouts", name)
            parts.report.error(at, f"'{name}' must be longer than 0s")
    return timeouts
