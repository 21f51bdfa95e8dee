"""What a pass reads, summed from headers: against the paper's shapes, a mixture of experts, and each drafter kind.

The files here are headers with holes behind them: sums need no weights, so a 3B model costs no disk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drafters import DRAFTERS, some_ids, target
from vocabtrim.checkpoint.costs import available_ids, draft_step, drafter_cost
from vocabtrim.checkpoint.inspect import inspect
from vocabtrim.checkpoint.layouts import identify
from vocabtrim.checkpoint.read import open_checkpoint
from vocabtrim.checkpoint.safetensors_file import write_header
from vocabtrim.checkpoint.trim import trim
from vocabtrim.cost import mbsu
from vocabtrim.testbed.shapes import TINY

VOCAB, HIDDEN, INTERMEDIATE, LAYERS, KV = 128_256, 3_072, 8_192, 28, 1_024  # Llama-3.2-3B


def headers_only(folder: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> Path:
    """A checkpoint whose tensors are holes in a sparse file."""
    folder.mkdir()
    out = os.open(folder / "model.safetensors", os.O_WRONLY | os.O_CREAT)
    write_header(out, {name: ("BF16", shape) for name, shape in shapes.items()}, {"format": "pt"})
    size = os.lseek(out, 0, os.SEEK_END) + sum(2 * int(np.prod(shape)) for shape in shapes.values())
    os.truncate(out, size)
    os.close(out)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def layer(prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        f"{prefix}.self_attn.k_proj.weight": (KV, HIDDEN),
        f"{prefix}.self_attn.v_proj.weight": (KV, HIDDEN),
        f"{prefix}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        f"{prefix}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{prefix}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{prefix}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        f"{prefix}.input_layernorm.weight": (HIDDEN,),
        f"{prefix}.post_attention_layernorm.weight": (HIDDEN,),
    }


@pytest.fixture
def llama_3b(tmp_path: Path) -> Path:
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for number in range(LAYERS):
        shapes |= layer(f"model.layers.{number}")
    config = {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "tie_word_embeddings": True}
    return headers_only(tmp_path / "llama", shapes, config)


@pytest.fixture
def eagle_3b(tmp_path: Path) -> Path:
    block = {name: shape for name, shape in layer("layers.0").items() if "input_layernorm" not in name}
    shapes = {"fc.weight": (HIDDEN, 2 * HIDDEN), "embed_tokens.weight": (VOCAB, HIDDEN), **block}
    return headers_only(tmp_path / "eagle", shapes, {"vocab_size": VOCAB, "hidden_size": HIDDEN, "bias": False})


def test_the_paper_from_the_files_themselves(llama_3b: Path, eagle_3b: Path) -> None:
    """Llama-3.2-3B and its EAGLE drafter as folders: parameters, cost ratios and MBSU of the paper's size table."""
    cost = drafter_cost(eagle_3b, llama_3b)
    assert cost.target_parameters / 1e6 == pytest.approx(3212.7, abs=0.1)
    assert cost.head_row_parameters * VOCAB / 1e6 == pytest.approx(394.0, abs=0.1)
    assert cost.drafter_body_parameters / 1e6 == pytest.approx(100.66 + 18.87 + 394.0, abs=0.1)
    for rows, tau, paper in ((VOCAB, 3.63, 1.70), (32_975, 3.43, 1.95), (16_384, 3.25, 1.90)):
        assert mbsu(tau, cost.cost_ratio(rows, "parameters"), 4) == pytest.approx(paper, abs=0.02)
    # By bytes the embedding is one row a token: the same trim gains more than the paper's mode says.
    gain = mbsu(3.43, cost.cost_ratio(32_975), 4) / mbsu(3.63, cost.cost_ratio(VOCAB), 4)
    assert 1.21 < gain < 1.27


def test_a_tied_target_reads_its_embedding_as_head_and_an_untied_one_a_single_row(
    llama_3b: Path, eagle_3b: Path
) -> None:
    cost = drafter_cost(eagle_3b, llama_3b)
    assert cost.target_pass_bytes == 2 * cost.target_parameters
    untied = {name: tensor.shape for name, tensor in open_checkpoint(llama_3b).tensors.items()}
    config = json.loads((llama_3b / "config.json").read_text()) | {"tie_word_embeddings": False}
    other = headers_only(llama_3b.with_name("untied"), untied | {"lm_head.weight": (VOCAB, HIDDEN)}, config)
    assert drafter_cost(eagle_3b, other).target_pass_bytes == cost.target_pass_bytes + 2 * HIDDEN


