"""Every dialect into every other and back, and each file opened as its engine opens it, without our reader."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from vocabtrim.errors import InputError, MismatchError
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.dialects import DIALECTS, Dialect, convert, read_map
from vocabtrim.vocabulary.kept import KeptVocabulary

Array = npt.NDArray[Any]
SUFFIX = {
    "token-map": "pt",
    "d2t": "safetensors",
    "d2t-t2d": "safetensors",
    "ids": "safetensors",
    "absolute": "safetensors",
}
ASCENDING = {"d2t-t2d", "ids"}


# How others write and read each dialect. Nothing of ours but the kept vocabulary's own file is used here.


def write(dialect: str, path: Path, ids: Array, target_vocab: int) -> None:
    offsets = ids - np.arange(ids.size)
    if dialect == "token-map":
        torch.save(ids.tolist(), path)  # FR-Spec
    elif dialect == "d2t":
        save_file({"d2t": offsets, "lm_head.weight": np.ones((ids.size, 2), np.float32)}, path)
    elif dialect == "d2t-t2d":
        save_file({"d2t": offsets, "t2d": np.isin(np.arange(target_vocab), ids)}, path)
    elif dialect == "absolute":
        save_file({"d2t": ids}, path, metadata={"vocabtrim": json.dumps({"dialect": "absolute"})})
    else:
        KeptVocabulary(ids, target_vocab).save(path)


def read_as_sglang(path: Path, target_vocab: int) -> Array:
    hot_tokens = torch.load(path, weights_only=True)
    return torch.as_tensor(hot_tokens, dtype=torch.int64).numpy()


def read_as_vllm(path: Path, target_vocab: int) -> Array:
    d2t = load_file(path)["d2t"]
    assert d2t.dtype == np.int64
    return np.arange(d2t.size) + d2t


def read_as_speculators(path: Path, target_vocab: int) -> Array:
    """The head's rows are cut by the mask and the drafted row is mapped by the offsets: both must agree."""
    tensors = load_file(path)
    d2t, t2d = tensors["d2t"], tensors["t2d"]
    assert t2d.dtype == np.bool_ and t2d.shape == (target_vocab,) and t2d.sum() == d2t.size
    rows_of_head = np.arange(target_vocab)[t2d]
    assert np.array_equal(rows_of_head, d2t + np.arange(d2t.size))
    return rows_of_head


def read_as_llama_cpp(path: Path, target_vocab: int) -> Array:
    d2t = load_file(path)["d2t"]
    assert d2t.dtype == np.int64 and np.unique(d2t).size == d2t.size
    return d2t


def read_kept(path: Path, target_vocab: int) -> Array:
    return load_file(path)["kept_ids"]


ENGINE: dict[str, Callable[[Path, int], Array]] = {
    "token-map": read_as_sglang,
    "d2t": read_as_vllm,
    "d2t-t2d": read_as_speculators,
    "absolute": read_as_llama_cpp,
    "ids": read_kept,
}


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, Array]:
    """A vocabulary size and some of its ids, in any order."""
    target_vocab = draw(st.integers(2, 60))
    ids = draw(st.lists(st.integers(0, target_vocab - 1), min_size=1, max_size=target_vocab, unique=True))
    return target_vocab, np.array(ids, np.int64)


@pytest.mark.parametrize("to", DIALECTS)
@pytest.mark.parametrize("start", DIALECTS)
@given(drawn=maps())
@settings(max_examples=25, deadline=None)
def test_there_and_back(start: Dialect, to: Dialect, drawn: tuple[int, Array]) -> None:
    """Any order survives between the dialects that have one; the ascending ones need it or sort it on request."""
    target_vocab, ids = drawn
    if start in ASCENDING:
        ids = np.sort(ids)
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = (Path(folder) / f"{n}.{SUFFIX[d]}" for n, d in enumerate((start, to, start)))
        write(start, first, ids, target_vocab)
        sort = to in ASCENDING
        convert(first, to, second, target_vocab=target_vocab, sort=sort)
        there = ENGINE[to](second, target_vocab)
        assert there.tolist() == (sorted(ids.tolist()) if sort else ids.tolist())
        convert(second, start, third, target_vocab=target_vocab)
        assert ENGINE[start](third, target_vocab).tolist() == there.tolist()


