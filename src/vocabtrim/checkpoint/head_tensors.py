"""How a head is stored: of which tensors, what each holds for one id, and what of each a cut keeps.

Knows the published formats by the names, dtypes and shapes of their tensors; computes no value: codes and scales are
moved as they are, so a cut head dequantizes to the very numbers of its source. docs/quantized.md lists the formats and
where each was read. A format whose ids cannot be taken apart is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..errors import CheckpointError, MismatchError, UnsupportedError
from ..vocabulary.kept import Ids
from .packing import AWQ, WORD, Packing, dense, padded
from .picks import Codes, Columns, Pick, Rows
from .stored import DTYPE_BITS, StoredTensor
from .write import PlannedTensor

FLOATS = ("F64", "F32", "F16", "BF16")

# A tensor that no other format has, and what the format is called.
_REFUSED = {
    "weight.absmax": "bitsandbytes 4-bit, whose blocks of one flat vector share absmax, nested across ids",
    "weight._data": "quanto's, a tensor class of its own",
    "_weight_qdata": "torchao's, a tensor class of its own",
    "W_q": "HQQ's, with groups that run across ids",
    "B": "packed into Marlin's tiles, which mix ids",
    "scale_packed": "packed into Marlin's 2:4 tiles, which mix ids",
    "bitmask": "sparse, compressed by bitmask",
    "codebooks": "AQLM's, with codebooks",
    "Qidxs": "QuIP#'s, with codebooks",
    "centroids": "VPTQ's, with codebooks",
    "q_weight": "EXL2's, whose bits change from group to group",
    "trellis": "EXL3's, coded as a trellis across ids",
    "weight_scales": "EETQ's, in the order of its kernel",
}
_REMEDY = "use the drafter, or the target, with an unquantized head or one of the formats in docs/quantized.md"

# What a head may hold besides its weights: for each id; whatever the ids are.
_FOR_EACH_ID = ("bias", "weight_scale", "weight_scale_inv", "weight_zero_point", "scales", "biases", "SCB")
_FOR_EACH_INPUT = ("g_idx", "weight_g_idx", "pre_quant_scale")
_FOR_ALL = (
    *("weight_global_scale", "weight_scale_2", "weight_format", "input_scale", "input_zero_point"),
    *("input_global_scale", "output_scale", "output_zero_point"),
)


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor of a head. pick: ids -> what of it a head of those keeps; None where a cut copies it.

    bytes_per_id: that a cut head has of it for each id; not whole where ids share words.
    """

    tensor: StoredTensor
    pick: Callable[[Ids], Pick] | None = None
    bytes_per_id: float = 0.0


@dataclass(frozen=True, eq=False)
class HeadTensors:
    """A head as stored. format: as it is called. main: the tensor of its weights. parts: suffix -> tensor.

    hidden: its width, None where the files do not tell. whole: a cut keeps a multiple of so many ids. scale_block:
    (ids, inputs) that share a scale, where ids do; a cut writes every id its block's scale, (1, inputs).
    shape_suffix: the tensor that tells (ids, hidden).
    """

    format: str
    ids: int
    hidden: int | None
    main: StoredTensor
    parts: Mapping[str, Part]
    whole: int = 1
    scale_block: tuple[int, int] | None = None
    shape_suffix: str | None = None

    @property
    def quantized(self) -> bool:
        return self.format != "unquantized"

    @property
    def bytes_per_id(self) -> float:
        return sum(part.bytes_per_id for part in self.parts.values())

    @property
    def bytes_for_all(self) -> int:
        """Of what every pass reads whatever ids are kept, such as the order of the inputs."""
        return sum(part.tensor.nbytes for part in self.parts.values() if part.pick is None and part.tensor.elements > 2)

    def cut(self, ids: Ids, name: str) -> list[PlannedTensor]:
        """The head's tensors with these of its rows (n,), named `name.suffix`.

        Raises MismatchError for as many ids as the format has no words for.
        """
        if ids.size % self.whole:
            fewer = ids.size // self.whole * self.whole
            raise MismatchError(
                f"{self.main.name} of {self.main.path} is {self.format}, which packs {self.whole} ids at a time",
                expected=f"{fewer} or {fewer + self.whole} kept ids",
                found=ids.size,
                remedy=f"choose again with a size that is a multiple of {self.whole}",
            )
        planned = []
        for suffix, part in self.parts.items():
            tensor, target = part.tensor, f"{name}.{suffix}"
            if suffix == self.shape_suffix:
                shape = tensor.array().copy()
                shape[0] = ids.size
                planned.append(PlannedTensor(target, tensor.dtype, tensor.shape, data=shape.tobytes()))
            elif part.pick is None:
                planned.append(PlannedTensor.copy(tensor, target))
            else:
                planned.append(PlannedTensor.picked(tensor, part.pick(ids), target))
        return planned


