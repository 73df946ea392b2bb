"""The command line against a real engine and a real worker: what people see, what programs get, which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.acceptance.programs import EXAMPLES, Engine, Terminal, engine
from windlass.v1 import common_pb2, worker_service_pb2, worker_service_pb2_grpc

#: Waits for a signal that is not sent to it but published with its number.
PAID = """
workflow: paid
initial: bill
states:
  bill:
    wait: {signals: [paid], correlate: number}
    transitions: [{to: done}]
  done: {}
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("cli"), workers=1) as started:
        yield started


@pytest.fixture
def windlass(capsys: pytest.CaptureFixture[str], running: Engine) -> Terminal:
    terminal = Terminal(capsys, running.address)
    for name in ("hello.yaml", "signals/delivery.yaml", "approval/expense.yaml"):
        terminal.good("register", str(EXAMPLES / name))
    return terminal


def test_start_waits_and_prints_the_output(windlass: Terminal) -> None:
    out = windlass.good("start", "hello", "--input", '{"name": "Ada"}', "--wait")
    assert "completed" in out
    assert '"greeting": "Hello, Ada!"' in out


def test_start_takes_its_input_from_a_file(windlass: Terminal, tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text('{"name": "Grace"}')
    out = windlass.good("start", "hello", "--input", f"@{tmp_path / 'input.json'}", "--wait", "-o", "json")
    assert json.loads(out)["output"] == {"greeting": "Hello, Grace!"}


def test_a_started_run_is_listed_shown_and_followed_to_its_end(windlass: Terminal) -> None:
    windlass.good("start", "hello", "--id", "greeting-1", "--input", '{"name": "Lin"}')
    assert "completed" in windlass.good("watch", "greeting-1")
    assert "Lin" in windlass.good("get", "greeting-1")
    assert "greeting-1" in windlass.good("list", "--workflow", "hello", "--state", "completed")
    assert "RunClosed" in windlass.good("history", "greeting-1")
    assert json.loads(windlass.good("query", "greeting-1", '{"path": "name"}')) == "Lin"


def test_json_output_of_a_list_is_an_array_with_every_field(windlass: Terminal) -> None:
    windlass.good("start", "hello", "--id", "greeting-2", "--input", '{"name": "Lin"}', "--wait")
    (run,) = json.loads(windlass.good("list", "--id", "greeting-2", "-o", "json"))
    assert run["ref"]["workflow"] == "hello"
    assert run["state"] == "completed"
    assert run["parent_run_id"] == ""
    assert run["close_time"].endswith("Z")


def test_watch_for_programs_is_a_json_object_per_line(windlass: Terminal) -> None:
    windlass.good("start", "hello", "--id", "greeting-3", "--input", '{"name": "Lin"}', "--wait")
    lines = [json.loads(line) for line in windlass.good("watch", "greeting-3", "-o", "json").splitlines()]
    assert lines[-1]["result"]["state"] == "completed"
    numbers = [event["number"] for line in lines for event in line["events"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_signals_move_a_run_and_updates_change_it(windlass: Terminal) -> None:
    windlass.good("start", "delivery", "--id", "parcel-1", "--input", '{"parcel": "P-1"}')
    windlass.good("signal", "parcel-1", "picked_up", '{"by": "van 7"}')
    reply = json.loads(windlass.good("update", "parcel-1", "change_address", '{"street": "Main Street 5"}'))
    assert reply == {"parcel": "P-1", "accepted": True}
    windlass.good("signal", "parcel-1", "delivered", '{"to": "the neighbour"}')
    assert "completed" in windlass.good("watch", "parcel-1")
    code, _, err = windlass("signal", "parcel-1", "delivered")
    assert code == 3
    assert "RUN_CLOSED" in err


def test_a_message_reaches_the_runs_that_wait_with_its_key(windlass: Terminal, tmp_path: Path) -> None:
    (tmp_path / "paid.yaml").write_text(PAID)
    windlass.good("register", str(tmp_path / "paid.yaml"))
    run = windlass.good("start", "paid", "--input", '{"number": "A-7"}').split()[1]
    assert "no run waits for paid" in windlass.good("publish", "paid", "A-8")
    reply = json.loads(windlass.good("publish", "paid", "A-7", '{"euros": 5}', "-o", "json"))
    assert [each["run_id"] for each in reply["runs"]] == [run]
    assert "kept" in windlass.good("publish", "paid", "A-9", "--keep", "60", "--id", "once")
    code, _, err = windlass("publish", "paid", "A-9", "--id", "once")
    assert (code, "MESSAGE_DUPLICATE" in err) == (3, True)
    windlass.good("start", "paid", "--input", '{"number": "A-9"}', "--wait")


def test_a_closed_run_is_removed_by_its_run_id_only(windlass: Terminal) -> None:
    run = windlass.good("start", "delivery", "--id", "gone", "--input", '{"parcel": "P"}').split()[1]
    code, _, err = windlass("delete", run)
    assert (code, "RUN_OPEN" in err) == (3, True)
    windlass.good("terminate", run)
    code, _, err = windlass("delete", "gone")
    assert (code, "32 hex digits" in err) == (2, True)
    assert "is removed" in windlass.good("delete", run)
    assert windlass("get", run)[0] == 4


def test_a_run_is_stepped_through_one_state_at_a_time(windlass: Terminal) -> None:
    windlass.good("start", "hello", "--id", "slow-1", "--input", '{"name": "Lin"}', "--paused")
    assert "before" not in windlass.good("explain", "slow-1")
    lines = windlass.good("step", "slow-1", "--wait").splitlines()
    assert "RunStepped" in lines[0]
    assert "RunPaused" in lines[-1] or "RunClosed" in lines[-1]
    while "RunClosed" not in lines[-1]:
        lines = windlass.good("step", "slow-1", "--wait").splitlines()
    code, _, err = windlass("step", "slow-1")
    assert code == 3
    assert "RUN_CLOSED" in err


def test_maintenance_says_what_it_did(windlass: Terminal) -> None:
    assert "timers fired" in windlass.good("maintain")
    assert json.loads(windlass.good("maintain", "-o", "json"))["more"] is False


def test_a_namespace_gets_limits_and_keeps_them_until_they_are_changed(windlass: Terminal) -> None:
    windlass.good("namespace", "create", "limited", "--open-runs", "1", "--max-attempts", "2")
    windlass.good("register", str(EXAMPLES / "signals/delivery.yaml"), "--namespace", "limited")
    windlass.good("start", "delivery", "--namespace", "limited", "--input", '{"parcel": "P-1"}')
    changed = json.loads(windlass.good("namespace", "update", "limited", "--queued-tasks", "5", "-o", "json"))
    assert (int(changed["limits"]["open_runs"]), int(changed["limits"]["queued_tasks"])) == (1, 5)
    assert changed["default_retry"]["max_attempts"] == 2
    assert windlass("namespace", "update", "limited")[0] == 2
    windlass.good("namespace", "update", "limited", "--open-runs", "0")
    windlass.good("start", "delivery", "--namespace", "limited", "--input", '{"parcel": "P-2"}')


def test_a_person_approves(windlass: Terminal) -> None:
    windlass.good("start", "expense", "--id", "chair", "--input", '{"who": "ada", "amount": 420, "for": "a chair"}')
    (question,) = json.loads(windlass.good("escalations", "list", "-o", "json"))
    assert question["message"] == "May ada spend 420 for a chair?"
    assert "windlass escalations list shows the question" in windlass.good("explain", "chair")
    code, _, err = windlass("escalations", "approve", question["escalation_id"], "--value", "reason=because")
    assert code == 2, err
    windlass.good("escalations", "approve", question["escalation_id"], "--value", "reason=needed", "--by", "bob")
    assert "completed" in windlass.good("watch", "chair")


def test_pause_unpause_cancel(windlass: Terminal) -> None:
    windlass.good("start", "delivery", "--id", "parcel-2", "--input", '{"parcel": "P-2"}')
    assert "paused" in windlass.good("pause", "parcel-2", "--reason", "stock-taking")
    assert "waiting" in windlass.good("unpause", "parcel-2")
    assert "cancelling" in windlass.good("cancel", "parcel-2", "--reason", "sent back")
    assert "nothing changed" in windlass.good("cancel", "parcel-2")
    code, _, err = windlass("watch", "parcel-2")
    assert code == 1
    assert "cancelled" in err


def test_terminate_and_fork(windlass: Terminal) -> None:
    windlass.good("start", "delivery", "--id", "parcel-3", "--input", '{"parcel": "P-3"}')
    windlass.good("terminate", "parcel-3", "--reason", "typo")
    windlass.good("fork", "parcel-3", "--state", "on_the_way", "--id", "parcel-3b", "--set", "parcel=P-4")
    windlass.good("signal", "parcel-3b", "delivered")
    windlass.good("watch", "parcel-3b")
    assert json.loads(windlass.good("query", "parcel-3b", '{"key": "parcel"}')) == "P-4"


def test_a_failed_run_is_exit_code_1(windlass: Terminal) -> None:
    windlass.good("start", "delivery", "--id", "parcel-5", "--input", '{"parcel": "P-5"}')
    windlass.good("fail", "parcel-5", "--code", "BURNT", "--reason", "the van caught fire")
    code, _, err = windlass("watch", "parcel-5")
    assert code == 1
    assert "BURNT: the van caught fire" in err


_FRAGILE = """
workflow: fragile
on_unhandled: incident
initial: work
states:
  work:
    task: {runtime: javascript, code: 'throw ctx.fail("BROKEN", "it is broken")'}
    retry: {max_attempts: 1}
    transitions: [{on: success, to: done}]
  done: {}
"""


def test_waiting_ends_at_an_incident_and_says_how_to_go_on(windlass: Terminal, tmp_path: Path) -> None:
    (tmp_path / "fragile.yaml").write_text(_FRAGILE)
    windlass.good("register", str(tmp_path / "fragile.yaml"))
    code, out, err = windlass("start", "fragile", "--id", "fragile-1", "--wait")
    assert code == 10, err
    assert out == ""
    last = err.splitlines()[-1]  # before it perhaps that the worker is slow to come
    assert "it is broken" in last
    (incident,) = json.loads(windlass.good("incidents", "list", "-o", "json"))
    advice = f"windlass incidents resolve {incident['run']['run_id']} {incident['incident_id']}"
    assert advice in last
    explained = windlass.good("explain", "fragile-1")
    assert advice in explained
    assert "incident: incident" not in explained
    assert "last error" in windlass.good("get", "fragile-1")
    windlass.good("incidents", "resolve", incident["run"]["run_id"], incident["incident_id"], "--action", "fail")
    assert "last error" not in windlass.good("get", "fragile-1")


def test_a_parked_run_goes_by_its_own_id_and_says_when_it_is_parked_again(
    windlass: Terminal, running: Engine, tmp_path: Path
) -> None:
    (tmp_path / "lacking.yaml").write_text(
        "workflow: lacking\ninitial: work\nstates:\n  work: {enter: [{set: {b: '${a.c}'}}], next: done}\n  done: {}\n"
    )
    windlass.good("register", str(tmp_path / "lacking.yaml"))
    windlass.good("start", "lacking", "--id", "lacking-1")
    assert "MISSING_KEY" in windlass.good("incidents", "list", "--run", "lacking-1")
    for filtered in (("incidents", "list", "--run"), ("escalations", "list", "--run"), ("list", "--parent")):
        windlass.good(*filtered, "lacking-1")
        assert windlass(*filtered, "nobody")[0] == 4
    (first,) = json.loads(windlass.good("incidents", "list", "--run", "lacking-1", "-o", "json"))
    code, out, err = windlass("incidents", "resolve", "lacking-1", first["incident_id"])
    (second,) = json.loads(windlass.good("incidents", "list", "--run", "lacking-1", "-o", "json"))
    assert (code, out) == (10, "")
    advice = f"windlass incidents resolve {second['run']['run_id']} {second['incident_id']}"
    assert advice in err
    watching = [sys.executable, "-m", "windlass.client.cli", "watch", "lacking-1", "--engine", running.address]
    watch = subprocess.Popen(watching, stdout=subprocess.PIPE, text=True)
    assert watch.stdout is not None
    with watch.stdout as lines:
        assert any(advice in line for line in lines)  # it follows the run, which stands still now
        windlass.good("incidents", "resolve", "lacking-1", second["incident_id"], "--set", 'a={"c": 1}')
        assert "completed\n" in list(lines)
    assert watch.wait() == 0
    assert "completed" in windlass.good("get", "lacking-1")


def test_of_several_incidents_each_is_repaired_by_itself(windlass: Terminal, tmp_path: Path) -> None:
    (tmp_path / "both.yaml").write_text(
        "workflow: both\ninitial: work\non_unhandled: incident\nstates:\n  work:\n    parallel:\n      branches:\n"
        "        a: {task: {runtime: javascript, code: '1'}, input: {path: nothing}}\n"
        "        b: {task: {runtime: javascript, code: '1'}, input: {path: nothing}}\n"
    )
    windlass.good("register", str(tmp_path / "both.yaml"))
    windlass.good("start", "both", "--id", "both-1")
    first, second = json.loads(windlass.good("incidents", "list", "--run", "both-1", "-o", "json"))
    skip = ("--action", "skip")
    assert "another incident" in windlass.good("incidents", "resolve", "both-1", first["incident_id"], *skip)
    assert "completed" in windlass.good("incidents", "resolve", "both-1", second["incident_id"], *skip)


def test_waiting_for_what_nobody_works_at_says_so(windlass: Terminal) -> None:
    given = ("--input", '{"name": "Ada"}', "--queue", "nobody", "--wait", "--timeout", "5")
    code, _, err = windlass("start", "hello", *given)
    assert code == 9, err
    first, last = err.splitlines()
    assert "still waiting" in first
    assert "worker" in first
    assert "it goes on" in last


def test_explain_says_what_a_run_waits_for(windlass: Terminal) -> None:
    windlass.good("start", "delivery", "--id", "parcel-6", "--input", '{"parcel": "P-6"}')
    told = windlass.good("explain", "parcel-6")
    assert "picked_up" in told
    assert f"send it with: windlass signal {told.split()[0]} picked_up" in told


def test_definitions_are_listed_shown_drawn(windlass: Terminal) -> None:
    assert "hello" in windlass.good("definitions", "list")
    assert windlass.good("definitions", "show", "hello").startswith("workflow: hello")
    assert "stateDiagram" in windlass.good("definitions", "graph", "delivery")
    assert "default" in windlass.good("definitions", "revisions", "hello")


def test_modules_go_up_and_come_down(windlass: Terminal, tmp_path: Path) -> None:
    digest = windlass.good("modules", "upload", str(EXAMPLES / "orders" / "charge.wasm")).strip()
    windlass.good("modules", "download", digest, str(tmp_path / "copy.wasm"))
    assert (tmp_path / "copy.wasm").read_bytes() == (EXAMPLES / "orders" / "charge.wasm").read_bytes()
    assert digest in windlass.good("modules", "list")
    again = ("modules", "download", f"sha256:{digest}", str(tmp_path / "again.wasm"))  # as definitions name it
    assert json.loads(windlass.good(*again, "-o", "json"))["digest"] == digest
    assert (tmp_path / "again.wasm").read_bytes() == (tmp_path / "copy.wasm").read_bytes()


def test_a_script_that_cannot_run_is_not_uploaded(windlass: Terminal, tmp_path: Path) -> None:
    (tmp_path / "bad.js").write_text("1;\nconst x = {{ ;")
    code, _, err = windlass("modules", "upload", "--runtime", "javascript", str(tmp_path / "bad.js"))
    assert code == 2
    assert "bad.js: line 2" in err
    assert "bad.js" not in windlass.good("modules", "list")


def test_the_handlers_of_workers_are_shown(windlass: Terminal, running: Engine) -> None:
    assert "no worker" in windlass.good("step-types", "list")
    charge = common_pb2.StepType(handler="charge", category="money", description="Charges a card.", workers=7)
    with grpc.insecure_channel(running.address) as channel:
        workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
        request = worker_service_pb2.RegisterWorkerRequest(worker_id="raw", handlers=[charge])
        session = workers.RegisterWorker(request).session_id
        (_, line) = windlass.good("step-types", "list").splitlines()
        (found,) = json.loads(windlass.good("step-types", "list", "--output", "json"))
        workers.DrainWorker(worker_service_pb2.DrainWorkerRequest(session_id=session, close=True))
    assert line.split() == ["charge", "python", "money", "1", "Charges", "a", "card."]
    assert (found["handler"], found["workers"]) == ("charge", 1)


def test_workers_queues_and_the_engine_are_shown(windlass: Terminal) -> None:
    windlass.good("start", "hello", "--input", '{"name": "Ada"}', "--wait")  # by now the worker has registered
    workers = windlass.good("workers", "list")
    assert "w1" in workers
    assert "javascript" in workers
    assert "default" in windlass.good("queue")
    assert json.loads(windlass.good("info", "-o", "json"))["storage"].startswith("embedded")


def test_namespaces_keep_to_themselves(windlass: Terminal) -> None:
    windlass.good("namespace", "create", "other", "--description", "another tenant")
    assert "other" in windlass.good("namespace", "list")
    assert "no workflows" in windlass.good("definitions", "list", "--namespace", "other")


@pytest.mark.parametrize(
    "command",
    ["list", "definitions list", "modules list", "step-types list", "workers list", "queue", "incidents list"],
)
def test_a_namespace_that_is_not_there_is_not_shown_as_an_empty_one(windlass: Terminal, command: str) -> None:
    code, out, err = windlass(*command.split(), "--namespace", "mistyped")
    assert (code, out) == (4, "")
    assert "there is no namespace 'mistyped'" in err


def test_a_definition_with_a_large_module_is_registered_in_pieces(windlass: Terminal, tmp_path: Path) -> None:
    """3 MB do not fit into one message: a custom section, which every runtime skips, makes the module that large."""
    padding = b"\x04junk" + bytes(3_000_000)
    size = bytes((len(padding) >> shift & 0x7F) | (0x80 if shift < 21 else 0) for shift in (0, 7, 14, 21))
    module = (EXAMPLES / "orders" / "charge.wasm").read_bytes() + b"\x00" + size + padding
    (tmp_path / "large.wasm").write_bytes(module)
    (tmp_path / "large.yaml").write_text(
        "workflow: large\ninitial: work\nstates:\n  work:\n    task: {runtime: wasm, module: ./large.wasm}\n"
    )
    windlass.good("register", str(tmp_path / "large.yaml"))
    assert '"authorization"' in windlass.good("start", "large", "--input", '{"amount": 1}', "--wait")
