"""The configuration of the base that ``--base`` names: a folder's, a file's, or a repository's."""

from __future__ import annotations

import json
import re
from pathlib import Path

from adaptrix.convert.architecture.known_bases import known_base
from adaptrix.registry.settings import Settings
from adaptrix.schema.canonical import Json
from adaptrix.schema.errors import FormatError, NotFound

MAX_CONFIG_BYTES = 4 << 20
_ON_A_HUB = re.compile(r"(?:hf:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def config_path(base: str) -> Path | None:
    """Where the ``config.json`` of ``base`` is; None for a known base, of which none is needed.

    Raises:
        NotFound: no such folder, file or repository.
        RemoteError: the repository cannot be asked.
    """
    from adaptrix.samples import BASE_DIR, BASE_NAME  # noqa: PLC0415

    if base in {BASE_NAME, "sample"}:
        return BASE_DIR / "config.json"
    path = Path(base).expanduser()
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        return path
    if base.startswith((".", "/", "~")) or base.endswith(".json"):
        raise NotFound("no config.json of a base model there", where=base)
    if known_base(base) is not None:
        return None
    match = _ON_A_HUB.fullmatch(base)
    if match is None:
        # Left unread, a mistyped base would look like one that fits.
        raise NotFound(
            "no such base model",
            where=repr(base),
            hint="Give a folder, a config.json, a Hub id (org/name), or 'sample' for the bundled model.",
        )
    return _fetched(match[1], match[2])


def _fetched(repository: str, revision: str | None) -> Path:
    """``config.json`` of a repository, through the Hub's own cache."""
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - 0.3 s of imports

    from adaptrix.hub.huggingface import translated  # noqa: PLC0415

    offline = Settings.from_environment(None).offline
    with translated(f"--base {repository}", token=False):
        found = hf_hub_download(
            repository, "config.json", revision=revision, local_files_only=offline
        )
    return Path(found)


def read_config(path: Path) -> dict[str, Json]:
    """A ``config.json``.

    Raises:
        FormatError: too large, no JSON, or no object.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise FormatError("too large for a configuration", where=str(path))
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise FormatError("expected an object", where=str(path))
    return document