@given(drawn=maps())
@settings(max_examples=25, deadline=None)
def test_a_bare_d2t_for_model_optimizer(drawn: tuple[int, Array]) -> None:
    target_vocab, ids = drawn
    with tempfile.TemporaryDirectory() as folder:
        write("token-map", Path(folder) / "map.pt", ids, target_vocab)
        convert(Path(folder) / "map.pt", "d2t", Path(folder) / "d2t.pt")
        d2t = torch.load(Path(folder) / "d2t.pt", weights_only=True)
        assert d2t.dtype == torch.int64 and d2t.ndim == 1
        assert (d2t + torch.arange(len(d2t))).tolist() == ids.tolist()
        assert read_map(Path(folder) / "d2t.pt", "d2t").ids.tolist() == ids.tolist()


# Order


@pytest.mark.parametrize("to", sorted(ASCENDING))
def test_an_unsorted_map_is_not_sorted_unasked(to: Dialect, tmp_path: Path) -> None:
    write("token-map", tmp_path / "map.pt", np.array([7, 2, 3]), 10)
    out = tmp_path / "out.safetensors"
    with pytest.raises(InputError, match=r"entry 0 is id 7, entry 1 id 2.*repointed by sorting.*--sort"):
        convert(tmp_path / "map.pt", to, out, target_vocab=10)
    assert not out.exists()
    convert(tmp_path / "map.pt", to, out, target_vocab=10, sort=True)
    assert ENGINE[to](out, 10).tolist() == [2, 3, 7]


def test_sort_changes_nothing_where_the_dialect_has_an_order(tmp_path: Path) -> None:
    write("token-map", tmp_path / "map.pt", np.array([7, 2, 3]), 10)
    convert(tmp_path / "map.pt", "d2t", tmp_path / "out.safetensors", sort=True)
    assert read_as_vllm(tmp_path / "out.safetensors", 10).tolist() == [7, 2, 3]


def test_an_unsorted_d2t_beside_a_mask_is_read_alone_on_request(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"d2t": np.array([7, 1, 1]), "t2d": np.isin(np.arange(10), [2, 3, 7])}, path)
    with pytest.raises(InputError, match=r"not ascending.*--from d2t"):
        read_map(path)
    read = read_map(path, "d2t")
    assert read.ids.tolist() == [7, 2, 3] and read.target_vocab == 10


# What tells the dialect


def test_a_token_map_may_be_a_tensor(tmp_path: Path) -> None:
    """A tensor could hold offsets as well. 9, 3, 7 proves that it does not: offsets 9 and 7 would both mean id 9."""
    torch.save(torch.tensor([9, 3, 7]), tmp_path / "map.pt")
    assert read_map(tmp_path / "map.pt").ids.tolist() == [9, 3, 7]
    torch.save(torch.tensor([2, 5, 9]), tmp_path / "map.pt")
    with pytest.raises(InputError, match="as offsets and as ids"):
        read_map(tmp_path / "map.pt")
    assert read_map(tmp_path / "map.pt", "token-map").ids.tolist() == [2, 5, 9]
    assert read_map(tmp_path / "map.pt", "d2t").ids.tolist() == [2, 6, 11]


def test_a_list_is_a_token_map_even_where_offsets_were_possible(tmp_path: Path) -> None:
    torch.save([2, 5, 9], tmp_path / "map.pt")
    read = read_map(tmp_path / "map.pt")
    assert (read.ids.tolist(), read.dialect) == ([2, 5, 9], "token-map")


def test_a_json_list_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text("[7, 2, 3]")
    read = read_map(tmp_path / "map.json")
    assert (read.ids.tolist(), read.dialect) == ([7, 2, 3], "ids")


def test_a_d2t_alone_without_weights_is_decided_by_proof(tmp_path: Path) -> None:
    path = tmp_path / "d2t.safetensors"
    save_file({"d2t": np.array([2, 5, 9])}, path)
    with pytest.raises(InputError, match="as offsets and as ids"):
        read_map(path)
    assert read_map(path, target_vocab=10).dialect == "absolute"
    save_file({"d2t": np.array([2, 5, 9]), "fc.weight": np.ones((2, 2), np.float32)}, path)
    assert read_map(path).dialect == "d2t"  # beside weights it is a drafter's, and those are offsets


def test_what_vocabtrim_writes_tells_what_it_is(tmp_path: Path) -> None:
    write("token-map", tmp_path / "map.pt", np.array([2, 5, 9]), 12)
    for to in ("d2t", "absolute"):
        convert(tmp_path / "map.pt", to, tmp_path / f"{to}.safetensors", target_vocab=12)
        read = read_map(tmp_path / f"{to}.safetensors")
        assert (read.dialect, read.ids.tolist(), read.target_vocab) == (to, [2, 5, 9], 12)


