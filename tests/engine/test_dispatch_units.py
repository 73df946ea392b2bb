"""Units in dispatch: a worker never has more leased to it than it offers, and none of its rings waits for ever."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.engine.capacity import PASSED_MAX, QueueKey
from windlass.engine.connected import Assignment, Connected
from windlass.engine.core.units import kind_of, split_kind, text_of, units_of
from windlass.engine.dispatch import NEEDY_RINGS_MAX, Dispatch
from windlass.engine.records import LeaseRecord, SessionRecord
from windlass.engine.work import After, TaskKey

PLAIN = ("default", "default", "javascript")


class Quiet:
    """A worker's stream that nobody reads."""

    def send_tasks(self, assignments: list[Assignment]) -> None: ...
    def send_stop(self, task: TaskKey, reason: str) -> None: ...
    def send_drain(self) -> None: ...
    def lapsed(self) -> None: ...
    def hang_up(self) -> list[TaskKey]:
        return []

    def replaced(self) -> list[TaskKey]:
        return []


def ring(**needs: int) -> QueueKey:
    return ("default", "default", kind_of("javascript", "", text_of(needs)))


class Bench:
    """A dispatch with its workers, and tasks that are leased and end one by one."""

    def __init__(self) -> None:
        self.dispatch = Dispatch()
        self.dispatch.on_claimable = self.called
        self.calls = self.number = 0

    def called(self) -> None:
        self.calls += 1

    def connect(self, name: str = "s", credits: int = 100, **offer: int) -> Connected:
        record = SessionRecord(name, name, "default", ("default",), ("javascript",), 2, 0, offer=offer)
        session = self.dispatch.connect(record, Quiet())
        self.dispatch.backlog.clear()
        self.dispatch.grant(name, credits)
        return session

    def reserve(self, key: QueueKey, *, claiming: bool = False) -> Connected | None:
        return self.dispatch.reserve(*key, claiming=claiming, needy=bool(split_kind(key[2])[1]))

    def commit(self, session: Connected, key: QueueKey) -> TaskKey:
        """The transaction that reserved it is committed: the task is the worker's."""
        self.number += 1
        task = ("default", f"run{self.number}", 1, "", 1)
        after = After()
        after.assigned.append(Assignment(session, task, None, None, 0, 0, 0, 0, key))  # type: ignore[arg-type]
        self.dispatch.deliver(after)
        return task

    def lease(self, key: QueueKey, *, claiming: bool = False) -> TaskKey | None:
        session = self.reserve(key, claiming=claiming)
        return None if session is None else self.commit(session, key)

    def end(self, session: Connected, task: TaskKey) -> None:
        after = After()
        after.released.append((session.record.session, task))
        self.dispatch.deliver(after)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def free(session: Connected) -> dict[str, int]:
    assert session.capacity is not None
    return session.capacity.free


def test_kinds_with_needs_have_one_spelling_and_are_read_back() -> None:
    text = text_of({"memory": 4096, "gpu": 1})
    assert text == "gpu=1,memory=4096"
    assert units_of(text) == (("gpu", 1), ("memory", 4096))
    assert split_kind(kind_of("python", "train", text)) == ("python:train", text)
    assert split_kind("python:a+b") == ("python:a+b", "")
    assert split_kind("javascript") == ("javascript", "")
    assert units_of("") == ()


def test_a_task_takes_its_units_until_its_lease_ends(bench: Bench) -> None:
    session = bench.connect(gpu=2)
    first, second = bench.lease(ring(gpu=1)), bench.lease(ring(gpu=1))
    assert first is not None
    assert second is not None
    assert bench.lease(ring(gpu=1)) is None
    assert free(session) == {"gpu": 0}
    bench.end(session, first)
    bench.end(session, first)  # told twice
    assert free(session) == {"gpu": 1}
    assert bench.lease(ring(gpu=1)) is not None


def test_all_units_must_be_there_and_a_worker_without_them_gets_none(bench: Bench) -> None:
    bench.connect("bare")
    assert bench.reserve(ring(gpu=1)) is None
    bench.connect("half", gpu=1)
    assert bench.reserve(ring(gpu=1, memory=10)) is None
    able = bench.connect("able", gpu=1, memory=10)
    assert bench.reserve(ring(gpu=1, memory=10)) is able
    assert bench.reserve(ring(memory=1)) is None


def test_a_worker_without_units_free_still_gets_what_needs_none(bench: Bench) -> None:
    session = bench.connect(gpu=1)
    assert bench.lease(ring(gpu=1)) is not None
    assert bench.dispatch.found(ring(gpu=1))  # another one is queued behind it
    assert bench.reserve(PLAIN) is session