@dataclass(frozen=True)
class Told:
    """What a config says of a head's format, where shapes alone do not tell.

    scale_block: (ids, inputs) that share a scale. bits: of a code, in compressed-tensors and MLX. version: of AutoAWQ's
    and GPTQModel's formats.
    """

    scale_block: tuple[int, int] | None = None
    bits: int | None = None
    version: str = ""


def read_head(tensors: Mapping[str, StoredTensor], told: Told) -> HeadTensors:
    """Understand a head from its tensors, suffix -> tensor.

    Raises UnsupportedError for a format that cannot be cut, CheckpointError for tensors that do not fit each other.
    """
    if suffix := refused(tensors):
        raise UnsupportedError(
            f"the head of {tensors[suffix].path} is {_REFUSED[suffix]}",
            expected="a format whose ids can be taken apart",
            found=f"{tensors[suffix].name}, {_dtype_and_shape(tensors[suffix])}",
            remedy=_REMEDY,
        )
    if "qweight" in tensors:
        return _gptq_or_awq(tensors, told)
    if "weight_packed" in tensors:
        return _compressed(tensors, told)
    return _plain_or_scaled(tensors, told)


def refused(tensors: Collection[str]) -> str | None:
    """The tensor by which a head is known to be of a format that cannot be cut; None where there is none."""
    return next((suffix for suffix in _REFUSED if suffix in tensors), None)


def _plain_or_scaled(tensors: Mapping[str, StoredTensor], told: Told) -> HeadTensors:
    """`weight` with a row for each id: unquantized, FP8, int8, NVFP4 and MXFP4 by ModelOpt, MLX."""
    weight = tensors["weight"]
    _prove_matrix(weight)
    ids, columns = weight.shape
    hidden: int | None = columns
    scale = tensors.get("weight_scale", tensors.get("scales"))
    if weight.dtype in FLOATS and scale is None:
        name = "unquantized"
    elif weight.dtype in FLOATS or weight.dtype.startswith("F8"):
        name = "FP8" if weight.dtype.startswith("F8") else "rounded to a scale"
    elif weight.dtype == "I8":
        name = "bitsandbytes int8" if "SCB" in tensors else "int8"
    elif weight.dtype == "U8" and scale is not None and scale.rows == 2 * ids:
        raise UnsupportedError(
            f"the head {weight.name} of {weight.path} is ModelOpt's INT4, which packs two ids into a byte",
            expected="a row for each id",
            found=f"{_dtype_and_shape(weight)} and scales {list(scale.shape)}",
            remedy=_REMEDY,
        )
    elif weight.dtype == "U8" and scale is not None and scale.rows == ids:
        name, hidden = "NVFP4" if "weight_scale_2" in tensors else "MXFP4", 2 * columns
    elif weight.dtype == "U32" and scale is not None and scale.rows == ids:
        name, hidden = "MLX", None if told.bits is None else columns * WORD // told.bits
    else:
        _refuse(weight, "weights of a format that is known")
    return _with_the_rest(name, tensors, told, ids=ids, hidden=hidden, main="weight")


def _compressed(tensors: Mapping[str, StoredTensor], told: Told) -> HeadTensors:
    """compressed-tensors: `weight_packed`, codes in words of 32 bits or FP4 numbers in bytes; a row for each id."""
    packed = tensors["weight_packed"]
    _prove_matrix(packed)
    if "weight_scale" not in tensors:
        raise _wrong(packed, "weight_scale beside it", "none")
    ids, columns = packed.shape
    if packed.dtype == "U8":
        return _with_the_rest("compressed-tensors FP4", tensors, told, ids=ids, hidden=None, main="weight_packed")
    if packed.dtype != "I32":
        _refuse(packed, "codes in I32 or U8")
    hidden = _told_shape(tensors["weight_shape"], packed) if "weight_shape" in tensors else None
    widths = [
        packing
        for bits in range(1, 9)
        for packing in dict.fromkeys((dense(bits), padded(bits)))
        if told.bits in {None, bits} and (hidden is None or packing.words_for(hidden) == columns)
    ]
    if not widths:
        told_bits = "1 to 8" if told.bits is None else told.bits
        raise _wrong(packed, f"{hidden} codes of {told_bits} bits in each row, as weight_shape and config.json tell")
    zeros = tensors.get("weight_zero_point")
    special = {}
    if zeros is not None and zeros.dtype == "I32" and zeros.rows != ids:  # packed along the ids, unlike the weights
        special["weight_zero_point"] = _packed_zeros(zeros, [p for p in widths if p.words_for(ids) == zeros.rows], ids)
    return _with_the_rest(
        "compressed-tensors, packed", tensors, told, ids=ids, hidden=hidden, main="weight_packed", special=special
    )


