"""Run a base model with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptrix.cli import running
from adaptrix.cli.options import BaseOption, DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output
from adaptrix.cli.parsing import weighted_list
from adaptrix.schema.errors import UsageError


def run(
    adapters: Annotated[
        str | None, typer.Option("--adapters", help="A[=w],B[=w]; none runs --base alone.")
    ] = None,
    base: BaseOption = None,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", help="Text, or - for stdin.")
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", help="JSONL file (- for stdin), each line with its own adapters."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that run together.")] = 8,
    mode: Annotated[
        str | None, typer.Option(help="merged or attached; merged unless a batch mixes adapters.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Base, each, and all.")] = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the merged model to a new folder.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Upper bound of new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus mass.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Only the likeliest so many; 0 for all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed for sampling.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends it; repeatable.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float16, bfloat16, float32.")] = "auto",
    dry_run: DryRunFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Merge adapters into their base model, or attach them, and generate.

    Without a prompt on a terminal: a chat. Exit status follows the self-check.
    With --save and no prompt it only writes the model, which transformers loads.
    A line of --batch is {"prompt": …} or {"messages": […]}, and what differs from the
    options: adapters, weights, max_new_tokens, temperature, top_p, top_k, seed, stop, id.

    Example: adaptrix run --adapters math,code=0.8 -p "problem : …"
    """
    if batch is not None and (prompt is not None or compare):
        raise UsageError("--batch excludes --prompt and --compare", where="run")
    if save is not None and (batch is not None or compare or mode == "attached"):
        raise UsageError("--save excludes --batch, --compare and --mode attached", where="run")
    wanted = [] if adapters is None else weighted_list(adapters)
    out = Output(as_json=as_json, quiet=quiet)
    text, silent = None, dry_run or (save is not None and prompt is None)
    if batch is None and not silent:
        text = running.read_prompt(prompt, chat_possible=out.human and not compare)
    settings = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p,
        "top_k": top_k, "seed": seed, "stop": tuple(stop or ()),
    }  # fmt: skip
    request = running.RunRequest(
        adapters=wanted, base=base, prompt=text, batch=batch, batch_size=batch_size, mode=mode,
        compare=compare, device=device, dtype=dtype, settings=settings, dry_run=dry_run, save=save,
    )  # fmt: skip
    raise typer.Exit(running.execute(request, home, out))
