"""An independent drafter with a trimmed head under llama-cpp-python: llama.cpp computes, ids are mapped here.

    llama_trimmed_lm.py TARGET.gguf DRAFTER.gguf KEPT.safetensors ASKED.json ANSWER.json

DRAFTER.gguf is the whole drafter, converted by the engine, of any type. `cut` keeps the head's rows of the kept ids and
leaves the tokenizer out, so that the engine takes the rows' number for its vocabulary; what is drafted behind is
handed in as embeddings, for every id has one. ASKED: `prompts`, `new_tokens`, `length`. ANSWER: for each prompt the
`output`, ids, and `proposals`, each draft in turn.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as engine
import numpy as np
import numpy.typing as npt
from llama_cpp.llama_speculative import LlamaDraftModel
from llama_plain import CONTEXT, answer, open_model
from safetensors.numpy import load_file


def cut(whole: Path, kept_ids: npt.NDArray[np.int64], out: Path) -> npt.NDArray[np.float32]:
    """Write the drafter with the kept rows of its head alone; returns its whole embedding, (ids, hidden)."""
    reader = gguf.GGUFReader(whole)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "tokenizer.", "general.architecture", f"{architecture}.vocab_size")):
            element = field.types[-1] if len(field.types) > 1 else None  # of an array
            writer.add_key_value(name, field.contents(), field.types[0], element)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(len(kept_ids))
    embedding = tensors.pop("token_embd.weight")
    head = tensors.pop("output.weight", embedding)  # absent where it is tied
    # The engine takes it for a tied one; as an embedding it is never read.
    writer.add_tensor("token_embd.weight", head.data[kept_ids], raw_dtype=head.tensor_type)
    for tensor in tensors.values():
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.dequantize(embedding.data, embedding.tensor_type)


class TrimmedDrafter(LlamaDraftModel):
    """Greedy drafts of a cut drafter, as ids of the target."""

    def __init__(
        self, cut: Path, embedding: npt.NDArray[np.float32], kept_ids: npt.NDArray[np.int64], length: int
    ) -> None:
        self.embedding, self.kept_ids, self.length = embedding, kept_ids, length
        self.model = engine.llama_model_load_from_file(str(cut).encode(), engine.llama_model_default_params())
        how = engine.llama_context_default_params()
        how.n_ctx = how.n_batch = CONTEXT
        how.type_k = how.type_v = engine.GGML_TYPE_F32
        how.flash_attn_type = engine.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it would round
        how.n_threads = how.n_threads_batch = 1
        self.context = engine.llama_init_from_model(self.model, how)
        self.batch = engine.llama_batch_init(CONTEXT, embedding.shape[1], 1)
        self.read: list[int] = []  # what stands in the cache
        self.proposals: list[list[int]] = []

    def __call__(self, input_ids: npt.NDArray[np.intc], /, **kwargs: Any) -> npt.NDArray[np.intc]:
        context = input_ids.tolist()
        pairs = zip(self.read, context[:-1], strict=False)  # the last is read again, for its scores
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        engine.llama_memory_seq_rm(engine.llama_get_memory(self.context), 0, same, -1)
        draft = [self._next(context[same:], same)]
        while len(draft) < self.length:
            draft.append(self._next(draft[-1:], len(context) + len(draft) - 1))
        self.read = context + draft[:-1]
        self.proposals.append(draft)
        return np.array(draft, np.intc)

    def _next(self, tokens: Sequence[int], place: int) -> int:
        """The best kept id behind tokens that stand at `place` and on."""
        rows = np.ascontiguousarray(self.embedding[list(tokens)], np.float32)
        ctypes.memmove(self.batch.embd, rows.ctypes.data, rows.nbytes)
        self.batch.n_tokens = len(tokens)
        for i in range(len(tokens)):
            self.batch.pos[i], self.batch.n_seq_id[i], self.batch.seq_id[i][0] = place + i, 1, 0
            self.batch.logits[i] = i == len(tokens) - 1
        assert engine.llama_decode(self.context, self.batch) == 0
        scores = np.ctypeslib.as_array(engine.llama_get_logits_ith(self.context, -1), (len(self.kept_ids),))
        return int(self.kept_ids[scores.argmax()])


def main(target: Path, whole: Path, kept: Path, asked: Path, out: Path) -> None:
    request = json.loads(asked.read_text())
    kept_ids = load_file(kept)["kept_ids"]
    embedding = cut(whole, kept_ids, out.with_suffix(".gguf"))
    told = []
    for prompt in request["prompts"]:
        drafter = TrimmedDrafter(out.with_suffix(".gguf"), embedding, kept_ids, request["length"])
        model = open_model(target, draft_model=drafter)
        told.append({"output": answer(model, prompt, request["new_tokens"]), "proposals": drafter.proposals})
        model.close()
    out.write_text(json.dumps(told))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