def test_what_a_transaction_took_and_did_not_commit_is_given_back(bench: Bench) -> None:
    session = bench.connect(gpu=1)
    assert bench.reserve(ring(gpu=1)) is session
    assert bench.reserve(ring(gpu=1)) is None
    bench.dispatch.found(ring(gpu=1))
    before = bench.calls
    bench.dispatch.release(session, ring(gpu=1))
    assert free(session) == {"gpu": 1}
    assert bench.calls > before, "what waits is looked at again"


def test_an_ended_lease_wakes_what_waits_for_its_units(bench: Bench) -> None:
    session = bench.connect(gpu=1)
    task = bench.lease(ring(gpu=1))
    assert task is not None
    bench.dispatch.found(ring(gpu=1))
    assert bench.dispatch.claimable() == []
    before = bench.calls
    bench.end(session, task)
    assert bench.calls > before
    assert bench.dispatch.claimable() == [(ring(gpu=1), 1)]


def test_a_new_connection_counts_what_the_store_says(bench: Bench) -> None:
    old = bench.connect(gpu=2)
    task = bench.lease(ring(gpu=1))
    assert task is not None
    assert bench.reserve(ring(gpu=1)) is old  # under way while the worker reconnects
    new = bench.connect(gpu=2)
    new.take_over(task, LeaseRecord(1, 0, 0, "gpu=1"), 0)
    new.take_over(task, LeaseRecord(1, 0, 0, "gpu=1"), 0)
    bench.dispatch.release(old, ring(gpu=1))
    assert free(new) == {"gpu": 1}
    bench.end(new, task)
    assert free(new) == {"gpu": 2}


def test_while_leases_are_read_no_units_are_given_and_what_ends_stays_ended(bench: Bench) -> None:
    session = bench.connect(gpu=1)
    task = ("default", "r", 1, "", 1)
    with bench.dispatch.reading(session):
        assert bench.reserve(ring(gpu=1)) is None
        assert bench.reserve(PLAIN) is session
        bench.end(session, task)
        session.take_over(task, LeaseRecord(1, 0, 0, "gpu=1"), 0)
    assert session.held == {}
    assert bench.reserve(ring(gpu=1)) is session


def test_a_worker_that_comes_back_with_less_holds_more_than_it_has_until_that_ends(bench: Bench) -> None:
    session = bench.connect(gpu=1)
    tasks: list[TaskKey] = [("default", f"r{n}", 1, "", 1) for n in range(2)]
    for task in tasks:
        session.take_over(task, LeaseRecord(1, 0, 0, "gpu=1,memory=5"), 0)
    assert free(session) == {"gpu": -1}
    bench.end(session, tasks[0])
    assert bench.lease(ring(gpu=1)) is None
    bench.end(session, tasks[1])
    assert bench.lease(ring(gpu=1)) is not None


def test_a_task_that_needs_two_is_passed_a_few_times_and_no_more(bench: Bench) -> None:
    session = bench.connect(gpu=2, memory=1)
    small = [bench.lease(ring(gpu=1)), bench.lease(ring(gpu=1))]
    assert bench.dispatch.found(ring(gpu=2))
    passed = 0
    while bench.dispatch.found(ring(gpu=1)):
        oldest = small.pop(0)
        assert oldest is not None
        bench.end(session, oldest)
        rings = [key for key, _ in bench.dispatch.claimable()]
        if ring(gpu=1) not in rings:
            break
        small.append(bench.lease(ring(gpu=1), claiming=True))
        passed += 1
    assert passed == PASSED_MAX
    assert bench.lease(ring(memory=1)) is not None, "what needs other units goes on"
    assert bench.lease(ring(gpu=1), claiming=True) is None
    assert small[0] is not None
    bench.end(session, small[0])
    assert bench.dispatch.claimable() == [(ring(gpu=2), 1)]
    assert bench.lease(ring(gpu=2), claiming=True) is not None


def test_a_worker_stops_saving_for_a_ring_that_waits_no_more(bench: Bench) -> None:
    session = bench.connect(gpu=2)
    held = bench.lease(ring(gpu=1))
    bench.dispatch.found(ring(gpu=2))
    for _ in range(PASSED_MAX):
        task = bench.lease(ring(gpu=1))
        assert task is not None
        bench.end(session, task)
    assert bench.lease(ring(gpu=1)) is None
    bench.dispatch.backlog.discard(ring(gpu=2))  # withdrawn, or taken by another engine's worker
    assert held is not None
    assert bench.lease(ring(gpu=1)) is not None


