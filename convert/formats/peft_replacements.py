"""Absolute tensors in a PEFT file: which are declared, and which are smuggled in.

PEFT's loader copies any key that fits into the base model. So every tensor that is no
factor has to be explained by the configuration (``modules_to_save``, ``bias``,
``trainable_token_indices``) or by a habit of PEFT's own saver (embeddings, classifier
heads); anything else is an error, never loaded and never dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adaptrix.convert.formats.peft_config import PeftConfig
from adaptrix.convert.formats.peft_tokens import WRAPPER, folded, rows_of
from adaptrix.convert.keys import Key, parse_key
from adaptrix.schema.adapter import Replacement, ReplacementRole
from adaptrix.schema.report import IgnoredTensor, Problem
from adaptrix.schema.tensor import LazyTensor

_EMBEDDINGS = {"embed_tokens", "lm_head"}
HEADS = {"classifier", "score", "qa_outputs", "pre_classifier"}
VALUE_HEAD = ("v_head.", "value_head.")
_OWN_WEIGHT = "the base model's own weight, in a dump of the whole model"
_VARIANT = re.compile(r"\.(lora_\w+)\.")
_HEAD_TASKS = {"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"}


@dataclass(slots=True)
class Leftovers:
    """What a file holds beside its factors."""

    found: dict[str, Replacement] = field(default_factory=dict)
    ignored: list[IgnoredTensor] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def replacements(self) -> tuple[Replacement, ...]:
        """Absolute tensors, sorted by parameter."""
        return tuple(self.found[name] for name in sorted(self.found))

    def ignore(self, name: str, reason: str) -> None:
        """Leave a tensor out, for a reason."""
        self.ignored.append(IgnoredTensor(name=name, reason=reason))


def replacements(
    tensors: Mapping[str, LazyTensor], config: PeftConfig, targeted: set[str]
) -> Leftovers:
    """Sort every tensor that is no factor; ``targeted`` are the adapted modules' paths."""
    whole_tokens = folded(tensors, config)
    rest = Leftovers(found=dict(whole_tokens.found))
    smuggled: list[str] = []
    habit = _saves_embeddings(tensors, config, targeted)
    whole = is_whole_model(tensors, targeted)
    for name, tensor in tensors.items():
        key = parse_key(name)
        if name in whole_tokens.names:
            continue
        if reason := _left_out(key, config, whole=whole):
            rest.ignore(name, reason)
        elif key.leaf == "trainable_tokens_delta":
            _add_tokens(rest, name, tensor, key, config)
        elif key.leaf == "modules_to_save":
            _add(rest, name, tensor, key.path, ReplacementRole.MODULES_TO_SAVE)
        elif key.leaf == "parameter" or key.leaf.startswith("base_layer."):
            parameter = _parameter(key)
            role = _role(parameter, key, config, habit=habit)
            if role is None:
                smuggled.append(name)
            else:
                _add(rest, name, tensor, parameter, role)
    _smuggled(rest, smuggled)
    _warn(rest)
    if whole:
        left = sum(entry.reason == _OWN_WEIGHT for entry in rest.ignored)
        message = f"a dump of the whole model: {left} base weights were left out"
        rest.problems.append(Problem.of("whole_model", message))
    return rest


def _smuggled(rest: Leftovers, names: list[str]) -> None:
    """Tensors that nothing declares: parts of some other LoRA, or weights of the base."""
    rest.unknown += names
    foreign = {name: match[1] for name in names if (match := _VARIANT.search(name))}
    if foreign:
        leaves = ", ".join(sorted({*foreign.values()})[:6])
        message = f"{leaves}: tensors of a variant of LoRA that is not PEFT's"
        rest.problems.append(Problem.of("unsupported_method", message, where=next(iter(foreign))))
    plain = [name for name in names if name not in foreign]
    if plain:
        message = f"{len(plain)} tensors that replace base weights are not declared"
        rest.problems.append(
            Problem.of("base_weights_inside", f"{message}, first {plain[0]}", where=plain[0])
        )


def _left_out(key: Key, config: PeftConfig, *, whole: bool) -> str:
    """Why a tensor is no part of the adapter; ``""`` when it may be one."""
    if key.path.startswith(VALUE_HEAD):
        return "value head of a reward model or PPO run, no part of the base"
    if key.leaf == "original_module":
        return "frozen copy of the base model's own module"
    if whole and _is_base_weight(key, config):
        return _OWN_WEIGHT
    return ""


def is_whole_model(tensors: Mapping[str, LazyTensor], targeted: set[str]) -> bool:
    """Whether the file holds the base weight of every adapted module beside its factors.

    PEFT's own files never do, but for embeddings and heads.
    """
    linear = {path for path in targeted if path.rpartition(".")[2] not in _EMBEDDINGS}
    if not linear:
        return False
    keys = [parse_key(name) for name in tensors]
    weights = {_parameter(k) for k in keys if k.leaf in {"base_layer.weight", "parameter"}}
    own = {f"{path}.{leaf}" for path in linear for leaf in ("weight", "qweight")}
    complete = all({f"{path}.weight", f"{path}.qweight"} & weights for path in linear)
    # Base weights of the adapted modules and of nothing else are no model: they replace.
    return complete and not weights <= own


