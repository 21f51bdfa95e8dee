"""The ways in which bench/peers.py lets the same models answer: ours, transformers, vLLM and llama.cpp.

Each side is opened once and answers prompt after prompt. Seconds are of decoding alone, without loading, compiling and
reading the prompt, by the clock that each engine offers:

- ours and transformers: from the first round's tokens, when they are handed out, to the last round's;
- vLLM: from the first token to the last, as its request metrics say;
- llama.cpp: its examples' own figures, behind the prompt; of the target alone "eval time", which leaves out sampling.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import vocabtrim as vt
from peer_models import PeerModels
from vocabtrim.exports.export import export
from vocabtrim.exports.llama_cpp import FILE

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
import llama_engine  # noqa: E402
import vllm_runs  # noqa: E402

DRAFT_LENGTH = 4
# Engines in environments of their own, and the variables that name them.
ENGINES = {"vllm": (vllm_runs.VARIABLE,), "llama.cpp": (llama_engine.VARIABLE, llama_engine.PYTHON)}


@dataclass(frozen=True)
class Setting:
    """What all sides share. folder: for their files. eager: vLLM without torch.compile."""

    models: PeerModels
    dtype: str
    tokens: int
    threads: int
    folder: Path
    eager: bool


@dataclass(frozen=True)
class Answer:
    """said: the output's ids, or prompt and output as text. seconds, timed, passes: of decoding, the tokens emitted in
    them and the target passes that these took."""

    said: list[int] | str
    seconds: float
    timed: int
    passes: float

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.timed / self.seconds


Side = Callable[[list[int], str], Answer]  # a prompt's ids, and its text


class Clock:
    """What is handed out, and when: a streamer to transformers."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.parts.append(value.reshape(-1).tolist() if isinstance(value, torch.Tensor) else list(value))
        self.times.append(perf_counter())

    def end(self) -> None:
        """Nothing comes any more."""

    def answer(self) -> Answer:
        tokens = [token for part in self.parts for token in part]
        return Answer(tokens, self.times[-1] - self.times[0], len(tokens) - len(self.parts[0]), len(self.parts) - 1)


def ours(setting: Setting) -> dict[str, Side]:
    """The plain path is shown beside the lean one where there is one."""
    models, dtype, tokens = setting.models, setting.dtype, setting.tokens
    target = vt.load_target(models.target, dtype=dtype)
    sides = {"ours": _ours(target, None, tokens)}
    if getattr(target.lm, "lean", None) is not None:
        how: Any = {"lean": False}
        sides["ours, not lean"] = _ours(vt.load_target(models.target, dtype=dtype, **how), None, tokens)
    for kind, full, cut in (
        ("independent", models.independent, models.independent_cut),
        ("EAGLE-3", models.eagle3, models.eagle3_cut),
    ):
        for head, folder in (("full", full), ("trimmed", cut)):
            drafter = vt.load_drafter(folder, target, plan=vt.Chain(DRAFT_LENGTH))
            sides[f"ours, {kind}, {head}"] = _ours(target, drafter, tokens)
    return sides


def _ours(target: Any, drafter: Any, tokens: int) -> Side:
    def answer(prompt: list[int], text: str) -> Answer:
        clock = Clock()
        for done in vt.decode(target, drafter, prompt, max_new_tokens=tokens, stop_ids=()):
            clock.put(done.tokens)
        return clock.answer()

    return answer


