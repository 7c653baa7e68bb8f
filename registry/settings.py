"""Settings: flag before environment before default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adaptrix.schema.errors import UsageError

_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a registry needs to know of its surroundings.

    Attributes:
        home: Folder of the registry.
        offline: Whether the network is off limits.
        remote: Name of the remote that is meant where none is given; ``""`` for none.
        token: Secret for that remote, in place of a stored one; ``""`` for none.
    """

    home: Path
    offline: bool = False
    remote: str = ""
    token: str = field(default="", repr=False)

    @classmethod
    def from_environment(
        cls,
        home: Path | None = None,
        *,
        offline: bool | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Settings:
        """Read ``ADAPTRIX_HOME|OFFLINE|REMOTE|TOKEN``, ``HF_HUB_OFFLINE``, ``XDG_DATA_HOME``.

        Raises:
            UsageError: ``ADAPTRIX_HOME`` is set and empty.
        """
        env = os.environ if environment is None else environment
        if offline is None:
            offline = any(
                env.get(name, "").lower() in _TRUE
                for name in ("ADAPTRIX_OFFLINE", "HF_HUB_OFFLINE")
            )
        return cls(
            home=(home or _default_home(env)).expanduser(),
            offline=offline,
            remote=env.get("ADAPTRIX_REMOTE", ""),
            token=env.get("ADAPTRIX_TOKEN", ""),
        )


def _default_home(env: Mapping[str, str]) -> Path:
    if "ADAPTRIX_HOME" in env:
        if not env["ADAPTRIX_HOME"]:
            raise UsageError("ADAPTRIX_HOME is empty", where="environment")
        return Path(env["ADAPTRIX_HOME"])
    data = env.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data) / "adaptrix"
