"""Plans as a document and as lines: what ``run --dry-run`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adaptrix.loader.placement import Forecast, forecast, place
from adaptrix.loader.plan import LoadPlan, ModulePlan
from adaptrix.loader.structure import BaseStructure


def describe_plans(
    plans: Sequence[LoadPlan],
    structure: BaseStructure,
    device: torch.device,
    dtype: torch.dtype | None,
) -> tuple[dict[str, Any], list[str]]:
    """The document and the lines, for this device and the type that was asked for.

    Args:
        plans: One for each set of adapters, at least one, all of the same mode.
        structure: The base.
        device: Where it would be.
        dtype: What was asked for; None for the base's own.
    """
    placed = place(structure.dtype, dtype, device=device.type, parameters=structure.parameter_count)
    threads = torch.get_num_threads()
    costs = [forecast(planned, structure, placed, threads=threads) for planned in plans]
    lines = [
        line
        for planned, cost in zip(plans, costs, strict=True)
        for line in (*planned.lines(), *cost.lines())
    ]
    document = {
        "plan": lines,
        "base": structure.name,
        "mode": plans[0].mode,
        "device": str(device),
        "stored_dtype": _name(placed.stored),
        "dtype": _name(placed.dtype),
        "compute_dtype": _name(placed.compute),
        "base_bytes": costs[0].base_bytes,
        "memory_bytes": max(cost.memory_bytes for cost in costs),
        "factor_bytes": sum(planned.factor_bytes for planned in plans),
        "sets": [_set(planned, cost) for planned, cost in zip(plans, costs, strict=True)],
    }
    return document, lines


def _set(planned: LoadPlan, cost: Forecast) -> dict[str, Any]:
    return {
        "read_bytes": cost.read_bytes,
        "written_bytes": cost.written_bytes,
        "memory_bytes": cost.memory_bytes,
        "factor_bytes": planned.factor_bytes,
        "modules": [_module(module) for module in planned.modules],
        "replacements": [
            {"parameter": item.parameter, "adapter": owner, "role": str(item.role)}
            for owner, item in planned.replacements
        ],
    }


def _module(module: ModulePlan) -> dict[str, Any]:
    first = module.shares[0].module
    return {
        "path": module.path,
        "in_features": first.in_features,
        "out_features": first.out_features,
        "rank": module.rank,
        "adapters": [
            {
                "adapter": share.owner,
                "weight": share.weight,
                "rank": share.module.rank,
                "scale": share.module.scale.value,
                "dora": share.module.magnitude is not None,
            }
            for share in module.shares
        ],
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
