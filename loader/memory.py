"""How much memory was needed, by the operating system and by the device."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    if _STATUS.is_file():
        # ru_maxrss of a child begins at what its parent had when it forked.
        for line in _STATUS.read_text("ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_memory_bytes(device: torch.device) -> int | None:
    """Largest size of all tensors on a GPU so far; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
