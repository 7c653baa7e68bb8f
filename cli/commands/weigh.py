"""Learn the weights of a composition from examples; collect what RegMean weighs by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptrix.cli.choosing import choose
from adaptrix.cli.composing import learned_recipe
from adaptrix.cli.options import BaseOption, HomeOption, JsonFlag, QuietFlag, ReferenceArgument
from adaptrix.cli.output import Output, table
from adaptrix.cli.parsing import weighted
from adaptrix.cli.quieting import quiet_libraries

ExamplesOption = Annotated[
    Path, typer.Option("--examples", help="JSON lines with prompt and answer.")
]


def weigh(
    adapters: Annotated[list[str], typer.Argument(help="NAME[=WEIGHT to start from] …")],
    examples: ExamplesOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Recipe file to write.")],
    base: BaseOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 100,
    rate: Annotated[float, typer.Option(min=1e-6, max=1.0, help="Size of a step.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Of the order of the examples.")] = 0,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Learn one weight per adapter and layer; the base and all factors are frozen.

    What is written is a recipe for compose: an exact sum with these weights.

    Example: adaptrix weigh math code --examples both.jsonl -o mix.yaml
    """
    out = Output(as_json=as_json, quiet=quiet)
    from adaptrix.registry.recipe_files import recipe_text  # noqa: PLC0415 - yaml
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        chosen = choose(registry, [[weighted(text) for text in adapters]], base)
        quiet_libraries()
        from adaptrix.loader.base import load_base  # noqa: PLC0415 - loads a model
        from adaptrix.loader.examples import read_examples  # noqa: PLC0415
        from adaptrix.loader.learning import learn_weights  # noqa: PLC0415

        shown = read_examples(examples, answers=True)
        found = learn_weights(
            load_base(chosen.base), chosen.adapters, shown, steps=steps, rate=rate, seed=seed
        )
    output.write_text(recipe_text(learned_recipe(found)), encoding="utf-8")
    rows = [
        {"adapter": name, "layer": layer, "weight": weight}
        for name, weights in found.weights.items()
        for layer, weight in weights.items()
    ]
    cells = [(row["adapter"], _layer(row["layer"]), f"{row['weight']:.4f}") for row in rows]
    after = f"loss per token {found.loss_before:.4f} before, {found.loss_after:.4f} after"
    out.document(
        {"recipe": str(output), "examples": len(shown), "steps": found.steps, "seed": seed,
         "loss_before": found.loss_before, "loss_after": found.loss_after, "rows": rows},
        lines=[*table(("ADAPTER", "LAYER", "WEIGHT"), cells), "", after], ids=[str(output)],
    )  # fmt: skip
    out.hint(f"adaptrix compose --recipe {output} -o NAME")


def _layer(layer: object) -> str:
    return "others" if layer is None else str(layer)


def grams(
    reference: ReferenceArgument,
    examples: ExamplesOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write.")],
    others: Annotated[
        list[str] | None,
        typer.Option("--with", help="Other adapter of the composition: its modules too."),
    ] = None,
    widest: Annotated[
        int, typer.Option(min=1, help="Wider modules give the diagonal alone.")
    ] = 4096,
    base: BaseOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Collect the Gram matrices of modules' inputs, for compose --method regmean.

    The model, with the adapter in effect, reads texts of the adapter's own task.

    Example: adaptrix grams math --with code --examples math.jsonl -o math.grams
    """
    from adaptrix.registry.registry import Registry  # noqa: PLC0415

    with Registry(home) as registry:
        chosen = choose(registry, [[(reference, 1.0)]], base)
        along = [registry.open(name).adapter for name in others or []]
        quiet_libraries()
        from adaptrix.loader.examples import read_examples  # noqa: PLC0415 - loads a model
        from adaptrix.loader.grams import input_grams, write_grams  # noqa: PLC0415
        from adaptrix.loader.session import Session  # noqa: PLC0415

        shown = read_examples(examples, answers=False)
        everyone = [chosen.adapters[0].adapter, *along]
        paths = sorted({module.path for adapter in everyone for module in adapter.modules})
        session = Session.open(chosen.base, chosen.adapters)
        found = input_grams(session, shown, paths, widest=widest)
        size_bytes = write_grams(found, output)
    diagonal = sum(gram.dim() == 1 for gram in found.values())
    line = (
        f"{output}: {len(paths)} modules, of {diagonal} the diagonal alone; "
        f"{len(shown)} examples, {size_bytes} bytes"
    )
    Output(as_json=as_json, quiet=quiet).document(
        {"path": str(output), "modules": len(paths), "diagonal": diagonal,
         "examples": len(shown), "bytes": size_bytes},
        lines=[line],
        ids=[str(output)],
    )  # fmt: skip