def test_two_large_needs_do_not_wait_for_each_other(bench: Bench) -> None:
    session = bench.connect(a=2, b=2)
    large = [ring(a=2, b=1), ring(a=1, b=2)]
    tasks = [bench.lease(ring(a=1, b=1)), bench.lease(ring(a=1, b=1))]
    for key in large:
        assert bench.dispatch.found(key)
    for _ in range(PASSED_MAX + 1):
        for at in (0, 1):
            oldest = tasks[at]
            if oldest is None:
                continue
            bench.end(session, oldest)
            tasks[at] = bench.lease(ring(a=1, b=1), claiming=True)
    done = []
    for _ in large:
        (key, _), *_ = bench.dispatch.claimable()
        done.append(key)
        bench.dispatch.offered(key)
        task = bench.lease(key, claiming=True)
        assert task is not None
        bench.dispatch.backlog.discard(key)
        bench.end(session, task)
    assert sorted(done) == sorted(large)


def test_rings_of_empty_queues_are_forgotten_and_made_again(bench: Bench) -> None:
    bench.connect(memory=10**6)
    waiting = ring(memory=10**6)
    assert bench.dispatch.found(waiting)
    for amount in range(1, NEEDY_RINGS_MAX + 2):
        task = bench.lease(ring(memory=amount))
        if task is not None:
            bench.end(bench.dispatch.connected["s"], task)
    assert len(bench.dispatch._needy) <= NEEDY_RINGS_MAX
    assert [key for key, _ in bench.dispatch.claimable()] == [waiting]
    assert bench.dispatch.rings() == [PLAIN]
    bench.dispatch.disconnect("s", bench.dispatch.connected["s"].outlet)
    assert bench.dispatch.rings() == []
    assert not bench.dispatch._needy


def test_a_worker_that_names_a_queue_twice_stands_in_its_rings_once(bench: Bench) -> None:
    bench.dispatch.found(ring(gpu=1))  # nobody is there for it
    record = SessionRecord("s", "w", "default", ("default", "default"), ("javascript",), 2, 0, offer={"gpu": 1})
    outlet = Quiet()
    bench.dispatch.connect(record, outlet)
    bench.dispatch.connect(msgspec.structs.replace(record, session="other"), outlet)
    assert bench.dispatch.found(ring(gpu=1))
    for session in ("s", "other"):
        bench.dispatch.disconnect(session, outlet)
    assert not bench.dispatch.found(ring(gpu=1))
    assert bench.dispatch.rings() == []


NEEDS = st.sampled_from([{}, {"gpu": 1}, {"gpu": 2}, {"gpu": 1, "memory": 3}, {"memory": 2}, {"gpu": 3, "memory": 5}])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["lease", "claim", "abort", "end", "queue", "reconnect", "credit"]), NEEDS, st.integers(0)
    ),
    max_size=80,
)


@given(STEPS, st.integers(1, 3), st.integers(1, 5))
def test_no_order_of_events_leases_more_than_is_offered(
    steps: list[tuple[str, dict[str, int], int]], gpu: int, memory: int
) -> None:
    bench = Bench()
    offers = {"s0": {"gpu": gpu, "memory": memory}, "s1": {"gpu": 1}, "s2": {}}
    for name, offer in offers.items():
        bench.connect(name, 5, **offer)
    held: dict[str, dict[TaskKey, QueueKey]] = {name: {} for name in offers}
    for what, needs, pick in steps:
        key = ring(**needs)
        name = f"s{pick % 3}"
        session = bench.dispatch.connected[name]
        if what in ("lease", "claim"):
            found = bench.reserve(key, claiming=what == "claim")
            if found is not None:
                held[found.record.session][bench.commit(found, key)] = key
        elif what == "abort":
            found = bench.reserve(key)
            if found is not None:
                bench.dispatch.release(found, key if needs else None)
        elif what == "end" and held[name]:
            task = sorted(held[name])[pick % len(held[name])]
            del held[name][task]
            bench.end(session, task)
        elif what == "queue":
            bench.dispatch.found(key)
        elif what == "credit":
            bench.dispatch.grant(name, 2)
        elif what == "reconnect":
            session = bench.connect(name, 5, **offers[name])
            for task, of in held[name].items():
                session.take_over(task, LeaseRecord(1, 0, 0, split_kind(of[2])[1]), 0)
        for each, offer in offers.items():
            used: Counter[str] = Counter()
            for of in held[each].values():
                used.update(dict(units_of(split_kind(of[2])[1])))
            assert all(used[unit] <= offer.get(unit, 0) for unit in used), (each, used)
            capacity = bench.dispatch.connected[each].capacity
            if capacity is not None:
                assert {n: a for n, a in capacity.used().items() if a} == dict(used)
    for name, tasks in held.items():  # and when all has ended, all is free
        for task in list(tasks):
            bench.end(bench.dispatch.connected[name], task)
    assert free(bench.dispatch.connected["s0"]) == offers["s0"]
