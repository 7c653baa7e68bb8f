"""What the loader's measurements share: clocks, memory, quiet, and PEFT."""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Report = dict[str, float]
FOLDER = Path("build/phi2")
IDS = [[(7 * n) % 1000 for n in range(16)]]


def missing(base: Path) -> bool:
    """Whether there is no checkpoint to measure, which is then said."""
    if (base / "model.safetensors.index.json").is_file():
        return False
    print(f"skipped: no checkpoint in {base}; python benchmarks/phi2_checkpoint.py {base.parent}")
    return True


def peak_bytes() -> int:
    """Largest resident size of this process so far, by the kernel."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def warm(paths: list[Path], memory_bytes: int) -> None:
    """Bring the files into the page cache, and let the host back the memory."""
    chunk = bytearray(8 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(chunk):
                pass
    room = mmap.mmap(-1, memory_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(mmap.MADV_HUGEPAGE)
    for begin in range(0, memory_bytes, mmap.PAGESIZE):
        room[begin] = 1
    room.close()


@contextmanager
def timed(report: Report, name: str) -> Iterator[None]:
    """Add the seconds spent in the block: by the clock, and by all cores together.

    On a machine that others use too, the second says more.
    """
    started, busy = time.perf_counter(), time.process_time()
    yield
    report[name] = time.perf_counter() - started
    report[f"{name}_cpu"] = time.process_time() - busy


def in_todays_naming(adapter: Path) -> Path:
    """The copy of an adapter whose names PEFT finds in today's class."""
    renamed = adapter.with_name(f"{adapter.name}-l4")
    return renamed if renamed.is_dir() else adapter


def peft_model(base: Path, adapters: list[Path], dtype: Any = "float16") -> Any:
    """PEFT with every adapter loaded."""
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    tuned = PeftModel.from_pretrained(model, str(adapters[0]), adapter_name=adapters[0].name)
    for path in adapters[1:]:
        tuned.load_adapter(str(path), adapter_name=path.name)
    return tuned


def without_tokenizer() -> None:
    """The random checkpoint has none, and neither tool's time is about one."""
    from adaptrix.loader import base as loading  # noqa: PLC0415

    loading.load_tokenizer = lambda _place: None


def logits(model: Any, length: int = 16) -> Any:
    """Logits of a fixed row of token ids."""
    import torch  # noqa: PLC0415

    ids = torch.arange(length).reshape(1, length) * 7 % 1000
    with torch.inference_mode():
        return model(input_ids=ids, logits_to_keep=1).logits


def decode(report: Report, model: Any) -> None:
    """Seconds a token, greedy, after the first."""
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        out = model(input_ids=torch.tensor(IDS), use_cache=True, logits_to_keep=1)
        with timed(report, "decode_8"):
            for _ in range(8):
                token = out.logits[:, -1:].argmax(-1)
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)


def quiet() -> None:
    """Keep transformers' warnings and bars off the terminal."""
    from transformers import logging  # noqa: PLC0415

    logging.set_verbosity_error()
    logging.disable_progress_bar()
