"""Trimmed EAGLE-3 drafters in llama.cpp itself: its converter writes the same file, its server drafts with ours.

VOCABTRIM_LLAMA_CPP names the engine's folder, VOCABTRIM_LLAMA_CPP_PYTHON its python; the tests are skipped where they
are not set. How to build it is told in docs/engines/llama-cpp.md. Shown with the engine of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import vocabtrim as vt
from drafter_files import widen
from llama_engine import (
    EXACT,
    EXACT_DRAFT,
    PYTHON,
    VARIABLE,
    Answer,
    Server,
    convert,
    convert_all,
    engine_folder,
    run,
    tool,
)
from tiny_tokenizer import train
from vocabtrim.calibrate.tokenizer import load_tokenizer, tokenizer_facts
from vocabtrim.decoding.text import TargetText
from vocabtrim.export.export import export
from vocabtrim.export.llama_cpp import FILE
from vocabtrim.testbed import shapes
from vocabtrim.testbed.demo import chosen_prompts
from vocabtrim.testbed.family import calibration, member
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

pytestmark = pytest.mark.engine

LENGTH, NEW_TOKENS, PROMPTS = 3, 48, 8
EIGHTH = 2048


@pytest.fixture(scope="module")
def engine() -> Path:
    folder = engine_folder()
    if folder is None:
        pytest.skip(f"{VARIABLE} and {PYTHON} name no built llama.cpp and its python")
    return folder


class Family:
    """The trained target and its EAGLE-3 drafter in float32, where the order of two scores hangs on no rounding."""

    def __init__(self, folder: Path, engine: Path) -> None:
        self.folder, self.engine = folder, engine
        self.target_folder, self.drafter_folder = (
            as_float32(member(name), folder / name) for name in ("target", "eagle3")
        )
        self.gguf = convert(engine, self.target_folder, folder / "target.gguf", "--outtype", "f32")
        self.target = vt.load_target(self.target_folder, dtype="float32")
        words = TargetText(member("target"))
        self.answers: list[tuple[list[int], list[int]]] = []  # prompts that the target does not soon end, and answers
        for prompt in chosen_prompts(60):
            ids = words.conversation(prompt.messages)[:200]
            rounds = list(vt.decode(self.target, None, ids, max_new_tokens=NEW_TOKENS))
            if rounds[-1].ended == "length" and len(self.answers) < PROMPTS:
                self.answers.append((ids, [token for round in rounds for token in round.tokens]))
        assert len(self.answers) == PROMPTS

    def cut(self, name: str, kept: KeptVocabulary) -> Path:
        return vt.trim(self.drafter_folder, kept, target=self.target_folder, out=self.folder / name).out

    def exported(self, cut: Path) -> Path:
        out = self.folder / f"{cut.name}-exported"
        return export(cut, "llama-cpp", target=self.target_folder, out=out).out / FILE

    def served(self, drafter: Path | None, *arguments: object) -> list[Answer]:
        exact = EXACT if drafter is None else (*EXACT, *EXACT_DRAFT)
        with Server(self.engine, self.gguf, *exact, *arguments, drafter=drafter, length=LENGTH) as server:
            return [server.complete(prompt, NEW_TOKENS) for prompt, _ in self.answers]

    def expected(self, drafter_folder: Path) -> list[tuple[int, int]]:
        """Drafted and accepted by our own drafter along the target's answers, drafted as the engine does: behind the
        first token, which it gets with the prompt, up to LENGTH deep, and one token less than is left to write."""
        drafter = vt.load_drafter(drafter_folder, self.target, plan=vt.Chain(LENGTH))
        counted = []
        for prompt, output in self.answers:
            emitted, drafted, accepted = 1, 0, 0
            while emitted < len(output):
                context = prompt + output[:emitted]
                drafter.begin(context, 512, self.target.begin(context, 512, drafter.states))
                draft = drafter.propose(min(LENGTH, len(output) - emitted - 1), None).tree.tokens[1:].tolist()
                pairs = zip(draft, output[emitted:], strict=False)
                survived = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
                emitted, drafted, accepted = emitted + survived + 1, drafted + len(draft), accepted + survived
            counted.append((drafted, accepted))
        return counted


def as_float32(folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out)
    tensors = {
        name: t.float() if t.is_floating_point() else t for name, t in load_file(out / "model.safetensors").items()
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.fixture(scope="module")
def family(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("family"), engine)


@pytest.fixture(scope="module")
def plain(family: Family) -> list[Answer]:
    return family.served(None)


def eighth() -> KeptVocabulary:
    """The ids that the target writes most."""
    counts = vt.count([calibration("target-generated")], tokenizer=member("target"), origin="target-generated")
    kept = vt.choose(counts, keep=EIGHTH, drafter=member("eagle3"), target=member("target")).kept
    assert kept is not None
    return kept


def counts_of(answers: list[Answer]) -> list[tuple[int, int]]:
    return [(answer.drafted, answer.accepted) for answer in answers]


# Served


def test_the_engine_alone_writes_what_we_decode(family: Family, plain: list[Answer]) -> None:
    """Otherwise nothing below could be compared."""
    assert [answer.tokens for answer in plain] == [output for _, output in family.answers]


def test_it_drafts_with_our_file_and_changes_no_token(family: Family, plain: list[Answer]) -> None:
    """An eighth of the vocabulary: the same greedy tokens as without a drafter, and as many drafted and accepted in
    every answer as by our own decoding."""
    cut = family.cut("eighth", eighth())
    answers = family.served(family.exported(cut))
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in plain]
    assert counts_of(answers) == family.expected(cut)
    assert sum(answer.accepted for answer in answers) > PROMPTS * NEW_TOKENS / 3


def test_keeping_all_that_is_ever_written_is_the_untrimmed_drafter(family: Family) -> None:
    """All ids but one that is reserved: every draft is that of the untrimmed drafter, as the engine's converter wrote
    it, and the engine counts the same in every answer."""
    vocab = family.target.lm.vocab
    kept = KeptVocabulary(np.arange(vocab - 1, dtype=np.int64), vocab, tokenizer_facts(member("target")).hash)
    untrimmed = family.folder / "untrimmed.gguf"
    convert(
        family.engine, family.drafter_folder, untrimmed, "--outtype", "f32", "--target-model-dir", family.target_folder
    )
    assert "d2t" not in {tensor.name for tensor in gguf.GGUFReader(untrimmed).tensors}
    ours, theirs = family.served(family.exported(family.cut("most", kept))), family.served(untrimmed)
    assert ours == [replace(answer, seconds=mine.seconds) for answer, mine in zip(theirs, ours, strict=True)]
    assert counts_of(ours) == family.expected(family.drafter_folder)


def test_a_wrong_map_is_seen_in_the_acceptance(family: Family) -> None:
    """Else the counts above would prove nothing: the same rows under ids shifted by one are hardly ever right."""
    path = family.exported(family.cut("shifted", eighth()))
    reader = gguf.GGUFReader(path, "r+")
    ids = next(tensor for tensor in reader.tensors if tensor.name == "d2t").data
    ids[:] = np.roll(ids, 1)
    reader.data.flush()
    answers = family.served(path)
    assert [answer.tokens for answer in answers] == [output for _, output in family.answers]
    assert sum(answer.accepted for answer in answers) < 0.1 * sum(answer.drafted for answer in answers)


def test_its_own_tools_take_the_file(family: Family, plain: list[Answer]) -> None:
    """Quantized by llama-quantize it is served too, and every line of the debug log can be printed: the engine writes
    there how each drafted token reads."""
    path = family.exported(family.cut("quantized", eighth()))
    tool(family.engine, "llama-quantize", path, path.with_name("q8.gguf"), "q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path.with_name("q8.gguf")).tensors}
    assert types["output.weight"] == "Q8_0" and types["d2t"] == "I64"
    answers = family.served(path.with_name("q8.gguf"), "-v")
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in plain]
    assert sum(answer.accepted for answer in answers) > PROMPTS * NEW_TOKENS / 3


def test_the_split_rule_named_to_the_converter_is_the_tokenizers(family: Family) -> None:
    """The family's tokenizer is home-made: its pattern is Qwen2's, and so the engine must cut text as it does."""
    tokenizer = load_tokenizer(member("target"))
    texts = [message["content"] for prompt in chosen_prompts(40) for message in prompt.messages]
    texts += [
        "It's 1234 or 56,789.00 — naïve café, 中文 和 日本語!\r\n\tTabs and  spaces   here.",
        "<|im_start|>user\nHi<|im_end|>",
    ]
    with Server(family.engine, family.gguf) as server:
        for text in texts:
            assert server.tokenize(text) == tokenizer.encode(text, add_special_tokens=False).ids, text


# From Python


def test_an_independent_drafter_drafts_from_python(family: Family, tmp_path: Path) -> None:
    """An eighth of its head: each draft is ours, and the answers are the target's own. Prompts hold ids that the head
    has no row for, so the drafter must have read them by their embeddings."""
    folder = as_float32(member("independent"), tmp_path / "independent")
    cut = vt.trim(folder, eighth(), target=family.target_folder, out=tmp_path / "cut").out
    whole = convert(family.engine, folder, tmp_path / "whole.gguf", "--outtype", "f32")
    kept = set(KeptVocabulary.load(cut / "kept.safetensors").ids.tolist())
    assert any(token not in kept for prompt, _ in family.answers for token in prompt)
    prompts = [prompt for prompt, _ in family.answers]
    asked = {"prompts": prompts, "new_tokens": NEW_TOKENS, "length": LENGTH}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("llama_trimmed_lm.py")
    files = (family.gguf, whole, cut / "kept.safetensors", tmp_path / "asked.json", tmp_path / "answer.json")
    run([os.environ[PYTHON], script, *files], LLAMA_CPP_LIB_PATH=str(family.engine / "build" / "bin"))
    drafter = vt.load_drafter(cut, family.target, plan=vt.Chain(LENGTH))
    accepted = 0
    for (prompt, output), told in zip(family.answers, json.loads((tmp_path / "answer.json").read_text()), strict=True):
        assert told["plain"] == told["drafted"] == output
        emitted = 1
        for proposal in told["proposals"]:
            context = prompt + output[:emitted]
            drafter.begin(context, 512, None)
            assert proposal == drafter.propose(LENGTH, None).tree.tokens[1:].tolist()
            pairs = zip(proposal, output[emitted:], strict=False)
            survived = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            emitted, accepted = emitted + survived + 1, accepted + survived
        assert emitted >= NEW_TOKENS
    assert accepted > PROMPTS * NEW_TOKENS / 4


# Converted by the engine


def test_its_converter_writes_the_same_file(engine: Path, tmp_path: Path) -> None:
    """The drafter as it is published, in bfloat16."""
    cut = vt.trim(member("eagle3"), eighth(), target=member("target"), out=tmp_path / "cut").out
    ours = export(cut, "llama-cpp", target=member("target"), out=tmp_path / "ours").out / FILE
    theirs = convert(engine, cut, tmp_path / "theirs.gguf", "--target-model-dir", member("target"))
    assert the_same_but_for(ours, theirs) == {"tokenizer.ggml.pre"}


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.1}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "plain": ({}, {}, {}),
    "layers.0": ({}, {"block": "layers.0"}, {}),
    "its own embedding": ({}, {"embed": True}, {}),
    "norm_before_residual": ({"norm_before_residual": True}, {}, {}),
    "norm_before_fc": ({"norm_before_fc": True}, {}, {"input_norm": (192,)}),
    "named states": ({"eagle_aux_hidden_state_layer_ids": [0, 3, 6]}, {}, {}),
    "llama3": ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 128}}, {}, {}),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {}, {}),
    "yarn": ({"rope_scaling": YARN | {"original_max_position_embeddings": 128}}, {}, {}),
}


def test_its_converter_writes_the_same_of_every_variant(engine: Path, tmp_path: Path) -> None:
    """Random drafters of what llama.cpp computes, and a target with padded rows."""
    shape = replace(TINY, layers=8, vocab=408, head_rows=416, bos=402, eos=(403,))
    target = shapes.write_target(tmp_path / "target", shape, seed=1, tokenizer=train(tmp_path / "tokenizer"))
    jobs: list[list[object]] = []
    for name, (config, how, extra) in VARIANTS.items():
        folder = shapes.write_eagle3(tmp_path / name, shape, seed=4, draft_vocab=200, **how)
        widen(folder, config, extra)
        export(folder, "llama-cpp", target=target, out=tmp_path / f"{name}, ours")
        theirs = tmp_path / f"{name}.gguf"
        jobs.append(["gpt-2", folder, "--outfile", theirs, "--target-model-dir", target, "--outtype", "f32"])
    convert_all(engine, jobs)
    for name in VARIANTS:
        differ = the_same_but_for(tmp_path / f"{name}, ours" / FILE, tmp_path / f"{name}.gguf")
        assert differ == {"tokenizer.ggml.pre"}, name


def the_same_but_for(ours: Path, theirs: Path) -> set[str]:
    """Proves every tensor equal, bit for bit; returns the entries of the converter's file that are not ours."""
    files = [gguf.GGUFReader(path) for path in (ours, theirs)]
    mine, yours = ({tensor.name: tensor for tensor in file.tensors} for file in files)
    assert mine.keys() == yours.keys()
    for name, tensor in yours.items():
        assert (mine[name].tensor_type, mine[name].shape.tolist()) == (tensor.tensor_type, tensor.shape.tolist()), name
        if name == "rope_freqs.weight":  # computed, not copied
            np.testing.assert_allclose(mine[name].data, tensor.data, rtol=1e-6)
        else:
            assert mine[name].data.tobytes() == tensor.data.tobytes(), name
    entries = [{name: field.contents() for name, field in file.fields.items()} for file in files]
    about = {"general.name", "general.size_label", "general.quantization_version", "general.basename"}
    told = {name for name in entries[1] if not name.startswith("GGUF.")} - about
    told -= {
        name
        for name in told
        if name.startswith("general.") and name not in {"general.architecture", "general.file_type"}
    }
    return {name for name in told if entries[0].get(name) != entries[1][name]}


# What the engine does not serve


def test_a_qwen2_target_ends_the_engine(engine: Path, tmp_path: Path) -> None:
    """Why exports for such targets are refused: its graph hands no layer's input out."""
    tokenizer = train(tmp_path / "tokenizer")
    shape = replace(TINY, layers=8, vocab=408, head_rows=416, bos=402, eos=(403,))
    targets = {}
    for architecture in ("llama", "qwen2"):
        of = replace(shape, architecture=architecture)
        folder = shapes.write_target(tmp_path / architecture, of, seed=1, tokenizer=tokenizer)
        targets[architecture] = convert(engine, folder, tmp_path / f"{architecture}.gguf", rule="gpt-2")
    drafter = shapes.write_eagle3(tmp_path / "drafter", shape, seed=4, draft_vocab=200)
    file = export(drafter, "llama-cpp", target=tmp_path / "llama", out=tmp_path / "out").out / FILE
    with Server(engine, targets["llama"], "-c", "256", drafter=file) as server:
        assert server.complete([5, 6, 7], 8).drafted > 0
    with (
        pytest.raises(RuntimeError, match="layer input tensor is null"),
        Server(engine, targets["qwen2"], "-c", "256", drafter=file) as server,
    ):
        server.complete([5, 6, 7], 8)
