"""Head, draft step, target pass and round on a GPU, plain and by CUDA graphs, at the shapes of Llama-3.2-3B and 3.1-8B.

Physics: a draft step and a target pass of few rows read every weight once, so their least time is bytes / bandwidth of
the GPU's memory. What stands between is launches: Llama's layers are 38 operators each, a thousand for a pass, which
Python launches one by one. Replayed as a graph they cost one launch, and however long the small ones among them take.
Times are compared with that of a bare read of as many bytes on the same device.

Weights are random and made on the device; nothing is loaded. Random models never agree, so rounds are as short as they
get, and what they take is laid beside block efficiencies that were published (the paper's for the 3B shape with chains
of 4, FR-Spec's for the 8B shape with trees): tokens/s and speed-up that these would give on this clock, and the MBSU
that bytes predict. Sides take turns; medians. This bench has not run on a GPU yet: until it has, docs/gpu.md has no
figures.

    python bench/gpu.py [--shapes 3b 8b] [--compiled]       # on a GPU
    python bench/gpu.py --device cpu --small                # the same code in half a minute; shows nothing of a GPU
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import vocabtrim as vt
from machine import cache_bytes, certificate, duration, read_bandwidth, seconds_of
from vocabtrim.cost import mbsu
from vocabtrim.decoding.causal_lm import CausalLM
from vocabtrim.decoding.drafters.eagle import STATES, EagleLayers
from vocabtrim.decoding.drafters.eagle3 import Eagle3Layers
from vocabtrim.decoding.drafters.feature_body import FeatureBody, FeatureLayers
from vocabtrim.decoding.drafters.stepping import SteppingDrafter
from vocabtrim.decoding.drafters.variants import Eagle3Norms
from vocabtrim.decoding.graphs.drafter import static_drafter
from vocabtrim.decoding.graphs.fused_head import FusedHead
from vocabtrim.decoding.graphs.lm_pass import static_pass
from vocabtrim.decoding.graphs.program import Program, recorder
from vocabtrim.decoding.head import Head
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree
from vocabtrim.testbed.sizes import LLAMA_3_1_8B, LLAMA_3_2_3B, ModelShape

SHAPES = {"3b": LLAMA_3_2_3B, "8b": LLAMA_3_1_8B}
KEPT = (128_256, 65_536, 32_768, 16_384, 8_192, 2_048)
SMALL_KEPT = {128_256: 2_004, 32_768: 512, 8_192: 128}  # what stands for some of those in a small run
ROWS = (1, 8, 32, 60)
PLANS: dict[str, Any] = {"chain of 4": vt.Chain(4), "60-node tree": vt.DynamicTree()}
DRAFTERS = ("EAGLE", "EAGLE-3")
# Published with EAGLE drafters of that shape, by kept size: VocabTrim (arXiv 2506.22694), chains of 4; FR-Spec (arXiv
# 2502.14856), Llama-3-8B, EAGLE-2's trees. Nobody published the other sizes.
BLOCK_EFFICIENCY: dict[tuple[str, str], dict[int, float]] = {
    ("3b", "chain of 4"): {128_256: 3.63, 65_536: 3.54, 32_768: 3.43, 16_384: 3.25},
    ("8b", "60-node tree"): {128_256: 3.89, 65_536: 3.80, 32_768: 3.63, 16_384: 3.40, 8_192: 3.13},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument(
        "--small", action="store_true", help="tiny models of the same kind, for a machine without a GPU"
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompt", type=int, default=512, help="tokens that stand in the cache")
    parser.add_argument("--tokens", type=int, default=24, help="rounds of a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--compiled", action="store_true", help="layers and heads through torch.compile; minutes")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.prompt, arguments.tokens, arguments.turns = 40, 5, 2
    on_gpu = arguments.device.startswith("cuda")
    told = (
        "measured on a GPU"
        if on_gpu
        else "NOT run on a GPU: the code path is shown, nothing is recorded, and its times say nothing of one"
    )
    if arguments.compiled:
        torch._dynamo.config.recompile_limit = 64  # heads of every size go through the same function
    print(f"{told}\nread bandwidth: {read_bandwidth(arguments.device) / 1e9:,.0f} GB/s\n")
    shapes = {name: measured(name, arguments) for name in arguments.shapes}
    result = {
        "bench": "gpu",
        "ran_on_gpu": on_gpu,
        "said": told,
        "where": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cuda": torch.version.cuda if on_gpu else None,
        "dtype": arguments.dtype,
        "small": arguments.small,
        "compiled": arguments.compiled,
        "prompt_tokens": arguments.prompt,
        "read_bandwidth": read_bandwidth(arguments.device),
        "shapes": shapes,
    }
    print(json.dumps(result | certificate(0, ("torch", "transformers"))))


@dataclass(frozen=True, eq=False)
class Side:
    """What rounds are measured with: a random target of a shape, its head cut to each size, and its time alone.

    In a small run a head goes by the size that it stands for.
    """

    name: str
    shape: ModelShape
    target: Target
    heads: dict[int, Head]
    alone: dict[str, float]


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One shape: heads alone, target passes, then rounds of every drafter and kept size."""
    torch.manual_seed(0)
    shape = _small(SHAPES[name]) if arguments.small else SHAPES[name]
    kept = SMALL_KEPT if arguments.small else dict.fromkeys(KEPT)
    print(f"{shape.name}: {shape.layers} layers of {shape.hidden}, {shape.head_rows:,} ids")
    target = random_target(shape, arguments)
    heads = {size: cut_head(target, small or size) for size, small in kept.items()}
    result: dict[str, Any] = {
        "shape": shape.name,
        "target_bytes": pass_bytes(target.lm),
        "heads": {size: head_times(head, arguments) for size, head in heads.items()},
        "target_pass": pass_times(target, arguments),
    }
    baseline = {way: round_seconds(target, None, way, arguments) for way in ("plain", "graphs")}
    result["autoregressive_seconds"] = baseline
    print(f"  one token alone: plain {duration(baseline['plain'])}, graphs {duration(baseline['graphs'])}")
    side = Side(name, shape, target, heads, baseline)
    result["drafters"] = {
        drafter: {plan: rounds_by_size(side, drafter, plan, arguments) for plan in PLANS} for drafter in DRAFTERS
    }
    return result


