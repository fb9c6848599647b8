"""How much memory a file from anywhere may take when it is read."""

from __future__ import annotations

# So many times the file's bytes, and these beside them, for what small files hold.
GROWTH = 4
FREE_BYTES = 8 * 2**20


def of(size: int) -> int:
    """Bytes of memory that reading a file of `size` bytes may take."""
    return GROWTH * size + FREE_BYTES
