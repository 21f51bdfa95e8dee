"""What every Python installation carries, as questions and answers: docstrings, signatures, sources, the reference."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..builtin import paragraphs
from .documents import Document, chat, draw, plain
from .from_questions import fenced

_PURPOSE = ("What does `{}` do?", "Explain `{}` of Python's library.", "What is `{}` for?", "Describe `{}`.")
_LONGEST = 900  # characters of an answer
_CHUNK = 1500  # characters of plain source
_LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "ensurepip", "turtledemo"}


def sources() -> list[Path]:
    """The standard library's modules, without tests and tables, in a fixed order."""
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))


@dataclass(frozen=True)
class Described:
    """A module, class or function that has a docstring. signature and program: of functions alone."""

    name: str
    about: str
    signature: str | None = None
    program: str | None = None


def conversations() -> Iterator[Document]:
    """Purposes and signatures ("python"), programs ("code"), and the language reference by topic ("python")."""
    for module, thing in described():
        yield from _about(module, thing)
    for topic, text in paragraphs():
        if len(text) < _LONGEST:
            opening = " ".join(text.split()[:4])
            question = f'What does the Python reference say under "{topic}", where it begins "{opening}"?'
            yield chat("python", topic, question, text)


def _about(module: str, thing: Described) -> Iterator[Document]:
    first = thing.about.split("\n\n")[0]
    template = _PURPOSE[draw(thing.name, "wording", len(_PURPOSE))]
    yield chat("python", module, template.format(thing.name), f"`{thing.name}`: {shortened(thing.about)}")
    if thing.signature is None:
        return
    yield chat("python", module, f"What is the signature of `{thing.name}`?", f"`{thing.name}{thing.signature}`")
    if thing.program and len(thing.program) < _LONGEST and len(first) > 15:
        task = f"Write the Python function `{thing.name.rsplit('.', 1)[1]}{thing.signature}`: {first}"
        yield chat("code", module, task, fenced(thing.program))


def shortened(about: str) -> str:
    """The docstring's paragraphs, prose on one line each, as many as fit."""
    kept: list[str] = []
    size = 0
    for block in about.split("\n\n"):
        text = block if re.search(r"\n {2,}\S", block) or ">>>" in block else " ".join(block.split())
        size += len(text)
        if kept and size > _LONGEST:
            break
        kept.append(text[:_LONGEST])
    return "\n\n".join(kept)


def described() -> Iterator[tuple[str, Described]]:
    """(module, what it defines) of all that says what it is, in a fixed order, without private names and copies.

    The split is by module: no source text in training shows a function that is asked for in held-out prompts.
    """
    seen: set[str] = set()
    for module, tree in modules():
        for name, node in [(module, tree), *_definitions(tree, module)]:
            about = inspect.cleandoc(ast.get_docstring(node) or "")
            if len(about) < 20 or about in seen or "._" in name:
                continue
            seen.add(about)
            if isinstance(node, ast.FunctionDef):
                yield module, Described(name, about, f"({ast.unparse(node.args)})", _without_docstring(node))
            else:
                yield module, Described(name, about)


def modules() -> Iterator[tuple[str, ast.Module]]:
    """(dotted name, tree) of the library's modules."""
    for name, path in files():
        try:
            yield name, ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        except SyntaxError:  # samples of bad code are no modules
            continue


def files() -> Iterator[tuple[str, Path]]:
    """(dotted name, file), without the reference that is asked about apart and what describes the machine at hand."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sources():
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(("pydoc_data", "_sysconfigdata")):
            yield name, path


def _definitions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, f"{prefix}.{node.name}")


def _without_docstring(node: ast.FunctionDef) -> str | None:
    body = node.body[1:]
    if not body:
        return None
    bare = ast.FunctionDef(node.name, node.args, body, [], node.returns, None, lineno=1, col_offset=0)
    return ast.unparse(ast.fix_missing_locations(bare))


def source_texts() -> Iterator[Document]:
    """The library's sources, cut at top-level definitions into pieces of about one row."""
    for name, path in files():
        piece = ""
        for block in re.split(r"\n(?=(?:def|class|@|if|import|from) )", path.read_text("utf-8", errors="replace")):
            if piece and len(piece) + len(block) > _CHUNK:
                yield plain("source", name, piece)
                piece = ""
            piece = (piece + "\n" + block).strip("\n")[: 2 * _CHUNK]
        if piece:
            yield plain("source", name, piece)