def _is_base_weight(key: Key, config: PeftConfig) -> bool:
    if key.leaf == "":
        return True  # buffers, and what quantisation keeps beside its weights
    if key.leaf not in {"base_layer.weight", "base_layer.bias", "parameter"}:
        return False
    parameter = _parameter(key)
    declared = is_saved(parameter, config.modules_to_save)
    return not declared and not (parameter.endswith(".bias") and config.bias != "none")


def _parameter(key: Key) -> str:
    return key.path if key.leaf == "parameter" else f"{key.path}.{key.leaf.rpartition('.')[2]}"


def _saves_embeddings(
    tensors: Mapping[str, LazyTensor], config: PeftConfig, targeted: set[str]
) -> bool:
    """Whether PEFT itself may have put copies of embedding and head into the file.

    It does when one of them is a target, and for both of them when the vocabulary was
    resized (PEFT 0.21, ``utils/save_and_load.py``, ``save_embedding_layers``). One copy
    alone that nothing declares is none of PEFT's.
    """
    named = {path.rpartition(".")[2] for path in (*targeted, *(config.targets or ()))}
    copied = {_copied(key) for key in map(parse_key, tensors)} - {""}
    return bool(named & _EMBEDDINGS) or len({c.rpartition(".")[2] for c in copied}) > 1


def _copied(key: Key) -> str:
    """The embedding or head that the tensor is a copy of, or ``""``."""
    module = _parameter(key).rpartition(".")[0].removesuffix(WRAPPER)
    copy = key.leaf in {"parameter", "base_layer.weight"}
    return module if copy and module.rpartition(".")[2] in _EMBEDDINGS else ""


def _role(parameter: str, key: Key, config: PeftConfig, *, habit: bool) -> ReplacementRole | None:
    module, _, leaf = parameter.rpartition(".")
    last = module.rpartition(".")[2]
    if is_saved(parameter, config.modules_to_save):
        return ReplacementRole.MODULES_TO_SAVE
    if habit and last in _EMBEDDINGS and (key.leaf != "parameter" or leaf == "weight"):
        return ReplacementRole.EMBEDDING
    if leaf == "bias" and config.bias != "none":
        return ReplacementRole.BIAS
    headed = config.task_type in _HEAD_TASKS or "Classification" in config.base_class
    if key.leaf == "parameter" and headed and HEADS & set(module.split(".")):
        return ReplacementRole.MODULES_TO_SAVE
    return None


def is_saved(parameter: str, declared: Sequence[str]) -> bool:
    """Whether ``modules_to_save`` covers a parameter: its module, or one around it.

    PEFT asks whether a module's path *ends with* a declared name, dots or not: ``norm``
    covers ``model.layers.0.input_layernorm`` too (``utils/other.py``, ``_set_trainable``).
    """
    names = parameter.split(".")[:-1][:64]
    ends = tuple(name for name in declared if name)
    return any(".".join(names[: i + 1]).endswith(ends) for i in range(len(names)))


def _add(
    rest: Leftovers, name: str, tensor: LazyTensor, parameter: str, role: ReplacementRole
) -> None:
    other = rest.found.get(parameter)
    if other is None:
        rest.found[parameter] = Replacement(parameter=parameter, tensor=tensor, role=role)
    elif _equal(other.tensor, tensor):
        rest.ignore(name, f"the same bytes as {other.tensor.source.rpartition(':')[2]}")
    else:
        rest.unknown.append(name)
        message = f"two tensors that differ replace {parameter}"
        rest.problems.append(Problem.of("duplicate_module", message, where=name))


def _equal(one: LazyTensor, two: LazyTensor) -> bool:
    same = one.shape == two.shape and one.dtype is two.dtype
    return same and bytes(one.load()) == bytes(two.load())


def _add_tokens(
    rest: Leftovers, name: str, tensor: LazyTensor, key: Key, config: PeftConfig
) -> None:
    rows = rows_of(key.path, config)
    if rows is None or len(tensor.shape) != 2 or tensor.shape[0] != len(rows):
        have = "no" if rows is None else str(len(rows))
        message = f"{list(tensor.shape)} trainable token rows, trainable_token_indices has {have}"
        rest.problems.append(Problem.of("shape_mismatch", message, where=name))
        rest.unknown.append(name)
        return
    rest.found[key.path] = Replacement(
        parameter=key.path, tensor=tensor, role=ReplacementRole.TRAINABLE_TOKENS, rows=rows
    )


def _warn(rest: Leftovers) -> None:
    outright = [r for r in rest.replacements if r.role is not ReplacementRole.TRAINABLE_TOKENS]
    if outright:
        names = ", ".join(r.parameter for r in outright[:4])
        more = f" and {len(outright) - 4} more" if len(outright) > 4 else ""
        message = f"the adapter replaces {names}{more} of the base model outright"
        rest.problems.append(Problem.of("replaces_base_weights", message))
