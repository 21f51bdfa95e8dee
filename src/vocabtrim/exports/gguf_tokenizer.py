"""A target's tokenizer as a GGUF drafter carries it: the token of every id, for an engine that only counts and prints.

llama.cpp takes from it how wide the drafter's scores are and, in its debug log, how a token reads. Text is split by
the target's GGUF alone, so the rule by which the engine would split it stays "default" here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..calibrate.tokenizer import OpenTokenizer, open_tokenizer
from ..errors import MismatchError, UnsupportedError

if TYPE_CHECKING:
    from gguf import GGUFWriter

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def add_tokenizer(writer: GGUFWriter, folder: Path, width: int) -> None:
    """Write the tokenizer of a target's folder; ids from its last one up to `width` are padding.

    Raises UnsupportedError for a tokenizer that is no BPE, MismatchError for one with more ids than the head has rows.
    """
    from gguf import SpecialVocab

    opened = open_tokenizer(folder)
    tokens, types = _tokens(opened, width)
    bytelevel = not opened.json["model"].get("byte_fallback")
    writer.add_tokenizer_model("gpt2" if bytelevel else "llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if not bytelevel:
        writer.add_token_scores([0.0] * width)
    SpecialVocab(opened.folder, load_merges=bytelevel, n_vocab=width).add_to_gguf(writer, quiet=True)


def prove_tokenizer_fits(folder: Path, width: int) -> None:
    """Raises what `add_tokenizer` would, before anything is written."""
    _tokens(open_tokenizer(folder), width)


def _tokens(opened: OpenTokenizer, width: int) -> tuple[list[str], list[int]]:
    """The text and the type of every id below `width`, in the words of gguf.TokenType."""
    from gguf import TokenType

    kind = opened.json["model"].get("type")
    if kind != "BPE":
        raise UnsupportedError(
            f"the tokenizer of {opened.folder} is not written into a GGUF here",
            expected="BPE",
            found=kind,
            remedy="convert the trimmed folder with llama.cpp's convert_hf_to_gguf.py, which gives the same tensors",
        )
    if opened.facts.vocab_size > width:
        raise MismatchError(
            f"the tokenizer of {opened.folder} has more ids than the target's head has rows",
            expected=f"at most {width}",
            found=opened.facts.vocab_size,
            remedy="pass the target that the drafter was made for",
        )
    tokens = [f"[PAD{token}]" for token in range(width)]
    types = [int(TokenType.UNUSED)] * width
    for text, token in opened.tokenizer.get_vocab().items():
        tokens[token] = text
        types[token] = int(TokenType.BYTE if _BYTE.fullmatch(text) else TokenType.NORMAL)
    for token, added in opened.tokenizer.get_added_tokens_decoder().items():
        types[token] = int(TokenType.CONTROL if added.special else TokenType.USER_DEFINED)
    return tokens, types
