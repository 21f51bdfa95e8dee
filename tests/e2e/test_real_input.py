"""`vocabtrim trim` on real shapes with real text, as a user runs it: real tokenizers, sizes of published models.

The weights are random, of the published sizes; what comes out is read by the safetensors library, not by our reader.
Each drafter is deleted before the next is made: no more than about 10 GB lie around at a time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from vocabtrim.testbed import shapes, stories260k
from vocabtrim.testbed.sizes import LLAMA_3_1_8B, LLAMA_3_2_1B, QWEN2_5_7B, ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

ROWS = 300  # of each head, at random, compared with the source
MOST_MEMORY = 1_000_000  # kB: tokenizer, counts and buffers, whatever the model weighs

# The command, and then the most memory that it held.
PROGRAM = """
from vocabtrim.cli import main
try:
    main()
finally:
    import sys
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""


@dataclass(frozen=True)
class Ran:
    """What a command printed as JSON, and its peak memory in kB."""

    json: Any
    peak: int


def vocabtrim(*args: object) -> Ran:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, args), "--json"], capture_output=True, check=False)
    *complaints, peak = done.stderr.decode().splitlines()
    assert done.returncode == 0, "\n".join(complaints) or done.stdout.decode()
    return Ran(json.loads(done.stdout), int(peak))


def weight_files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.safetensors")) if file.name != "kept.safetensors"]


