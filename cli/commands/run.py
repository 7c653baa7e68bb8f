"""Run a base model with adapters."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptrix.cli import running
from adaptrix.cli.options import BaseOption, DryRunFlag, HomeOption, JsonFlag, QuietFlag
from adaptrix.cli.output import Output
from adaptrix.cli.parsing import weighted_list


def run(
    adapters: Annotated[str, typer.Option("--adapters", help="A[=w],B[=w]")],
    base: BaseOption = None,
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", help="Text, or - for stdin.")
    ] = None,
    mode: Annotated[str, typer.Option(help="merged or attached.")] = "merged",
    compare: Annotated[bool, typer.Option("--compare", help="Base, each, and all.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Upper bound of new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus mass.")] = 1.0,
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

    Example: adaptrix run --adapters math,code=0.8 -p "problem : …"
    """
    wanted = weighted_list(adapters)
    out = Output(as_json=as_json, quiet=quiet)
    chat_possible = out.human and not compare
    text = None if dry_run else running.read_prompt(prompt, chat_possible=chat_possible)
    request = running.RunRequest(
        adapters=wanted, base=base, prompt=text, mode=mode, compare=compare, device=device,
        dtype=dtype, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
        seed=seed, stop=tuple(stop or ()), dry_run=dry_run,
    )  # fmt: skip
    status = running.execute(request, home, out)
    raise typer.Exit(status)
