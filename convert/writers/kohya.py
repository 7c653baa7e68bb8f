"""Writes sd-scripts' file: flat names, ``lora_down``/``lora_up``, one alpha per module.

UNets and CLIP keep diffusers' naming, which sd-scripts, ComfyUI and diffusers read. Flux and
Stable Diffusion 3 get the names of their first code, whose q, k and v (and Flux's MLP) are one
layer: parts with the same ``A`` share it, others stand block-diagonally with alpha ``s·Σr``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from adaptrix.convert.arrays import concat_rows, from_array, reshape, take_rows
from adaptrix.convert.computed import times
from adaptrix.convert.diffusion.fused import joined, part_sizes
from adaptrix.convert.diffusion.models import flattened, numbers_in, unflattened
from adaptrix.convert.diffusion.natives import Row, rows_of
from adaptrix.convert.numeric import np
from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.convert.writers.components import modules_by_component
from adaptrix.convert.writers.files import encoded_file
from adaptrix.convert.writers.scales import alpha_for
from adaptrix.convert.written import Written
from adaptrix.schema import media_types
from adaptrix.schema.adapter import AdaptedModule, Adapter, ModuleKind, Scale, ScaleRule
from adaptrix.schema.errors import Refused
from adaptrix.schema.report import Fidelity
from adaptrix.schema.tensor import DType, LazyTensor

_NATIVE = {
    "flux": "flux",
    "stable-diffusion-3": "sd3",
    "hunyuan-video": "hunyuan-video",
    "wan": "wan",
    "flux2": "flux2",
    "lumina2": "lumina2",
    "chroma": "flux",
}
_TEXT = {
    "stable-diffusion": {"text_encoder": "lora_te"},
    "flux": {"text_encoder": "lora_te1", "text_encoder_2": "lora_te3"},
}
_TEXT_DEFAULT = {
    "text_encoder": "lora_te1", "text_encoder_2": "lora_te2", "text_encoder_3": "lora_te3",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """One module as the file has it."""

    name: str
    a: LazyTensor
    b: LazyTensor
    scale: float
    alpha: float
    magnitude: LazyTensor | None = None


def write(adapter: Adapter) -> Written:
    """The adapter as sd-scripts' file.

    Raises:
        Refused: modules that no published model names so, or parts without a place.
    """
    layers: list[_Layer] = []
    for component, placed in modules_by_component(adapter, "kohya").items():
        layers += _layers(component, placed, adapter.family)
    tensors: dict[str, LazyTensor] = {}
    error = 0.0
    for layer in layers:
        alpha, wrong = _alpha(layer)
        error = max(error, wrong)
        tensors |= {
            f"{layer.name}.lora_down.weight": layer.a,
            f"{layer.name}.lora_up.weight": layer.b,
            f"{layer.name}.alpha": alpha,
        }
        if layer.magnitude is not None:
            shape = (layer.b.shape[0], *(1 for _ in layer.a.shape[1:]))
            tensors[f"{layer.name}.dora_scale"] = reshape(layer.magnitude, shape)
    weights = encoded_file(
        "adapter.safetensors",
        partial(safetensors_bytes, tensors, {"ss_network_module": "networks.lora"}),
        media_types.WEIGHT_RAW,
    )
    return Written(
        files=(weights,),
        fidelity=Fidelity.EXACT if error == 0.0 else Fidelity.ROUNDING,
        max_abs_error=error,
        tensors=len(tensors),
    )


def _layers(
    component: str, placed: list[tuple[str, AdaptedModule]], family: str
) -> Iterable[_Layer]:
    naming = _NATIVE.get(family) if component == "transformer" else None
    if naming is not None:
        return _native_layers(placed, naming)
    prefix = _prefix(component, family)
    return [_plain(f"{prefix}_{_flat(component, path)}", module) for path, module in placed]


def _prefix(component: str, family: str) -> str:
    if component in ("unet", "transformer"):
        return "lora_unet"
    found = _TEXT.get(family, _TEXT_DEFAULT).get(component)
    if found is None:
        raise _refused(f"sd-scripts has no prefix for the {component} of {family or 'this model'}")
    return found


def _flat(component: str, path: str) -> str:
    """The flat name, when reading it gives the path back."""
    flat = flattened(path)
    others = {p for c in (component, *_TEXT_DEFAULT) for p in unflattened(c, flat)}
    if path not in (unflattened(component, flat) or others):
        raise _refused(f"{component}.{path} is a module of no model that sd-scripts names")
    return flat


def _plain(name: str, module: AdaptedModule, *, swapped: bool = False) -> _Layer:
    _check(module)
    b, magnitude = module.b, module.magnitude
    if swapped:
        rows = np.roll(np.arange(b.shape[0]), b.shape[0] // 2)
        b = take_rows(b, rows)
        magnitude = None if magnitude is None else take_rows(magnitude, rows)
    return _Layer(
        name=name,
        a=module.a,
        b=b,
        scale=module.scale.value,
        alpha=alpha_for(module, float(module.rank)),
        magnitude=magnitude,
    )


def _check(module: AdaptedModule) -> None:
    if module.bias_delta is not None:
        raise _refused(f"it has no place for the bias of {module.path}")
    if module.kind not in (ModuleKind.LINEAR, ModuleKind.CONV):
        raise _refused(f"it has no place for {module.path} ({module.kind})")


def _native_layers(placed: list[tuple[str, AdaptedModule]], naming: str) -> list[_Layer]:
    """Modules of a transformer under the names of its first code."""
    groups: dict[tuple[Row, tuple[str, ...]], dict[int, AdaptedModule]] = {}
    for path, module in placed:
        found = _row_of(path, naming)
        if found is None:
            raise _refused(f"transformer.{path} is a module of no model that sd-scripts names")
        row, part, numbers = found
        groups.setdefault((row, numbers), {})[part] = module
    return [_native_layer(row, numbers, parts) for (row, numbers), parts in groups.items()]


def _row_of(path: str, naming: str) -> tuple[Row, int, tuple[str, ...]] | None:
    """The first code's row that has ``path``, as which of its parts, and the numbers."""
    for row in rows_of(naming):
        for index, template in enumerate(row.paths):
            numbers = numbers_in(template.lstrip("~?"), path)
            if numbers is not None:
                return row, index, numbers
    return None


