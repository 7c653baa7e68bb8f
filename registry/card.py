"""The model card: its text, and what its front matter says of licence and origin."""

from __future__ import annotations

from dataclasses import dataclass

from adaptrix.convert.source import AdapterFiles

MAX_CARD_BYTES = 1 << 20
MAX_FRONT_MATTER = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a README says.

    Attributes:
        text: The whole file, ``""`` when there is none.
        license: SPDX-like name, lower case.
        description: First line of prose in the front matter's ``description``.
        training_data: Names under ``datasets``.
    """

    text: str = ""
    license: str = ""
    description: str = ""
    training_data: str = ""


def read_card(files: AdapterFiles) -> Card:
    """Read ``README.md``; a broken or hostile front matter counts as none."""
    source = next((s for n, s in files.files.items() if n.rpartition("/")[2] == "README.md"), None)
    if source is None or source.size_bytes > MAX_CARD_BYTES:
        return Card()
    raw = source.read(0, source.size_bytes)
    text = bytes(raw).decode("utf-8", errors="replace").replace("\r\n", "\n")
    matter = _front_matter(text)
    datasets = matter.get("datasets")
    names = datasets if isinstance(datasets, list) else [datasets] if datasets else []
    return Card(
        text=text,
        license=_line(matter.get("license")),
        description=_line(matter.get("description")),
        training_data=", ".join(_line(name) for name in names),
    )


def _front_matter(text: str) -> dict[str, object]:
    if not text.startswith("---\n"):
        return {}
    head, end, _ = text[4 : MAX_FRONT_MATTER + 4].partition("\n---")
    # Anchors and aliases have no use here, and a few lines of them unfold to gigabytes.
    if not end or "&" in head or "*" in head:
        return {}
    import yaml  # noqa: PLC0415 - slow to load, and few verbs read a card

    try:
        found = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _line(value: object) -> str:
    if not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).split())[:500]
