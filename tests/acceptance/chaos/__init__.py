"""Real processes, really killed: engines, workers and databases die, freeze and lose their connections under load.

`python -m tests.acceptance.chaos --rounds N --seed S` runs a long session; `test_chaos.py` runs a short one.
"""

from __future__ import annotations
