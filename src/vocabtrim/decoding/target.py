"""The target: a causal LM that reads a prompt, verifies a whole tree in one pass, and commits what was accepted.

Knows trees and one model; knows nothing of drafters or of chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from .causal_lm import CausalLM
from .passes import Branches, Pass
from .tree import Tree


class Target:
    """Any model of transformers' AutoModelForCausalLM whose layers are attention, for one sequence at a time.

    model: the loaded model; its device and dtype are the target's. folder: where it was loaded from, which drafters
    without a head or an embedding of their own are identified by; what the model says of itself where None.
    The model may not be moved or cast afterwards. lean: whether passes may go by our kernels (see lean/).
    """

    def __init__(self, model: Any, folder: Path | None = None, *, lean: bool = True) -> None:
        self.lm = CausalLM(model, lean=lean)
        named = getattr(model, "name_or_path", "")
        self.folder = folder or (Path(named) if named else None)
        self.turn = 0  # how many sequences were begun; whoever began an earlier one may not go on with it

    @property
    def stop_ids(self) -> frozenset[int]:
        """Stop ids of the model's generation config. Raises InputError where it holds something else."""
        said = self.lm.model.generation_config.eos_token_id
        ids = said if isinstance(said, list) else [] if said is None else [said]
        if any(type(token) is not int for token in ids):
            raise InputError(
                f"eos_token_id of the generation config of {self.folder} is no id",
                expected="whole numbers",
                found=said,
                remedy="correct generation_config.json",
            )
        return frozenset(ids)

    def begin(self, tokens: Sequence[int], room: int, states: Sequence[int] = ()) -> torch.Tensor | None:
        """Forget everything and read a prompt's tokens but the last, which is the first tree's root.

        room: entries that the cache will ever need. Returns the hidden states (token, states * hidden) of what was
        read, or None where none were asked for or nothing was there to read.
        """
        self.turn += 1
        self.lm.begin(room)
        if len(tokens) == 1:
            return None
        return self.lm.run(torch.tensor(tokens[:-1]), states=states).hidden

    def verify(self, tree: Tree, states: Sequence[int] = (), *, likeliest: bool = False) -> Pass:
        """Append every node of a tree; logits (node, target_vocab) behind each, or, where `likeliest` says that this is
        all that is wanted, perhaps only the best id behind each. `commit` keeps the accepted ones."""
        branches = Branches(tree.depths, tree.visible) if tree.branches else None
        return self.lm.run(tree.tokens, branches=branches, rows=tree.size, states=states, likeliest=likeliest)

    def commit(self, tree: Tree, path: Sequence[int]) -> None:
        """After `verify`: keep the root and the nodes of `path`, forget the others."""
        self.lm.cache.commit(self.lm.cache.length - tree.size, [0, *path])
