"""Stores and histories of earlier versions, kept as they were written; see `record.py` and `test_upgrade.py`."""

from __future__ import annotations
