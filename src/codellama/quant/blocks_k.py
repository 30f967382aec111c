"""The K formats: blocks of 256 numbers, cut into groups that have a small scale of their own.

Bytes in their order; d and dmin are F16; s and m belong to a number's group.

    Q2_K   84 bytes  16 bytes for 16 groups of 16: s in the low nibble, m in the high one;
                     64 bytes of pairs of bits; d, dmin:       (d * s) * q - dmin * m
    Q3_K  110 bytes  32 bytes of third bits; 64 bytes of pairs of bits; 12 bytes of 16 six-bit s;
                     d; 16 groups of 16:                       (d * (s - 32)) * (q - 4)
    Q4_K  144 bytes  d, dmin; 12 bytes of 8 six-bit s and m; 128 bytes of nibbles;
                     8 groups of 32:                           (d * s) * q - dmin * m
    Q5_K  176 bytes  d, dmin; 12 bytes of 8 six-bit s and m; 32 bytes of fifth bits; 128 bytes of
                     nibbles; 8 groups of 32:                  (d * s) * q - dmin * m
    Q6_K  210 bytes  128 bytes of nibbles; 64 bytes of pairs of upper bits; 16 signed bytes s; d;
                     16 groups of 16:                          (d * s) * (q - 32)

Pairs of bits (Q2_K, Q3_K, and worth 16 in Q6_K): byte 32 h + j holds, in its bits 2k and 2k + 1,
those of number 128 h + 32 k + j; h is 0 or 1, k below 4, j below 32.

Single bits: bit g of byte j belongs to number 32 g + j. It is worth 4 in Q3_K, 16 in Q5_K.

Nibbles: in Q4_K and Q5_K byte 32 g + j holds number 64 g + j (low) and 64 g + 32 + j (high); in
Q6_K byte 64 h + j, j below 64, holds number 128 h + j (low) and 128 h + 64 + j (high).

Scales of Q4_K and Q5_K, bytes b0 to b11, group g below 4:
    s[g] = b[g] & 63,        s[g + 4] = (b[g + 8] & 15) | (b[g] >> 6) << 4
    m[g] = b[g + 4] & 63,    m[g + 4] = (b[g + 8] >> 4) | (b[g + 4] >> 6) << 4

Scales of Q3_K, i below 8 and k below 4: the low four bits of s[i] and s[i + 8] are the low and high
nibble of byte i; the upper two bits of s[4 k + j] are bits 2k and 2k + 1 of byte 8 + j.
"""

from __future__ import annotations

import numpy as np

from codellama.quant.halves import Bytes, Floats, scales_at


def decode_q2_k(blocks: Bytes) -> Floats:
    s = scales_at(blocks, 80) * (blocks[:, :16] & np.uint8(15)).astype(np.float32)
    m = scales_at(blocks, 82) * (blocks[:, :16] >> np.uint8(4)).astype(np.float32)
    return _scaled(s, fields(blocks[:, 16:80], 32, 2)) - np.repeat(m, 16, axis=1)


def decode_q3_k(blocks: Bytes) -> Floats:
    low = fields(blocks[:, 96:104], 8, 4)
    high = fields(blocks[:, 104:108], 4, 2)
    s = (low | (high << np.uint8(4))).astype(np.float32) - np.float32(32)
    q = fields(blocks[:, 32:96], 32, 2) | (fields(blocks[:, :32], 32, 1) << np.uint8(2))
    return _scaled(scales_at(blocks, 108) * s, q.astype(np.float32) - np.float32(4))


def decode_q4_k(blocks: Bytes) -> Floats:
    s, m = _scales_and_minima(blocks)
    return _scaled(s, fields(blocks[:, 16:], 32, 4)) - np.repeat(m, 32, axis=1)


def decode_q5_k(blocks: Bytes) -> Floats:
    s, m = _scales_and_minima(blocks)
    q = fields(blocks[:, 48:], 32, 4) | (fields(blocks[:, 16:48], 32, 1) << np.uint8(4))
    return _scaled(s, q) - np.repeat(m, 32, axis=1)


def decode_q6_k(blocks: Bytes) -> Floats:
    q = fields(blocks[:, :128], 64, 4) | (fields(blocks[:, 128:192], 32, 2) << np.uint8(4))
    s = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return _scaled(scales_at(blocks, 208) * s, q.astype(np.float32) - np.float32(32))


def fields(raw: Bytes, run: int, bits: int) -> Bytes:
    """Numbers of `bits` bits [n, 8 / bits * width]: runs of bytes, and from each run first the
    lowest field of every byte, then the next."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    n, width = raw.shape
    found = (raw.reshape(n, width // run, 1, run) >> shifts) & np.uint8((1 << bits) - 1)
    return found.reshape(n, width * (8 // bits))


def six_bit_scales(blocks: Bytes) -> tuple[Bytes, Bytes]:
    """s and m [n, 8] of Q4_K and Q5_K."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    six, two = np.uint8(63), np.uint8(6)
    s = [first & six, (third & np.uint8(15)) | ((first >> two) << np.uint8(4))]
    m = [second & six, (third >> np.uint8(4)) | ((second >> two) << np.uint8(4))]
    return np.concatenate(s, axis=1), np.concatenate(m, axis=1)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """d * s and dmin * m [n, 8] of Q4_K and Q5_K."""
    s, m = six_bit_scales(blocks)
    return (
        scales_at(blocks, 0) * s.astype(np.float32),
        scales_at(blocks, 2) * m.astype(np.float32),
    )


def _scaled(scales: Floats, q: Bytes | Floats) -> Floats:
    """q [n, 256] times the scale of its group; scales [n, groups]."""
    return np.repeat(scales, q.shape[1] // scales.shape[1], axis=1) * q.astype(np.float32)