def _packed_zeros(zeros: StoredTensor, packings: list[Packing], ids: int) -> Part:
    """Raises CheckpointError where no packing, or more than one, fits the words of weights and zero points."""
    # Few ids lie alike in both. 7 bits padded take the words of 8 bits: only the config's bits tell those apart.
    different = {(packing.bits, packing.first_bits(np.arange(ids)).tobytes()) for packing in packings}
    if len(zeros.shape) != 2 or len(different) != 1:
        raise _wrong(zeros, f"{ids} zero points packed in one way that also fits the weights", _dtype_and_shape(zeros))
    packing = packings[0]
    return Part(zeros, lambda kept: Codes(kept, packing, axis=0), zeros.shape[1] * 4 * packing.words / packing.codes)


def _gptq_or_awq(tensors: Mapping[str, StoredTensor], told: Told) -> HeadTensors:
    """`qweight` with a column for each id (GPTQ), or with eight ids in a word (AWQ): inputs run down both.

    In both `scales` is (groups, ids) and `qzeros` packs the ids of a group into words.
    """
    weight = tensors["qweight"]
    for name in ("scales", "qzeros"):
        if name not in tensors:
            raise _wrong(weight, f"{name} beside it", "none")
        _prove_matrix(tensors[name])
    _prove_matrix(weight)
    scales, zeros = tensors["scales"], tensors["qzeros"]
    if told.version in {"gemv", "gemv_fast", "llm-awq", "marlin", "bitblas", "gptq_p", "exllama"}:
        _refuse(weight, "GPTQ's own format, or AutoAWQ's gemm", f"{told.version}, which orders ids in its own way")
    if weight.dtype != "I32" or zeros.dtype != "I32":
        _refuse(weight, "codes in I32")
    groups, ids = scales.shape
    if weight.shape[1] == ids:
        return _gptq(tensors, told)
    if weight.shape[1] * AWQ.codes != ids or zeros.shape != (groups, weight.shape[1]) or weight.rows % groups:
        raise _wrong(
            weight,
            f"{ids} columns (GPTQ) or {ids / AWQ.codes:g} of words (AWQ), with scales for {groups} groups of inputs",
            f"qweight {list(weight.shape)}, qzeros {list(zeros.shape)}, scales {list(scales.shape)}",
        )
    special = {
        "qweight": Part(weight, lambda kept: Codes(kept, AWQ, axis=1), 4 * weight.rows / AWQ.codes),
        "qzeros": Part(zeros, lambda kept: Codes(kept, AWQ, axis=1), 4 * groups / AWQ.codes),
        "scales": _columns(scales),
    }
    return _with_the_rest(
        "AWQ", tensors, told, ids=ids, hidden=weight.rows, main="qweight", special=special, whole=AWQ.codes
    )


def _gptq(tensors: Mapping[str, StoredTensor], told: Told) -> HeadTensors:
    weight, scales, zeros = tensors["qweight"], tensors["scales"], tensors["qzeros"]
    groups, ids = scales.shape
    fitting = [bits for bits in (2, 3, 4, 8) if ids * bits == WORD * zeros.shape[1]]
    if not fitting:  # GPTQModel fills a last word up: then only the config tells
        fitting = [bits for bits in (2, 3, 4, 8) if bits == told.bits and dense(bits).words_for(ids) == zeros.shape[1]]
    hidden = weight.rows * WORD // fitting[0] if fitting else 0
    if len(fitting) != 1 or zeros.rows != groups or weight.rows % fitting[0]:
        raise _wrong(
            zeros,
            f"{groups} rows, the zero points of {ids} ids packed with 2, 3, 4 or 8 bits, as the weights are",
            f"{_dtype_and_shape(zeros)} beside qweight {list(weight.shape)}",
        )
    packing = dense(fitting[0])
    special = {
        "qweight": _columns(weight),
        "scales": _columns(scales),
        "qzeros": Part(zeros, lambda kept: Codes(kept, packing, axis=1), 4 * groups * packing.words / packing.codes),
    }
    name = f"GPTQ, {packing.bits} bits"
    return _with_the_rest(
        name, tensors, told, ids=ids, hidden=hidden, main="qweight", special=special, whole=packing.codes
    )