def test_a_mixture_of_experts_reads_its_active_experts(tmp_path: Path, eagle_3b: Path) -> None:
    """8 experts of which a token uses 2; the shared expert, the router, and no MTP module or vision tower besides."""
    experts = {
        f"model.layers.0.mlp.experts.{number}.{side}_proj.weight": (64, HIDDEN)
        for number in range(8)
        for side in ("gate", "up")
    }
    experts |= {f"model.layers.0.mlp.experts.{number}.down_proj.weight": (HIDDEN, 64) for number in range(8)}
    always = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "lm_head.weight": (VOCAB, HIDDEN),
        "model.layers.0.mlp.gate.weight": (8, HIDDEN),
        "model.layers.0.mlp.shared_experts.up_proj.weight": (64, HIDDEN),
    }
    never = {"visual.patch_embed.weight": (512, 512), "model.layers.1.eh_proj.weight": (HIDDEN, 2 * HIDDEN)}
    config = {"num_hidden_layers": 1, "n_routed_experts": 8, "num_experts_per_tok": 2, "vocab_size": VOCAB}
    moe = headers_only(tmp_path / "moe", {**experts, **always, **never}, config)
    expected = 2 * (2 * 3 * 64 * HIDDEN + HIDDEN + VOCAB * HIDDEN + 8 * HIDDEN + 64 * HIDDEN)
    assert drafter_cost(eagle_3b, moe).target_pass_bytes == expected


@pytest.mark.parametrize("name", DRAFTERS)
def test_a_trim_takes_exactly_the_cut_rows_from_a_draft_step(name: str, tmp_path: Path) -> None:
    """Cost predicts what the trimmed folder then really holds."""
    drafter, target_folder = DRAFTERS[name](tmp_path / "drafter"), target(tmp_path / "target")
    before = inspect(drafter, target_folder)
    present = available_ids(drafter, target_folder)
    kept = some_ids(np.arange(TINY.vocab) if present is None else present, 50)
    cost = drafter_cost(drafter, target_folder)
    trim(drafter, kept, target=target_folder, out=tmp_path / "out")
    after = inspect(tmp_path / "out", target_folder)
    assert after.draft_step_bytes == cost.draft_step_bytes(kept.size)
    assert after.head_rows == kept.size and after.trimmed and after.target_rows == before.target_rows == TINY.head_rows
    assert before.draft_step_bytes - after.draft_step_bytes == before.head_bytes - after.head_bytes


def test_medusa_reads_all_heads_in_one_step(tmp_path: Path) -> None:
    drafter = DRAFTERS["Medusa, .pt"](tmp_path / "medusa")
    step = draft_step(identify(open_checkpoint(drafter)))
    assert step.head_row_bytes == 5 * 2 * TINY.hidden
    cost = drafter_cost(drafter, target(tmp_path / "target"))
    assert cost.steps(4) == 1 and not cost.sequential


def test_inspect_prints_what_a_trim_saves(tmp_path: Path, vocabtrim: Any) -> None:
    drafter, target_folder = DRAFTERS["EAGLE"](tmp_path / "eagle"), target(tmp_path / "target")
    told = vocabtrim("inspect", drafter, "--target", target_folder, "--json").json
    assert told["kind"] == "EAGLE-1/2" and told["head_owner"] == "target" and told["head_rows"] == TINY.head_rows
    assert told["head_share"] == pytest.approx(told["head_bytes"] / told["draft_step_bytes"])
    shown = vocabtrim("inspect", drafter, "--target", target_folder).out
    assert "EAGLE-1/2" in shown and "What a trim would save" in shown


def test_a_head_stored_beside_a_tied_embedding_counts_once(llama_3b: Path, eagle_3b: Path) -> None:
    shapes = {name: tensor.shape for name, tensor in open_checkpoint(llama_3b).tensors.items()}
    config = json.loads((llama_3b / "config.json").read_text())
    both = headers_only(llama_3b.with_name("both"), shapes | {"lm_head.weight": (VOCAB, HIDDEN)}, config)
    assert drafter_cost(eagle_3b, both).target_pass_bytes == drafter_cost(eagle_3b, llama_3b).target_pass_bytes


def test_a_merged_medusa_reads_its_heads_not_the_model_around_them(tmp_path: Path) -> None:
    steps = [
        draft_step(identify(open_checkpoint(DRAFTERS[name](tmp_path / name))))
        for name in ("Medusa, .pt", "Medusa, merged")
    ]
    assert steps[0] == steps[1]


def test_mtp_modules_take_turns_and_read_their_active_experts(tmp_path: Path) -> None:
    """Two DeepSeek modules of 8 experts, 2 active: a step reads one module, one head, a quarter of the experts."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (512, 64), "lm_head.weight": (512, 64)}
    for number in (1, 2):
        module = f"model.layers.{number}"
        shapes |= {
            f"{module}.eh_proj.weight": (64, 128),
            f"{module}.embed_tokens.weight": (512, 64),
            f"{module}.shared_head.head.weight": (512, 64),
            **{f"{module}.mlp.experts.{expert}.up_proj.weight": (32, 64) for expert in range(8)},
            **{f"{module}.mlp.experts.{expert}.down_proj.weight": (64, 32) for expert in range(8)},
        }
    config = {"num_hidden_layers": 1, "vocab_size": 512, "n_routed_experts": 8, "num_experts_per_tok": 2}
    step = draft_step(identify(open_checkpoint(headers_only(tmp_path / "mtp", shapes, config))))
    assert step.body_bytes == 2 * (64 * 128 + 2 * 2 * 32 * 64 + 64)
    assert step.head_row_bytes == 2 * 64 and step.head_row_parameters == 64
