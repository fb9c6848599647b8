"""CRC-32C, the checksum of TensorFlow's files, in numpy.

The register of a CRC is linear over GF(2). So a long run of bytes is cut into lanes of
equal length, all lanes go through the table side by side, and neighbours are joined:
the left one is advanced over as many zero bytes as the right one is long, and added.

Source: RFC 3720, appendix B.4 (polynomial, test vectors); the masking, and why a file
that holds its own checksum needs it: tensorflow/core/lib/hash/crc32c.h.
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # Bits reversed, as the register shifts to the right.
_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8
# Bytes at a time, so that what is computed beside them stays small.
_CHUNK = 2**20
# Registers of one bit; as columns, the matrix that changes nothing.
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """Returns the checksum of `data`, or of what gave `crc` and then `data`."""
    register = crc ^ _ONES
    numbers = np.frombuffer(data, np.uint8)
    for start in range(0, numbers.size, _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        register = _advance(register, chunk.size) ^ _register(chunk)
    return register ^ _ONES


def mask(crc: int) -> int:
    """Returns a checksum as files hold it: turned by 15 bits, and a constant added."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ONES


def _register(data: np.ndarray) -> int:
    """The register after some bytes, from 0; zeros before them would not change it."""
    lanes = 1 << (data.size.bit_length() // 2)
    steps = -(-data.size // lanes)
    padded = np.zeros(lanes * steps, np.uint8)
    padded[padded.size - data.size :] = data
    rows = np.ascontiguousarray(padded.reshape(lanes, steps).T)
    table = _byte_table()
    registers = np.zeros(lanes, np.uint32)
    for row in rows:
        registers = table[(registers ^ row) & 0xFF] ^ (registers >> 8)
    while registers.size > 1:
        left, right = registers[0::2], registers[1::2]
        registers = _apply(_zeros(steps), left) ^ right
        steps *= 2
    return int(registers[0])


def _advance(register: int, count: int) -> int:
    """The register after `count` zero bytes."""
    return int(_apply(_zeros(count), np.array([register], np.uint32))[0])


def _apply(columns: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """Multiplies registers by a matrix, given as what it makes of each bit."""
    chosen = np.where(registers[:, np.newaxis] & _BITS, columns, np.uint32(0))
    return np.bitwise_xor.reduce(chosen, axis=1)


@functools.lru_cache(256)
def _zeros(count: int) -> np.ndarray:
    """The matrix that takes a register over `count` zero bytes."""
    if count == 0:
        return _BITS
    if count == 1:
        return _byte_table()[_BITS & 0xFF] ^ (_BITS >> 8)
    half = _zeros(count // 2)
    whole = _apply(half, half)
    return _apply(_zeros(1), whole) if count % 2 else whole


@functools.cache
def _byte_table() -> np.ndarray:
    """What a register of one byte becomes after it was shifted out."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table
