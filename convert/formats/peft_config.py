"""``adapter_config.json`` of PEFT, checked field by field.

Only fields that change what the tensors mean are read (PEFT 0.2 to 0.21, ``LoraConfig``);
fields of variants that are not plain LoRA are looked at so that they can be refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from adaptrix.convert.contents import CONFIG_NAME
from adaptrix.schema.canonical import Json
from adaptrix.schema.report import Problem

MAX_RANK = 4096
MAX_NAMES = 65_536
_KINDS = {"text": str, "flag": bool, "object": Mapping, "list": Sequence}
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "peft_type": ("text",), "task_type": ("text",), "base_model_name_or_path": ("text",),
    "revision": ("text",), "bias": ("text",), "peft_version": ("text",),
    "use_rslora": ("flag",), "use_dora": ("flag",), "fan_in_fan_out": ("flag",),
    "lora_bias": ("flag",), "use_qalora": ("flag",),
    "rank_pattern": ("object",), "alpha_pattern": ("object",), "auto_mapping": ("object",),
    "modules_to_save": ("list",), "target_modules": ("list", "text"), "enable_lora": ("list",),
    "trainable_token_indices": ("list", "object"), "init_lora_weights": ("flag", "text"),
    "target_parameters": ("list",),
}  # fmt: skip
_PLAIN_INIT = {"", "true", "false", "gaussian", "eva", "orthogonal", "mica"}
_RESIDUAL_INIT = ("pissa", "olora", "corda", "loftq", "lora_ga")
_VARIANTS: Mapping[str, tuple[str, str, str]] = {
    "alora_invocation_tokens": (
        "positional_adapter",
        "aLoRA acts only after its invocation tokens; as plain LoRA it would always act",
        "",
    ),
    "arrow_config": ("routed_adapter", "Arrow routes every token between several adapters", ""),
    "layer_replication": (
        "unsupported_method",
        "layer_replication numbers the layers of a base that was grown first",
        "Load it with PEFT, which grows the base so, and merge it there.",
    ),
}
_SWITCHES = {
    "use_rslora", "use_dora", "use_qalora", "use_bdlora",  # read
    "use_cache", "use_gradient_checkpointing", "use_reentrant", "use_unsloth",  # of training alone
}  # fmt: skip
_NARROWING = ("exclude_modules", "layers_to_transform")
KEPT_FIELDS = ("init_lora_weights", "lora_dropout", "peft_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """The part of a configuration that decides what the tensors mean.

    Attributes:
        present: Whether there is a configuration at all.
        peft_type: Upper case, ``LORA`` when none is named.
        rank: ``r`` or None.
        alpha: ``lora_alpha`` or None.
        rslora, dora, fan_in_fan_out: Flags.
        rank_pattern, alpha_pattern: As in the file, in its order.
        bias: ``none``, ``all``, ``lora_only``.
        modules_to_save: Declared names.
        targets: ``target_modules`` when it is a list, else None.
        narrowed: ``exclude_modules`` or ``layers_to_transform`` leave some of them out.
        parameters: ``target_parameters``: raw parameters, those of MoE experts among them.
        token_indices: Rows by module name (``""`` for the input embedding).
        enable_lora: Blocks of PEFT 0.2's merged linear layers.
        matching: ``new`` (0.14 and later), ``old``, or ``""`` when the file does not tell.
        task_type, base_name, base_revision, base_class: As declared, ``""`` without.
        residual: Initialisation that changed the base, or ``""``.
        expert_order: How the columns of stacked experts stand, as Unsloth notes it; ``""`` without.
        unsloth: Whether Unsloth trained it: ``noted``, ``named`` after its base, or ``""``.
        extra: Settings to keep.
    """

    present: bool
    peft_type: str = "LORA"
    rank: int | None = None
    alpha: float | None = None
    rslora: bool = False
    dora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    targets: tuple[str, ...] | None = None
    narrowed: bool = False
    parameters: tuple[str, ...] = ()
    token_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    enable_lora: tuple[bool, ...] = ()
    matching: str = ""
    task_type: str = ""
    base_name: str = ""
    base_revision: str = ""
    base_class: str = ""
    residual: str = ""
    expert_order: str = ""
    unsloth: str = ""
    extra: Mapping[str, Json] = field(default_factory=dict)


def parse_config(config: Mapping[str, Json] | None) -> tuple[PeftConfig, tuple[Problem, ...]]:
    """Check ``config`` and keep what matters; wrong fields become problems."""
    if config is None:
        return PeftConfig(present=False), ()
    kind = config.get("peft_type") or "LORA"
    if isinstance(kind, str) and kind.upper() != "LORA":
        common, found = parse_config(_common(config, kind.upper()))
        return replace(common, peft_type=kind.upper()), found
    problems = _type_problems(config)
    bad = {problem.where.removeprefix(f"{CONFIG_NAME}:") for problem in problems}
    good = {k: v for k, v in config.items() if v is not None and k not in bad}
    parsed = PeftConfig(
        present=True,
        peft_type=str(good.get("peft_type", "LORA")).upper(),
        rank=_rank(good, problems),
        alpha=_alpha(good, problems),
        rslora=good.get("use_rslora") is True,
        dora=good.get("use_dora") is True,
        fan_in_fan_out=good.get("fan_in_fan_out") is True,
        rank_pattern=_ranks(good, problems),
        alpha_pattern=_alphas(good, problems),
        bias=_bias(good, problems),
        modules_to_save=_names(good, "modules_to_save", problems),
        targets=_targets(good, problems),
        narrowed=any(good.get(name) not in (None, []) for name in _NARROWING),
        parameters=_names(good, "target_parameters", problems),
        token_indices=_token_indices(good, problems),
        enable_lora=tuple(flag is True for flag in _list(good.get("enable_lora"))),
        matching=_matching(config),
        task_type=str(good.get("task_type", "")),
        base_name=str(good.get("base_model_name_or_path", "")),
        base_revision=str(good.get("revision", "")),
        base_class=_base_class(good),
        residual="kasa" if isinstance(good.get("kasa_config"), Mapping) else _residual(good),
        expert_order=str(good.get("lora_B_layout", "")),
        unsloth=_by_unsloth(good),
        extra=_extra(good),
    )
    return parsed, (*problems, *_variant_problems(good))


_COMMON = (
    "base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "modules_to_save",
    "target_modules", "auto_mapping", "peft_version", "layers_pattern", "exclude_modules",
)  # fmt: skip


def _common(config: Mapping[str, Json], kind: str) -> dict[str, Json]:
    """The fields of another method that mean what they mean in LoRA's configuration."""
    found: dict[str, Json] = {name: config[name] for name in _COMMON if name in config}
    alpha = config.get("lora_alpha", config.get("alpha"))
    if kind in {"LOHA", "LOKR"}:
        patterns = {k: config.get(k) for k in ("r", "rank_pattern", "alpha_pattern")}
        found |= {**patterns, "lora_alpha": alpha}
    bias = config.get("bias")
    if isinstance(bias, str) and bias != "none":
        found["bias"] = "all" if bias == "all" else "lora_only"
    return found