def test_the_tokenizer_goes_along_where_the_dialect_can_say_it(tmp_path: Path) -> None:
    KeptVocabulary(np.array([1, 4]), 10, tokenizer_hash="abc").save(tmp_path / "kept.safetensors")
    for to in ("d2t", "d2t-t2d", "absolute"):
        convert(tmp_path / "kept.safetensors", to, tmp_path / "there.safetensors")
        convert(tmp_path / "there.safetensors", "ids", tmp_path / "back.safetensors")
        back = KeptVocabulary.load(tmp_path / "back.safetensors")
        assert (back.tokenizer_hash, back.target_vocab, back.ids.tolist()) == ("abc", 10, [1, 4])


@pytest.mark.parametrize("vocab", ["ten", -1, 10**12, True, None])
def test_a_vocabulary_size_that_cannot_be_is_not_believed(vocab: Any, tmp_path: Path) -> None:
    story = json.dumps({"dialect": "d2t", "target_vocab": vocab})
    save_file({"d2t": np.array([1, 4])}, tmp_path / "d2t.safetensors", metadata={"vocabtrim": story})
    assert read_map(tmp_path / "d2t.safetensors").target_vocab is None


@pytest.mark.parametrize(
    "metadata", ["{", "[]", '{"dialect": "klingon"}', '{"dialect": []}', '{"dialect": "d2t", "tokenizer_hash": [1]}']
)
def test_metadata_that_is_not_ours_is_passed_over(metadata: str, tmp_path: Path) -> None:
    save_file({"d2t": np.array([1, 1])}, tmp_path / "d2t.safetensors", metadata={"vocabtrim": metadata})
    read = read_map(tmp_path / "d2t.safetensors")
    assert read.ids.tolist() == [1, 2] and read.tokenizer_hash is None


# Drafters and folders


@pytest.mark.parametrize("container", ["safetensors", "bin"])
@pytest.mark.parametrize("name_the_file", [False, True])
def test_a_drafters_own_map(container: Any, name_the_file: bool, tmp_path: Path) -> None:
    ids = np.array([3, 5, 11, 40])
    folder = shapes.write_eagle3(tmp_path / "e", TINY, seed=0, draft_vocab=4, kept_ids=ids, container=container)
    file = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[container]
    read = read_map(folder / file if name_the_file else folder)
    assert (read.ids.tolist(), read.dialect, read.target_vocab) == ([3, 5, 11, 40], "d2t-t2d", TINY.head_rows)


def test_a_sharded_drafter_with_its_maps_in_two_shards(tmp_path: Path) -> None:
    save_file({"d2t": np.array([2, 2, 5])}, tmp_path / "model-1.safetensors")
    save_file({"t2d": np.isin(np.arange(10), [2, 3, 7])}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"d2t": "model-1.safetensors", "t2d": "model-2.safetensors", "fc.weight": "missing"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    read = read_map(tmp_path)
    assert read.ids.tolist() == [2, 3, 7] and read.target_vocab == 10


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"d2t": "../secret.safetensors"}}'])
def test_bad_indices_are_refused(index: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"index\.json"):
        read_map(tmp_path)


