"""llama.cpp's convert_hf_to_gguf.py for home-made tokenizers: the rule that splits their text is named by the caller.

    llama_convert.py LLAMA_CPP_FOLDER JOBS.json

JOBS: a list of [RULE, arguments of convert_hf_to_gguf.py ...]. The converter knows a rule by the hash of what a
tokenizer makes of one test string, so by its vocabulary too, and stops at any that it has not met. RULE is one of
llama.cpp's names for the same split: docs/engines/llama-cpp.md.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path


def main(folder: str, jobs: str) -> None:
    sys.path.insert(0, folder)
    from conversion.base import TextModel

    for rule, *arguments in json.loads(Path(jobs).read_text()):
        TextModel.get_vocab_base_pre = lambda self, tokenizer, rule=rule: rule
        sys.argv = ["convert_hf_to_gguf.py", *arguments]
        runpy.run_path(str(Path(folder) / sys.argv[0]), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
