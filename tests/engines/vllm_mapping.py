"""Run by the python of an environment that holds vLLM: how it matches a drafter's vocabulary with its target's.

    vllm_mapping.py JOB.json ANSWER.json

JOB: `target` and `drafter`, folders with tokenizers; `width` and `kept`, the `vocab_size` of each. ANSWER:
`draft_to_target`, the target's id of each of the drafter's, -1 for none; `unknown`, what other tokens become.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vllm.tokenizers.registry import get_tokenizer
from vllm.v1.spec_decode.vocab_mapping import VocabMapping

if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    mapping = VocabMapping(
        get_tokenizer(job["target"]), get_tokenizer(job["drafter"]), job["width"], job["kept"], device="cpu"
    )
    answer = {"draft_to_target": mapping.draft_to_target_ids.tolist(), "unknown": mapping.draft_unk_token_id}
    Path(sys.argv[2]).write_text(json.dumps(answer))