@dataclass(frozen=True)
class Reader:
    """Rows of a folder's tensors, read by the safetensors library alone."""

    files: dict[str, Path]

    @classmethod
    def open(cls, folder: Path) -> Reader:
        files: dict[str, Path] = {}
        for file in weight_files(folder):
            with safe_open(file, framework="pt") as opened:
                files |= dict.fromkeys(opened.keys(), file)
        return cls(files)

    def rows(self, name: str, rows: np.ndarray[Any, Any] | None = None) -> torch.Tensor:
        """The given rows of a tensor; its first, middle and last where none are given."""
        with safe_open(self.files[name], framework="pt") as opened:
            stored = opened.get_slice(name)
            length = stored.get_shape()[0]
            chosen = [0, length // 2, length - 1] if rows is None else rows.tolist()
            return torch.stack([stored[row] for row in chosen])

    def shape(self, name: str) -> list[int]:
        with safe_open(self.files[name], framework="pt") as opened:
            return list(opened.get_slice(name).get_shape())


def assert_cut_from(
    out: Path, drafter: Path, heads: dict[str, tuple[Path, str]], ids: np.ndarray | None = None
) -> None:
    """Every head's rows are its source's rows of the kept ids, and every other tensor is the drafter's.

    heads: name in `out` -> folder and name of the tensor it was cut from. ids: what the source's rows stand for; None
    where row i is id i.
    """
    kept = KeptVocabulary.load(out / "kept.safetensors").ids
    after, before = Reader.open(out), Reader.open(drafter)
    places = np.sort(np.random.default_rng(0).choice(kept.size, ROWS, replace=False))
    source_rows = kept[places] if ids is None else np.searchsorted(ids, kept[places])
    for name, (folder, source) in heads.items():
        assert after.shape(name)[0] == kept.size
        assert torch.equal(after.rows(name, places), Reader.open(folder).rows(source, source_rows)), name
    others = after.files.keys() - heads.keys() - {"d2t", "t2d"}
    assert others == before.files.keys() - heads.keys() - {"d2t", "t2d"}
    for name in sorted(others):
        assert after.shape(name) == before.shape(name)
        assert torch.equal(after.rows(name), before.rows(name)), name


def assert_served(out: Path, target: Path, shape: ModelShape) -> KeptVocabulary:
    """What every trimmed drafter holds: sizes in the config, stop ids, no padded row; and `check` finds nothing."""
    kept = KeptVocabulary.load(out / "kept.safetensors")
    config = json.loads((out / "config.json").read_text())
    assert config["draft_vocab_size"] == kept.size and not config.get("tie_word_embeddings", False)
    assert config["vocab_size"] == shape.head_rows and kept.target_vocab == shape.vocab
    assert set(shape.eos) <= set(kept.ids.tolist())
    assert kept.ids.max() < shape.vocab
    assert vocabtrim("check", out, "--target", target).json["ok"]
    return kept


def need(folder: Path, gigabytes: int) -> None:
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes + 5:
        pytest.skip(f"needs {gigabytes} GB of disk and 5 to spare, {free:.0f} are free in {folder}")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where one drafter and its trimmed form lie for as long as they are looked at."""
    need(tmp_path, 9)
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def llama(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A target of Llama-3.1-8B's shape: 16 GB by its headers, 2 GB on the disk."""
    folder = tmp_path_factory.mktemp("llama")
    need(folder, 3)
    tokenizer = data / "tokenizers" / "llama3_2"
    yield shapes.write_target(folder / "target", LLAMA_3_1_8B, seed=0, tokenizer=tokenizer, sparse=True, shards=4)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def wikitext(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts of encyclopedia prose, as a user keeps them to fall back on."""
    out = tmp_path_factory.mktemp("counts") / "wikitext.safetensors"
    tokenizer = data / "tokenizers" / "llama3_2"
    assert vocabtrim("count", data / "text" / "wikitext2_*.txt", "--tokenizer", tokenizer, "--out", out).json["tokens"]
    return out


FIELDS = ("--prompt-field", "model_input", "--completion-field", "output")


@pytest.mark.slow
def test_eagle_of_llama_on_its_targets_own_answers(llama: Path, wikitext: Path, data: Path, place: Path) -> None:
    """The README's case: recorded answers of the target decide, prose is asked next, the size is left to auto."""
    drafter = shapes.write_eagle(place / "drafter", LLAMA_3_1_8B, seed=0, fc_bias=False)
    answers = f"target-generated:{data / 'recorded' / 'zeroeval_*_llama3.1-8b.json'}"
    text = ("--calibrate", answers, *FIELDS, "--calibrate", wikitext)
    run = vocabtrim("trim", drafter, "--target", llama, *text, "--out", place / "out")
    assert run.json["verdict"] == "trim" and run.json["kept_size"] % 64 == 0
    assert run.json["head_bytes_after"] < run.json["head_bytes_before"] / 4
    row = next(row for row in run.json["choice"]["sizes"] if row["kept_size"] == run.json["kept_size"])
    assert row["heldout_coverage"] > 0.97 and row["mbsu"] > run.json["choice"]["sizes"][-1]["mbsu"] * 1.1
    assert run.json["choice"]["seen"] > run.json["kept_size"], "ids that nobody has seen were kept"
    assert run.peak < MOST_MEMORY
    kept = assert_served(place / "out", llama, LLAMA_3_1_8B)
    assert kept.size == run.json["kept_size"]
    assert_cut_from(place / "out", drafter, {"lm_head.weight": (llama, "lm_head.weight")})


@pytest.mark.slow
def test_eagle3_of_llama_is_trimmed_again(llama: Path, data: Path, place: Path) -> None:
    """A published 32k head, cut to 8k: rows are found by id, and the maps are written anew."""
    drafter = shapes.write_eagle3(place / "drafter", LLAMA_3_1_8B, seed=0, draft_vocab=32_000)
    ids = shapes.draw_ids(LLAMA_3_1_8B, 32_000, 0)
    text = (
        "--calibrate",
        data / "text" / "gsm8k_train.jsonl",
        "--prompt-field",
        "question",
        "--completion-field",
        "answer",
    )
    run = vocabtrim("trim", drafter, "--target", llama, *text, "--keep", 8192, "--out", place / "out")
    assert run.json["kept_size"] == 8192 and run.peak < MOST_MEMORY
    kept = assert_served(place / "out", llama, LLAMA_3_1_8B)
    assert np.isin(kept.ids, ids).all()
    assert_cut_from(place / "out", drafter, {"lm_head.weight": (drafter, "lm_head.weight")}, ids)
    maps = load_file(place / "out" / "model.safetensors")
    assert (maps["d2t"].numpy() + np.arange(8192)).tolist() == kept.ids.tolist()
    assert torch.nonzero(maps["t2d"]).flatten().tolist() == kept.ids.tolist() and maps["t2d"].shape == (128_256,)


@pytest.mark.slow
def test_medusa_of_llama_on_function_calls(llama: Path, data: Path, place: Path) -> None:
    """Five heads of a gigabyte each become five of one kept vocabulary, in a fraction of a gigabyte of memory."""
    drafter = shapes.write_medusa(place / "drafter", LLAMA_3_1_8B, seed=0, container="safetensors")
    chats = data / "tools" / "glaive_toolcall_en_demo.json"
    text = ("--calibrate", chats, "--chat")
    run = vocabtrim("trim", drafter, "--target", llama, *text, "--keep", 16_384, "--out", place / "out")
    assert run.json["counts"][0]["tokens"] > 10_000
    assert run.json["head_bytes_before"] == 5 * 128_256 * 4096 * 2
    assert run.json["head_bytes_after"] == 5 * 16_384 * 4096 * 2
    assert run.peak < MOST_MEMORY < run.json["head_bytes_before"] / 1024 / 4
    assert_served(place / "out", llama, LLAMA_3_1_8B)
    assert_cut_from(place / "out", drafter, {f"{head}.1.weight": (drafter, f"{head}.1.weight") for head in range(5)})


@pytest.mark.slow
def test_an_independent_drafter_of_llama_is_untied(llama: Path, wikitext: Path, data: Path, place: Path) -> None:
    """Llama-3.2-1B's head is its embedding, which stays whole; the head becomes a tensor of its own."""
    tokenizer = data / "tokenizers" / "llama3_2"
    drafter = shapes.write_independent(place / "drafter", LLAMA_3_2_1B, seed=1, tokenizer=tokenizer)
    fields = ("--prompt-field", "text", "--completion-field", "code")
    text = ("--calibrate", data / "code" / "mbpp.jsonl", *fields, "--calibrate", wikitext)
    run = vocabtrim("trim", drafter, "--target", llama, *text, "--keep", 32_000, "--out", place / "out")
    assert run.json["kept_size"] == 32_000 and run.peak < MOST_MEMORY
    assert_served(place / "out", llama, LLAMA_3_2_1B)
    assert_cut_from(place / "out", drafter, {"lm_head.weight": (drafter, "model.embed_tokens.weight")})


@pytest.mark.slow
def test_a_padded_head_of_qwen(data: Path, place: Path) -> None:
    """152,064 rows for 151,665 ids: the rows that no token has are never kept, even where everything is."""
    tokenizer = data / "tokenizers" / "qwen2_5"
    target = shapes.write_target(place / "target", QWEN2_5_7B, seed=3, tokenizer=tokenizer, sparse=True, shards=4)
    drafter = shapes.write_eagle(place / "drafter", QWEN2_5_7B, seed=3)
    text = ("--calibrate", data / "text" / "c4_demo.jsonl", "--calibrate", data / "text" / "wikitext2_valid.txt")
    trim = ("trim", drafter, "--target", target, *text)
    run = vocabtrim(*trim, "--keep", 0.98, "--out", place / "out")
    assert run.peak < MOST_MEMORY and run.json["kept_size"] % 64 == 0
    assert_served(place / "out", target, QWEN2_5_7B)
    assert_cut_from(place / "out", drafter, {"lm_head.weight": (target, "lm_head.weight")})
    most = vocabtrim(*trim, "--keep", 100_000, "--dry-run", "--out", place / "most")
    assert most.json["kept_size"] == 100_000 and not (place / "most").exists()


# A small model that was really trained


@pytest.fixture(scope="module")
def stories(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stories260k.convert(data / "models" / "stories260K", tmp_path_factory.mktemp("stories") / "stories260K")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The model is so small that threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def full(stories: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32).eval()


def load_trimmed(folder: Path) -> Any:
    """The trimmed folder in transformers: its own class, a narrow head, every tensor by name and none left over."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.lm_head = torch.nn.Linear(model.config.hidden_size, model.config.draft_vocab_size, bias=False)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model.float().eval()


def greedy(model: Any, ids: list[int], tokens: int, id_of_row: Callable[[int], int] = int) -> list[int]:
    """The plain loop: score, take the best row, say which id that is."""
    written = list(ids)
    with torch.no_grad():
        for _ in range(tokens):
            best = int(model(torch.tensor([written])).logits[0, -1].argmax())
            written.append(id_of_row(best))
    return written[len(ids) :]


OPENINGS = ("Once upon a time", "Tom and Lily went to the park", "The little dog was very happy", "One day, a big bear")


@pytest.mark.usefixtures("one_thread")
def test_a_trained_model_scores_and_writes_as_before(stories: Path, full: Any, data: Path, tmp_path: Path) -> None:
    """stories260K by the whole job: calibrated on its own stories, Shakespeare asked next. No argmax is lost.

    What it writes lies inside the kept ids, so the trimmed head must write the same, token for token; and at every
    kept id both score the same, up to the rounding of matrix products of other widths.
    """
    tokenizer = AutoTokenizer.from_pretrained(stories)
    prompts = [tokenizer(opening).input_ids for opening in OPENINGS]
    told = [greedy(full, prompt, 60) for prompt in prompts]
    lines = [
        json.dumps({"text": tokenizer.decode(prompt + story)}) for prompt, story in zip(prompts, told, strict=True)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    own, plays = f"target-generated:{tmp_path / 'own.jsonl'}", data / "text" / "tinyshakespeare.txt"
    text = ("--calibrate", own, "--calibrate", plays, "--heldout", 0)
    run = vocabtrim("trim", stories, "--target", stories, *text, "--keep", 200, "--out", tmp_path / "out")
    assert run.json["check"]["ok"] and run.json["kept_size"] == 200

    kept = KeptVocabulary.load(tmp_path / "out" / "kept.safetensors").ids
    rows, trimmed = torch.from_numpy(kept.copy()), load_trimmed(tmp_path / "out")
    for prompt, story in zip(prompts, told, strict=True):
        assert np.isin(story, kept).all(), "the model wrote an id that is not kept: nothing to compare"
        assert greedy(trimmed, prompt, 60, lambda row: int(kept[row])) == story
        with torch.no_grad():
            before, after = (model(torch.tensor([prompt + story])).logits[0] for model in (full, trimmed))
        torch.testing.assert_close(after, before[:, rows], rtol=0, atol=1e-5)
        assert torch.equal(rows[after.argmax(-1)][-60:], before.argmax(-1)[-60:])
