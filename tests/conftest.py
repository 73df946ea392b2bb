"""Settings of the test tools that pyproject.toml cannot hold."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A deadline per example is a timed test: it fails on a busy machine and says nothing about the code. Hypothesis has
# chosen its own profile by now (on CI the examples are the same in every run), so only this is changed.
settings.register_profile(
    "windlass",
    parent=settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("windlass")
