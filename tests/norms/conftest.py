"""Hypothesis draws the same examples in every run, so that a result can be repeated."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "norms",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("norms")
