"""Trains the built-in tokenizer. Run once; its result is carried in `data/`, with where it came from.

    python -m vocabtrim.testbed.make_tokenizer

Byte-level BPE over text that every Python installation has: the language reference that `help()` prints, and the
standard library's own sources. Knows tokenizers; knows nothing of models.
"""

from __future__ import annotations

import json
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from .builtin import BUILTIN, DATA, topics

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_RESERVED = 13  # special tokens that no text holds, as real tokenizers keep some for later
# Words with their leading space, numbers by up to three digits, punctuation, line ends, other white space.
_PATTERN = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "ensurepip", "turtledemo"}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def sources() -> list[Path]:
    """The standard library's modules, without tests and tables, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))


def training_text() -> Iterator[str]:
    """The language reference three times, for prose, and each source file once."""
    for _ in range(3):
        yield from topics().values()
    for path in sources():
        yield path.read_text(encoding="utf-8", errors="replace")


def main() -> None:
    """Train, and write tokenizer.json, tokenizer_config.json and PROVENANCE.md into `data/`."""
    train(training_text(), _PATTERN, DATA, vocab=BUILTIN.vocab, longest=BUILTIN.max_positions)
    (DATA / "PROVENANCE.md").write_text(_provenance(), encoding="utf-8")


def train(texts: Iterable[str], pattern: str, out: Path, *, vocab: int, longest: int) -> None:
    """Train a byte-level BPE of `vocab` ids with the chat template; write it and its config into `out`.

    pattern: what no token crosses. longest: tokens that the models are made for. Raises SystemExit where the texts do
    not yield that many ids.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    special = [*SPECIAL, *(f"<|reserved_{i}|>" for i in range(_RESERVED))]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if tokenizer.get_vocab_size() != vocab:
        raise SystemExit(f"trained {tokenizer.get_vocab_size()} ids, expected {vocab}: more text is needed")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _provenance() -> str:
    files = sources()
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    return f"""# Where the built-in tokenizer comes from

`tokenizer.json` and `tokenizer_config.json` were made by `python -m vocabtrim.testbed.make_tokenizer`: byte-level BPE,
{BUILTIN.vocab:,} ids, trained on what Python {platform.python_version()} itself carries, under the PSF licence:

- `pydoc_data.topics`, {len(topics())} topics of the language reference, {sum(map(len, topics().values())) / 1e6:.2f} MB, counted three times;
- {len(files)} modules of the standard library, {megabytes:.1f} MB, without tests, idlelib and encoding tables.

Another Python version gives another tokenizer; the carried one is the fixed one. No text is carried, only the merges
learned from it.
"""  # noqa: E501


if __name__ == "__main__":
    main()
