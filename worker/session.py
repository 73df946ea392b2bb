"""A worker's half of the protocol: what is held, what is owed, what to say next. No socket, no clock, no task code.

Theory of operation. The driver feeds events in (`opened`, `received`, `answered`, `tick` …), carries out the actions
that come back, and sends whatever `outgoing` gives. Everything that the worker was given stays in the book
(`windlass.worker.book`) until the engine has acknowledged what became of it. A lost connection changes nothing there:
the next stream's first message lists every token of the book. Entries leave it without an acknowledgement only when
the lease is gone: the engine says so, or it ran out by our own clock (`windlass.worker.lease`). All times are seconds
of one monotonic clock, given in.
"""

from __future__ import annotations

from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.actions import Action, Cancel, Reconnect, Refused, Registered, Start
from windlass.worker.answers import answer_after, fitting, refusal_of
from windlass.worker.book import Answer, Book
from windlass.worker.lease import Lease

#: Answers are packed into a message up to this share of what the engine takes.
MESSAGE_SHARE = 0.5
#: No message takes more; the rest is for its notes and a heartbeat.
MESSAGE_SHARE_MOST = 0.875
DEFAULT_MESSAGE_BYTES = 4 << 20


class Session:
    """The conversation of one worker process with its engines, over any number of streams."""

    def __init__(self, profile: wire.RegisterWorkerRequest, capacity: int, most: int = 0) -> None:
        """`capacity`: how many tasks may be working at once, those that wait for a slot included. It may change.

        `most`: how many tasks are taken in all, before the session drains by itself; 0 = no end.
        """
        self.capacity = capacity
        self.lease = Lease()
        self.registered = False
        self.draining = False
        self.session_id = ""
        self.max_output_bytes = 0
        self._profile = profile
        self._book = Book()
        self._left = float(most or "inf")  # tasks still to be taken
        self._credit = 0  # granted on this stream and not used yet
        self._offers = 0  # starts under way, each of which may bring a task beside the credits
        self._in_doubt = False  # some of them began on an earlier stream
        self._engine_draining = False
        self._drain_said = False
        self._beat = 0  # number of a heartbeat that wants to be sent
        self._register_sent_s = 0.0
        self._message_bytes = DEFAULT_MESSAGE_BYTES

    # ---- what the driver asks

    @property
    def working(self) -> int:
        """Tasks without an answer."""
        return self._book.working

    @property
    def held(self) -> int:
        """Tasks in the book, answered ones included."""
        return len(self._book.entries)

    def try_within_s(self, now_s: float) -> float:
        """The longest pause before the next try to connect. With a lapsed lease goes also what is finished."""
        return self.lease.try_within_s(now_s) if self.held else float("inf")

    @property
    def gathering(self) -> bool:
        """True while more answers are soon to come than there are to say."""
        return 0 < self._book.ready < self._book.working

    def works_on(self, token: bytes) -> bool:
        """True while an answer for this task is wanted."""
        return self._book.works_on(token)

    def due_s(self) -> float:
        """When `tick` has something to do; infinity if only events can change anything."""
        stop_s = self.lease.stop_at_s if self.working else float("inf")
        if not self.registered:
            return stop_s
        lease_s = min(self.lease.beat_due_s, self.lease.silent_at_s(), stop_s)
        return min(lease_s, self._book.notes_due_s, self._book.repeat_due_s)

    def offer(self) -> str:
        """The session's id if it could take one more task than the engine sends it, which is kept for it; else empty.

        Each offer ends with `offered`.
        """
        room = self.registered and not self.draining and not self._engine_draining
        if not room or self.working + self._offers >= self.capacity:
            return ""
        self._offers += 1
        return self.session_id

    def offered(self, task: wire.Task | None) -> list[Action]:
        """What came of an offer: a task with the answer to a start, or none."""
        self._offers -= 1
        in_doubt, self._in_doubt = self._in_doubt, self._in_doubt and self._offers > 0
        actions = [] if task is None else self._taken(task)
        if actions and task is not None and in_doubt:
            # The stream since then has not named it, so the engine may have given it to somebody else: it answers.
            self._book.ask_about(task.task_token)
        return actions

    # ---- the connection

    def opened(self, now_s: float) -> wire.StreamTasksRequest:
        """A new stream is open. Returns the message that must go first."""
        self.lost()
        self._register_sent_s = now_s
        register = wire.RegisterWorkerRequest()
        register.CopyFrom(self._profile)
        register.resume_session_id = self.session_id
        register.held_task_tokens.extend(self._book.entries)
        return wire.StreamTasksRequest(register=register)

    def lost(self) -> None:
        """The stream is gone; nothing that was sent on it can be relied on."""
        self._in_doubt = self._offers > 0
        self.registered = False
        self._engine_draining = False
        self._drain_said = False
        self._credit = 0
        self._beat = 0
        self.lease.disconnected()

    def forgotten(self, why: str) -> list[Action]:
        """The engine does not know the session any more: nothing in the book is ours."""
        self.session_id = ""
        return self._book.drop(list(self._book.entries), why)

    def received(self, message: wire.StreamTasksResponse, now_s: float) -> list[Action]:
        """Take in a message of the engine's."""
        actions: list[Action] = []
        if message.HasField("registered"):
            actions += self._on_registered(message.registered, now_s)
        for task in message.tasks:  # before what is accepted: a task sent again may be among that
            actions += self._on_task(task)
        for token in message.accepted_task_tokens:
            self._book.forget(token)
        for rejected in message.rejected:
            actions += self._on_rejected(rejected, now_s)
        for cancel in message.cancels:
            actions += self._on_cancel(cancel)
        if message.HasField("heartbeat"):
            self.lease.acknowledged(message.heartbeat.number, message.heartbeat.lease_duration.ToNanoseconds() / 1e9)
        self._engine_draining = self._engine_draining or message.drain
        if self._engine_draining and not self._book.entries:
            actions.append(Reconnect("the engine drains"))
        return actions

    def tick(self, now_s: float) -> list[Action]:
        """Do what is due by the clock."""
        actions: list[Action] = []
        if self.working and now_s >= self.lease.stop_at_s:
            # The lease may stand all the same. Then the engine must hear that they had begun: what a worker that comes
            # back does not name has never reached it, for all the engine knows.
            actions += self._book.interrupt("the lease could not be renewed in time")
        # Also after tasks were stopped: a stream that brought no renewal in time is no good.
        if self.registered and (actions or self.lease.silent(now_s)):
            actions.append(Reconnect("the engine leaves heartbeats unanswered"))
            self.lost()
        # A heartbeat counts from here, not from when the stream takes it: if a write hangs, silence must still show.
        if now_s >= self.lease.beat_due_s:
            self._beat = self.lease.beat(now_s)
        self._book.wake(now_s)
        return actions

    # ---- the tasks

    def answered(self, answer: Answer) -> bool:
        """A task has its result or release. False if nobody wants it any more."""
        return self._book.answer(fitting(answer, self._most_bytes))

    def noted(self, note: wire.TaskHeartbeat, now_s: float) -> None:
        """A task reports progress, a checkpoint, or just that it lives."""
        self._book.note(note, now_s)

    def drain(self) -> None:
        """Take no more tasks, from now on and on every later stream."""
        self.draining = True

    # ---- what to say

    def outgoing(self) -> wire.StreamTasksRequest | None:
        """Everything that is ready to be said, in one message; None if there is nothing."""
        if not self.registered:
            return None
        message = wire.StreamTasksRequest()
        spoke = self._book.put_answers(message, self._message_bytes * MESSAGE_SHARE, self._most_bytes)
        spoke = self._book.put_notes(message, self._most_bytes) or spoke
        spoke = self._put_credits(message) or spoke
        if self.draining and not self._drain_said:
            self._drain_said = message.drain = spoke = True
        if self._beat:
            message.heartbeat.number, self._beat = self._beat, 0
            message.heartbeat.running = self.working
            spoke = True
        return message if spoke else None

    @property
    def _most_bytes(self) -> int:
        return int(self._message_bytes * MESSAGE_SHARE_MOST)

    def _put_credits(self, message: wire.StreamTasksRequest) -> bool:
        """Credits for the room there is.

        Of those taken back some may have been used: the engine takes what is left, and does not say how much that was.
        Whoever grants before the tasks arrive that they went to is counted as many too many there. That heals: the
        first task too many finds no credit here and takes none, so both sides count the same again. Until then a task
        may wait here that another worker had room for, no longer than anything that does not begin. An exact count
        would have the engine say what it took, and worker and engine ask each other whether they know that.
        """
        if self.draining or self._engine_draining:
            return False
        room = int(min(self.capacity - self.working, self._left))
        more = max(room - self._credit, -self._credit)  # below 0: taken back
        # An engine that gives tasks and acknowledges nothing is not given more: the book must not grow without bound.
        if not more or (more > 0 and self._book.unacknowledged > 8 * self.capacity + 64):
            return False
        message.credits = more
        self._credit += more
        return True

    # ---- what the engine says

    def _on_registered(self, reply: wire.RegisterWorkerResponse, now_s: float) -> list[Action]:
        lost = list(reply.lost_task_tokens) if reply.resumed else list(self._book.entries)
        actions = self._book.drop(lost, "the engine has given it to another worker")
        self.registered = True
        self.session_id = reply.session_id
        self.max_output_bytes = reply.max_output_bytes
        self._message_bytes = reply.max_message_bytes or DEFAULT_MESSAGE_BYTES
        duration_s = reply.lease_duration.ToNanoseconds() / 1e9
        self.lease.granted(self._register_sent_s, now_s, duration_s, reply.heartbeat_interval.ToNanoseconds() / 1e9)
        self._book.say_all_again(now_s)
        actions.append(Registered(reply))
        return actions

    def _on_task(self, task: wire.Task) -> list[Action]:
        self._credit = max(0, self._credit - 1)
        return self._taken(task)

    def _taken(self, task: wire.Task) -> list[Action]:
        if not self._book.add(task):
            return []
        if self.draining:  # it crossed our drain on the wire
            self.answered(wire.TaskRelease(task_token=task.task_token, reason=wire.RELEASE_REASON_DRAINED))
            return []
        self._left -= 1
        self.draining = not self._left
        return [Start(task)]

    def _on_cancel(self, cancel: wire.TaskCancel) -> list[Action]:
        if cancel.reason in (wire.CANCEL_REASON_LOST, wire.CANCEL_REASON_TIMED_OUT):
            return self._book.drop([cancel.task_token], cancel.message or "the engine took it back")
        if not self.works_on(cancel.task_token):
            return []
        return [Cancel(cancel.task_token, cancel.message or "the run was cancelled")]

    def _on_rejected(self, rejected: wire.RejectedTask, now_s: float) -> list[Action]:
        entry = self._book.entries.get(rejected.task_token)
        if entry is None or entry.answer is None:
            return []
        refusal = refusal_of(rejected.error)
        if refusal.passing:
            self._book.repeat(rejected.task_token, now_s)
        else:
            self._book.amend(rejected.task_token, answer_after(refusal, entry.answer))
        return [Refused(entry.task, refusal)]
