"""What the command line makes of messages: plain values, rows, stories, and lines of errors."""

from __future__ import annotations

import io
import json

import grpc
import pytest
from rich.console import Console

from windlass.client import WindlassError
from windlass.client.cli import failures
from windlass.client.cli.failures import report
from windlass.client.cli.plain import plain
from windlass.client.cli.screen import Screen, rich_table, widths_of
from windlass.client.cli.story import Story
from windlass.client.cli.watching import line_of
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as wire


def test_text_of_task_code_does_not_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[2J\x9b31m\r\u202eno\nyes"
    screen = Screen()
    screen.fields([("failure", hostile)], {})
    screen.table(["message"], [[hostile]])
    screen.say(hostile)
    report(WindlassError("RUN_NOT_FOUND", hostile, code=grpc.StatusCode.NOT_FOUND))
    told = "".join(capsys.readouterr())
    assert told.count("\\x1b[2J\\x9b31m\\r\\u202eno") == 3
    assert not [each for each in told if each not in "\n" and not each.isprintable()]


def test_a_message_as_plain_values_has_every_key() -> None:
    run = wire.Run(state=common_pb2.RUN_STATE_COMPLETED, output=common_pb2.Payload(data=b'{"a": [1, 2.5]}'))
    run.context["order"] = b'{"id": "A"}'
    run.create_time.FromJsonString("2030-01-02T03:04:05.678Z")
    value = plain(run)
    assert value["state"] == "completed"
    assert value["output"] == {"a": [1, 2.5]}
    assert value["context"] == {"order": {"id": "A"}}
    assert value["create_time"] == "2030-01-02T03:04:05.678000Z"
    assert value["close_time"] is None
    assert value["failure"] is None
    assert value["open_work"] == []
    assert set(value) == {field.name for field in wire.Run.DESCRIPTOR.fields}
    json.dumps(value)


def test_states_of_a_newer_engine_are_shown_by_number() -> None:
    run = wire.Run.FromString(wire.Run(visit=1).SerializeToString() + b"\x10\x63")
    assert plain(run)["state"] == "99"


def test_a_table_in_a_pipe_is_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().table(("name", "text"), [("a", "x" * 300), ("bb", "two\nlines")])
    assert capsys.readouterr().out.splitlines() == ["NAME  TEXT", "a     " + "x" * 300, "bb    two ⏎ lines"]


def event(number: int, type: str, path: str = "", **attributes: object) -> common_pb2.HistoryEvent:
    made = common_pb2.HistoryEvent(number=number, type=type, path=path, attributes=json.dumps(attributes).encode())
    made.time.FromJsonString("2030-01-02T03:04:05Z")
    return made


RUN = [
    "01a1fed1d2557290a790f9e75d605c65",
    "order-17",
    "payments",
    "completed",
    "approval",
    *["2026-11-21 15:55:16"] * 2,
]
MODULE = ["4" * 64, "javascript", "1048576", "wasi", "2026-11-21 15:55:16", "charge.wasm", "3a9c74b32115561e"]


@pytest.mark.parametrize(
    ("headers", "row"),
    [
        (("run", "id", "workflow", "state", "at", "created", "closed"), RUN),
        (("digest", "runtime", "bytes", "abi", "stored", "name", "signed by"), MODULE),
        (("worker", "description"), ["w1", "a text that is much longer than what a line of a terminal can take " * 2]),
    ],
)
def test_a_table_on_a_narrow_terminal_leaves_nothing_out(headers: list[str], row: list[str]) -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(rich_table(headers, [row], 80))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "…" not in shown
    assert len("".join(shown.split())) == len("".join(("".join(headers), *row)).replace(" ", ""))
    for word in [word for text in (*headers, *row[1:]) for word in text.split() if len(word) <= 11]:
        assert word.lower() in shown.lower()


def test_a_table_with_room_has_a_line_for_each_row() -> None:
    columns = [["RUN", "a" * 32], ["CREATED", "2026-11-21 15:55:16"], ["DESCRIPTION", "a b " * 20]]
    assert widths_of(columns, 200) == [32, 19, 80]
    assert widths_of(columns, 80) == [32, 19, 25]


def test_a_story_knows_states_tasks_attempts_and_workers() -> None:
    story = Story()
    for each in (
        event(1, "StateEntered", state="charge"),
        event(2, "AttemptStarted", worker="north"),
        event(3, "AttemptEnded", why="crashed"),
        event(4, "AttemptStarted", worker="south"),
        event(5, "AttemptEnded", why="failed", failure={"code": "BUSY"}),
        event(6, "AttemptStarted", worker="south"),
        event(7, "SomethingOfALaterVersion", colour="blue"),
        event(8, "TaskCompleted"),
        event(9, "RunClosed", status="completed"),
    ):
        story.add(each)
    (step,) = story.steps_of(1)
    assert (step.state, step.outcome, step.retried) == ("charge", "success", True)
    assert [(each.worker, each.end) for each in step.attempts] == [
        ("north", "crashed"),
        ("south", "BUSY"),
        ("south", "completed"),
    ]
    assert story.closed == "completed"


def test_an_event_that_is_not_known_is_still_a_line() -> None:
    line = line_of(event(7, "SomethingOfALaterVersion", colour="blue"))
    assert "SomethingOfALaterVersion" in line
    assert "colour=blue" in line


def test_denials_and_use_are_words_and_hostile_texts_harmless() -> None:
    denials = [
        {"kind": "file", "call": "path_open", "argument": "/etc/\x1b[2J" + "x" * 200, "count": 3},
        {"kind": "sleep", "call": "poll_oneoff"},
        *({"kind": "other", "call": "c\n"},) * 3,
    ]
    usage = {"wall_us": 12_300, "cpu_us": 4_500, "memory_bytes": 131_072, "fuel": 99}
    line = line_of(event(9, "AttemptEnded", denials=denials, usage=usage))
    assert f"refused: path_open '/etc/\\x1b[2J{'x' * 51}' (3 times)  refused: poll_oneoff  refused: c\\n" in line
    assert line_of(event(9, "TaskCompleted", usage=usage)).endswith("took 12.3 ms, cpu 4.5 ms, 0.1 MB, fuel 99")
    assert line_of(event(9, "TaskCompleted", usage=["of a later version"], denials=7))


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            WindlassError("RUN_NOT_FOUND", "no run 'x'.", code=grpc.StatusCode.NOT_FOUND),
            4,
            "no run 'x' (RUN_NOT_FOUND)",
        ),
        (WindlassError("RUN_CLOSED", "it has\nclosed", code=grpc.StatusCode.FAILED_PRECONDITION), 3, "it has closed"),
        (WindlassError("NEW_REASON", "what", code=grpc.StatusCode.RESOURCE_EXHAUSTED), 6, "what (NEW_REASON)"),
        (WindlassError("STORE_FULL", "no room", code=grpc.StatusCode.RESOURCE_EXHAUSTED), 3, "no room (STORE_FULL)"),
        (WindlassError("UNAVAILABLE", "socket", code=grpc.StatusCode.UNAVAILABLE), 5, "no engine answers"),
        (TimeoutError("still waiting"), 9, "still waiting"),
        (KeyError("surprise"), 70, "this is a defect"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: Exception, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error) == code
    line = capsys.readouterr().err
    assert line.startswith("windlass: ")
    assert line.count("\n") == 1
    assert words in line


def test_a_defect_shows_where_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDLASS_TRACE", "1")
    with pytest.raises(KeyError):
        report(KeyError("surprise"))


def test_advice_is_for_reasons_that_exist() -> None:
    from windlass.engine.errors import CODES

    own = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}  # given by the library, not by the engine
    assert set(failures._ADVICE) - set(CODES) - own == set()