def _invalid(name: str, message: str, code: str = "invalid_config") -> Problem:
    return Problem.of(code, message, where=f"{CONFIG_NAME}:{name}")


def _type_problems(config: Mapping[str, Json]) -> list[Problem]:
    found = []
    for name, kinds in _FIELDS.items():
        value = config.get(name)
        if value is None or any(_is(value, kind) for kind in kinds):
            continue
        wanted = " or ".join(kinds)
        found.append(_invalid(name, f"expected {wanted}, got {type(value).__name__}"))
    return found


def _is(value: Json, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind != "list" or not isinstance(value, str))


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list | tuple) else ()


def whole_rank(value: Json) -> int | None:
    """``value`` as a rank, or None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    whole = 1 <= value <= MAX_RANK and int(value) == value
    return int(value) if whole else None


def finite_alpha(value: Json) -> float | None:
    """``value`` as an alpha, or None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before it is widened: an int of 400 digits is no float.
    return float(value) if -1e12 <= value <= 1e12 else None


def _rank(config: Mapping[str, Json], problems: list[Problem]) -> int | None:
    value = config.get("r")
    if value is None:
        return None
    rank = whole_rank(value)
    if rank is None:
        problems.append(
            _invalid("r", f"a rank from 1 to {MAX_RANK}, got {str(value)[:40]}", "invalid_rank")
        )
    return rank


def _alpha(config: Mapping[str, Json], problems: list[Problem]) -> float | None:
    value = config.get("lora_alpha")
    if value is None:
        return None
    alpha = finite_alpha(value)
    if alpha is None:
        problems.append(_invalid("lora_alpha", f"a finite number, got {str(value)[:40]}"))
    return alpha