def _small(shape: ModelShape) -> ModelShape:
    """The same with a hundredth of everything."""
    vocab = max(SMALL_KEPT.values())
    return replace(
        shape, name=f"{shape.name}, small", hidden=128, intermediate=256, layers=6, heads=8, kv_heads=2, head_dim=16,
        vocab=vocab, head_rows=vocab, bos=1, eos=(2,), max_positions=4096,
    )  # fmt: skip


def said(shape: ModelShape) -> dict[str, Any]:
    """What a config of the shape is made of."""
    return {key: value for key, value in shape.config().items() if key not in {"architectures", "torch_dtype"}}


def random_target(shape: ModelShape, arguments: argparse.Namespace) -> Target:
    dtype = getattr(torch, arguments.dtype)
    with torch.device(arguments.device):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**said(shape)), dtype=dtype, attn_implementation="sdpa"
        )
    model.requires_grad_(False).eval()
    target = Target(model, lean=False)
    static_pass(target.lm, compiled=arguments.compiled)
    return target


def cut_head(target: Target, size: int) -> Head:
    """Rows of the target's head, drawn at random; all of them where they are as many."""
    weight = target.lm.model.get_output_embeddings().weight
    if size == weight.shape[0]:
        return Head(weight)
    ids = torch.randperm(weight.shape[0], device=weight.device)[:size].sort().values
    return Head(weight[ids], kept_ids=ids)


