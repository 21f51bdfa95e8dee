"""Exports that convert in another environment: what is refused before that, and what is read of a graph afterwards.

The engines themselves run in tests/engines/test_graphs.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import drafters
import vocabtrim as vt
from vocabtrim.errors import CheckpointError, InputError, UnsupportedError
from vocabtrim.exports import onnx_genai, openvino
from vocabtrim.exports.environment import Environment
from vocabtrim.exports.export import export
from vocabtrim.exports.onnx_file import int64_initializer
from vocabtrim.exports.source import Source, open_source
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY

ENGINES = {"openvino": "VOCABTRIM_OPENVINO_PYTHON", "onnx-genai": "VOCABTRIM_ONNX_PYTHON"}
DEEP = replace(TINY, layers=8)


def cut(tmp_path: Path, name: str) -> tuple[Path, Path]:
    """A target and a trimmed drafter of that kind."""
    target = shapes.write_target(tmp_path / "target", DEEP, seed=1)
    full = drafters.DRAFTERS[name](tmp_path / "full")
    pool = vt.read_map(full).ids if name.startswith("EAGLE-3") else np.arange(TINY.vocab)
    out = vt.trim(full, drafters.some_ids(pool, 60), target=target, out=tmp_path / "cut").out
    return target, out


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("EAGLE", "drafts with|independent"),
        ("Medusa, .pt", "drafts with|independent"),
        ("MTP, Qwen3-Next", "the target's whole head"),
    ],
)
def test_other_kinds_are_refused_with_the_reason(engine: str, name: str, reason: str, tmp_path: Path) -> None:
    target, drafter = cut(tmp_path, name)
    with pytest.raises(UnsupportedError, match=reason):
        export(drafter, engine, out=tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


def test_eagle3_is_not_for_onnx(tmp_path: Path) -> None:
    target, drafter = cut(tmp_path, "EAGLE-3, trimmed head")
    with pytest.raises(UnsupportedError, match="reads no hidden states"):
        export(drafter, "onnx-genai", out=tmp_path / "out", target=target)


def eagle3(tmp_path: Path, **entries: object) -> tuple[Path, Path]:
    """A target of eight layers and a trimmed drafter with these entries in its config."""
    target, drafter = cut(tmp_path, "EAGLE-3, trimmed head")
    said = json.loads((drafter / "config.json").read_text())
    (drafter / "config.json").write_text(json.dumps(said | entries))
    return target, drafter


def test_eagle3_wants_its_target(tmp_path: Path) -> None:
    source = open_source(eagle3(tmp_path)[1])
    with pytest.raises(InputError, match="which of the target's layers"):
        openvino._target_of(source)


@pytest.mark.parametrize("key", ["norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"])
def test_eagle3_with_other_norms_is_refused(key: str, tmp_path: Path) -> None:
    source = both(*eagle3(tmp_path, **{key: True}))
    with pytest.raises(UnsupportedError, match="norms otherwise"):
        openvino._hidden_layers(source.drafter.checkpoint, openvino._target_of(source))


@pytest.mark.parametrize(("states", "layers"), [(None, [1, 3, 4]), ([3, 5, 7], [2, 4, 6]), ([1, 3, 6], [1, 3, 6])])
def test_layers_are_told_as_the_engine_counts_them(states: list[int] | None, layers: list[int], tmp_path: Path) -> None:
    """It reads what a layer puts out; a drafter's states are what layers take in, or out where the first is 1."""
    source = both(*eagle3(tmp_path, eagle_aux_hidden_state_layer_ids=states))
    assert openvino._hidden_layers(source.drafter.checkpoint, openvino._target_of(source)) == layers


def test_states_that_no_layer_puts_out_are_refused(tmp_path: Path) -> None:
    source = both(*eagle3(tmp_path, eagle_aux_hidden_state_layer_ids=[0, 3, 5]))
    with pytest.raises(UnsupportedError, match="three layers"):
        openvino._hidden_layers(source.drafter.checkpoint, openvino._target_of(source))


def both(target: Path, drafter: Path) -> Source:
    return open_source(drafter, target)


def test_a_drafter_without_tokenizer_is_refused(tmp_path: Path) -> None:
    target, drafter = cut(tmp_path, "independent")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        export(drafter, "openvino", out=tmp_path / "out", target=target)


# The environment


@pytest.mark.parametrize("engine", [openvino, onnx_genai])
def test_an_environment_without_the_libraries(engine: object, monkeypatch: pytest.MonkeyPatch) -> None:
    converter: Environment = engine.CONVERTER  # type: ignore[attr-defined]
    monkeypatch.setenv(converter.variable, sys.executable)
    with pytest.raises(InputError, match=f"{converter.variable} names a python.*docs/engines"):
        converter.python()
    monkeypatch.setenv(converter.variable, "/nowhere/python")
    with pytest.raises(InputError, match="no python"):
        converter.python()


