"""The error of a contender that cannot take part."""

from __future__ import annotations


class Missing(ValueError):
    """A contender that cannot take part here, and why."""
