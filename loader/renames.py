"""Generate ``convert/layouts/renames.jsonl`` from the installed transformers.

``python -m adaptrix.loader.renames``. Models are built on the meta device with two layers;
names are taken back with transformers' own ``revert_weight_conversion``, and a row is kept
only where ``rename_source_key`` leads from the old name to the new one. Names that a class
of the family still has are no old names.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from adaptrix.convert.layouts.renames import anonymous, slots

_TARGET = Path(__file__).resolve().parents[1] / "convert" / "layouts" / "renames.jsonl"
_MODULES = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SECONDS = 60
# Only these change which rows or which name, and nothing inside of a row.
_PLAIN = {"Chunk", "Concatenate", "MergeModulelist"}
_ALIASES = {"aya_vision": "llava", "dots1": "qwen2_moe"}
"""Types whose default configuration builds no model, and whose table is another's."""
_SMALL = {
    "num_hidden_layers": 2, "first_k_dense_replace": 0, "num_dense_layers": 0,
    "mlp_only_layers": [], "decoder_sparse_step": 1, "moe_layer_start_index": 0,
}  # fmt: skip
"""Two layers, and experts in them where the type has experts."""


@dataclass(slots=True)
class Found:
    """What one model type has had and has.

    Attributes:
        old: New name by old template, the preferred class first.
        new: Templates that some class has today.
        raw: Templates of weights that are bare parameters.
    """

    old: dict[str, str] = field(default_factory=dict)
    new: set[str] = field(default_factory=set)
    raw: set[str] = field(default_factory=set)


def main(types: list[str]) -> int:
    """Build the table of ``types``, or of every type, and write it."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    failed: dict[str, str] = {}
    found = {t: _of_type(t, failed) for t in types or sorted(transformers.CONFIG_MAPPING)}
    document = _document(found, failed)
    _TARGET.write_text(_text(document), "utf-8")
    print(f"{len(document['families'])} families, {len(failed)} classes not built")
    for name, reason in failed.items():
        print(f"  {name}: {reason}")
    return 0


def _document(found: Mapping[str, Found], failed: Mapping[str, str]) -> dict[str, Any]:
    tables: list[dict[str, str]] = []
    families: dict[str, int] = {}
    for family, entry in found.items():
        rows = {old: new for old, new in sorted(entry.old.items()) if _holds(old, new, entry)}
        rows = _agreed(rows)
        if rows:
            if rows not in tables:
                tables.append(rows)
            families[family] = tables.index(rows)
    for family, other in _ALIASES.items():
        if other in families:
            families.setdefault(family, families[other])
    return {
        "transformers": transformers.__version__,
        "failed": dict(sorted(failed.items())),
        "families": families,
        "raw": {family: sorted(entry.raw) for family, entry in found.items() if entry.raw},
        "tables": tables,
    }


def _holds(old: str, row: str, entry: Found) -> bool:
    """Whether ``old`` is no name of today, and every new name is one."""
    if old in entry.new:
        return False
    places = [] if row.startswith("!") else row.partition("#")[0].split("|")
    return all(place.removesuffix(".{}") in entry.new or place in entry.new for place in places)


def _agreed(rows: Mapping[str, str]) -> dict[str, str]:
    """Without rows that take a block elsewhere than most of its rows: another class's names."""
    places: dict[str, Counter[str]] = {}
    for old, new in rows.items():
        places.setdefault(_block(old), Counter())[_block(new)] += 1
    return {
        old: new
        for old, new in rows.items()
        if "{}" not in old
        or new.startswith("!")
        or places[_block(old)].most_common(1)[0][0] == _block(new)
    }


def _block(name: str) -> str:
    return name.partition("{}")[0]


def _text(document: Mapping[str, Any]) -> str:
    """The head, one table a line, then each old name with the tables that have it, sorted.

    Readers parse the head and the lines they need.
    """
    head = {name: value for name, value in document.items() if name != "tables"}
    lines = [
        json.dumps(entry, sort_keys=True, separators=(",", ":"))
        for entry in (head | {"tables": len(document["tables"])}, *document["tables"])
    ]
    index: dict[str, set[int]] = {}
    for number, table in enumerate(document["tables"]):
        for old in table:
            index.setdefault(anonymous(old), set()).add(number)
    lines += [f"{old}\t{' '.join(map(str, sorted(found)))}" for old, found in sorted(index.items())]
    return "\n".join(lines) + "\n"


def _of_type(model_type: str, failed: dict[str, str]) -> Found:
    found = Found()
    for name in sorted(_classes(model_type), key=_preference):
        kind = getattr(transformers, name, None)
        if kind is None:
            continue
        try:
            with _limited():
                _of_class(kind, model_type, found)
        except Exception as error:  # noqa: BLE001 - whatever stops one class is its entry in the list
            text = (str(error).strip() or "?").splitlines()[0]
            failed[name] = f"{type(error).__name__}: {text[:120]}"
    return found


def _classes(model_type: str) -> set[str]:
    auto = transformers.models.auto.modeling_auto
    found: set[str] = set()
    for name in dir(auto):
        if name.endswith("MAPPING_NAMES") and name.startswith("MODEL"):
            value = getattr(auto, name).get(model_type, ())
            found |= {value} if isinstance(value, str) else set(value)
    return found


