"""cost.py against the tables of VocabTrim (arXiv 2506.22694), from nothing but shapes and block efficiencies.

The paper's drafter for Llama-3.2-3B-Instruct is read as one decoder layer, the 2H -> H projection of EAGLE, the input
embedding and the head; four drafted tokens a round; parameters charged, the input embedding included.
"""

from __future__ import annotations

import pytest

from vocabtrim.cost import Cost, LlamaShape, chain_acceptance_rate, chain_block_efficiency, mbsu
from vocabtrim.errors import InputError

LLAMA_3_2_3B = LlamaShape(
    hidden_size=3072,
    num_hidden_layers=28,
    intermediate_size=8192,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128_256,
    tie_word_embeddings=True,
)
FC = 2 * 3072 * 3072
ROWS_32K = 32_975  # the paper's "32K" head has 101.3M parameters
DRAFT_LENGTH = 4

EAGLE = Cost(
    target_pass_bytes=2 * LLAMA_3_2_3B.parameters,
    drafter_body_bytes=2 * (LLAMA_3_2_3B.layer_matrices + FC),
    head_row_bytes=2 * 3072,
    full_head_rows=128_256,
    target_parameters=LLAMA_3_2_3B.parameters,
    drafter_body_parameters=LLAMA_3_2_3B.layer_matrices + FC + LLAMA_3_2_3B.head,
    head_row_parameters=3072,
)

# kept rows -> (block efficiency, MBSU), the paper's table by size
BY_SIZE = {128_256: (3.63, 1.70), 65_536: (3.54, 1.83), ROWS_32K: (3.43, 1.95), 16_384: (3.25, 1.90)}
# task -> MBSU with (full head, 32K head calibrated on target-generated text)
BY_TASK = {"Writing": (1.475, 1.745), "Math": (1.640, 1.950), "Coding": (1.708, 1.945)}
WRITING_BY_CALIBRATION = {"raw": 1.685, "drafter-generated": 1.732, "target-generated": 1.745}


def millions(parameters: int, digits: int = 1) -> float:
    return round(parameters / 1e6, digits)


def paper_mbsu(block_efficiency: float, kept_size: int) -> float:
    return mbsu(block_efficiency, EAGLE.cost_ratio(kept_size, "parameters"), EAGLE.steps(DRAFT_LENGTH))


def implied_block_efficiency(paper: float, kept_size: int) -> float:
    """The block efficiency behind a printed MBSU: the formula read backwards."""
    return paper * (1 + DRAFT_LENGTH * EAGLE.cost_ratio(kept_size, "parameters"))


def test_the_shapes_give_the_papers_parameters() -> None:
    assert millions(LLAMA_3_2_3B.parameters) == 3212.7
    assert millions(LLAMA_3_2_3B.layer_matrices, 2) == 100.66
    assert millions(FC, 2) == 18.87
    assert millions(LLAMA_3_2_3B.head) == 394.0


def test_32k_of_the_paper_is_101_million_parameters_and_not_32768_rows() -> None:
    assert millions(ROWS_32K * 3072) == 101.3
    assert millions(32_768 * 3072) == 100.7


@pytest.mark.parametrize("kept_size", [128_256, ROWS_32K, 16_384])
def test_mbsu_by_size_is_the_papers(kept_size: int) -> None:
    block_efficiency, paper = BY_SIZE[kept_size]
    assert paper_mbsu(block_efficiency, kept_size) == pytest.approx(paper, abs=0.02)


def test_the_64k_row_is_the_one_that_does_not_follow() -> None:
    """3.54 tokens a pass and 65,536 rows give 1.873; the paper prints 1.83, which would take a head of 77k rows."""
    block_efficiency, paper = BY_SIZE[65_536]
    assert paper == 1.83
    assert paper_mbsu(block_efficiency, 65_536) == pytest.approx(1.873, abs=0.001)
    assert paper_mbsu(block_efficiency, 77_150) == pytest.approx(1.83, abs=0.001)


@pytest.mark.parametrize(("column", "kept_size"), [(0, 128_256), (1, ROWS_32K)])
def test_the_table_by_size_is_the_coding_column(column: int, kept_size: int) -> None:
    """The two tables are of different runs or roundings, and still agree: 3.63 and 3.43 give Coding's MBSU."""
    block_efficiency, _ = BY_SIZE[kept_size]
    assert paper_mbsu(block_efficiency, kept_size) == pytest.approx(BY_TASK["Coding"][column], abs=0.02)
    implied = {task: implied_block_efficiency(pair[column], kept_size) for task, pair in BY_TASK.items()}
    assert implied["Coding"] == pytest.approx(block_efficiency, abs=0.01)


@pytest.mark.parametrize("task", BY_TASK)
def test_each_tasks_mbsu_comes_from_a_block_efficiency_that_can_be(task: str) -> None:
    """The paper prints no block efficiency by task; the implied ones lie in [1, 5], and trimming loses 1 to 6 %."""
    full, kept = BY_TASK[task]
    block_efficiency_full = implied_block_efficiency(full, 128_256)
    block_efficiency_kept = implied_block_efficiency(kept, ROWS_32K)
    assert 1 < block_efficiency_kept < block_efficiency_full < DRAFT_LENGTH + 1
    assert 0.94 < block_efficiency_kept / block_efficiency_full < 0.99
    assert round(block_efficiency_full, 2) == {"Writing": 3.14, "Math": 3.49, "Coding": 3.64}[task]
    assert round(block_efficiency_kept, 2) == {"Writing": 3.08, "Math": 3.44, "Coding": 3.43}[task]


