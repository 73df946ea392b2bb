"""The book of everything a worker was given and still owes an answer for.

An entry is *working* until it has an answer (a result or a release), then *answered* until the engine has
acknowledged it. Nothing leaves the book because a connection broke: all answers are then sent again, and the engine
takes a repeated answer as the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.actions import Action, Refused, Stop
from windlass.worker.answers import Refusal

#: Progress and checkpoints are gathered for this long before they are sent, so that a chatty task costs little.
NOTES_EVERY_S = 0.2
#: A larger one is left out: the engine takes no checkpoint of this size, and no message could hold many of them.
NOTE_BYTES_MAX = 128 << 10
#: An answer that the engine could not take just now is sent again after this.
REPEAT_AFTER_S = 0.5

Answer = wire.TaskResult | wire.TaskRelease


@dataclass
class Entry:
    """A task in the book."""

    task: wire.Task
    answer: Answer | None = None
    until_s: float = 0.0  #: how far its time was extended


class Book:
    """Entries by task token, and which of them have something to say."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.working = 0
        self.notes_due_s = float("inf")
        self.repeat_due_s = float("inf")
        self._ready: list[bytes] = []  # answered, and not carried by this stream yet
        self._repeat: list[bytes] = []
        self._notes: dict[bytes, wire.TaskHeartbeat] = {}
        self._notes_ripe = False

    @property
    def unacknowledged(self) -> int:
        """Entries whose answer the engine has not recorded yet."""
        return len(self.entries) - self.working

    @property
    def ready(self) -> int:
        """Answers that this stream has not carried yet."""
        return len(self._ready)

    def works_on(self, token: bytes) -> bool:
        """True while an answer for this task is wanted."""
        entry = self.entries.get(token)
        return entry is not None and entry.answer is None

    def add(self, task: wire.Task) -> bool:
        """Enter a task. False if it is there already (delivered twice)."""
        if task.task_token in self.entries:
            return False
        self.entries[task.task_token] = Entry(task)
        self.working += 1
        return True

    def answer(self, answer: Answer) -> bool:
        """A task has its answer. False if nobody wants it any more."""
        entry = self.entries.get(answer.task_token)
        if entry is None or entry.answer is not None:
            return False
        entry.answer = answer
        self.working -= 1
        self._ready.append(answer.task_token)
        return True

    def interrupt(self, why: str) -> list[Action]:
        """Give back whatever has no answer yet: it has begun, and must stop."""
        working = [token for token, entry in self.entries.items() if entry.answer is None]
        for token in working:
            reason = wire.RELEASE_REASON_INTERRUPTED
            self.answer(wire.TaskRelease(task_token=token, reason=reason, message=why))
        return [Stop(token, why) for token in working]

    def amend(self, token: bytes, answer: Answer | None) -> None:
        """The answer was refused for good: send another one instead, or none."""
        if answer is None:
            self.forget(token)
        else:
            self.entries[token].answer = answer
            self._ready.append(token)

    def repeat(self, token: bytes, now_s: float) -> None:
        """The engine cannot take the answer just now: send it again soon."""
        self._repeat.append(token)
        self.repeat_due_s = min(self.repeat_due_s, now_s + REPEAT_AFTER_S)

    def wake(self, now_s: float) -> None:
        """Make answers and notes whose pause is over ready to be said."""
        if now_s >= self.notes_due_s:
            self._notes_ripe, self.notes_due_s = True, float("inf")
        if now_s >= self.repeat_due_s:
            self._ready += self._repeat
            self._repeat, self.repeat_due_s = [], float("inf")

    def _extend(self, note: wire.TaskHeartbeat, until_s: float, now_s: float) -> None:
        """Say how long the task has from now: no less than it was promised before."""
        entry = self.entries[note.task_token]
        entry.until_s = max(entry.until_s, until_s)
        note.extension.FromMicroseconds(int((entry.until_s - now_s) * 1e6))

    def say_all_again(self, now_s: float) -> None:
        """A new stream: it has carried nothing yet. Extensions are not acknowledged, so they are said again, too."""
        self._ready = [token for token, entry in self.entries.items() if entry.answer is not None]
        self._repeat, self.repeat_due_s = [], float("inf")
        for token, entry in self.entries.items():
            if entry.answer is None and entry.until_s > now_s:
                note = self._notes.setdefault(token, wire.TaskHeartbeat(task_token=token))
                self._extend(note, entry.until_s, now_s)
                self._notes_ripe = True

    def forget(self, token: bytes) -> None:
        """The engine has recorded the answer. A working entry stays: the acknowledgement is of an older attempt."""
        entry = self.entries.get(token)
        if entry is not None and entry.answer is not None:
            del self.entries[token]
            self._notes.pop(token, None)

    def drop(self, tokens: Iterable[bytes], why: str) -> list[Action]:
        """Take tasks out without an answer. Returns what must stop, and the results that nobody wants any more."""
        actions: list[Action] = []
        for token in tokens:
            entry = self.entries.pop(token, None)
            self._notes.pop(token, None)
            if entry is not None and entry.answer is None:
                self.working -= 1
                actions.append(Stop(token, why))
            elif entry is not None and isinstance(entry.answer, wire.TaskResult):
                actions.append(Refused(entry.task, Refusal("LEASE_LOST", why)))
        return actions

    def note(self, note: wire.TaskHeartbeat, now_s: float) -> None:
        """A task reports progress, a checkpoint, or just that it lives. The latest of each counts."""
        if self.works_on(note.task_token) and note.ByteSize() <= NOTE_BYTES_MAX:
            gathered = self._notes.setdefault(note.task_token, wire.TaskHeartbeat(task_token=note.task_token))
            if note.HasField("extension"):
                gathered.ClearField("extension")
            gathered.MergeFrom(note)
            due_s = self._due_s(note, now_s)
            if note.HasField("extension"):
                self._extend(gathered, now_s + note.extension.ToMicroseconds() / 1e6, now_s)
            if not self._notes_ripe:
                self.notes_due_s = min(self.notes_due_s, due_s)

    def ask_about(self, token: bytes) -> None:
        """A sign of life, soon: an engine that has not leased the task to us says so."""
        self._notes.setdefault(token, wire.TaskHeartbeat(task_token=token))
        self._notes_ripe = True

    def _due_s(self, note: wire.TaskHeartbeat, now_s: float) -> float:
        """An extension is said at once if the attempt's time, as far as the engine knows, may be over any moment."""
        urgent = note.HasField("extension") and self.entries[note.task_token].until_s <= now_s + 2 * NOTES_EVERY_S
        return now_s if urgent else now_s + NOTES_EVERY_S

    def put_answers(self, message: wire.StreamTasksRequest, enough_bytes: float, most_bytes: int) -> bool:
        """Add ready answers until there are `enough_bytes`; several never above `most_bytes`. True if any was added."""
        taken, used = 0, 0
        for token in self._ready:
            entry = self.entries.get(token)
            if entry is None or entry.answer is None:
                taken += 1
                continue
            size = entry.answer.ByteSize() + (self._notes[token].ByteSize() if token in self._notes else 0)
            if used >= enough_bytes or (used and used + size > most_bytes):
                break
            taken += 1
            used += size
            if token in self._notes:  # the engine takes notes before answers, so the last checkpoint is not lost
                message.task_heartbeats.append(self._notes.pop(token))
            if isinstance(entry.answer, wire.TaskResult):
                message.results.append(entry.answer)
            else:
                message.releases.append(entry.answer)
        del self._ready[:taken]
        return taken > 0

    def put_notes(self, message: wire.StreamTasksRequest, most_bytes: int) -> bool:
        """Add notes if they are due, until the message has `most_bytes`; the others stay due. True if any was added."""
        if not self._notes_ripe:
            return False
        room_bytes = most_bytes - message.ByteSize()
        for token in tuple(self._notes):
            if room_bytes <= 0:
                return True
            note = self._notes.pop(token)
            room_bytes -= note.ByteSize()
            message.task_heartbeats.append(note)
        self._notes_ripe = False
        return bool(message.task_heartbeats)
