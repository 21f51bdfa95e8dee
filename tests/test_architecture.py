"""What keeps the code legible: imports point one way, nothing heavy is loaded early, no state is shared."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "vocabtrim"
FILES = sorted(SOURCE.rglob("*.py"))
FAMILY = SOURCE / "testbed" / "data" / "family"  # carried data: its manifest lists it

# Folders and single modules in the order of the data flow: each imports only from its own and from those before it.
# The testbed makes what the others read: its makers know files at most, only its demo runs the whole job.
ORDER = (
    *("errors", "provenance", "cache", "hub", "cost", "calibrate", "vocabulary", "checkpoint"),
    *("decoding", "measure", "collecting", "plugins", "exports", "report", "job", "tuning", "testbed", "cli"),
)

HEAVY = (
    *("torch", "transformers", "numpy", "tokenizers", "safetensors", "tiktoken", "huggingface_hub", "pyarrow", "ray"),
    "httpx",
)


def modules_of(file: Path) -> tuple[str, ...]:
    return file.relative_to(SOURCE).with_suffix("").parts


def imports(file: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, parts below the package) of everything of vocabtrim that a file imports, at whichever depth."""
    package = modules_of(file)[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "vocabtrim":
                    yield node.lineno, tuple(name.name.split(".")[1:])
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            if not node.level and (node.module or "").split(".")[0] != "vocabtrim":
                continue
            told = (node.module or "").split(".") if node.module else []
            parts = (*base, *(told if node.level else told[1:]))
            yield from ((node.lineno, parts or (name.name,)) for name in node.names)


def name(file: Path) -> str:
    return str(file.relative_to(SOURCE))


def test_the_order_names_every_folder_and_module() -> None:
    """A new one must be given its place before it can be imported."""
    found = {modules_of(file)[0] for file in FILES} - {"__init__"}
    assert found <= set(ORDER), found - set(ORDER)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_point_one_way(file: Path) -> None:
    own = modules_of(file)[0]
    if own == "__init__":
        assert not list(imports(file)), "the package names its public names without importing them"
        return
    for line, parts in imports(file):
        allowed = {own, *ORDER[: ORDER.index(own)]}
        assert parts[0] in allowed, f"{name(file)}:{line} imports {'.'.join(parts)}, which comes after {own}"


def test_the_rule_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that finds nothing may look at nothing: each spelling of an import is found, in functions too."""
    spellings = (
        "from ..job import x\nfrom .. import job\nimport vocabtrim.job\ndef f():\n    from vocabtrim.job import x\n"
    )
    (tmp_path / "calibrate").mkdir()
    (tmp_path / "calibrate" / "text.py").write_text(spellings)
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    assert list(imports(tmp_path / "calibrate" / "text.py")) == [(line, ("job",)) for line in (1, 2, 3, 5)]


def test_no_module_is_imported_in_a_circle() -> None:
    """Inside a folder too: of two files only one imports the other, wherever in the file. Types alone do not count."""
    edges = {
        modules_of(file): {parts for _, parts in imports(file) if parts in map(modules_of, FILES)} - typed_only(file)
        for file in FILES
    }
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], path: tuple[tuple[str, ...], ...]) -> None:
        assert module not in path, " -> ".join(".".join(step) for step in (*path, module))
        if module not in done:
            for other in edges[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def typed_only(file: Path) -> set[tuple[str, ...]]:
    """What a file imports under `if TYPE_CHECKING:` and nowhere else."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    lines = {line for block in blocks for line in range(block.lineno, (block.end_lineno or block.lineno) + 1)}
    found = list(imports(file))
    return {parts for line, parts in found if line in lines} - {parts for line, parts in found if line not in lines}


@pytest.mark.parametrize(
    "program",
    [
        "import vocabtrim",
        "import vocabtrim; dir(vocabtrim); vocabtrim.VocabTrimError",
        "import vocabtrim.cli",
        "from vocabtrim.cli import app; app(['--help'], standalone_mode=False)",
        "from vocabtrim.cli import app; app(['trim', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(program: str) -> None:
    tell = "\nimport sys, json; print('\\n' + json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program + tell], capture_output=True, text=True, check=True)
    loaded = set(json.loads(run.stdout.splitlines()[-1]))
    assert "vocabtrim" in loaded and not loaded & set(HEAVY)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_mutable_state_is_shared(file: Path) -> None:
    """No `global`, no default argument that is changed for every later call, no module-level name for a container
    that the file itself fills."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
            assert not [d.lineno for d in defaults if isinstance(d, ast.List | ast.Dict | ast.Set)]
    at_module_level = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [t for node in at_module_level for t in (node.targets if isinstance(node, ast.Assign) else [node.target])]
    shared = {target.id for target in targets if isinstance(target, ast.Name)}
    inside = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)]
    filled = {fills(node) for function in inside for node in ast.walk(function)} & (shared - locals_of(inside))
    assert not filled, f"{name(file)} changes {filled} while it runs"


def fills(node: ast.AST) -> str | None:
    """The name whose container a statement changes: by item, by a method that changes it, or in place."""
    changers = {"append", "add", "update", "extend", "setdefault", "pop", "clear", "insert", "remove", "popitem"}
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return getattr(node.value, "id", None)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in changers:
        return getattr(node.func.value, "id", None)
    return None


def locals_of(functions: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> set[str]:
    """Names that are arguments or are assigned inside functions: those hide the module's."""
    stored = {n.id for f in functions for n in ast.walk(f) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {argument.arg for f in functions for argument in ast.walk(f) if isinstance(argument, ast.arg)}


def tracked() -> list[Path]:
    """The text files of the repository."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.split("\0") if name]
    binary = (".pt", ".safetensors", ".png")
    return [ROOT / name for name in names if (ROOT / name).is_file() and not name.endswith(binary)]


def test_no_machine_is_named() -> None:
    """Home folders, work folders, private hosts, addresses: what is true of one machine stays out of the tree."""
    machine = re.compile(
        r"/(?:home|Users|root|mnt|work|workspace|scratch)/\w|[A-Z]:\\\\?Users|"
        r"\b(?:localhost|[\w-]+\.(?:internal|local|lan|corp))\b(?!\()|\b\d{1,3}(?:\.\d{1,3}){3}\b|"
        r"(?:index-url|extra-index|registry|proxy)[ =:]+\S*(?://|\w\.\w)"
    )
    found = []
    for file in tracked():
        if file == Path(__file__).resolve() or FAMILY in file.parents:  # a vocabulary holds every word
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if hit := machine.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {hit[0]}")
    assert not found, "\n".join(found)


def test_the_readme_lists_every_file() -> None:
    """One line per file and folder, as a tree; what it lists exists, and nothing under src/vocabtrim is missing."""
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Files\n")
    tree = re.search(r"```\w*\n(.*?)```|((?:^    .*\n)(?:^    .*\n|^\n)*)", section, re.DOTALL | re.MULTILINE)
    if tree is None:
        pytest.xfail("README's file tree is not written yet")
    listed = set(listed_files((tree[1] or tree[2]).splitlines()))
    files = (path for path in SOURCE.rglob("*") if path.is_file() and FAMILY not in path.parents)
    present = {str(path.relative_to(SOURCE)) for path in files}
    present = {path for path in present if "__pycache__" not in path and not path.endswith(".pyc")}
    assert listed == present, f"missing: {sorted(present - listed)}, not there: {sorted(listed - present)}"


def listed_files(lines: list[str]) -> Iterator[str]:
    """Paths below src/vocabtrim from an indented tree: a name ends in "/" where it is a folder."""
    folders: list[tuple[int, str]] = []
    for line in lines:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip(" │├└─"))
        path = line.lstrip(" │├└─").split()[0]
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        if path.endswith("/"):
            folders.append((indent, path))
        else:
            whole = "".join(folder for _, folder in folders) + path
            if whole.startswith("src/vocabtrim/"):
                yield whole.removeprefix("src/vocabtrim/")