def test_the_calibration_rows_stay_below_the_full_heads_block_efficiency() -> None:
    implied = [implied_block_efficiency(paper, ROWS_32K) for paper in WRITING_BY_CALIBRATION.values()]
    assert [round(value, 2) for value in implied] == [2.97, 3.06, 3.08]
    assert implied[-1] < implied_block_efficiency(BY_TASK["Writing"][0], 128_256)


def test_bytes_read_show_a_larger_gain_than_the_paper_charges() -> None:
    """The input embedding is a lookup of one row: left out, the same block efficiencies gain 21 to 27 %."""

    def by_bytes(block_efficiency: float, kept_size: int) -> float:
        return mbsu(block_efficiency, EAGLE.cost_ratio(kept_size), DRAFT_LENGTH)

    gains = {
        task: by_bytes(implied_block_efficiency(kept, ROWS_32K), ROWS_32K)
        / by_bytes(implied_block_efficiency(full, 128_256), 128_256)
        - 1
        for task, (full, kept) in BY_TASK.items()
    }
    assert {task: round(gain, 2) for task, gain in gains.items()} == {"Writing": 0.26, "Math": 0.27, "Coding": 0.21}
    by_size = {rows: round(by_bytes(block_efficiency, rows), 3) for rows, (block_efficiency, _) in BY_SIZE.items()}
    assert by_size == {128_256: 2.214, 65_536: 2.529, ROWS_32K: 2.690, 16_384: 2.683}


def test_the_independent_drafter() -> None:
    """314M parameters, head 131.3M -> 33.8M, MBSU 2.91 -> 3.10; its draft length is not printed.

    The head is 1,024 wide and cut to the same 32,975 rows. Trimming cannot raise the block efficiency, and none
    exceeds draft length + 1: both hold from 3 drafted tokens a round on, and neither below.
    """
    assert millions(128_256 * 1024) == 131.3
    assert millions(ROWS_32K * 1024) == 33.8
    drafter = Cost(
        target_pass_bytes=0,
        drafter_body_bytes=0,
        head_row_bytes=0,
        full_head_rows=128_256,
        target_parameters=LLAMA_3_2_3B.parameters,
        drafter_body_parameters=314_000_000 - 128_256 * 1024,
        head_row_parameters=1024,
    )
    full, kept = (drafter.cost_ratio(rows, "parameters") for rows in (128_256, ROWS_32K))
    assert (round(full, 4), round(kept, 4)) == (0.0977, 0.0674)

    def possible(draft_length: int) -> bool:
        block_efficiency_full = 2.91 * (1 + full * draft_length)
        block_efficiency_kept = 3.10 * (1 + kept * draft_length)
        return block_efficiency_kept <= block_efficiency_full <= draft_length + 1

    assert [draft_length for draft_length in range(1, 9) if possible(draft_length)] == [3, 4, 5, 6, 7, 8]


def test_draft_step_bytes_are_the_body_and_the_rows() -> None:
    assert EAGLE.head_bytes(0) == 0
    assert EAGLE.head_bytes(1000) == 1000 * 6144
    assert EAGLE.draft_step_bytes(1000) == EAGLE.drafter_body_bytes + 1000 * 6144
    assert EAGLE.cost_ratio(128_256) == EAGLE.draft_step_bytes(128_256) / EAGLE.target_pass_bytes


@pytest.mark.parametrize("kept_size", [-1, 128_257])
def test_a_head_cannot_grow(kept_size: int) -> None:
    with pytest.raises(InputError, match=f"expected at most 128256 rows, found {kept_size}"):
        EAGLE.cost_ratio(kept_size, "parameters")


def test_heads_that_run_together_cost_one_step_a_round() -> None:
    medusa = Cost(100, 0, 1, 10, 100, 0, 1, sequential=False)
    assert medusa.steps(5) == 1
    assert EAGLE.steps(5) == 5


def test_a_drafter_that_never_or_always_agrees() -> None:
    assert chain_block_efficiency(0.0, 4) == 1
    assert chain_block_efficiency(1.0, 4) == 5
    assert chain_acceptance_rate(1.0, 4) == pytest.approx(0, abs=1e-9)
    assert chain_acceptance_rate(5.0, 4) == pytest.approx(1, abs=1e-9)


def test_a_chain_by_hand() -> None:
    """Accepted with 1/2: the first token always comes, a second half of the time, a third a quarter of the time."""
    assert chain_block_efficiency(0.5, 2) == 1.75


@pytest.mark.parametrize("draft_length", [1, 3, 8])
@pytest.mark.parametrize("acceptance_rate", [0.05, 0.6, 0.93])
def test_acceptance_rate_and_block_efficiency_are_inverse(acceptance_rate: float, draft_length: int) -> None:
    block_efficiency = chain_block_efficiency(acceptance_rate, draft_length)
    closed_form = (1 - acceptance_rate ** (draft_length + 1)) / (1 - acceptance_rate)
    assert block_efficiency == pytest.approx(closed_form)
    assert chain_acceptance_rate(block_efficiency, draft_length) == pytest.approx(acceptance_rate)


@pytest.mark.parametrize(("block_efficiency", "draft_length"), [(0.9, 4), (5.1, 4), (1.0, 0)])
def test_a_block_efficiency_that_no_chain_has_is_refused(block_efficiency: float, draft_length: int) -> None:
    with pytest.raises(InputError, match="expected 1 to"):
        chain_acceptance_rate(block_efficiency, draft_length)
