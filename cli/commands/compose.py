"""Make an adapter from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptrix.cli.composing import base_weights, gram_files, ingredients, print_report
from adaptrix.cli.options import DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output
from adaptrix.cli.parsing import setting
from adaptrix.schema.errors import UsageError

if TYPE_CHECKING:
    from adaptrix.compose.planning import Plan
    from adaptrix.registry.recipe_files import RecipeFile
    from adaptrix.registry.registry import Registry

GramsOption = Annotated[
    list[str] | None,
    typer.Option("--grams", help="NAME=FILE of Gram matrices, for regmean; repeatable."),
]
OutputOption = Annotated[
    str | None, typer.Option("--output", "-o", help="NAME[:TAG] of the result.")
]
MethodOption = Annotated[
    str | None, typer.Option(help="NAME or NAME@SPACE; linear when not given.")
]
ParamOption = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE of the method; repeatable.")
]
ConflictFlag = Annotated[
    bool, typer.Option("--allow-license-conflict", help="Carry both licences.")
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--base", help="Base model whose weights make DoRA inputs plain."),
]
BakeRankOption = Annotated[
    int, typer.Option(min=1, help="Greatest rank of a DoRA module made plain.")
]
PlotOption = Annotated[Path | None, typer.Option(help="With --plan: PNG of the least cosines.")]


def compose(
    adapters: Annotated[list[str] | None, typer.Argument(help="NAME[=WEIGHT] …")] = None,
    output: OutputOption = None,
    method: MethodOption = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file with all of it.")] = None,
    rank: Annotated[int | None, typer.Option(help="Greatest rank of a module.")] = None,
    energy: Annotated[float | None, typer.Option(help="Share of the energy kept.")] = None,
    density: Annotated[float | None, typer.Option(help="Share of the entries kept.")] = None,
    param: ParamOption = None,
    seed: Annotated[int | None, typer.Option(help="For methods that draw; 0 if not given.")] = None,
    description: Annotated[str, typer.Option(help="One line on what it does.")] = "",
    allow_license_conflict: ConflictFlag = False,
    base: WeightsOption = None,
    bake_rank: BakeRankOption = 64,
    grams: GramsOption = None,
    methods: Annotated[bool, typer.Option("--methods", help="List the methods.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Look, make nothing.")] = False,
    plot: PlotOption = None,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make a new versioned adapter from others, without the base model.

    Example: adaptrix compose math=0.6 code=0.4 -o mix
    """
    out = Output(as_json=as_json, quiet=quiet)
    if methods:
        list_methods(out)
        return
    written = _read(recipe, adapters or [])
    inputs = ingredients(written, adapters or [], gram_files(grams or []))
    if plan:
        with _registry(home) as registry:
            found = registry.plan(inputs, rank=rank, base=base_weights(base), bake_rank=bake_rank)
        print_plan(found, [entry.reference for entry in inputs], plot, out)
        return
    if output is None:
        raise UsageError("no name for the result", where="compose", hint="Pass -o NAME.")
    given = _parameters(rank, energy, density, param or [])
    with _registry(home) as registry:
        report = registry.compose(
            inputs,
            output=output,
            method=method or (written.method if written else "linear"),
            parameters={**(written.parameters if written else {}), **given},
            seed=seed if seed is not None else written.seed if written else 0,
            description=description,
            allow_license_conflict=allow_license_conflict,
            base=base_weights(base),
            bake_rank=bake_rank,
            dry_run=dry_run,
        )
    print_report(report, out)


def rebase(
    reference: Annotated[str, typer.Argument(help="NAME[:TAG] of a composition.")],
    base: WeightsOption = None,
    grams: GramsOption = None,
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make a composition again from what its parents' names point to now.

    Example: adaptrix rebase mix
    """
    with _registry(home) as registry:
        report = registry.rebase(
            reference,
            base=base_weights(base),
            grams=gram_files(grams or []),
            dry_run=dry_run,
        )
    print_report(report, Output(as_json=as_json, quiet=quiet))


def print_plan(found: Plan, names: Sequence[str], plot: Path | None, out: Output) -> None:
    """Pairs, a heat map of the least cosines, the loss at a rank, one recommendation."""
    from adaptrix.cli.plan_lines import plan_lines, write_plot  # noqa: PLC0415

    fields = {name: getattr(found, name) for name in found.__slots__}
    lines = plan_lines(found, names)
    out.document({"adapters": list(names), **fields}, lines=lines, ids=[found.method])
    if plot is not None:
        write_plot(found, plot)


def list_methods(out: Output) -> None:
    """Every method with its parameters, defaults and source."""
    from adaptrix.compose.methods import METHODS, spaces  # noqa: PLC0415 - imports torch

    rows = [
        {
            "name": method.name,
            "summary": method.summary,
            "reference": method.reference,
            "spaces": tuple(space for space in spaces(method) if space != "factor"),
            "parameters": [
                {"name": p.name, "summary": p.summary, "default": p.default}
                for p in method.parameters
            ],
        }
        for method in METHODS.values()
    ]
    lines = []
    for method in METHODS.values():
        lines += [f"{method.name:16} {method.summary}", f"    {method.reference}"]
        lines += [f"    --param {p.name}: {p.summary}" + (
            f" ({p.default:g})" if p.default is not None else "") for p in method.parameters]  # fmt: skip
    lines.append("Methods that look at entries take NAME@SPACE: canonical, core, dense.")
    lines.append("pico+NAME weakens the directions that all updates share before NAME merges.")
    out.document({"rows": rows}, lines=lines, ids=list(METHODS))


def _registry(home: Path | None) -> Registry:
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    return Registry(home)


def _parameters(
    rank: int | None, energy: float | None, density: float | None, more: Sequence[str]
) -> Mapping[str, float]:
    named = {"rank": rank, "energy": energy, "density": density}
    found = {name: float(value) for name, value in named.items() if value is not None}
    for text in more:
        name, value = setting(text)
        if name in found:
            raise UsageError("a parameter is given twice", where=name)
        found[name] = value
    return found


def _read(recipe: Path | None, adapters: Sequence[str]) -> RecipeFile | None:
    if recipe is None:
        if not adapters:
            raise UsageError("give at least one adapter", where="compose")
        return None
    if adapters:
        raise UsageError("adapters stand in the recipe or on the line, not both", where="compose")
    from adaptrix.registry.recipe_files import read_recipe  # noqa: PLC0415 - yaml

    return read_recipe(recipe)
