"""Every limit of the core, with its unit."""

from __future__ import annotations

import re
from collections.abc import Mapping

MAP_OPEN_MAX = 1000  #: items of one map open at once
MAP_CHUNK = 250  #: item records created by one decision, so that its transaction stays small
MAP_CHUNK_BYTES = 400_000  #: and their values together (but one item is always created)
ENTRIES_MAX = 1000  #: states entered by one decision; then it yields
SPIN_MAX = 100_000  #: states entered without ever waiting; then it is an endless loop
SPIN_BYTES = 500  #: of values and texts that actions write into the history are as much as a state
WORK_YIELD = 10_000_000  #: work of one decision (see `Turn.spend`), about 0.3 s; then it yields
WORK_MAX = 100_000_000  #: and what cannot yield before this becomes an incident
ACTION_WORK = 1_000  #: of an action that the engine runs itself
RENDERED_BYTES_MAX = 4_000_000  #: what one template or selector makes; no message takes more
CONTEXT_BYTES_MAX = 1_000_000  #: names and values of the context together
OUTPUT_BYTES_MAX = 1_000_000  #: one output
RESUME_BYTES_MAX = 100_000  #: resume state of a poll, a checkpoint, an escalation's form
EMITS_MAX = 100  #: events that one attempt may emit
EMIT_BYTES_MAX = 100_000  #: payloads of these together
CRASHES_MAX = 5  #: crashes of one task; then an incident
AWAY_MAX = 10  #: leases of one task that came to nothing for want of an engine or a delivery; a further one is a crash
INBOX_MAX = 10_000  #: signals that one run keeps unread
UNABLE_US = 60_000_000  #: a worker that cannot run a task is not asked again for it before
UNABLE_MAX = 50  #: workers of which one task remembers that
UNDO_MAX = 1000  #: completed states that wait for a possible compensation
WAIT_SIGNALS_MAX = 100  #: signals that one wait is for
SPAWN_MAX = 100  #: children that one task may ask for
START_TO_CLOSE_US = 60_000_000  #: one attempt, when the author sets nothing
SUSPEND_US = 10_000_000  #: until a suspended task is asked again, when nobody says
SHIELD_US = 600_000_000  #: exit actions and compensation of a cancelled run together
FOREVER_US = 4_102_444_800_000_000  #: the year 2100: no timer is due later
NAME_BYTES_MAX = 200  #: a workflow id, request id, namespace, queue or signal name: several fit into one key

_CONTROL = re.compile(r"[\x00-\x1f]")


def name_flaw(name: str) -> str:
    """Why this cannot be a name from outside; "" if it can."""
    if len(name.encode()) > NAME_BYTES_MAX:
        return f"is longer than {NAME_BYTES_MAX} bytes"
    return "holds control characters" if _CONTROL.search(name) else ""


def context_bytes(context: Mapping[str, bytes]) -> int:
    """What counts against CONTEXT_BYTES_MAX. Names count: code may put everything into them."""
    return sum(map(len, context)) + sum(map(len, context.values()))
