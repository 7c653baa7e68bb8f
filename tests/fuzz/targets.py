"""What is fuzzed: every reader, from bytes to the report, with seeds that are real files."""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict

import numpy as np

from adaptrix.convert.arrays import is_finite
from adaptrix.convert.container import open_container
from adaptrix.convert.gguf_file import gguf_bytes
from adaptrix.convert.patterns import Pattern
from adaptrix.convert.reading import read_adapter
from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.schema.errors import FormatError, PolicyRefused
from adaptrix.schema.tensor import DType, LazyTensor

DOCUMENTED = (FormatError, PolicyRefused)
MOST_BYTES = 16 << 20
"""Bytes of one tensor that are looked at: a fuzzer must not wait for a lie of gigabytes."""
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
    "rank_pattern": {"v_proj": 4}, "alpha_pattern": {}, "bias": "none", "use_rslora": False,
    "base_model_name_or_path": "me/llama", "task_type": "CAUSAL_LM", "modules_to_save": None,
    "layers_to_transform": [0], "layers_pattern": "layers", "fan_in_fan_out": False,
}  # fmt: skip


def lazy(array: np.ndarray, dtype: DType) -> LazyTensor:
    data = array.tobytes()
    return LazyTensor(dtype=dtype, shape=array.shape, source="seed", load=lambda: data)


TENSORS = {
    f"{PREFIX}.lora_A.weight": lazy(np.full((2, 8), 0.5, "<f4"), DType.F32),
    f"{PREFIX}.lora_B.weight": lazy(np.full((8, 2), 0.5, "<f4"), DType.F32),
}


def encoded(file) -> bytes:
    return file.header + b"".join(bytes(chunk) for chunk in file.chunks)


def npz() -> bytes:
    whole = io.BytesIO()
    arrays = {name: np.full((2, 8), 0.5, "<f4") for name in ("layers.0.q.lora_a", "b")}
    np.savez(whole, **arrays)
    return whole.getvalue()


def torch_zip() -> bytes:
    """A torch archive as ``torch.save`` lays it out, without torch."""
    import torch

    whole = io.BytesIO()
    torch.save({name: torch.full(t.shape, 0.5) for name, t in TENSORS.items()}, whole)
    return whole.getvalue()


def torch_stream() -> bytes:
    import torch

    whole = io.BytesIO()
    found = OrderedDict((name, torch.full(t.shape, 0.5)) for name, t in TENSORS.items())
    torch.save(found, whole, _use_new_zipfile_serialization=False)
    return whole.getvalue()


GGUF_FIELDS = {
    "general.architecture": "phi2", "general.type": "adapter", "adapter.type": "lora",
    "adapter.lora.alpha": 4.0, "list": ["a", "b"], "flag": True, "numbers": [1, 2],
}  # fmt: skip


def seeds(target: str) -> list[bytes]:
    """Files from which the mutations of a target start."""
    if target == "safetensors":
        return [encoded(safetensors_bytes(TENSORS, {"format": "pt"}))]
    if target == "gguf":
        parts = {
            "blk.0.attn_q.weight.lora_a": TENSORS[f"{PREFIX}.lora_A.weight"],
            "blk.0.attn_q.weight.lora_b": TENSORS[f"{PREFIX}.lora_B.weight"],
        }
        return [encoded(gguf_bytes(GGUF_FIELDS, parts))]
    if target == "npz":
        return [npz()]
    if target == "pickle":
        plain = {"a": [1, 2.5, "x", None, True, (1, 2)], "b": {1: b"y"}}
        return [torch_zip(), torch_stream(), *(pickle.dumps(plain, p) for p in range(6))]
    if target == "pattern":
        return [rb"(.*\.)?(q|v)_proj", rb"layers\.[0-9]{1,2}\.(mlp|self_attn)\.\w+$", rb"a+b*c?"]
    return [json.dumps(CONFIG).encode()]


NAMES = {
    "safetensors": "adapter_model.safetensors", "gguf": "adapter.gguf", "npz": "adapters.npz",
    "pickle": "adapter_model.bin",
}  # fmt: skip
TARGETS = (*NAMES, "config", "pattern")
_WEIGHTS = encoded(safetensors_bytes(TENSORS))


def attempt(target: str, data: bytes) -> str:
    """Read ``data`` as ``target``; the outcome, or an exception that nobody documents."""
    if target == "pattern":
        return _match(data.decode("utf-8", "replace"))
    files = {"adapter_model.safetensors": _WEIGHTS, "adapter_config.json": data}
    if target != "config":
        config = json.dumps(CONFIG).encode()
        files = {NAMES[target]: data, "adapter_config.json": config}
    sources = {name: MemorySource(name, content) for name, content in files.items()}
    try:
        if target != "config":
            opened = open_container(sources[NAMES[target]])
            for tensor in opened.tensors.values() if opened else ():
                if tensor.size_bytes <= MOST_BYTES:
                    is_finite(tensor)
        reading = read_adapter(AdapterFiles(location="fuzz", files=sources))
    except DOCUMENTED as error:
        return error.code
    found = reading.inspection
    account = found.tensors
    assert account.total == account.used + len(account.ignored) + len(account.unknown)
    assert found.convertible == (reading.adapter is not None)
    return "read"


def _match(text: str) -> str:
    try:
        pattern = Pattern(text)
    except FormatError as error:
        return error.code
    pattern.fullmatch("model.layers.10.self_attn.q_proj")
    pattern.matches_suffix("a" * 200 + ".q_proj")
    return "read"
