"""What a draft step and a target pass cost, and what speculative decoding gains from that: plain arithmetic.

Knows bytes, parameters and the formulas that turn them into a predicted speed-up; loads nothing and knows no files.
At batch 1 decoding waits for memory, so a pass costs the bytes it reads. The second mode charges parameters, as
VocabTrim (arXiv 2506.22694) does, so that its tables can be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import InputError

Mode = Literal["bytes", "parameters"]


@dataclass(frozen=True)
class Cost:
    """What one target pass and one draft step of a pair cost, the drafter's head apart because its size is the choice.

    target_pass_bytes: bytes one target pass reads.
    drafter_body_bytes: bytes one draft step reads without its head; of the input embedding only the rows looked up.
    head_row_bytes: bytes of one head row, all heads of a Medusa together, quantization scales and bias included.
    full_head_rows: rows of the head before this trim (fewer than the target's where it was trimmed already).
    target_parameters, drafter_body_parameters, head_row_parameters: the same in parameters; the paper charges the
        whole input embedding to the drafter's body.
    sequential: whether a round of g drafted tokens takes g draft steps. False for Medusa: its heads run all at once.
    """

    target_pass_bytes: int
    drafter_body_bytes: int
    head_row_bytes: float
    full_head_rows: int
    target_parameters: int
    drafter_body_parameters: int
    head_row_parameters: int
    sequential: bool = True

    def head_bytes(self, kept_size: int) -> int:
        """Bytes that a head of `kept_size` rows makes one draft step read. Raises InputError beyond the full head."""
        return round(self._rows(kept_size) * self.head_row_bytes)

    def draft_step_bytes(self, kept_size: int) -> int:
        """Bytes that one draft step reads with a head of `kept_size` rows."""
        return self.drafter_body_bytes + self.head_bytes(kept_size)

    def cost_ratio(self, kept_size: int, mode: Mode = "bytes") -> float:
        """Cost of one draft step with a head of `kept_size` rows / cost of one target pass."""
        if mode == "parameters":
            head_parameters = self._rows(kept_size) * self.head_row_parameters
            return (self.drafter_body_parameters + head_parameters) / self.target_parameters
        return self.draft_step_bytes(kept_size) / self.target_pass_bytes

    def steps(self, draft_length: int) -> int:
        """Draft steps of one round."""
        return draft_length if self.sequential else 1

    def _rows(self, kept_size: int) -> int:
        if not 0 <= kept_size <= self.full_head_rows:
            raise InputError(
                "kept size does not fit the head",
                expected=f"at most {self.full_head_rows} rows",
                found=kept_size,
                remedy="keep fewer ids",
            )
        return kept_size


def mbsu(block_efficiency: float, cost_ratio: float, steps: int) -> float:
    """Predicted speed-up over plain decoding: tokens per target pass / cost of a round in target passes.

    Memory-bound speed-up of VocabTrim (arXiv 2506.22694): tau / (c * gamma + 1).
    """
    return block_efficiency / (cost_ratio * steps + 1)


def chain_block_efficiency(acceptance_rate: float, draft_length: int) -> float:
    """Tokens emitted per target pass by a chain of `draft_length` tokens, each accepted with the same probability.

    Leviathan et al. (arXiv 2211.17192), equation 1: tau = (1 - a**(gamma + 1)) / (1 - a), summed here term by term so
    that a = 1 needs no case of its own.
    """
    return sum(acceptance_rate**depth for depth in range(draft_length + 1))


def chain_acceptance_rate(block_efficiency: float, draft_length: int) -> float:
    """The acceptance rate with which a chain of `draft_length` tokens reaches `block_efficiency`, by bisection.

    Raises InputError for a block efficiency that such a chain cannot have.
    """
    if draft_length < 1 or not 1 <= block_efficiency <= draft_length + 1:
        raise InputError(
            f"block efficiency {block_efficiency:g} cannot come from chains of {draft_length} drafted tokens",
            expected=f"1 to {max(draft_length, 1) + 1}",
            remedy="pass the block efficiency and the draft length of the same measurement",
        )
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        if chain_block_efficiency(middle, draft_length) < block_efficiency:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@dataclass(frozen=True)
class LlamaShape:
    """The sizes that fix a Llama decoder's parameters, named as config.json names them; no attention or MLP bias."""

    hidden_size: int
    num_hidden_layers: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer's matrices: query, key, value, output, gate, up, down; its norms not included."""
        query_and_output = 2 * self.hidden_size * self.num_attention_heads * self.head_dim
        key_and_value = 2 * self.hidden_size * self.num_key_value_heads * self.head_dim
        return query_and_output + key_and_value + 3 * self.hidden_size * self.intermediate_size

    @property
    def head(self) -> int:
        """Parameters of the head, which are also those of the input embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All parameters, a tied head counted once."""
        norms = (2 * self.num_hidden_layers + 1) * self.hidden_size
        heads = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * self.layer_matrices + norms + heads * self.head
