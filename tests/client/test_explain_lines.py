"""What `windlass explain` says to people of a run with many open items."""

from __future__ import annotations

from windlass.client.cli.runs import _reasons
from windlass.v1 import workflow_service_pb2 as pb


def test_items_that_wait_for_the_same_share_a_line_that_names_them() -> None:
    items = pb.Explanation(kind="items", summary="0 of 3 items done")
    queued = [pb.Explanation(kind="queued", summary="all busy", advice="wait", path=f"#{n}") for n in (0, 2)]
    leased = pb.Explanation(kind="leased", summary="runs on worker a", path="#1")
    assert list(_reasons([items, queued[0], leased, queued[1]])) == [
        "  items: 0 of 3 items done",
        "  queued #0, #2: all busy; wait",
        "  leased #1: runs on worker a",
    ]