def transformers(setting: Setting) -> tuple[dict[str, Side], str]:
    """Its models are loaded beside ours, as anyone would load them."""
    from transformers import AutoModelForCausalLM, __version__

    target, assistant = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, setting.dtype))
        for folder in (setting.models.target, setting.models.independent)
    )
    assistant.generation_config.update(
        num_assistant_tokens=DRAFT_LENGTH, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )

    def side(**assisted: Any) -> Side:
        def answer(prompt: list[int], text: str) -> Answer:
            ids, clock = torch.tensor([prompt]), Clock()
            how = {"max_new_tokens": setting.tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            target.generate(ids, attention_mask=torch.ones_like(ids), streamer=clock, **how, **assisted)
            clock.parts, clock.times = clock.parts[1:], clock.times[1:]  # the first part is the prompt
            return clock.answer()

        return answer

    return {"transformers": side(), "transformers, independent, full": side(assistant_model=assistant)}, __version__


def vllm(setting: Setting, stack: ExitStack) -> tuple[dict[str, Side], str]:
    """One process for each, held open until the stack is closed."""
    models, folder = setting.models, setting.folder / "vllm"
    cut = export(models.eagle3_cut, "vllm", out=folder / "eagle3", target=models.target)
    length = {"num_speculative_tokens": DRAFT_LENGTH}
    runs: dict[str, dict[str, Any] | None] = {
        "vLLM": None,
        "vLLM, EAGLE-3, full": {"method": "eagle3", "model": str(models.eagle3)} | length,
        "vLLM, EAGLE-3, trimmed": vllm_runs.speculative(cut.serving.command) | length,
    }
    started = {}
    for name, speculative in runs.items():
        job = {
            "dtype": setting.dtype,
            "new_tokens": setting.tokens,
            "max_model_len": max(len(prompt) for prompt, _ in models.prompts) + setting.tokens + 16,
            "run": {"target": str(models.target), "speculative": speculative},
            "how": {"enforce_eager": setting.eager},
        }
        started[name] = _start_vllm(job, folder / name, setting.threads, stack)
    versions = [line() for line, _ in started.values()]  # each is ready when it says so; they load side by side
    return {name: answer for name, (_, answer) in started.items()}, versions[0]


def _start_vllm(job: dict[str, Any], scratch: Path, threads: int, stack: ExitStack) -> tuple[Callable[[], Any], Side]:
    """What reads its next line, of which the first is its version, and what asks it."""
    python = Path(os.environ[vllm_runs.VARIABLE])
    around = vllm_runs.environment(scratch) | {"OMP_NUM_THREADS": str(threads)}
    if (openmp := python.parents[1] / "lib" / "libiomp5.so").exists():
        # What vLLM asks for, with the settings that it gives its own processes: threads that wait sleep soon.
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
        around |= {"LD_PRELOAD": str(openmp), "KMP_BLOCKTIME": "5", "KMP_TPAUSE": "0"}
        around |= {"KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{cores}]"}
    (scratch / "job.json").write_text(json.dumps(job))
    log = stack.enter_context((scratch / "log").open("w+"))
    script = ROOT / "tests" / "engines" / "vllm_turns.py"
    command = [str(python), str(script), str(scratch / "job.json")]
    process = stack.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=around)
    )
    stack.callback(process.terminate)
    asked, told = process.stdin, process.stdout
    assert asked is not None and told is not None

    def line() -> Any:
        if found := told.readline():
            return json.loads(found)
        log.seek(0)
        raise SystemExit(f"vLLM ended: {log.read()[-3000:]}")

    def answer(prompt: list[int], text: str) -> Answer:
        print(json.dumps(prompt), file=asked, flush=True)
        found = line()
        # What it counts of drafts past the length limit is emitted by none; the first token comes with the prompt.
        timed = len(found["tokens"]) - 1
        passes = timed * found["drafts"] / (found["drafts"] + found["accepted"]) if found["drafts"] else timed
        return Answer(found["tokens"], found["seconds"], timed, passes)

    return line, answer


def llama_cpp(setting: Setting) -> tuple[dict[str, Side], str]:
    """A process for each answer. How many threads are best for a side is tried on the first prompt."""
    engine = llama_engine.engine_folder()
    assert engine is not None
    models, folder = setting.models, setting.folder / "llama.cpp"
    folder.mkdir()
    target, full = folder / "target.gguf", folder / "full.gguf"
    how = ["--outtype", {"bfloat16": "bf16", "float32": "f32"}[setting.dtype]]
    jobs = [
        [models.rule, models.target, "--outfile", target, *how],
        [models.rule, models.eagle3, "--outfile", full, *how, "--target-model-dir", models.target],
    ]
    llama_engine.convert_all(engine, jobs)
    cut = export(models.eagle3_cut, "llama-cpp", target=models.target, out=folder / "eagle3").out / FILE
    drafters = {"llama.cpp": None, "llama.cpp, EAGLE-3, full": full, "llama.cpp, EAGLE-3, trimmed": cut}

    def side(drafter: Path | None, number: int) -> Side:
        def answer(prompt: list[int], text: str) -> Answer:
            common = ("-t", number, "-c", 512)
            if drafter is None:
                told = llama_engine.alone(engine, target, text, setting.tokens, *common)
            else:
                told = llama_engine.speculate(
                    engine, target, drafter, text, setting.tokens, *common, "-td", number, length=DRAFT_LENGTH
                )
            if told.read != len(prompt):
                raise SystemExit(f"llama.cpp read {told.read} tokens of a prompt of {len(prompt)}: {text!r}")
            return Answer(told.text, told.seconds, told.emitted, told.emitted - told.accepted)

        return answer

    def best(drafter: Path | None) -> Side:
        tried = {number: side(drafter, number) for number in {1, setting.threads}}
        rates = {number: max(one(*models.prompts[0]).speed for _ in range(2)) for number, one in tried.items()}
        return tried[max(rates, key=lambda number: rates[number])]

    version = llama_engine.prove(llama_engine.tool(engine, "llama-completion", "--version")).stderr
    return {name: best(drafter) for name, drafter in drafters.items()}, version.partition("\n")[0]
