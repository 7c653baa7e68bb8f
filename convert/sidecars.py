"""Settings that stand beside the weights: YAML recipes and ``hyperparameters.yaml``.

LitGPT, torchtune and NeMo keep rank and alpha there, not in the weight file. Only scalars
and short lists of scalars are kept, by dotted name; nothing is constructed or resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from adaptrix.convert.source import ByteSource
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError

SUFFIXES = {".yaml", ".yml"}
MAX_BYTES = 64 << 10
_MAX_ENTRIES = 4096


def read_settings(sources: Iterable[ByteSource]) -> dict[str, Json]:
    """Scalars of all YAML files among ``sources`` as ``file:dotted.name``.

    Most YAML beside an adapter belongs to something else: what cannot be read says
    nothing, and a format that lacks its alpha then asks for it.
    """
    found: dict[str, Json] = {}
    for source in sources:
        where = PurePosixPath(source.name)
        if where.suffix.lower() in SUFFIXES and source.size_bytes <= MAX_BYTES:
            for name, value in _flat(_document(source)).items():
                found[f"{where.name}:{name}"] = value
    return found


def setting(settings: Mapping[str, Json], *names: str) -> Json:
    """The value of the first of ``names`` that is there; None when two files disagree.

    A name is the end of a dotted name: ``lora_alpha`` finds ``model.lora_alpha``.
    """
    for name in names:
        values = [
            value
            for full, value in settings.items()
            if f".{full.partition(':')[2]}".endswith(f".{name}") and value is not None
        ]
        if values:
            return values[0] if all(value == values[0] for value in values) else None
    return None


def _document(source: ByteSource) -> object:
    # Imported late: most adapters come without YAML, and the parser is slow to load.
    import yaml  # noqa: PLC0415

    try:
        text = bytes(source.read(0, source.size_bytes)).decode("utf-8-sig")
        return yaml.load(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError, FormatError):
        return None


def _flat(root: object) -> dict[str, Json]:
    found: dict[str, Json] = {}
    left: list[tuple[str, object]] = [("", root)]
    for _ in range(_MAX_ENTRIES):  # aliases can repeat a small document without end
        if not left:
            break
        name, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{name}.{key}" if name else str(key), child) for key, child in value.items()]
        elif value is None or isinstance(value, str | bool | int | float):
            found[name] = value
        elif isinstance(value, list) and len(value) < 64:
            plain = [e for e in value if e is None or isinstance(e, str | bool | int | float)]
            if len(plain) == len(value):
                found[name] = list(plain)
    return found
