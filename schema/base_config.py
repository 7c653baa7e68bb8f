"""The digest of a base model's ``config.json``: which base an adapter was checked against."""

from __future__ import annotations

from collections.abc import Mapping

from adaptrix.schema.canonical import Json, canonical_json, float_text
from adaptrix.schema.digest import Digest

# What a library notes about a file when it writes or reads it, and the model does not depend
# on: the same base saved again by the next release is the same base.
_BOOKKEEPING = frozenset({"_name_or_path", "_commit_hash", "transformers_version"})


def config_digest(config: Mapping[str, Json]) -> Digest:
    """Digest of ``config`` as canonical JSON, floats as text, without a library's own notes.

    Raises:
        FormatError: a text in it is not valid Unicode.
    """
    kept = {key: value for key, value in config.items() if key not in _BOOKKEEPING}
    return Digest.of(canonical_json(_without_floats(kept)))


def _without_floats(value: object) -> Json:
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, dict):
        return {str(key): _without_floats(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_floats(entry) for entry in value]
    return value if isinstance(value, bool | int | str) else None
