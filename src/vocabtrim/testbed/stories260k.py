"""A small real model, stories260K, from llama2.c's own files into a Hugging Face folder.

    python -m vocabtrim.testbed.stories260k FOLDER OUT

FOLDER holds `checkpoint_legacy.bin` (seven int32, then float32 weights) and `tokenizer.bin` (a score and the bytes of
each piece). Knows llama2.c's two file formats; knows nothing of drafters.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from ..provenance import atomic_directory
from .sizes import ModelShape
from .weights import Source, Tensor, write_safetensors

UNKNOWN, START, END = 0, 1, 2
_FIRST_BYTE, _FIRST_PIECE = 3, 259  # ids 3 to 258 are the 256 bytes, for what has no piece
_REMEDY = "pass the folder with checkpoint_legacy.bin and tokenizer.bin of karpathy's stories260K"

Floats = npt.NDArray[np.float32]


def convert(folder: Path, out: Path) -> Path:
    """Write `out`: config, generation config, float32 weights and tokenizer.json.

    Raises CheckpointError when a file is missing or not as long as its header says.
    """
    shape, weights = read_checkpoint(folder / "checkpoint_legacy.bin")
    pieces = read_pieces(folder / "tokenizer.bin", shape.vocab)
    tensors = [Tensor(name, values.shape, "float32", values) for name, values in weights]
    files: dict[str, Any] = {
        "config.json": shape.config(),
        "generation_config.json": {"bos_token_id": START, "eos_token_id": list(shape.eos)},
        "tokenizer.json": tokenizer(pieces),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": shape.max_positions,
        },
    }
    with atomic_directory(out) as partial:
        write_safetensors(partial / "model.safetensors", tensors, Source(0))
        for name, content in files.items():
            (partial / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return out


def read_checkpoint(path: Path) -> tuple[ModelShape, list[tuple[str, Floats]]]:
    """The model's size and its weights under Hugging Face's names. One matrix serves as embedding and head."""
    data = _read(path)
    hidden, intermediate, layers, heads, kv_heads, vocab, positions = struct.unpack("<7i", data[:28].ljust(28, b"\0"))
    shape = ModelShape(
        "stories260K",
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        vocab=vocab,
        head_rows=vocab,
        bos=START,
        eos=(START, END),  # stories follow one another behind <s>: the model ends a story by starting the next
        tie=True,
        head_dim=hidden // max(heads, 1),
        rope_theta=10_000.0,
        max_positions=positions,
        dtype="float32",
    )
    stacks = _stacks(shape)
    rotary = positions * shape.head_dim  # tables of cosines and sines, which everyone else computes
    expected = 28 + 4 * (sum(int(np.prod(dims)) for _, dims in stacks) + rotary)
    if vocab <= 0 or len(data) != expected:
        raise CheckpointError(
            f"{path} is no llama2.c checkpoint", expected=f"{expected} bytes", found=len(data), remedy=_REMEDY
        )
    values = np.frombuffer(data, "<f4", offset=28)
    weights: list[tuple[str, Floats]] = []
    for name, dims in stacks:
        size = int(np.prod(dims))
        stack, values = values[:size].reshape(dims), values[size:]
        if "{}" not in name:
            weights.append((name, stack))
            continue
        if ".q_proj" in name or ".k_proj" in name:
            stack = _halves(stack, shape.head_dim)
        weights += [(name.format(layer), one) for layer, one in enumerate(stack)]
    return shape, weights


def _stacks(shape: ModelShape) -> list[tuple[str, tuple[int, ...]]]:
    """The file's order: one array per kind of weight, all layers together; `{}` stands for the layer."""
    layers, hidden, intermediate = shape.layers, shape.hidden, shape.intermediate
    block = "model.layers.{}"
    return [
        ("model.embed_tokens.weight", (shape.vocab, hidden)),
        (f"{block}.input_layernorm.weight", (layers, hidden)),
        (f"{block}.self_attn.q_proj.weight", (layers, shape.query, hidden)),
        (f"{block}.self_attn.k_proj.weight", (layers, shape.key_value, hidden)),
        (f"{block}.self_attn.v_proj.weight", (layers, shape.key_value, hidden)),
        (f"{block}.self_attn.o_proj.weight", (layers, hidden, shape.query)),
        (f"{block}.post_attention_layernorm.weight", (layers, hidden)),
        (f"{block}.mlp.gate_proj.weight", (layers, intermediate, hidden)),
        (f"{block}.mlp.down_proj.weight", (layers, hidden, intermediate)),
        (f"{block}.mlp.up_proj.weight", (layers, intermediate, hidden)),
        ("model.norm.weight", (hidden,)),
    ]


def _halves(stack: Floats, head_dim: int) -> Floats:
    """Query or key rows (layers, rows, hidden), from rotating neighbours 2i and 2i+1 to rotating i and i + half."""
    layers, rows, hidden = stack.shape
    pairs = stack.reshape(layers, rows // head_dim, head_dim // 2, 2, hidden)
    return np.ascontiguousarray(pairs.swapaxes(2, 3)).reshape(stack.shape)


def read_pieces(path: Path, vocab: int) -> list[tuple[float, bytes]]:
    """Score and bytes of every piece, by id. A higher score merges first."""
    data, at = _read(path), 4
    pieces: list[tuple[float, bytes]] = []
    while at < len(data) and len(pieces) < vocab:
        score, length = struct.unpack("<fi", data[at : at + 8].ljust(8, b"\0"))
        pieces.append((score, data[at + 8 : at + 8 + length]))
        at += 8 + length
    if at != len(data) or len(pieces) != vocab:
        raise CheckpointError(
            f"{path} is no llama2.c tokenizer", expected=f"{vocab} pieces", found=len(pieces), remedy=_REMEDY
        )
    return pieces


def tokenizer(pieces: Sequence[tuple[float, bytes]]) -> dict[str, Any]:
    """A tokenizer.json: SentencePiece's BPE, a space before the text, bytes for what has no piece."""
    vocab = {"<unk>": UNKNOWN, "<s>": START, "</s>": END}
    vocab |= {f"<0x{byte:02X}>": _FIRST_BYTE + byte for byte in range(256)}
    words = [text.decode().replace(" ", "▁") for _, text in pieces[_FIRST_PIECE:]]
    vocab |= {word: _FIRST_PIECE + i for i, word in enumerate(words)}
    known = set(words)
    merges = [
        (-pieces[vocab[word]][0], vocab[word[:cut]], vocab[word[cut:]])
        for word in words
        for cut in range(1, len(word))
        if word[:cut] in known and word[cut:] in known
    ]
    names = {token: word for word, token in vocab.items()}
    special = [
        {"id": token, "content": names[token], "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for token in (UNKNOWN, START, END)
    ]
    space = {"String": "▁"}
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text, second = ({"Sequence": {"id": part, "type_id": i}} for i, part in enumerate("AB"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text],
            "pair": [start, text, second],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [START], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": space, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [[names[left], names[right]] for _, left, right in sorted(merges)],
        },
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}", found=error.strerror, remedy=_REMEDY) from error


if __name__ == "__main__":
    print(convert(Path(sys.argv[1]), Path(sys.argv[2])))
