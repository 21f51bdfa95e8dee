"""llama.cpp: a trimmed EAGLE-3 drafter as one GGUF file, `d2t` holding the kept ids themselves.

Written with the `gguf` package, llama.cpp's own writer, and read back with its reader. What of the format is taken
from where: gguf_eagle3.py. How it is served and what was measured: docs/engines/llama-cpp.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA, MTP
from ..checkpoint.read import Checkpoint
from ..errors import CheckpointError, InputError
from ..provenance import birth_certificate
from ..vocabulary.dialects import GGUF_TOKENIZER
from ..vocabulary.kept import Ids
from .engine import Engine, Serving
from .gguf_eagle3 import Numbers, ids_of, numbers_of, prove_tensors, weights_of
from .gguf_tokenizer import add_tokenizer, prove_tokenizer_fits
from .source import OfAKind, Source, refuse_kind, refuse_quantized

if TYPE_CHECKING:
    from gguf import GGUFWriter

FILE = "drafter.gguf"
ARCHITECTURE = "eagle3"

# Why the engine takes no other kind trimmed, and what to do instead.
_REFUSED = {
    INDEPENDENT: (
        "its loader wants a head row for every id of the drafter's tokenizer, and its draft-simple a tokenizer that "
        "differs from the target's by 128 ids at most",
        "drive it from Python as docs/engines/llama-cpp.md shows, or serve it with an engine that takes it",
    ),
    EAGLE: ("it knows EAGLE-3 only", "use SGLang, with a token map"),
    MEDUSA: ("it has no Medusa", "use your own loop, or an EAGLE-3 drafter"),
    MTP: (
        "its MTP scores the target's whole vocabulary, by a head as wide or the target's own",
        "use SGLang, with a token map",
    ),
}


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that llama.cpp cannot serve trimmed."""
    refuse_kind(drafter, {EAGLE3}, "llama.cpp", *_REFUSED.get(drafter.kind, ("it has none", "use another engine")))


def write(source: Source, folder: Path) -> Serving:
    """Put the drafter into `folder`/FILE."""
    refuse(source)
    refuse_quantized(source, "llama.cpp", "has quantized types of its own: quantize the GGUF with llama-quantize")
    target = _target_of(source)
    gguf = _library()
    numbers = numbers_of(source, target)
    prove_tensors(source)
    prove_tokenizer_fits(target.folder, numbers.vocab)
    writer = gguf.GGUFWriter(folder / FILE, ARCHITECTURE)
    try:
        _add_story(writer, source)
        _add_numbers(writer, numbers)
        add_tokenizer(writer, target.folder, numbers.vocab)
        for weights in weights_of(source, numbers):
            writer.add_tensor(weights.name, weights.array, raw_dtype=gguf.GGMLQuantizationType[weights.dtype])
        writer.add_tensor("d2t", np.ascontiguousarray(ids_of(source), "<i8"))
        writer.add_file_type(_file_types(gguf)[source.drafter.heads[0].main.dtype])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    longest = source.chain_length(4)
    return Serving(
        "python convert_hf_to_gguf.py {target} --outfile target.gguf\n"
        f"llama-server -m target.gguf -md {{out}}/{FILE} --spec-type draft-eagle3 --spec-draft-n-max {longest}",
        "`draft acceptance` in the server's log, and draft_n, draft_n_accepted among each answer's timings",
    )


def read_ids(folder: Path) -> Ids:
    """`d2t`, as the engine demands it: int64, the ids themselves."""
    found = {tensor.name: tensor for tensor in _library().GGUFReader(folder / FILE).tensors}
    if "d2t" not in found or found["d2t"].data.dtype != np.int64:
        raise CheckpointError(
            f"{folder / FILE} has no d2t that llama.cpp reads",
            expected="a tensor d2t of type I64",
            found=str(found["d2t"].tensor_type.name) if "d2t" in found else ", ".join(sorted(found)),
            remedy="export again with `vocabtrim export`",
        )
    return np.array(found["d2t"].data)


def _target_of(source: Source) -> Checkpoint:
    if source.target is None or not (source.target.folder / "tokenizer.json").is_file():
        raise InputError(
            "a GGUF drafter says which layers of its target it reads, and has the target's tokens",
            expected="the target's folder, with config.json and tokenizer.json",
            found="no target" if source.target is None else f"{source.target.folder} without a tokenizer.json",
            remedy="pass it with --target",
        )
    return source.target


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise InputError(
            "GGUF files are written by the gguf package", remedy="install it with: pip install 'vocabtrim[gguf]'"
        ) from error
    return gguf


def _file_types(gguf: Any) -> dict[str, int]:
    types = gguf.LlamaFileType
    return {"F32": types.ALL_F32, "F16": types.MOSTLY_F16, "BF16": types.MOSTLY_BF16}


def _add_story(writer: GGUFWriter, source: Source) -> None:
    from gguf import GGUFType

    writer.add_type(GGUFType.MODEL)
    writer.add_name(f"{source.folder.name}, an EAGLE-3 drafter of {source.kept.size} kept ids")
    writer.add_string("vocabtrim.version", birth_certificate({}, {})["version"])
    writer.add_string("vocabtrim.kept_hash", source.kept.hash)
    if source.kept.tokenizer_hash is not None:
        writer.add_string(GGUF_TOKENIZER, source.kept.tokenizer_hash)


def _add_numbers(writer: GGUFWriter, numbers: Numbers) -> None:
    writer.add_block_count(1)
    writer.add_context_length(numbers.context)
    writer.add_embedding_length(numbers.hidden)
    writer.add_feed_forward_length(numbers.intermediate)
    writer.add_head_count(numbers.heads)
    writer.add_head_count_kv(numbers.kv_heads)
    writer.add_key_length(numbers.head_dim)
    writer.add_value_length(numbers.head_dim)
    writer.add_rope_dimension_count(numbers.head_dim)
    writer.add_rope_freq_base(numbers.rope_theta)
    writer.add_layer_norm_rms_eps(numbers.norm_eps)
    writer.add_vocab_size(numbers.vocab)
    _add_rope_scaling(writer, numbers.rope)
    writer.add_array(f"{ARCHITECTURE}.target_layers", list(numbers.target_layers))
    writer.add_uint32(f"{ARCHITECTURE}.target_hidden_size", numbers.target_hidden)
    writer.add_bool(f"{ARCHITECTURE}.norm_before_residual", numbers.norm_before_residual)
    writer.add_bool(f"{ARCHITECTURE}.norm_before_fc", numbers.norm_before_fc)


def _add_rope_scaling(writer: GGUFWriter, rope: dict[str, Any]) -> None:
    """llama3's scaling is a tensor instead."""
    from gguf import RopeScalingType

    kind = rope["rope_type"]
    if kind not in {"linear", "yarn"}:
        return
    writer.add_rope_scaling_type(RopeScalingType(kind))
    writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for entry, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if rope.get(entry) is not None:
                add(rope[entry])


ENGINE = Engine(
    name="llama-cpp",
    tested={"llama-cpp-python": "0.3.36", "gguf": "0.19.0"},
    write=write,
    read_ids=read_ids,
    refuse=refuse,
)