def test_what_a_script_complains_is_one_line(tmp_path: Path) -> None:
    here = Environment("VOCABTRIM_NO_SUCH_VARIABLE", ("pip",), "")
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('1')\nsys.exit('first\\nlast' if len(sys.argv) > 1 else 0)")
    assert here.run(script, what="it") == 1
    with pytest.raises(CheckpointError, match="it failed, found last;"):
        here.run(script, "x", what="it")


def test_newer_versions_are_told() -> None:
    here = Environment("VOCABTRIM_NO_SUCH_VARIABLE", ("pip",), "")
    [told] = here.newer({"numpy": "1.0"})
    assert np.__version__ in told and "1.0" in told
    assert not here.newer({"numpy": "1000.0"})


# What is read of a graph

IDS = np.array([3, 8, 11], np.int64)


def number(value: int) -> bytes:
    """As protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(place: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return number(place << 3) + number(content)
    return number(place << 3 | 2) + number(len(content)) + content


def onnx_model(*initializers: bytes) -> bytes:
    return field(1, 10) + field(7, b"".join(field(5, tensor) for tensor in initializers))


def initializer(name: str, *, dtype: int = 7, raw: bytes = IDS.tobytes()) -> bytes:
    return field(1, len(IDS)) + field(2, dtype) + field(8, name.encode()) + field(9, raw)


def beside(name: str, location: str, offset: int, length: int) -> bytes:
    told = {"location": location, "offset": str(offset), "length": str(length)}
    entries = b"".join(field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in told.items())
    return field(2, 7) + field(8, name.encode()) + entries + field(14, 1)


def test_an_initializer_inside_and_beside(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(onnx_model(initializer("other"), initializer("here"), beside("there", "m.data", 16, 24)))
    (tmp_path / "m.data").write_bytes(bytes(16) + IDS.tobytes())
    assert (int64_initializer(model, "here") == IDS).all()
    assert (int64_initializer(model, "there") == IDS).all()


HOSTILE: dict[str, bytes] = {
    "absent": onnx_model(initializer("other")),
    "of another type": onnx_model(initializer("x", dtype=1)),
    "outside the folder": onnx_model(beside("x", "../m.data", 0, 24)),
    "cut short": onnx_model(initializer("x"))[:-5],
    "no protobuf": b"\xff" * 40,
    "empty": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_models(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=r"."):
        int64_initializer(tmp_path / "model.onnx", "x")
    with pytest.raises(CheckpointError, match="holds no kept ids"):
        onnx_genai.read_ids(tmp_path)


GRAPH = """<net><layers>
<layer id="0" name="x" type="Parameter"/>
<layer id="1" name="{name}" type="Const"><data element_type="i64" shape="3" offset="8" size="24"/></layer>
<layer id="2" name="s" type="{kind}"><output><port id="4" names="logits"/></output></layer>
</layers><edges><edge from-layer="0" to-layer="2" to-port="0"/>
<edge from-layer="1" to-layer="2" to-port="{port}"/></edges></net>"""


def graph_reads(tmp_path: Path, name: str, kind: str, port: str, content: Callable[[], bytes]) -> list[int]:
    (tmp_path / "openvino_model.xml").write_text(GRAPH.format(name=name, kind=kind, port=port))
    (tmp_path / "openvino_model.bin").write_bytes(content())
    return [int(token) for token in openvino.read_ids(tmp_path)]


def test_ids_of_a_scatter_and_of_offsets(tmp_path: Path) -> None:
    assert graph_reads(tmp_path, "any", "ScatterUpdate", "1", lambda: bytes(8) + IDS.tobytes()) == IDS.tolist()
    offsets = (IDS - np.arange(3)).tobytes()
    assert graph_reads(tmp_path, "self.model.d2t", "Result", "0", lambda: bytes(8) + offsets) == IDS.tolist()


@pytest.mark.parametrize(
    ("name", "kind", "port", "size"),
    [("any", "ScatterUpdate", "1", 8), ("any", "ScatterUpdate", "2", 32), ("other", "Result", "0", 32)],
)
def test_graphs_that_hold_no_ids(name: str, kind: str, port: str, size: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no kept ids"):
        graph_reads(tmp_path, name, kind, port, lambda: bytes(size))
    (tmp_path / "openvino_model.xml").write_text("<net")
    with pytest.raises(CheckpointError, match="holds no kept ids"):
        openvino.read_ids(tmp_path)


def test_scripts_for_other_environments_import_nothing_of_ours() -> None:
    """They run where vocabtrim is not installed."""
    for script in ("openvino_convert.py", "onnx_convert.py"):
        text = Path(openvino.__file__).with_name(script).read_text()
        compile(text, script, "exec")
        assert "from .." not in text and "import vocabtrim" not in text
