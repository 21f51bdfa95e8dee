"""The README.md of a trimmed drafter: what it is, what was cut, and its birth certificate. Knows text only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trim import TrimPlan

_CARD = """\
---
tags:
- speculative-decoding
- vocabtrim
---
# {name}, head trimmed to {kept:,} ids

{kind} drafter for speculative decoding. Its LM head scores {kept:,} of the target's {width:,} ids (VocabTrim,
arXiv 2506.22694); every other tensor is the original's, byte for byte. Nothing was trained, and verification with the
target's full vocabulary leaves the output as it was.

| | before | after |
|---|---|---|
| head rows | {rows_before:,} | {kept:,} |
| head bytes | {bytes_before:,} | {bytes_after:,} |

`kept.safetensors` lists the kept ids; row i of the head scores `kept_ids[i]`. A map belongs to the head it was cut
with: do not replace one without the other. `vocabtrim check` proves that they fit.

Where the ids came from: {origins}.

## Provenance

```json
{certificate}
```
"""


def model_card(plan: TrimPlan, certificate: Mapping[str, Any]) -> str:
    """The card's text. Names folders, never their paths: a card is published."""
    origins = ", ".join(f"{count:,} {name}" for name, count in plan.kept.by_origin().items() if count)
    return _CARD.format(
        name=plan.drafter.resolve().name,
        kind=plan.kind,
        kept=plan.kept.size,
        width=plan.width,
        rows_before=plan.head_rows_before,
        bytes_before=plan.head_bytes_before,
        bytes_after=plan.head_bytes_after,
        origins=origins,
        certificate=json.dumps(certificate, indent=2),
    )
