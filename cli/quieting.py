"""Libraries that talk; apart from ``running``, which loads what only a run needs."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Keep the libraries' own bars and advice off stderr."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Else a base saved as a pickle sets off a thread that asks the Hub for another one.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    for name in ("torchao", "torch.utils._pytree"):
        # Where torchao is installed, transformers imports it, and it tells what it lacks.
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()