def _preference(name: str) -> tuple[int, str]:
    """Where two classes read one old name differently, the one that people adapt wins."""
    marks = ("ForConditionalGeneration", "ForCausalLM", "For")
    rank = next((i for i, mark in enumerate(marks) if mark in name), len(marks))
    return (rank + 2 * name.endswith("Backbone"), name)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _configuration(model_type: str) -> Any:
    kind: Any = transformers.CONFIG_MAPPING[model_type]
    default = kind()
    wanted = {name: value for name, value in _SMALL.items() if hasattr(default, name)}
    for settings in (wanted, {"num_hidden_layers": 2}):
        with contextlib.suppress(Exception):
            return kind(**settings)
    return default


def _of_class(kind: Any, model_type: str, found: Found) -> None:
    with torch.device("meta"):
        model = kind(_configuration(model_type))
    modules = {name for name, module in model.named_modules() if isinstance(module, _MODULES)}
    state = dict(model.state_dict())
    wanted = {k: v for k, v in state.items() if _is_weight(k, v, modules)}
    for name, value in wanted.items():
        template = slots(_place(name, modules))[0]
        found.new.add(template)
        if value.dim() == 2 and name.endswith(".weight") and _module(name) not in modules:
            found.raw.add(template)
    for old, new in _old_names(model, wanted, state, modules):
        found.old.setdefault(old, new)


def _is_weight(name: str, value: torch.Tensor, modules: set[str]) -> bool:
    if value.dim() < 2:
        return False
    stacked = value.dim() == 3 and value.shape[0] > 1
    return _module(name) in modules or stacked or name.endswith((".weight", "in_proj_weight"))


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _place(name: str, modules: set[str]) -> str:
    """A module's path for its weight, the full name for a bare stacked parameter."""
    return _module(name) if _module(name) in modules or name.endswith(".weight") else name


def _old_names(
    model: Any, wanted: Mapping[str, torch.Tensor], state: dict[str, torch.Tensor],
    modules: set[str],
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """``(old template, row)`` for every weight whose name transformers once changed."""
    loading = transformers.core_model_loading
    every = transformers.conversion_mapping.get_model_conversion_mapping(model, add_legacy=False)
    renamings = [c for c in every if isinstance(c, loading.WeightRenaming)]
    converters = [c for c in every if isinstance(c, loading.WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    for chosen in _choices(every):
        model._weight_conversions = chosen
        try:
            old = loading.revert_weight_conversion(model, dict(wanted))
        except Exception as error:  # noqa: BLE001 - some operations have no inverse without values
            print(f"  {type(model).__name__} is not taken back: {error}", file=sys.stderr)
            continue
        for name, value in old.items():
            if name in state and state[name].shape == value.shape:
                continue
            new, pattern = loading.rename_source_key(
                name, renamings, converters, model.base_model_prefix, state
            )
            if pattern is None and new in wanted:
                yield from _row(name, _place(new, modules), new, modules)
            elif pattern is not None:
                row = _converted(by_pattern[pattern], pattern, new, value, modules)
                yield from _row(name, row, new, modules)


def _choices(every: list[Any]) -> Iterator[list[Any]]:
    """All changes, and those of each sub-model alone: releases between made only some."""
    if every:
        yield every
    scopes = {getattr(change, "scope_prefix", None) for change in every}
    if len(scopes) > 1:
        for scope in sorted(scopes, key=str):
            yield [c for c in every if getattr(c, "scope_prefix", None) == scope]


def _converted(change: Any, pattern: str, new: str, value: torch.Tensor, modules: set[str]) -> str:
    """A row for a change of the weights themselves."""
    operations = [type(operation).__name__ for operation in change.operations]
    sources, targets = list(change.source_patterns), list(change.target_patterns)
    part, parts = sources.index(pattern), len(sources)
    if not set(operations) <= _PLAIN or value.dim() != 2:
        return "!" + "+".join(operations)
    share = f"#{part}/{parts}" if parts > 1 else ""
    if operations[0] == "MergeModulelist" and len(targets) == 1:
        return f"{new}.{{}}{share}"
    if operations == ["Concatenate"] and change.operations[0].dim == 0:
        return _place(new, modules) + share
    if operations == ["Chunk"] and change.operations[0].dim == 0:
        first, *rest = (target.replace("\\", "") for target in targets)
        others = [new.replace(first, other) for other in rest]
        return "|".join(_place(name, modules) for name in (new, *others))
    return "!" + "+".join(operations)


def _row(name: str, row: str, new: str, modules: set[str]) -> Iterator[tuple[str, str]]:
    """The row as templates; nothing when the numbers of the two names do not agree."""
    keeps = name.endswith(".weight") and not _place(new, modules).endswith(".weight")
    stacked = not row.startswith("!") and row.partition("#")[0].endswith(".{}")
    if row.startswith("!"):
        yield slots(_module(name))[0], row
        return
    old, numbers = slots(_module(name) if keeps and (stacked or _is_moved(new, modules)) else name)
    body, mark, share = row.partition("#")
    templates = []
    for place in body.split("|"):
        template, others = slots(place.removesuffix(".{}"))
        if others != (numbers[:-1] if stacked else numbers):
            return
        templates.append(template + ".{}" * stacked)
    yield old, "|".join(templates) + mark + share


def _is_moved(new: str, modules: set[str]) -> bool:
    return _module(new) in modules or new.endswith(".weight")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