def random_drafter(kind: str, plan: Any, side: Side, head: Head) -> SteppingDrafter:
    lm = side.target.lm
    config = AutoConfig.for_model(**said(side.shape) | {"num_hidden_layers": 1, "rope_scaling": None})
    config._attn_implementation = "sdpa"
    states = STATES if kind == "EAGLE" else (2, lm.layers // 2, lm.layers - 3)
    with torch.device(lm.device), _default_dtype(lm.dtype):
        layers: FeatureLayers = (
            EagleLayers(config)
            if kind == "EAGLE"
            else Eagle3Layers(config, len(states) * lm.hidden_size, len(states), Eagle3Norms())
        )
    layers.requires_grad_(False).eval()
    embedding = lm.model.get_input_embeddings().weight
    return SteppingDrafter(FeatureBody(layers, embedding, head, states, lean=False), plan)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def head_times(head: Head, arguments: argparse.Namespace) -> dict[str, Any]:
    """The head with its best ids, one row and ten, as recorded programs; copies by turns, so that no cache holds it."""
    device, size = head.weight.device, head.weight.nbytes
    copies = max(1, -(-4 * last_cache(device) // size)) if not arguments.small else 2
    copied = [head, *(Head(head.weight.clone(), kept_ids=head.kept_ids) for _ in range(copies - 1))]
    told: dict[str, Any] = {"bytes": size, "floor_seconds": size / read_bandwidth(arguments.device), "copies": copies}
    for compiled in (False, True) if arguments.compiled else (False,):
        fused = [FusedHead(one, compiled=compiled) for one in copied]
        for rows in (1, 10):
            hidden = torch.randn(rows, head.weight.shape[1], device=device, dtype=head.weight.dtype)
            program = Program(_each(fused, hidden, rows), recorder(device))
            seconds = median(program, arguments) / copies
            name = f"{'greedy, 1 row' if rows == 1 else 'best 10, 10 rows'}{', compiled' if compiled else ''}"
            told[name] = {"seconds": seconds, "share_of_bandwidth": told["floor_seconds"] / seconds}
    line = "".join(f"   {name} {one['share_of_bandwidth']:.2f}" for name, one in told.items() if isinstance(one, dict))
    print(f"  head of {head.weight.shape[0]:>7,} rows, {size / 1e6:7.1f} MB, share of read bandwidth:{line}")
    return told


def _each(heads: list[FusedHead], hidden: torch.Tensor, rows: int) -> Callable[[], torch.Tensor]:
    @torch.inference_mode()
    def step() -> torch.Tensor:
        found = [head.likeliest(hidden) if rows == 1 else head.best(hidden, 10).ids for head in heads]
        for head in heads:
            head.largest()
        return torch.cat([ids.flatten() for ids in found])

    return step


def last_cache(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).L2_cache_size) if device.type == "cuda" else cache_bytes()


def pass_bytes(lm: CausalLM) -> int:
    """Weights that one pass reads; of an embedding of its own it reads a row per token."""
    ends = (lm.model.get_input_embeddings().weight, lm.model.get_output_embeddings().weight)
    looked_up = 0 if ends[0] is ends[1] else ends[0].nbytes
    return sum(parameter.nbytes for parameter in lm.model.parameters()) - looked_up


def pass_times(target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trees of 1 to 60 nodes verified behind a prompt, and forgotten again."""
    floor = pass_bytes(target.lm) / read_bandwidth(arguments.device)
    told: dict[str, Any] = {"floor_seconds": floor, "rows": {}}
    for rows in ROWS:
        tree = Tree(torch.arange(rows), (-1, *(node // 2 for node in range(rows - 1))))
        seconds = {}
        for way in ("plain", "graphs"):
            with ways(target, way):
                target.begin(prompt(target, arguments), arguments.prompt + 200)
                seconds[way] = median(lambda tree=tree: _verified(target, tree), arguments)
        told["rows"][rows] = {"seconds": seconds, "share_of_bandwidth": floor / seconds["graphs"]}
        print(
            f"  target pass, {rows:>2} rows: plain {duration(seconds['plain'])}, graphs {duration(seconds['graphs'])}, "
            f"share of read bandwidth {floor / seconds['graphs']:.2f}"
        )
    return told


def _verified(target: Target, tree: Tree) -> None:
    past = target.lm.cache.length
    target.verify(tree)
    target.lm.cache.rewind(past)


def rounds_by_size(side: Side, kind: str, plan: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds with each kept size, plain and by graphs, and what published block efficiencies would give."""
    target = side.target
    published = BLOCK_EFFICIENCY.get((side.name, plan), {}) if kind == "EAGLE" else {}
    told: dict[str, Any] = {}
    for size, head in side.heads.items():
        efficiency = published.get(size)
        plain = random_drafter(kind, PLANS[plan], side, head)
        steps = PLANS[plan].length if isinstance(PLANS[plan], vt.Chain) else PLANS[plan].depth
        step_bytes = drafter_bytes(kind, plain.body.layers, head, steps) / steps
        one: dict[str, Any] = {
            "rows": head.weight.shape[0],
            "step_bytes": step_bytes,
            "steps": steps,
            "step_floor_seconds": step_bytes / read_bandwidth(arguments.device),
        }
        sides = {"plain": plain, "graphs": static_drafter(plain, compiled=arguments.compiled)}
        for way, drafter in sides.items():
            one[way] = rounds(target, drafter, way, arguments)
            one[way]["draft_step_seconds"] = one[way]["draft_seconds"] / steps
        one["share_of_bandwidth"] = one["step_floor_seconds"] / one["graphs"]["draft_step_seconds"]
        if efficiency is not None:
            seconds = one["graphs"]["round_seconds"]
            one |= {
                "published_block_efficiency": efficiency,
                "tokens_per_second": efficiency / seconds,
                "speedup": efficiency * side.alone["graphs"] / seconds,
                "mbsu": mbsu(efficiency, step_bytes / pass_bytes(target.lm), steps),
            }
        told[str(size)] = one
        print_size(f"{kind}, {plan}, {head.weight.shape[0]:,} rows", one)
    return told


def drafter_bytes(kind: str, layers: FeatureLayers, head: Head, steps: int) -> int:
    """Weights that a proposal of so many steps reads. EAGLE-3's fc fuses what comes from the target, once."""
    each = sum(weight.nbytes for weight in layers.parameters()) + head.weight.nbytes
    once = layers.fc.weight.nbytes if kind == "EAGLE-3" else 0
    return steps * (each - once) + once


def rounds(target: Target, drafter: Any, way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Median seconds of drafting, of the target, and of whole rounds."""
    done = [one for _ in range(arguments.turns) for one in decoded(target, drafter, way, arguments)]
    return {
        "draft_seconds": statistics.median(one.draft_seconds for one in done),
        "target_seconds": statistics.median(one.target_seconds for one in done),
        "round_seconds": statistics.median(one.seconds for one in done),
    }


def round_seconds(target: Target, drafter: Any, way: str, arguments: argparse.Namespace) -> float:
    return rounds(target, drafter, way, arguments)["round_seconds"]


def decoded(target: Target, drafter: Any, way: str, arguments: argparse.Namespace) -> list[Any]:
    """Rounds of one generation that draft as deep as they may, but the first four: those are recorded in."""
    new_tokens = 4 + arguments.tokens + 5
    with ways(target, way):
        done = list(vt.decode(target, drafter, prompt(target, arguments), max_new_tokens=new_tokens, stop_ids=()))
    deep = [one for one in done if one.depth == max(each.depth for each in done)]
    return deep[4:] or deep


@contextmanager
def ways(target: Target, way: str) -> Iterator[None]:
    """The target's passes by graphs, or the plain way on the same cache."""
    graphs = target.lm.graphs
    target.lm.graphs = graphs if way == "graphs" else None
    try:
        yield
    finally:
        target.lm.graphs = graphs


def prompt(target: Target, arguments: argparse.Namespace) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, target.lm.vocab, (arguments.prompt,), generator=generator).tolist()  # type: ignore[no-any-return]


def median(run: Callable[[], Any], arguments: argparse.Namespace, at_once: int = 5) -> float:
    """Seconds of one call of several that follow each other without a wait, so that the wait's own time is shared."""

    def several() -> None:
        for _ in range(at_once):
            run()

    for _ in range(2):
        several()  # made, recorded, warm
    return statistics.median(seconds_of(several, arguments.device) / at_once for _ in range(arguments.turns))


def print_size(name: str, one: dict[str, Any]) -> None:
    graphs, plain = one["graphs"], one["plain"]
    line = (
        f"  {name:34} draft step: plain {duration(plain['draft_step_seconds'])}, graphs "
        f"{duration(graphs['draft_step_seconds'])} (share {one['share_of_bandwidth']:.2f}); round: plain "
        f"{duration(plain['round_seconds'])}, graphs {duration(graphs['round_seconds'])}"
    )
    if "speedup" in one:
        line += (
            f"; at block efficiency {one['published_block_efficiency']}: {one['tokens_per_second']:.0f} tokens/s, "
            f"speed-up {one['speedup']:.2f}, MBSU {one['mbsu']:.2f}"
        )
    print(line)


if __name__ == "__main__":
    main()
