"""Trimmed EAGLE-3 drafters in llama.cpp itself: its converter writes the same file, its server drafts with ours.

VOCABTRIM_LLAMA_CPP names the engine's folder, VOCABTRIM_LLAMA_CPP_PYTHON its python; the tests are skipped where they
are not set. How to build it is told in docs/engines/llama-cpp.md. Shown with the engine of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import json
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
    PYTHON,
    VARIABLE,
    Drafted,
    convert,
    convert_all,
    counted,
    engine_folder,
    prove,
    speculate,
    tool,
    under_python,
)
from tiny_tokenizer import train
from vocabtrim.calibrate.tokenizer import load_tokenizer, tokenizer_facts
from vocabtrim.decoding.text import TargetText
from vocabtrim.exports.export import export
from vocabtrim.exports.llama_cpp import FILE
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
        self.target_folder = as_float32(member("target"), folder / "target")
        self.drafter_folder = as_float32(member("eagle3"), folder / "eagle3")
        self.gguf, self.untrimmed = folder / "target.gguf", folder / "untrimmed.gguf"
        whole = ["--outtype", "f32", "--target-model-dir", self.target_folder]
        convert_all(
            engine,
            [
                ["qwen2", self.target_folder, "--outfile", self.gguf, "--outtype", "f32"],
                ["qwen2", self.drafter_folder, "--outfile", self.untrimmed, *whole],
            ],
        )
        self.target = vt.load_target(self.target_folder, dtype="float32")
        self.tokenizer = load_tokenizer(member("target"))
        self.answers: list[tuple[list[int], list[int]]] = []  # prompts that the target does not soon end, and answers
        words = TargetText(member("target"))
        for prompt in chosen_prompts(60):
            ids = words.conversation(prompt.messages)
            if len(ids) > 200 or len(self.answers) == PROMPTS:
                continue
            rounds = list(vt.decode(self.target, None, ids, max_new_tokens=NEW_TOKENS + LENGTH + 1))
            if rounds[-1].ended == "length":
                self.answers.append((ids, [token for round in rounds for token in round.tokens]))
        assert len(self.answers) == PROMPTS

    def text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def cut(self, name: str, kept: KeptVocabulary) -> Path:
        return vt.trim(self.drafter_folder, kept, target=self.target_folder, out=self.folder / name).out

    def exported(self, cut: Path) -> Path:
        out = self.folder / f"{cut.name}-exported"
        return export(cut, "llama-cpp", target=self.target_folder, out=out).out / FILE

    def drafted(self, drafter: Path, *arguments: object) -> list[Drafted]:
        """What the engine writes with a drafter, and its counts, for each prompt."""
        exact = (*EXACT, *arguments)
        return [
            speculate(self.engine, self.gguf, drafter, self.text(prompt), NEW_TOKENS, *exact, length=LENGTH)
            for prompt, _ in self.answers
        ]

    def prove_unchanged(self, answers: list[Drafted]) -> None:
        """The text of every answer is the target's own, token by token as far as the engine went."""
        for (prompt, output), told in zip(self.answers, answers, strict=True):
            assert told.read == len(prompt) and NEW_TOKENS < told.emitted <= len(output)
            assert told.text == self.text(prompt + output[: told.emitted]).strip("\n")

    def expected(self, drafter_folder: Path) -> list[tuple[int, int]]:
        """Drafted and accepted by our own drafter along the target's answers, drafted as the engine does: up to LENGTH
        deep, or one token less than is left to write; where nothing is left that limit is not asked for, and it goes on
        until more than NEW_TOKENS are written."""
        drafter = vt.load_drafter(drafter_folder, self.target, plan=vt.Chain(LENGTH))
        counts = []
        for prompt, output in self.answers:
            emitted, drafted, accepted = 0, 0, 0
            while emitted <= NEW_TOKENS:
                context = prompt + output[:emitted]
                drafter.begin(context, 512, self.target.begin(context, 512, drafter.states))
                left = NEW_TOKENS - emitted - 1
                draft = drafter.propose(min(LENGTH, left) if left > 0 else LENGTH, None).tree.tokens[1:].tolist()
                survived = survivors(draft, output[emitted:])
                emitted, drafted, accepted = emitted + survived + 1, drafted + len(draft), accepted + survived
            counts.append((drafted, accepted))
        return counts


def survivors(draft: list[int], output: list[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(draft, output, strict=False))))


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


def eighth() -> KeptVocabulary:
    """The ids that the target writes most."""
    counts = vt.count([calibration("target-generated")], tokenizer=member("target"), origin="target-generated")
    kept = vt.choose(counts, keep=EIGHTH, drafter=member("eagle3"), target=member("target")).kept
    assert kept is not None
    return kept


def counts_of(answers: list[Drafted]) -> list[tuple[int, int]]:
    return [(told.drafted, told.accepted) for told in answers]


# Drafted


