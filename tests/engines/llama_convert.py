"""llama.cpp's convert_hf_to_gguf.py for a home-made tokenizer: the rule that splits its text is named by the caller.

    llama_convert.py LLAMA_CPP_FOLDER RULE [arguments of convert_hf_to_gguf.py]

The converter knows a rule by the hash of what a tokenizer makes of one test string, so by its vocabulary too, and
stops at any that it has not met. RULE is one of llama.cpp's names for the same split: docs/engines/llama-cpp.md.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main(folder: str, rule: str) -> None:
    sys.path.insert(0, folder)
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda self, tokenizer: rule
    runpy.run_path(str(Path(folder) / "convert_hf_to_gguf.py"), run_name="__main__")


if __name__ == "__main__":
    engine, rule = sys.argv[1:3]
    sys.argv[1:3] = []
    main(engine, rule)
