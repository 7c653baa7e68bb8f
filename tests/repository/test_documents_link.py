"""The written documents: their links lead somewhere, and nothing that exists is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adaptrix.cli.commands import COMMANDS, LATER
from adaptrix.convert.formats import FORMATS
from adaptrix.convert.writing import TARGETS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "samples").glob("*.md")]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text("utf-8"))
    inside = [
        target for target in targets if "://" not in target and not target.startswith("mailto:")
    ]
    assert [target for target in inside if not (page.parent / target).exists()] == []


def test_every_page_is_listed():
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {name for name in pages if f"({name}" not in index} == set()


def test_the_readme_names_every_command_and_every_format():
    commands = {function.__name__ for function in (*COMMANDS, *LATER)}
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    assert {name for name in commands if f"`{name}" not in table} == set()
    formats = README.partition("## What it reads and writes")[2].partition("\n## ")[0]
    assert {name for name in TARGETS if f"`{name}`" not in formats} == set()
    words = re.sub(r"[^a-z0-9]", "", formats.lower())
    read = {form.name for form in FORMATS} & {
        "peft", "mlx", "mlx-vlm", "gguf", "torchtune", "litgpt", "loralib", "nemo", "tunix",
        "adapterhub", "lora-vit", "kohya", "lycoris", "diffusers", "xlabs", "comfyui", "lora_diffusion",
    }  # fmt: skip
    assert {name for name in read if re.sub(r"[^a-z0-9]", "", name) not in words} == set()


def test_contributing_names_every_target():
    named = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert targets is not None
    assert [name for name in targets[1].split() if f"`make {name}`" not in named] == []
