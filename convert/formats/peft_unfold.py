"""One function per method: the tensors of one module to one pair of factors.

Each returns the pair, or a text that says why there is none; a missing tensor is a
``KeyError``, shapes that do not fit are a ``ValueError``, and the caller reports both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from adaptrix.convert.architecture.base import NamedBase
from adaptrix.convert.arrays import from_array, take_columns, take_rows, to_numpy_f64, transpose
from adaptrix.convert.computed import (
    Array,
    beside_identity,
    column_products,
    computed,
    kronecker,
    product,
    row_products,
    scaled_columns,
    scaled_rows,
)
from adaptrix.convert.formats.peft_blocks import beside, full_kronecker, gralora_pair, on_top
from adaptrix.convert.formats.peft_projections import drawn_projections
from adaptrix.convert.numeric import np
from adaptrix.schema.adapter import Scale
from adaptrix.schema.canonical import Json
from adaptrix.schema.tensor import DType, LazyTensor

NEEDS_VALUES = "both factors of LoKr are full: their rank is in their values"
NEEDS_WIDTH = "the width of the module is not in the file"
_ONE = {DType.F32: 0x3F800000, DType.F16: 0x3C00, DType.BF16: 0x3F80, DType.F64: 0x3FF << 52}
_WIDE_INPUT = {"q_proj", "k_proj", "v_proj", "query", "key", "value", "c_attn", "qkv_proj",
               "query_key_value", "Wqkv", "q", "k", "v"}  # fmt: skip
"""Modules that all read the hidden state, so that one width is everyone's."""
Leaves = Mapping[str, LazyTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a module's own tensors do not say.

    Attributes:
        path: Its path.
        base: The base as far as it is known.
        config: The whole configuration.
        shared: Tensors of all modules together.
        modules: Paths of all modules, with the tensors of each.
        values: Whether values may be read now.
    """

    path: str
    base: NamedBase
    config: Mapping[str, Json]
    shared: Leaves
    modules: Mapping[str, Leaves]
    values: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfolded:
    """``A (r, in)``, ``B (out, r)``; ``scale`` None where ``alpha / r`` is still to come."""

    a: LazyTensor
    b: LazyTensor
    scale: Scale | None = None


def _fold(a: LazyTensor, b: LazyTensor, scale: float = 1.0) -> Unfolded:
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise ValueError(f"no pair of matrices: {list(a.shape)}, {list(b.shape)}")
    return Unfolded(a=a, b=b, scale=Scale.absolute(scale, a.shape[0]))


def adalora(leaves: Leaves, context: Context) -> Unfolded | str:
    """``α/(init_r + 1e-5)·B·(E∘A)``: PEFT never saves the divisor, and never changes it."""
    a, b, e = leaves["lora_A"], leaves["lora_B"], leaves["lora_E"]
    if e.count != a.shape[0]:
        raise ValueError("one singular value per row of A is wanted")
    rank, alpha = _number(context, "init_r"), _number(context, "lora_alpha")
    if not rank or alpha is None:
        return "AdaLoRA's scale needs init_r and lora_alpha, the configuration lacks one"
    return _fold(scaled_rows(a, e), b, (alpha if alpha > 0 else rank) / (rank + 1e-5))


def loha(leaves: Leaves, _context: Context) -> Unfolded | str:
    """Rank ``r²``: ``B`` from all products of columns, ``A`` from all products of rows."""
    if "hada_t1" in leaves or "hada_t2" in leaves:
        return "LoHa's Tucker form of a convolution is not one pair of factors"
    b = row_products(leaves["hada_w1_a"], leaves["hada_w2_a"])
    a = column_products(leaves["hada_w1_b"], leaves["hada_w2_b"])
    folded = _fold(a, b)
    return Unfolded(a=folded.a, b=folded.b)


def lokr(leaves: Leaves, context: Context) -> Unfolded | str:
    """``w1 ⊗ w2`` with a low-rank ``w2`` (or ``w1``), at the smaller of the ranks.

    Two full factors have a low rank only if their values say so.
    """
    if "lokr_t2" in leaves or any(len(t.shape) != 2 for t in leaves.values()):
        return "LoKr of a convolution is not one pair of factors"
    one, two = _kron_side(leaves, "lokr_w1"), _kron_side(leaves, "lokr_w2")
    if len(one) == len(two) == 2:
        folded = _fold(kronecker(one[1], two[1]), kronecker(one[0], two[0]))
    elif len(two) == 2:
        (full,), (up, down) = one, two
        rows, columns = full.shape
        if columns <= rows:
            folded = _fold(beside_identity(columns, down), kronecker(full, up))
        else:
            folded = _fold(kronecker(full, down), beside_identity(rows, up))
    elif len(one) == 2:
        (up, down), (full,) = one, two
        folded = _fold(kronecker(down, full), _times_identity(up, full.shape[0]))
    elif not context.values:
        return NEEDS_VALUES
    else:
        pair = full_kronecker(one[0], two[0])
        if isinstance(pair, str):
            return pair
        folded = _fold(*pair)
    return Unfolded(a=folded.a, b=folded.b)


def _kron_side(leaves: Leaves, name: str) -> tuple[LazyTensor, ...]:
    """The factor as one full matrix, or as an up and a down factor."""
    if name in leaves:
        return (leaves[name],)
    up, down = leaves[f"{name}_a"], leaves[f"{name}_b"]
    product(up, down)  # the shapes fit
    if up.shape[1] != down.shape[0]:
        raise ValueError("its two factors have different ranks")
    return (up, down)


def _times_identity(matrix: LazyTensor, size: int) -> LazyTensor:
    shape = (matrix.shape[0] * size, matrix.shape[1] * size)
    return computed(shape, matrix.source, lambda: np.kron(to_numpy_f64(matrix), np.eye(size)))


def method_rank(leaves: Leaves) -> int:
    """The ``r`` of LoHa's or LoKr's configuration, as the tensors show it."""
    for name in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if name in leaves:
            return leaves[name].shape[0]
    return 0


def vera(leaves: Leaves, context: Context) -> Unfolded | str:
    """``diag(b)·B₀[:out]`` and ``diag(d)·A₀[:, :in]``."""
    d, b = leaves["vera_lambda_d"], leaves["vera_lambda_b"]
    if {"vera_A", "vera_B"} <= context.shared.keys():
        down, up = context.shared["vera_A"], context.shared["vera_B"]
    else:
        drawn = _vera_drawn(d.count, context)
        if isinstance(drawn, str):
            return drawn
        down, up = drawn
    alike = all(path.rpartition(".")[2] in _WIDE_INPUT for path in context.modules)
    width = _width(context, b.count) or (down.shape[1] if alike else None)
    if width is None:
        return NEEDS_WIDTH
    if width > down.shape[1] or b.count > up.shape[0] or d.count != down.shape[0]:
        raise ValueError("the shared projections are smaller than the module")
    a = take_columns(down, slice(0, width))
    return _fold(scaled_rows(a, d), scaled_rows(take_rows(up, slice(0, b.count)), b))


def _vera_drawn(rank: int, context: Context) -> tuple[LazyTensor, LazyTensor] | str:
    """Projections that the file lacks, as large as the largest of all modules needs them."""
    key = context.config.get("projection_prng_key")
    if not isinstance(key, int) or isinstance(key, bool):
        return (
            "VeRA's projections are not in the file, nor the projection_prng_key that draws them; "
            "save it again with save_projection"
        )
    heights = {path: leaves["vera_lambda_b"].count for path, leaves in context.modules.items()}
    widths = [_width(replace(context, path=path), rows) for path, rows in heights.items()]
    known = [width for width in widths if width is not None]
    if len(known) != len(widths):
        return NEEDS_WIDTH
    return drawn_projections(key, rank, max(known), max(heights.values()))


def _width(context: Context, out_features: int) -> int | None:
    """Inputs of the module in the known base, when its outputs agree with the file."""
    out, into = context.base.shape(context.path)
    return into if out == out_features else None


def miss(leaves: Leaves, context: Context) -> Unfolded | str:
    """``A[j, i] = 1`` where ``i mod r = j``; ``B`` is the transposed block."""
    block = leaves["miss_block"] if "miss_block" in leaves else leaves["bone_block"]
    variant = context.config.get("init_weights")
    if variant in ("bat", "mini") or len(block.shape) != 2:
        return f"MiSS with init_weights {variant} needs the base weights"
    rank, out = block.shape
    width = _width(context, out)
    if width is None:
        return NEEDS_WIDTH
    if block.dtype not in _ONE or not rank:
        raise ValueError(f"a block of {block.dtype.long_name}")
    return _fold(_folding(rank, width, block), transpose(block))


def _folding(rank: int, width: int, block: LazyTensor) -> LazyTensor:
    ones = np.zeros((rank, width), dtype=f"<u{block.dtype.itemsize}")
    ones[np.arange(width) % rank, np.arange(width)] = _ONE[block.dtype]
    return from_array(ones, block.dtype, block.source)


def vblora(leaves: Leaves, context: Context) -> Unfolded | str:
    """Top-k mixtures of bank vectors: rows of ``A``, columns of ``B``, cut into tiles."""
    bank, top = context.shared["vblora_vector_bank"], _number(context, "topk")
    if not top or top != int(top):
        return "VB-LoRA's topk is not in the configuration"
    count, length = bank.shape
    down, up = _Mixture(leaves, "A", int(top)), _Mixture(leaves, "B", int(top))
    if max(down.choices, up.choices) > count or int(top) > count:
        raise ValueError(f"logits for another bank than one of {count} vectors")
    rank, tiles = down.shape
    rows, same = up.shape
    if same != rank:
        raise ValueError("ranks of the two factors differ")

    def a() -> Array:
        return down.mix(bank).reshape(rank, tiles * length)

    def b() -> Array:
        mixed = up.mix(bank)  # (rows, rank, length)
        return mixed.transpose(0, 2, 1).reshape(rows * length, rank)

    return _fold(
        computed((rank, tiles * length), bank.source, a),
        computed((rows * length, rank), bank.source, b),
    )


class _Mixture:
    """Weights of bank vectors: from logits, or saved as the top k of them."""

    def __init__(self, leaves: Leaves, side: str, top: int) -> None:
        name = f"vblora_logits_{side}"
        self._top = top
        self._logits = leaves.get(name)
        first = self._logits
        if first is None:
            first = self._indices = leaves[f"{name}_topk_indices"]
            self._weights = leaves[f"{name}_topk_weights"]
        self.shape = (first.shape[0], first.shape[1])
        self.choices = self._logits.shape[2] if self._logits is not None else 0

    def mix(self, bank: LazyTensor) -> Array:
        """``(m, n, length)``; source: PEFT, ``vblora/layer.py``, ``_get_low_rank_matrix``."""
        vectors = to_numpy_f64(bank)
        if self._logits is None:
            chosen = to_numpy_f64(self._indices).astype(np.intp)
            known = to_numpy_f64(self._weights)
            weights = np.concatenate([known, 1 - known.sum(-1, keepdims=True)], axis=-1)
        else:
            logits = to_numpy_f64(self._logits)
            chosen = np.argsort(-logits, axis=-1, kind="stable")[..., : self._top]
            best = np.take_along_axis(logits, chosen, -1)
            powers = np.exp(best - best.max(-1, keepdims=True))
            weights = powers / powers.sum(-1, keepdims=True)
        mixed: Array = np.einsum("mnk,mnkl->mnl", weights, vectors[chosen])
        return mixed


def delora(leaves: Leaves, _context: Context) -> Unfolded | str:
    """``B·diag(λ/(r·‖A_i‖·‖B_i‖))`` and ``A·diag(w)``; norms are at least 1e-4."""
    a, b = leaves["delora_A"], leaves["delora_B"]
    strength, norms = leaves["delora_lambda"], leaves["delora_w_norm"]
    if strength.count != 1 or norms.count != a.shape[1]:
        raise ValueError("one lambda and one norm per input are wanted")

    def up() -> Array:
        down, wide = to_numpy_f64(a), to_numpy_f64(b)
        lengths = np.maximum(np.linalg.norm(down, axis=1), 1e-4)
        lengths = lengths * np.maximum(np.linalg.norm(wide, axis=0), 1e-4)
        scaled: Array = wide * (to_numpy_f64(strength).reshape(()) / a.shape[0] / lengths)
        return scaled

    return _fold(scaled_columns(a, norms), computed(b.shape, b.source, up))


def gralora(leaves: Leaves, context: Context) -> Unfolded | str:
    """Blocks that exchange their latents, and a plain LoRA beside them; ``α/(r + hybrid_r)``."""
    a, b = gralora_pair(leaves["gralora_A"], leaves["gralora_B"])
    alpha, rank, hybrid = _number(context, "alpha"), leaves["gralora_A"].shape[2], 0
    if alpha is None:
        return "GraLoRA's scale needs alpha, the configuration lacks it"
    if "gralora_A_general" in leaves or "gralora_B_general" in leaves:
        down, up = leaves["gralora_A_general"], leaves["gralora_B_general"]
        a, b, hybrid = on_top(a, down), beside(b, up), down.shape[0]
    return _fold(a, b, alpha / (rank + hybrid))


def _number(context: Context, name: str) -> float | None:
    value = context.config.get(name)
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if whole and isinstance(value, int | float) and -1e9 < value < 1e9 else None
