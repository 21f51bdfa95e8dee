"""The loop of speculative decoding: propose, verify, accept, commit; each round is yielded as it was.

Knows targets and drafters by their protocols; what survives is `acceptance.py`'s to say, where it ends `stopping.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from ..errors import InputError
from .acceptance import Verdict, follow_tree, reject_chain
from .chance import Chance, TorchChance
from .drafters.protocol import Draft, Drafter
from .sampling import Sampling
from .stopping import Reason, Stop
from .target import Target
from .tree import Tree

GREEDY = Sampling()


@dataclass(frozen=True)
class Round:
    """One target pass and what came of it; ratios are computed elsewhere, from sums.

    tokens: emitted. accepted: how many of them were drafted: all but the target's own last one, or all where the
    output was cut before that. drafted: tokens in the tree. depth: of the tree. ended: why this was the last round.
    draft_seconds, target_seconds: proposing; verifying and accepting. seconds: the whole round.
    """

    tokens: tuple[int, ...]
    accepted: int
    drafted: int
    depth: int
    ended: Reason | None
    draft_seconds: float
    target_seconds: float
    seconds: float

    @property
    def emitted(self) -> int:
        return len(self.tokens)


def decode(
    target: Target,
    drafter: Drafter | None,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Collection[int] | None = None,
    stop_strings: Sequence[str] = (),
    text: Callable[[Sequence[int]], str] | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Round]:
    """Generate behind a prompt's ids, faster than one token a target pass, distributed exactly as the target's own.

    drafter: None generates token by token. sampling: how the target's tokens are drawn; greedy by default. stop_ids:
    the target's own where None. stop_strings, text: see `Stop`. generator: where randomness comes from, on the target's
    device; torch's global one where None.
    Stop iterating at any time: every yielded round is committed, and target and drafter can be used again. Both serve
    one iterator at a time.
    Raises InputError, before anything is read, for an empty prompt, ids outside the vocabulary, a prompt that with the
    tokens asked for exceeds the context of target or drafter, and a generator of another device. While iterating:
    InputError for logits of the target that hold NaN, for a target that was begun anew in between, and for a draft
    that breaks the protocol; CheckpointError for logits of the drafter that hold NaN.
    """
    if generator is not None and generator.device.type != target.lm.device.type:
        raise InputError(
            "the generator is on another device than the target",
            expected=target.lm.device,
            found=generator.device,
            remedy=f'pass torch.Generator("{target.lm.device}")',
        )
    stop = Stop(max_new_tokens, target.stop_ids if stop_ids is None else frozenset(stop_ids), stop_strings, text)
    return rounds(target, drafter, prompt, sampling=sampling, stop=stop, chance=TorchChance(generator))


def rounds(
    target: Target, drafter: Drafter | None, prompt: Sequence[int], *, sampling: Sampling, stop: Stop, chance: Chance
) -> Iterator[Round]:
    """`decode`, told in full where it ends and what its chance is."""
    _prove_prompt(target, drafter, prompt, stop.length)
    return _rounds(target, drafter or _NoDrafter(), prompt, sampling=sampling, stop=stop, chance=chance)


def _rounds(
    target: Target, drafter: Drafter, prompt: Sequence[int], *, sampling: Sampling, stop: Stop, chance: Chance
) -> Iterator[Round]:
    length = len(prompt) + stop.length
    hidden = target.begin(prompt, length + drafter.nodes, drafter.states)
    drafter.begin(prompt, length, hidden)
    turn, root = target.turn, prompt[-1]
    output: list[int] = []
    ended = None
    while ended is None:
        _prove_turn(target, turn)
        start = perf_counter()
        # The last token is always the target's own: drafting deeper than what is left could not be emitted.
        depth = stop.length - len(output) - 1
        draft = drafter.propose(depth, chance)
        _prove_draft(draft, root, depth, drafter.nodes)
        drafted = perf_counter()
        certain = sampling.greedy and draft.draft_probs is None
        seen = target.verify(draft.tree, drafter.states, likeliest=certain)
        if seen.likeliest is None:
            verdict = _accept(draft, seen.logits, sampling, chance)
        else:
            verdict = follow_tree(draft.tree, seen.likeliest.tolist().__getitem__)
        verified = perf_counter()
        tokens = [*(draft.tree.ids[node] for node in verdict.path), verdict.token]
        end, ended = stop.cut(output, tokens)
        emitted, path = tokens[:end], verdict.path[: end - 1]
        target.commit(draft.tree, path)
        drafter.commit(draft, path, emitted, None if seen.hidden is None else seen.hidden[[0, *path]])
        output += emitted
        root = emitted[-1]
        yield Round(
            tokens=tuple(emitted),
            accepted=min(len(verdict.path), end),
            drafted=draft.tree.drafted,
            depth=draft.tree.depth,
            ended=ended,
            draft_seconds=drafted - start,
            target_seconds=verified - drafted,
            seconds=perf_counter() - start,
        )


def _prove_turn(target: Target, turn: int) -> None:
    if target.turn != turn:
        raise InputError(
            "the target was begun for another prompt in between",
            expected="one open iterator at a time",
            found=f"{target.turn - turn} begun since",
            remedy="finish one before the next, or load the target twice",
        )


def _prove_draft(draft: Draft, root: int, depth: int, nodes: int) -> None:
    """What the output rests on: a wrong root would be read as emitted, and a larger tree has no room in the cache."""
    tree = draft.tree
    if tree.ids[0] != root or tree.depth > depth or tree.size > nodes:
        raise InputError(
            "the drafter's proposal breaks the protocol",
            expected=f"a tree behind root {root}, at most {depth} deep, of at most {nodes} nodes",
            found=f"root {tree.ids[0]}, {tree.depth} deep, {tree.size} nodes",
            remedy="use a drafter for one sequence at a time, and see drafters/protocol.py",
        )


def _accept(draft: Draft, target_logits: torch.Tensor, sampling: Sampling, chance: Chance) -> Verdict:
    """target_logits: (node, target_vocab)."""

    def target_probs(node: int) -> torch.Tensor:
        return sampling.probs(target_logits[node])

    if draft.draft_probs is None and sampling.greedy and target_logits.device.type != "cpu":
        return follow_tree(draft.tree, sampling.likeliest(target_logits))
    if draft.draft_probs is None:
        return follow_tree(draft.tree, lambda node: sampling.draw(target_logits[node], chance))
    return reject_chain(draft.tree, target_probs, draft.draft_probs, draft.kept_ids, chance)


class _NoDrafter:
    """Drafts nothing: the plain loop, one token a target pass."""

    states: tuple[int, ...] = ()
    nodes = 1
    context: int | None = None

    def begin(self, prompt: Sequence[int], length: int, hidden: torch.Tensor | None) -> None:
        self._root = prompt[-1]

    def propose(self, depth: int, chance: Chance) -> Draft:
        return Draft(Tree.chain(self._root))

    def commit(self, draft: Draft, path: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        self._root = emitted[-1]


def _prove_prompt(target: Target, drafter: Drafter | None, prompt: Sequence[int], new_tokens: int) -> None:
    if not prompt:
        raise InputError("the prompt is empty", expected="at least one token", remedy="pass a prompt")
    outside = next((token for token in prompt if not 0 <= token < target.lm.vocab), None)
    if outside is not None:
        raise InputError(
            "the prompt holds an id that the target does not have",
            expected=f"0 to {target.lm.vocab - 1}",
            found=outside,
            remedy="encode it with the target's own tokenizer",
        )
    contexts = {"target": target.lm.context, "drafter": None if drafter is None else drafter.context}
    for name, context in contexts.items():
        if context is not None and len(prompt) + new_tokens > context:
            raise InputError(
                f"prompt and output do not fit the {name}'s context",
                expected=f"at most {context} tokens",
                found=f"{len(prompt)} of the prompt and {new_tokens} new ones",
                remedy=f"ask for at most {context - len(prompt)} new tokens"
                if context > len(prompt)
                else "shorten the prompt",
            )
    _prove_one_rotation(target.lm.rotation_switch, len(prompt), new_tokens)


def _prove_one_rotation(switch: int | None, prompt: int, new_tokens: int) -> None:
    """All passes rotate alike: those over the prompt but its last token, and those over all but the last new one."""
    if switch is not None and prompt - 1 <= switch < prompt + new_tokens - 1:
        raise InputError(
            "the output crosses the length where the target rotates positions otherwise, and its cache would be wrong",
            expected=f"at most {switch + 1} tokens in all, or a prompt of {switch + 2} or more",
            found=f"{prompt} of the prompt and {new_tokens} new ones",
            remedy=f"ask for at most {switch + 1 - prompt} new tokens"
            if prompt <= switch
            else "make the prompt a little longer or shorter",
        )
