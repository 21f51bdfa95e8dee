"""Function calls: recorded conversations, ToolAlpaca's instructions, and requests made from a list of public APIs."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .documents import Document, Turn, chat, draw, held_out

_SYSTEM = "You can call these functions:\n{}\nAnswer with one call as JSON where a function helps."
_LONGEST = 1800  # characters of one conversation

# What a made-up function takes: name, type, values that requests give it.
_PARAMETERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "city": (
        "string",
        ("Paris", "London", "Berlin", "Tokyo", "Madrid", "Rome", "Chicago", "Toronto", "Sydney", "Oslo"),
    ),
    "country": ("string", ("France", "Germany", "Japan", "Spain", "Italy", "Canada", "Brazil", "India", "Norway")),
    "limit": ("integer", (1, 2, 3, 5, 8, 10, 12, 15, 20, 25, 30, 50, 100)),
    "year": ("integer", tuple(range(1990, 2025))),
    "date": ("string", tuple(f"2023-{m:02}-{d:02}" for m in range(1, 13) for d in (1, 5, 9, 14, 20, 28))),
    "language": ("string", ("English", "French", "German", "Spanish", "Italian", "Japanese", "Portuguese")),
    "currency": ("string", ("USD", "EUR", "GBP", "JPY", "CAD", "AUD", "CHF", "INR")),
    "amount": ("number", (5, 10, 20, 25, 50, 75, 100, 120, 250, 500, 1000, 1500)),
    "name": ("string", ("Alice", "Bob", "Carol", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Liam")),
    "email": ("string", ("alice@example.com", "bob@example.com", "carol@example.com", "david@example.com")),
    "id": ("integer", tuple(range(100, 1000, 7))),
}
_ASK = ("I need this: {}.", "Please help me with {}.", "Can you get {} for me?", "{}, please.", "Look up {}.")
_AUTH = {"": "needs no key", "apiKey": "needs an API key", "OAuth": "uses OAuth"}


def recorded(file: Path) -> Iterator[Document]:
    """Glaive's conversations, cut after the last answer that fits one row."""
    roles: dict[str, str] = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
    for number, record in enumerate(json.loads(file.read_text(encoding="utf-8"))):
        tools = json.loads(record["tools"])
        turns: list[Turn] = [("system", system(tools))] if tools else []
        for turn in record["conversations"]:
            if turns and sum(len(text) for _, text in turns) + len(turn["value"]) > _LONGEST:
                break
            turns.append((roles[turn["from"]], turn["value"]))  # type: ignore[arg-type]
        while turns and turns[-1][0] != "assistant":
            turns.pop()
        if turns:
            yield Document("functions", f"glaive {number}", tuple(turns))


def system(tools: list[dict[str, Any]]) -> str:
    """The system turn that offers functions."""
    return _SYSTEM.format("\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))


def instructions(file: Path) -> Iterator[Document]:
    """ToolAlpaca: what a user asks of an API; the first call of the reference answer."""
    for api in json.loads(file.read_text(encoding="utf-8")):
        tools = [
            {"name": name, "description": text.split("\nParameters")[0][:160]}
            for name, text in api["Function_Description"].items()
            if name != "components"
        ]
        for question, calls in zip(api["Instructions"], api["Golden_Answers"], strict=True):
            first = calls[0] if calls else {}
            try:
                call = {"name": first["Action"], "arguments": json.loads(first["Action_Input"])}
            except (KeyError, ValueError):  # a reference answer that is not JSON teaches no JSON
                continue
            offered = [tool for tool in tools if tool["name"] == first["Action"]]
            others = [tool for tool in tools if tool not in offered][: draw(question, "others", 3)]
            yield chat("functions", question, question, json.dumps(call), system(offered + others))


def entries(file: Path) -> list[dict[str, Any]]:
    """The list of public APIs."""
    return list(json.loads(file.read_text(encoding="utf-8"))["entries"])


def catalogue(apis: list[dict[str, Any]]) -> Iterator[Document]:
    """Questions about one API: what it offers, whether it needs a key."""
    for api in apis:
        name, offers = api["API"], api["Description"].rstrip(".")
        auth = _AUTH.get(api["Auth"], f"uses {api['Auth']}")
        answer = f"{name} offers: {offers}. It is listed under {api['Category']} and {auth}."
        yield chat("knowledge", name, f"What does the {name} API offer?", answer)


def requests(apis: list[dict[str, Any]], count: int, seed: int) -> Iterator[Document]:
    """`count` made-up requests, one of one to three functions wanted. Held-out requests use held-out APIs only."""
    sides = {side: [api for api in apis if held_out(api["API"]) == side] for side in (False, True)}
    for number in range(count):
        key = f"request {seed} {number}"
        rng = random.Random(key)  # of its own: one more request changes no other
        chosen = rng.sample(sides[held_out(key)], rng.randint(1, 3))
        tools = [_function(api, rng) for api in chosen]
        wanted = tools[0]
        arguments = {name: rng.choice(_PARAMETERS[name][1]) for name in wanted["parameters"]}
        rng.shuffle(tools)
        wish = rng.choice(_ASK).format(_lowered(chosen[0]["Description"].rstrip(".")))
        given = " ".join(f"The {name} is {value}." for name, value in arguments.items())
        call = json.dumps({"name": wanted["name"], "arguments": arguments})
        yield chat("functions", key, f"{wish[0].upper()}{wish[1:]} {given}", call, system(tools))


def _function(api: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    words = re.sub(r"[^a-z0-9]+", "_", api["API"].lower()).strip("_")
    name = f"{rng.choice(('get', 'find', 'search', 'list'))}_{words}"
    taken = rng.sample(sorted(_PARAMETERS), rng.randint(1, 3))
    return {
        "name": name,
        "description": api["Description"],
        "parameters": {parameter: _PARAMETERS[parameter][0] for parameter in taken},
    }


def _lowered(text: str) -> str:
    """A description inside a sentence: its first letter small, unless an acronym begins it."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