def test_the_engine_alone_writes_what_we_decode(family: Family, tmp_path: Path) -> None:
    """Otherwise nothing below could be compared. And it cuts text as the tokenizer does: the family's is home-made with
    Qwen2's pattern, so that is the rule that its converter was told."""
    texts = [message["content"] for prompt in chosen_prompts(40) for message in prompt.messages]
    texts += [
        "It's 1234 or 56,789.00 — naïve café, 中文 和 日本語!\r\n\tTabs and  spaces   here.",
        "<|im_start|>user\nHi",
    ]
    asked = {"prompts": [prompt for prompt, _ in family.answers], "new_tokens": NEW_TOKENS, "texts": texts}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    under_python(family.engine, "llama_plain.py", family.gguf, tmp_path / "asked.json", tmp_path / "answer.json")
    told = json.loads((tmp_path / "answer.json").read_text())
    assert told["outputs"] == [output[:NEW_TOKENS] for _, output in family.answers]
    assert told["tokens"] == [family.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def test_it_drafts_with_our_file_and_changes_no_token(family: Family) -> None:
    """An eighth of the vocabulary: the same greedy tokens as without a drafter, and as many drafted and accepted in
    every answer as by our own decoding."""
    cut = family.cut("eighth", eighth())
    answers = family.drafted(family.exported(cut))
    family.prove_unchanged(answers)
    assert counts_of(answers) == family.expected(cut)
    assert sum(told.accepted for told in answers) > PROMPTS * NEW_TOKENS / 3


def test_keeping_all_that_is_ever_written_is_the_untrimmed_drafter(family: Family) -> None:
    """All ids but one that is reserved: the engine counts in every answer what it counts of the untrimmed drafter, as
    its own converter wrote that, and what we count."""
    vocab = family.target.lm.vocab
    kept = KeptVocabulary(np.arange(vocab - 1, dtype=np.int64), vocab, tokenizer_facts(member("target")).hash)
    assert "d2t" not in {tensor.name for tensor in gguf.GGUFReader(family.untrimmed).tensors}
    ours, theirs = family.drafted(family.exported(family.cut("most", kept))), family.drafted(family.untrimmed)
    family.prove_unchanged(ours)
    assert counts_of(ours) == counts_of(theirs) == family.expected(family.drafter_folder)


def test_a_wrong_map_is_seen_in_the_acceptance(family: Family) -> None:
    """Else the counts above would prove nothing: the same rows under ids shifted by one are hardly ever right, and
    still no token changes."""
    path = family.exported(family.cut("shifted", eighth()))
    reader = gguf.GGUFReader(path, "r+")
    ids = next(tensor for tensor in reader.tensors if tensor.name == "d2t").data
    ids[:] = np.roll(ids, 1)
    reader.data.flush()
    answers = family.drafted(path)
    family.prove_unchanged(answers)
    assert sum(told.accepted for told in answers) < 0.1 * sum(told.drafted for told in answers)


def test_its_own_tools_take_the_file(family: Family) -> None:
    """Quantized by llama-quantize it drafts too, and every line of the debug log can be printed: the engine writes
    there how each drafted token reads."""
    path = family.exported(family.cut("quantized", eighth()))
    prove(tool(family.engine, "llama-quantize", path, path.with_name("q8.gguf"), "q8_0"))
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path.with_name("q8.gguf")).tensors}
    assert types["output.weight"] == "Q8_0" and types["d2t"] == "I64"
    answers = family.drafted(path.with_name("q8.gguf"), "-v")
    assert sum(told.accepted for told in answers) > PROMPTS * NEW_TOKENS / 3


# From Python


def test_an_independent_drafter_drafts_from_python(family: Family, tmp_path: Path) -> None:
    """An eighth of its head: each draft is ours, and the answers are the target's own. Prompts hold ids that the head
    has no row for, so the drafter must have read them by their embeddings."""
    folder = as_float32(member("independent"), tmp_path / "independent")
    cut = vt.trim(folder, eighth(), target=family.target_folder, out=tmp_path / "cut").out
    whole = convert(family.engine, folder, tmp_path / "whole.gguf", "--outtype", "f32")
    kept = set(KeptVocabulary.load(cut / "kept.safetensors").ids.tolist())
    assert any(token not in kept for prompt, _ in family.answers for token in prompt)
    asked = {"prompts": [prompt for prompt, _ in family.answers], "new_tokens": NEW_TOKENS, "length": LENGTH}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    files = (whole, cut / "kept.safetensors", tmp_path / "asked.json", tmp_path / "answer.json")
    under_python(family.engine, "llama_trimmed_lm.py", family.gguf, *files)
    drafter = vt.load_drafter(cut, family.target, plan=vt.Chain(LENGTH))
    accepted = 0
    for (prompt, output), told in zip(family.answers, json.loads((tmp_path / "answer.json").read_text()), strict=True):
        assert told["output"] == output[:NEW_TOKENS]
        emitted = 1  # it drafts behind the first token, which it gets with the prompt
        for proposal in told["proposals"]:
            drafter.begin(prompt + output[:emitted], 512, None)
            assert proposal == drafter.propose(LENGTH, None).tree.tokens[1:].tolist()
            survived = survivors(proposal, output[emitted:])
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
    jobs: list[list[object]] = []
    for architecture in ("llama", "qwen2"):
        of = replace(shape, architecture=architecture)
        folder = shapes.write_target(tmp_path / architecture, of, seed=1, tokenizer=tokenizer)
        jobs.append(["gpt-2", folder, "--outfile", tmp_path / f"{architecture}.gguf"])
    convert_all(engine, jobs)
    drafter = shapes.write_eagle3(tmp_path / "drafter", shape, seed=4, draft_vocab=200)
    file = export(drafter, "llama-cpp", target=tmp_path / "llama", out=tmp_path / "out").out / FILE
    drafts = ("-md", file, "--spec-type", "draft-eagle3", "-p", "The dog", "-n", 8, "--temp", 0, "-c", 256)
    of_llama, of_qwen2 = (
        tool(engine, "llama-speculative-simple", "-m", tmp_path / f"{architecture}.gguf", *drafts)
        for architecture in ("llama", "qwen2")
    )
    assert counted(prove(of_llama)).drafted > 0
    assert of_qwen2.returncode != 0 and "layer input tensor is null" in of_qwen2.stderr + of_qwen2.stdout