def _ranks(config: Mapping[str, Json], problems: list[Problem]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, value in _object(config, "rank_pattern").items():
        rank = whole_rank(value)
        if rank is None:
            problems.append(
                _invalid(f"rank_pattern.{key}", f"got {str(value)[:40]}", "invalid_rank")
            )
        else:
            found[key] = rank
    return found


def _alphas(config: Mapping[str, Json], problems: list[Problem]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in _object(config, "alpha_pattern").items():
        alpha = finite_alpha(value)
        if alpha is None:
            problems.append(_invalid(f"alpha_pattern.{key}", f"got {str(value)[:40]}"))
        else:
            found[key] = alpha
    return found


def _object(config: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    value = config.get(name)
    return value if isinstance(value, Mapping) else {}


def _bias(config: Mapping[str, Json], problems: list[Problem]) -> str:
    bias = str(config.get("bias", "none"))
    if bias not in {"none", "all", "lora_only"}:
        problems.append(_invalid("bias", f"expected none, all or lora_only, got {bias[:40]!r}"))
        return "none"
    return bias


def _names(config: Mapping[str, Json], name: str, problems: list[Problem]) -> tuple[str, ...]:
    names = _list(config.get(name))
    if len(names) > MAX_NAMES or not all(isinstance(entry, str) and entry for entry in names):
        problems.append(_invalid(name, f"expected a list of at most {MAX_NAMES} names"))
        return ()
    return tuple(dict.fromkeys(str(entry) for entry in names))


def _targets(config: Mapping[str, Json], problems: list[Problem]) -> tuple[str, ...] | None:
    if not isinstance(config.get("target_modules"), list | tuple):
        return None
    return _names(config, "target_modules", problems)


def _token_indices(
    config: Mapping[str, Json], problems: list[Problem]
) -> dict[str, tuple[int, ...]]:
    value = config.get("trainable_token_indices")
    named: Mapping[str, Json] = value if isinstance(value, Mapping) else {"": value}
    found: dict[str, tuple[int, ...]] = {}
    for name, rows in named.items():
        numbers = _list(rows)
        good = [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
        if len(good) != len(numbers) or len(set(good)) != len(good):
            problems.append(_invalid("trainable_token_indices", "expected distinct row numbers"))
        elif good:
            found[name] = tuple(good)
    return found


def _matching(config: Mapping[str, Json]) -> str:
    """Which rule the producer's PEFT matched patterns by, as its own fields date it."""
    version = re.match(r"0\.(\d+)|([1-9]\d*)\.", str(config.get("peft_version") or ""))
    if version:
        return "new" if version[2] or int(version[1]) >= 14 else "old"
    # exclude_modules, eva_config and lora_bias came in 0.14, with the new rule.
    if {"exclude_modules", "eva_config", "lora_bias"} & config.keys():
        return "new"
    # Files of 0.6 to 0.13 always have megatron_core or layers_pattern, and none of those.
    return "old" if {"layers_pattern", "megatron_core"} & config.keys() else ""


def _base_class(config: Mapping[str, Json]) -> str:
    mapping = config.get("auto_mapping")
    return str(mapping.get("base_model_class", "")) if isinstance(mapping, Mapping) else ""


def _by_unsloth(config: Mapping[str, Json]) -> str:
    """Unsloth notes itself in the mapping, and has copies of base models under its name."""
    mapping = config.get("auto_mapping")
    if isinstance(mapping, Mapping) and mapping.get("unsloth_fixed") is True:
        return "noted"
    base = str(config.get("base_model_name_or_path", "")).lower()
    return "named" if base.startswith("unsloth/") else ""


def _init(config: Mapping[str, Json]) -> str:
    return str(config.get("init_lora_weights", "")).lower()


def _residual(config: Mapping[str, Json]) -> str:
    init = _init(config)
    return init if init.startswith(_RESIDUAL_INIT) else ""


def _extra(config: Mapping[str, Json]) -> dict[str, Json]:
    return {
        name: value
        for name in KEPT_FIELDS
        if isinstance(value := config.get(name), str | bool | int | float)
        and not (isinstance(value, float) and not math.isfinite(value))
    }


def _variant_problems(config: Mapping[str, Json]) -> list[Problem]:
    found = []
    for name, (code, message, hint) in _VARIANTS.items():
        if config.get(name):
            where = f"{CONFIG_NAME}:{name}"
            found.append(Problem.of(code, message, where=where, hint=hint))
    for name in sorted(config):
        if name.startswith("use_") and config[name] is True and name not in _SWITCHES:
            message = f"{name[:40]}: a variant of LoRA that is not PEFT's"
            found.append(
                Problem.of("unsupported_method", message, where=f"{CONFIG_NAME}:{name[:40]}")
            )
    init = _init(config)
    if _residual(config):
        message = f"init_lora_weights {init[:40]!r} trains on what it leaves of the base"
        found.append(Problem.of("needs_residual_base", message, where=CONFIG_NAME))
    elif init not in _PLAIN_INIT:
        message = f"unknown init_lora_weights {init[:40]!r} may have changed the base"
        hint = "Load it with the tool that trained it, and merge it into its base there."
        found.append(Problem.of("unsupported_method", message, where=CONFIG_NAME, hint=hint))
    return found
