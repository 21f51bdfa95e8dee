"""`vocabtrim convert`: a draft vocabulary from one file dialect into another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .screen import Json, print_json

if TYPE_CHECKING:
    from ..vocabulary.draft_map import DraftMap

DialectName = Literal["token-map", "d2t", "d2t-t2d", "ids", "absolute"]


def convert(
    path: Annotated[Path, typer.Argument(help="A map's file, a drafter's checkpoint, or a folder that holds one.")],
    *,
    to: Annotated[DialectName, typer.Option("--to", help="The dialect to write.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write: .safetensors; .pt for token-map, or d2t.")],
    from_: Annotated[DialectName | None, typer.Option("--from", help="What PATH is, where it does not tell.")] = None,
    target: Annotated[str | None, typer.Option(help="The target's folder or hub id: its vocabulary size.")] = None,
    target_vocab: Annotated[int | None, typer.Option(min=1, max=1 << 24, help="The vocabulary size itself.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Put the ids in ascending order where --to needs it.")] = False,
    json: Json = False,
) -> None:
    """Convert a map between the engines' dialects.

    Dialects: token-map (SGLang's .pt list), d2t (offsets: SGLang, vLLM, TensorRT-LLM), d2t-t2d (offsets and mask:
    EAGLE, SpecForge, speculators), absolute (ids under the name d2t: llama.cpp), ids (kept.safetensors). The map is
    proven sound first. Its order is kept wherever the dialect has one.

    Example: vocabtrim convert kept.safetensors --to token-map --out hot_tokens.pt
    """
    from ..vocabulary.dialects import convert as convert_map

    read = convert_map(path, to, out, dialect=from_, target_vocab=target_vocab, target=target, sort=sort)
    if json:
        print_json(_summary(read, to, out))
        return
    order = "ascending" if read.ascending else "sorted" if sort and to in ("ids", "d2t-t2d") else "in the file's order"
    mask = f", t2d of {read.target_vocab:,} entries" if to == "d2t-t2d" else ""
    print(f"{read.source}: {read.dialect}, {read.ids.size:,} ids -> {out}: {to}, {order}{mask}")
    for warning in read.warnings:
        print(f"warning: {warning.message}; {warning.remedy}")


def _summary(read: DraftMap, to: str, out: Path) -> dict[str, object]:
    return {
        "out": str(out),
        "from": read.dialect,
        "to": to,
        "kept_size": int(read.ids.size),
        "target_vocab": read.target_vocab,
        "mask_length": read.target_vocab if to == "d2t-t2d" else None,
        "ascending": read.ascending,
        "warnings": [warning._asdict() for warning in read.warnings],
    }