def test_a_checkpoint_without_a_map_leaves_it_to_the_file_beside_it(tmp_path: Path) -> None:
    save_file({"lm_head.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="holds no map"):
        read_map(tmp_path)
    KeptVocabulary(np.array([1, 4]), 10).save(tmp_path / "kept.safetensors")
    assert read_map(tmp_path).ids.tolist() == [1, 4]


def test_speculators_keeps_two_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "d2t.npy", np.array([2, 2, 5]))
    np.save(tmp_path / "t2d.npy", np.isin(np.arange(10), [2, 3, 7]))
    for path in (tmp_path, tmp_path / "d2t.npy", tmp_path / "t2d.npy"):
        read = read_map(path)
        assert (read.ids.tolist(), read.target_vocab, read.dialect) == ([2, 3, 7], 10, "d2t-t2d")
    np.save(tmp_path / "t2d.npy", np.isin(np.arange(10), [2, 3, 8]))
    with pytest.raises(InputError, match="number 2 is 7 by d2t and 8 by t2d"):
        read_map(tmp_path)


def test_a_dict_in_a_torch_file(tmp_path: Path) -> None:
    """SpecForge's and SafeAILab's cache: both maps in one .pt."""
    torch.save({"d2t": torch.tensor([2, 2, 5]), "t2d": torch.arange(10).unsqueeze(0).eq(7)[0]}, tmp_path / "m.pt")
    with pytest.raises(InputError, match="marks 1 ids but d2t has 3"):
        read_map(tmp_path / "m.pt")
    marked = torch.zeros(10, dtype=torch.bool)
    marked[[2, 3, 7]] = True
    torch.save({"d2t": torch.tensor([2, 2, 5]), "t2d": marked}, tmp_path / "m.pt")
    assert read_map(tmp_path / "m.pt").ids.tolist() == [2, 3, 7]


def test_int32_maps_are_read(tmp_path: Path) -> None:
    """TensorRT-LLM's parameter is int32."""
    save_file(
        {"d2t": np.array([2, 2, 5], np.int32), "lm_head.weight": np.ones((3, 2), np.float32)},
        tmp_path / "m.safetensors",
    )
    read = read_map(tmp_path / "m.safetensors")
    assert read.ids.tolist() == [2, 3, 7] and read.ids.dtype == np.int64


@pytest.mark.parametrize(
    ("tensors", "dialect", "message"),
    [
        ({"d2t": np.array([1, 1])}, "d2t-t2d", "has no t2d"),
        ({"t2d": np.array([True])}, "d2t", "has only t2d"),
        ({"weight": np.array([1])}, None, "holds no map"),
    ],
)
def test_told_wrong(tensors: Any, dialect: Dialect | None, message: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=message):
        read_map(tmp_path / "m.safetensors", dialect)


# Writing


def test_the_vocabularys_size_must_be_known_for_a_mask_and_for_ids(tmp_path: Path) -> None:
    write("token-map", tmp_path / "map.pt", np.array([2, 5]), 10)
    for to in ("d2t-t2d", "ids"):
        with pytest.raises(InputError, match="--target-vocab N or --target"):
            convert(tmp_path / "map.pt", to, tmp_path / "out.safetensors")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected 0 to 4, found entry 1 = 5"):
        convert(tmp_path / "map.pt", "ids", tmp_path / "out.safetensors", target_vocab=5)


@pytest.mark.parametrize(
    ("to", "name"), [("token-map", "a.safetensors"), ("d2t-t2d", "a.pt"), ("ids", "a"), ("d2t", "a.bin")]
)
def test_outputs_of_the_wrong_suffix_are_refused(to: Dialect, name: str, tmp_path: Path) -> None:
    write("token-map", tmp_path / "map.pt", np.array([2, 5]), 10)
    with pytest.raises(InputError, match="wrong suffix"):
        convert(tmp_path / "map.pt", to, tmp_path / name, target_vocab=10)
    assert not (tmp_path / name).exists()


def test_the_target_tells_the_mask_its_padded_width_and_the_ids_the_tokenizers(data: Path, tmp_path: Path) -> None:
    """Qwen2.5: 151,665 ids, a head of 152,064 rows."""
    target = tmp_path / "qwen"
    target.mkdir()
    for file in (data / "tokenizers" / "qwen2_5").glob("*.json"):
        (target / file.name).write_bytes(file.read_bytes())
    (target / "config.json").write_text(json.dumps({"vocab_size": 152_064}))
    write("token-map", tmp_path / "map.pt", np.array([2, 151_664]), 0)
    convert(tmp_path / "map.pt", "d2t-t2d", tmp_path / "mask.safetensors", target=target)
    assert load_file(tmp_path / "mask.safetensors")["t2d"].shape == (152_064,)
    convert(tmp_path / "map.pt", "ids", tmp_path / "kept.safetensors", target=target)
    kept = KeptVocabulary.load(tmp_path / "kept.safetensors")
    assert kept.target_vocab == 151_665 and kept.tokenizer_hash is not None
    write("token-map", tmp_path / "map.pt", np.array([2, 151_665]), 0)
    with pytest.raises(InputError, match="expected 0 to 151664, found 151665"):
        convert(tmp_path / "map.pt", "ids", tmp_path / "kept.safetensors", target=target)


def test_another_targets_map_is_refused(data: Path, tmp_path: Path) -> None:
    KeptVocabulary(np.array([1, 4]), 10, tokenizer_hash="abc").save(tmp_path / "kept.safetensors")
    with pytest.raises(MismatchError, match="found abc"):
        convert(
            tmp_path / "kept.safetensors",
            "d2t",
            tmp_path / "out.safetensors",
            target=data / "tokenizers" / "mistral-v0.1",
        )
