"""Integer codes of a few bits packed into 32-bit words, and moving some of them into words of their own.

Knows where the bits of a code lie; knows nothing of files, of heads, or of what a code means: no value is computed.
Where each packing comes from:

- DENSE: code n is bits n*b to n*b+b of one little-endian stream. GPTQ's 2, 3, 4 and 8 bits (AutoGPTQ 0.7.1,
  qlinear_cuda_old.py: `pack`), and compressed-tensors 0.20 at any width (compressors/pack_quantized/helpers.py).
- PADDED: as many whole codes as a word holds, the bits above them zero: compressed-tensors up to 0.17, same file.
  Widths that divide 32 are the same both ways.
- AWQ: eight 4-bit codes a word, word lane i holding code 0, 2, 4, 6, 1, 3, 5, 7 (AutoAWQ 0.2.9,
  awq/modules/linear/gemm.py; vLLM 0.32, layers/quantization/auto_awq.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt

WORD = 32
Words = npt.NDArray[np.uint32]
Numbers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Packing:
    """A pattern that repeats every `len(starts)` codes and `words` words. starts: each code's first bit in the pattern.

    bits: of one code; they lie side by side, if need be across two words.
    """

    bits: int
    words: int
    starts: tuple[int, ...]

    @property
    def codes(self) -> int:
        """Codes of one pattern: the fewest that fill whole words."""
        return len(self.starts)

    def words_for(self, codes: int) -> int:
        """Words that so many codes take, the last pattern cut behind its last used word."""
        whole, rest = divmod(codes, self.codes)
        return whole * self.words + (
            max(-(-(start + self.bits) // WORD) for start in self.starts[:rest]) if rest else 0
        )

    def first_bits(self, codes: Numbers) -> Numbers:
        """(n,) the position of each code's lowest bit among all bits of the words."""
        whole, rest = np.divmod(codes, self.codes)
        return np.asarray(whole * self.words * WORD + np.asarray(self.starts)[rest])

    def move(self, words: Words, codes: Numbers) -> Words:
        """(..., words) -> (..., words_for(n)): the codes (n,) in their order, packed the same way, other bits 0."""
        moved = np.zeros((*words.shape[:-1], self.words_for(codes.size)), np.uint32)
        straddles = any(start % WORD + self.bits > WORD for start in self.starts)
        step = 1 if straddles else self.bits  # at once, what lies in one word wherever it comes from and goes
        mask = np.uint32((1 << step) - 1)
        for lane in range(min(self.codes, codes.size)):  # no two codes of a lane go to the same word
            here = self.first_bits(codes[lane :: self.codes])
            there = self.first_bits(np.arange(lane, codes.size, self.codes))
            for bit in range(0, self.bits, step):
                field = np.take(words, (here + bit) // WORD, axis=-1) >> ((here + bit) % WORD).astype(np.uint32) & mask
                moved[..., (there + bit) // WORD] |= field << ((there + bit) % WORD).astype(np.uint32)
        return moved

    def bits_of(self, words: Words, codes: Numbers) -> npt.NDArray[np.uint8]:
        """(..., words) -> (..., n * bits) of 0 and 1: the codes' bits, read one by one; slow, and apart from `move`."""
        stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
        positions = self.first_bits(codes)[:, None] + np.arange(self.bits)
        return np.asarray(stream[..., positions.reshape(-1)])


def dense(bits: int) -> Packing:
    codes = WORD // gcd(bits, WORD)
    return Packing(bits, codes * bits // WORD, tuple(code * bits for code in range(codes)))


def padded(bits: int) -> Packing:
    return Packing(bits, 1, tuple(code * bits for code in range(WORD // bits)))


AWQ = Packing(4, 1, tuple(4 * (0, 2, 4, 6, 1, 3, 5, 7).index(code) for code in range(8)))
