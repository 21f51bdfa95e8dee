"""vocabtrim: cheaper drafters for speculative decoding, by keeping only the LM-head rows that the target uses.

The public names, in pipeline order. Each is imported when it is first used, so that `import vocabtrim` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "VocabTrimError": "errors",
    "TokenCounts": "calibrate.counts",
    "count": "calibrate.count",
    "merge": "calibrate.counts",
    "KeptVocabulary": "vocabulary.kept",
    "choose": "job",
    "Choice": "vocabulary.choose_size",
    "read_map": "vocabulary.dialects",
    "convert": "vocabulary.dialects",
    "Cost": "cost",
    "inspect": "checkpoint.inspect",
    "trim": "checkpoint.trim",
    "check": "exports.check",
    "export": "exports.export",
    "export_all": "exports.export",
    "decode": "decoding.rounds",
    "load_target": "decoding.load",
    "load_drafter": "decoding.load",
    "Target": "decoding.target",
    "Round": "decoding.rounds",
    "Sampling": "decoding.sampling",
    "Chain": "decoding.drafters.plans",
    "DynamicTree": "decoding.drafters.plans",
    "summarise": "measure.metrics",
    "StateRecorder": "measure.state_recorder",
    "Recorded": "measure.recording",
    "Recording": "measure.recording",
    "RecordingHeader": "measure.recording",
    "RecordingWriter": "measure.recording",
    "replay": "measure.replay",
    "Replayed": "measure.replay",
    "collect": "collecting.collect",
    "calibrate_and_trim": "job",
    "tune": "tuning.tune",
    "Tuning": "tuning.tune",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vocabtrim' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
