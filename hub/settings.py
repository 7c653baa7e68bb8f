"""Settings of the Hub client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from adaptrix.schema.errors import UsageError

DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Where the Hub is and how patient to be with it.

    Attributes:
        endpoint: Base URL, without a slash at the end.
        token: Access token, or None for what huggingface_hub finds by itself.
        timeout_s: Longest silence on a connection.
        attempts: Attempts per file.
        backoff_s: First pause; it doubles each time.
        longest_pause_s: Cap of a pause, also of one that the server asks for.
    """

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = None
    timeout_s: float = 30.0
    attempts: int = 6
    backoff_s: float = 0.5
    longest_pause_s: float = 60.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> HubSettings:
        """Read ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_DOWNLOAD_TIMEOUT``, ``ADAPTRIX_HUB_*``.

        Raises:
            UsageError: a value that makes no sense.
        """
        env = os.environ if environment is None else environment
        endpoint = (env.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        if not endpoint.startswith(("http://", "https://")):
            raise UsageError(f"expected http(s)://…, got {endpoint!r}", where="HF_ENDPOINT")
        return cls(
            endpoint=endpoint,
            token=env.get("HF_TOKEN") or None,
            timeout_s=_number(env, "HF_HUB_DOWNLOAD_TIMEOUT", 30.0),
            attempts=int(_number(env, "ADAPTRIX_HUB_ATTEMPTS", 6)),
            backoff_s=_number(env, "ADAPTRIX_HUB_BACKOFF", 0.5),
        )


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"expected a number, got {text!r}", where=name) from error
    if not 0 < value < 1e6:
        raise UsageError(f"expected a positive number, got {text!r}", where=name)
    return value
