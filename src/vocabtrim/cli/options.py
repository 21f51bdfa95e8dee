"""Options that several verbs share, each said once: of counting, of choosing, and of decoding."""

from __future__ import annotations

from typing import Annotated

import typer

# Counting
Origin = Annotated[str, typer.Option(help="Who wrote the text: raw, target-generated or drafter-generated.")]
TextField = Annotated[str | None, typer.Option(help="Field of a record that holds the text.")]
PromptField = Annotated[str | None, typer.Option(help="Field that holds the prompt; it is not counted.")]
CompletionField = Annotated[str | None, typer.Option(help="Field that holds what the target wrote.")]
ChatOnly = Annotated[bool, typer.Option("--chat", help="Take chats only: records with messages.")]
HeldOut = Annotated[float, typer.Option(help="Share of documents held out, to measure coverage on.")]
Workers = Annotated[int | None, typer.Option(help="Threads that tokenise, or tasks on Ray; all cores by default.")]

# Choosing
Keep = Annotated[str, typer.Option(help="auto, a number of ids (32000), or a coverage (0.99).")]
Multiple = Annotated[
    int | None, typer.Option(min=1, help="Round the size up to it. Default: 64, but none for a number of ids.")
]
Prior = Annotated[bool, typer.Option("--prior/--no-prior", help="Ids that nobody has seen may follow in merge order.")]
OtherWork = Annotated[
    float, typer.Option(help="Share of the estimate left to work unlike the primary; 0: there is none.")
]
Weight = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=W", help="Weight of a source, or of merge-order; may be repeated. Others get none."),
]
Workload = Annotated[
    str | None, typer.Option(metavar="FILE", help="A sample of real traffic, text or counts, to fit weights to.")
]
AlwaysKeep = Annotated[
    list[int] | None, typer.Option("--always-keep", metavar="ID", help="Keep this id too; may be repeated.")
]
NoAlwaysKeep = Annotated[bool, typer.Option("--no-always-keep", help="Do not force stop and chat-template ids.")]
BlockEfficiency = Annotated[
    float | None, typer.Option(help="Tokens per target pass that the drafter reaches now. Default: assumed.")
]
DraftLength = Annotated[int, typer.Option(min=1, help="Drafted tokens per round.")]

# Decoding
Temperature = Annotated[float, typer.Option(help="0 takes the most probable token each time.")]
TopP = Annotated[float, typer.Option(help="Draw among the most probable ids that reach this mass; 1: all.")]
TopK = Annotated[int, typer.Option(help="Draw among so many of the most probable ids; 0: all.")]
DraftDepth = Annotated[
    int | None, typer.Option(min=1, help="Drafted tokens one behind the other: of a chain, or a tree's depth.")
]
Nodes = Annotated[int | None, typer.Option(min=2, help="Nodes of a drafted tree, its root included.")]
Plain = Annotated[
    bool, typer.Option("--plain", help="Compute by transformers' own modules, the reference, not by our kernels.")
]
Branching = Annotated[
    int | None, typer.Option(min=1, help="How many ways a drafted tree goes on at each depth; 1 drafts a chain.")
]