def _native_layer(row: Row, numbers: tuple[str, ...], parts: dict[int, AdaptedModule]) -> _Layer:
    name = "lora_unet_" + row.native.format(*numbers)
    if len(row.paths) == 1:
        module = parts[0]
        final = row.paths[0].startswith("?") and module.b.shape[0] == 2 * module.a.shape[1]
        return _plain(name, module, swapped=row.paths[0].startswith("~") or final)
    for module in parts.values():
        _check(module)
    return _fused_layer(name, row, [parts.get(i) for i in range(len(row.paths))])


def _fused_layer(name: str, row: Row, parts: list[AdaptedModule | None]) -> _Layer:
    """Parts of a fused layer as one; scales that differ go into the factors."""
    present = [module for module in parts if module is not None]
    first = present[0]
    sizes = _fused_sizes(row, first)
    wrong = [m for m, n in zip(parts, sizes, strict=True) if m is not None and m.b.shape[0] != n]
    if wrong:
        raise _refused(f"{wrong[0].path} has {wrong[0].b.shape[0]} rows in a fused layer")
    same = len({m.scale.value for m in present}) == 1
    pairs = [
        None if m is None else (m.a, m.b if same else times(m.b, m.scale.value)) for m in parts
    ]
    a, b = joined(pairs, sizes)
    magnitudes = [m.magnitude for m in present if m.magnitude is not None]
    if magnitudes and len(magnitudes) != len(parts):
        raise _refused(f"{first.path} has a magnitude and other parts of its layer have none")
    scale = first.scale.value if same else 1.0
    return _Layer(
        name=name,
        a=a,
        b=b,
        scale=scale,
        alpha=_nearest(scale, a.shape[0], first),
        magnitude=concat_rows(magnitudes) if magnitudes else None,
    )


def _fused_sizes(row: Row, first: AdaptedModule) -> list[int]:
    """Rows of each part of a fused layer, from its inputs."""
    out, into = row.ratio or (sum(row.shares), 1)
    rows, left = divmod(first.in_features * out, into)
    try:
        return part_sizes(row.shares, rows if not left else -1)
    except ValueError as error:
        raise _refused(f"{first.path} has {first.in_features} inputs in a fused layer") from error


def _nearest(scale: float, rank: int, first: AdaptedModule) -> float:
    """Alpha whose quotient by ``rank`` is ``scale``."""
    module = replace(first, scale=Scale(value=scale, rule=ScaleRule.ABSOLUTE, alpha=scale * rank, rank=rank))  # fmt: skip
    return alpha_for(module, float(rank))


def _alpha(layer: _Layer) -> tuple[LazyTensor, float]:
    """Alpha as a scalar: float32 where that holds it, else float64."""
    exact = float(np.float32(layer.alpha)) == layer.alpha
    dtype, kind = (DType.F32, "<f4") if exact else (DType.F64, "<f8")
    tensor = from_array(np.array(layer.alpha, dtype=kind), dtype, f"{layer.name}.alpha")
    return tensor, abs(layer.alpha / layer.a.shape[0] - layer.scale)


def _refused(message: str) -> Refused:
    return Refused(message, where="kohya", code="unsupported_target")