def _with_the_rest(
    name: str,
    tensors: Mapping[str, StoredTensor],
    told: Told,
    *,
    ids: int,
    hidden: int | None,
    main: str,
    special: Mapping[str, Part] | None = None,
    whole: int = 1,
) -> HeadTensors:
    """A head whose other tensors are understood by name and proven by size."""
    parts = dict(special or {})
    block = None
    for suffix, tensor in tensors.items():
        if suffix in parts:
            continue
        if suffix == main:
            parts[suffix] = _rows(tensor)
        elif suffix == "weight_shape":
            parts[suffix] = Part(tensor)
        elif suffix in _FOR_ALL and tensor.elements == 1:
            parts[suffix] = _shared(tensor)
        elif suffix in _FOR_EACH_INPUT and tensor.shape in {(hidden,), (tensor.elements,) if hidden is None else ()}:
            parts[suffix] = Part(tensor)
        elif suffix in _FOR_EACH_ID:
            parts[suffix], shared = _for_each_id(suffix, tensor, ids, hidden, told)
            block = shared or block
        elif suffix in {*_FOR_ALL, *_FOR_EACH_INPUT}:
            raise _wrong(tensor, "one number" if suffix in _FOR_ALL else f"one for each of {hidden} inputs")
        else:
            _refuse(tensor, "a tensor that a known format has")
    shape = "weight_shape" if "weight_shape" in tensors else None
    return HeadTensors(name, ids, hidden, tensors[main], parts, whole, block, shape)


def _for_each_id(
    suffix: str, tensor: StoredTensor, ids: int, hidden: int | None, told: Told
) -> tuple[Part, tuple[int, int] | None]:
    """Scales, zero points and bias: a row for each id, one for all, or one for a block of ids.

    Raises CheckpointError for any other number of them.
    """
    if suffix != "bias" and tensor.elements == 1:
        return _shared(tensor), None
    if tensor.shape and tensor.rows == ids and len(tensor.shape) <= 2:
        return _rows(tensor), None
    if suffix != "bias" and len(tensor.shape) == 2 and tensor.rows == 1:  # groups of inputs that all ids share
        return _shared(tensor), None
    if told.scale_block is not None and suffix in {"weight_scale", "weight_scale_inv", "weight_zero_point"}:
        height, width = told.scale_block
        if hidden is not None and tensor.shape == (-(-ids // height), -(-hidden // width)):
            return Part(tensor, lambda kept: Rows(kept // height), tensor.row_bytes), (height, width)
        raise _wrong(tensor, f"one for each block of {height} x {width} of {ids} ids and {hidden} inputs")
    also = " (config.json says nothing of blocks)" if suffix.startswith("weight_scale") else ""
    raise _wrong(tensor, f"{ids} rows, one for each id, or one number for all{also}")


def _rows(tensor: StoredTensor) -> Part:
    return Part(tensor, Rows, tensor.row_bytes)


def _columns(tensor: StoredTensor) -> Part:
    return Part(tensor, Columns, tensor.rows * DTYPE_BITS[tensor.dtype] / 8)


def _shared(tensor: StoredTensor) -> Part:
    """Raises CheckpointError where what all ids share is no number: it would poison every row."""
    if tensor.nonfinite() is not None:
        raise _wrong(tensor, "numbers", "NaN or infinity")
    return Part(tensor)


def _told_shape(shape: StoredTensor, packed: StoredTensor) -> int:
    """The width that `weight_shape` tells. Raises CheckpointError where it tells other rows than there are."""
    told = shape.array().tolist() if shape.elements == 2 else []
    if len(told) != 2 or told[0] != packed.rows or told[1] < 1:
        raise _wrong(shape, f"[{packed.rows}, hidden size], the shape of what {packed.name} unpacks to", told)
    return int(told[1])


def _prove_matrix(tensor: StoredTensor) -> None:
    if len(tensor.shape) != 2 or not tensor.elements:
        raise _wrong(tensor, "a matrix")


def _dtype_and_shape(tensor: StoredTensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _wrong(tensor: StoredTensor, expected: str, found: Any = None) -> CheckpointError:
    return CheckpointError(
        f"head tensor {tensor.name} of {tensor.path} does not fit the head",
        expected=expected,
        found=_dtype_and_shape(tensor) if found is None else found,
        remedy="the checkpoint is damaged, or config.json belongs to another one: fetch both again",
    )


def _refuse(tensor: StoredTensor, expected: str, found: str | None = None) -> NoReturn:
    raise UnsupportedError(
        f"head tensor {tensor.name} of {tensor.path} is of a format that cannot be cut by ids",
        expected=expected,
        found=found or _dtype_and_shape(tensor),
        remedy=_REMEDY,
    )
