"""From an exception to an exit code and one clear line on stderr that says what to do next. Never a traceback.

Exit codes (docs/cli.md repeats them; scripts rely on them):

    0  done                                    5  no engine answers, or it cannot serve now
    1  the run did not complete                6  a limit is reached
    2  the command or what it was given        7  not permitted
       is wrong                                8  not supported here (a missing extra, an older engine)
    3  right, but refused as things stand      9  still open when the waiting time ended
    4  no such thing                             (worker --once: no task came)
                                            10  the run is parked on an incident (start --wait),
                                                or again (incidents resolve)
                                             70  a defect; 130 stopped by ctrl-c
"""

from __future__ import annotations

import os
import sys

import click
import grpc

from windlass.client.cli.plain import harmless
from windlass.client.errors import RunNotCompleted, WindlassError
from windlass.definition.problems import DefinitionError

NOT_COMPLETED, WRONG, REFUSED, MISSING, UNAVAILABLE = 1, 2, 3, 4, 5
LIMIT, FORBIDDEN, UNSUPPORTED, STILL_OPEN, PARKED, DEFECT, INTERRUPTED = 6, 7, 8, 9, 10, 70, 130

_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: WRONG,
    grpc.StatusCode.OUT_OF_RANGE: WRONG,
    grpc.StatusCode.FAILED_PRECONDITION: REFUSED,
    grpc.StatusCode.ALREADY_EXISTS: REFUSED,
    grpc.StatusCode.ABORTED: REFUSED,
    grpc.StatusCode.NOT_FOUND: MISSING,
    grpc.StatusCode.UNAVAILABLE: UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: UNAVAILABLE,
    grpc.StatusCode.CANCELLED: UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LIMIT,
    grpc.StatusCode.PERMISSION_DENIED: FORBIDDEN,
    grpc.StatusCode.UNAUTHENTICATED: FORBIDDEN,
    grpc.StatusCode.UNIMPLEMENTED: UNSUPPORTED,
}

#: Where the reason says more than the code does.
_BY_REASON = {"STORE_FULL": REFUSED}  # no limit that somebody has set: the disk

#: What to do next, by reason. Where the message says it already, nothing is here.
_ADVICE = {
    "BAD_DEFINITION": "correct the file; windlass validate FILE shows each place",
    "BAD_MODULE": "rebuild the module; docs/sandbox.md says what it must export",
    "DEADLINE_EXCEEDED": "the engine is there but does not answer; look at its log",
    "ENGINE_DRAINING": "the engine is stopping; try again, or another one with --engine HOST:PORT",
    "ESCALATION_CLOSED": "windlass escalations list shows what is still open",
    "ESCALATION_NOT_FOUND": "windlass escalations list shows the ids",
    "INCIDENT_NOT_FOUND": "windlass incidents list shows the ids",
    "INPUT_SCHEMA_MISMATCH": "correct the input; windlass definitions show NAME has the schema",
    "INTERNAL": "this is a defect of the engine; its log has more, please report it",
    "MODULE_NOT_FOUND": "windlass modules list shows what is stored; register the file again to upload it",
    "NAMESPACE_NOT_FOUND": "windlass namespace list shows them",
    "REVISION_IN_USE": "wait for those runs, or cancel them; windlass list shows them",
    "REVISION_NOT_FOUND": "windlass definitions revisions NAME shows them",
    "RUN_ALREADY_STARTED": "use that run, or give --if-open or --if-closed",
    "RUN_CLOSED": "start another, or windlass fork RUN",
    "RESOURCE_EXHAUSTED": "send less at a time, or a reference to it",
    "RUN_NOT_FOUND": "check the id and --namespace; windlass list shows the runs",
    "RUN_OPEN": "windlass cancel RUN closes it",
    "STORE_UNAVAILABLE": "the engine's store does not answer; look at the engine's log",
    "UNAVAILABLE": "start one with: windlass engine (or windlass dev), or give --engine HOST:PORT",
    "WAIT_NOT_OPEN": "windlass explain RUN shows the open waits",
    "WORKFLOW_NOT_REGISTERED": "windlass definitions list shows the names",
}


class Stop(click.ClickException):
    """A command ends with this line and this exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def report(error: Exception) -> int:
    """Writes what went wrong to stderr and gives the exit code. With WINDLASS_TRACE=1 a defect shows its traceback."""
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, click.ClickException):
        return _line(error.format_message(), error.code if isinstance(error, Stop) else WRONG)
    if isinstance(error, WindlassError):
        return _call(error)
    if isinstance(error, DefinitionError):
        if len(error.problems) == 1 and not (error.problems[0].line or error.problems[0].path):
            return _line(str(error), WRONG)  # about the file as a whole, such as one that is not there
        sys.stderr.write(error.render() + "\n")
        count = sum(not problem.warning for problem in error.problems)
        return _line(f"the definition has {count} {'error' if count == 1 else 'errors'}; nothing was done", WRONG)
    if isinstance(error, RunNotCompleted):
        return _line(str(error), NOT_COMPLETED)
    if isinstance(error, TimeoutError):
        return _line(str(error), STILL_OPEN)
    if isinstance(error, UnicodeEncodeError):
        return _line(f"a text given is not Unicode: {error}", WRONG)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else "reading or writing failed: "
        return _line(where + (error.strerror or str(error)).lower(), REFUSED)
    if os.environ.get("WINDLASS_TRACE"):
        raise error
    what = f"{type(error).__name__}: {error}"
    return _line(f"this is a defect, please report it: {what}; WINDLASS_TRACE=1 shows where", DEFECT)


def _usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # `windlass`, `windlass modules`: its message is the help
        sys.stderr.write(error.format_message().rstrip() + "\n")
        return WRONG
    command = error.ctx.command_path if error.ctx else "windlass"
    return _line(f"{error.format_message().rstrip('.')}; see: {command} --help", WRONG)


def _call(error: WindlassError) -> int:
    message, places = _told_once(error)
    for place in places:
        sys.stderr.write(f"  {harmless(place)}\n")
    if error.reason == "UNAVAILABLE":  # nothing answered: the library's text is about sockets
        message = f"no engine answers at {error.metadata.get('target', 'this address')}"
    else:
        message = f"{message.rstrip('.')} ({error.reason})"
    advice = _ADVICE.get(error.reason)
    return _line(
        f"{message}; {advice}" if advice else message, _BY_REASON.get(error.reason) or _BY_CODE.get(error.code, DEFECT)
    )


def _told_once(error: WindlassError) -> tuple[str, list[str]]:
    """The message, and a line for each violation; a text that both have is in one of them."""
    found = error.violations
    places = [f"{each.field}: {each.description}" if each.field else each.description for each in found]
    if not places:
        return error.message, []
    if len(places) == 1 and found[0].description == error.message:
        return (error.message if found[0].field in error.message else places[0]), []
    if error.reason == "BAD_DEFINITION":
        return f"the definition has {len(places)} {'error' if len(places) == 1 else 'errors'}", places
    all_of_them = "; ".join(each.description for each in found[:20])  # how the engine ends such a message
    return error.message.removesuffix(all_of_them).rstrip(": "), places


def _line(message: str, code: int) -> int:
    one = harmless(" ".join(message.split()))
    sys.stderr.write(f"windlass: {one}\n")
    return code
