"""Clients and workers that mean no good, for `test_hostile_clients.py`."""

from __future__ import annotations
