"""Every hostile file of docs/hostile-files.md, made from nothing.

A case writes an adapter's folder and says what each verb must end with. Bytes are laid out
by hand: no library writes such files.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
    "base_model_name_or_path": "someone/llama", "task_type": "CAUSAL_LM",
}  # fmt: skip
PAIR = {f"{PREFIX}.lora_A.weight": (2, 8), f"{PREFIX}.lora_B.weight": (8, 2)}
CODES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I32": "<i4", "BOOL": "?", "U8": "u1",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hostile source.

    Attributes:
        item: Number in docs/hostile-files.md.
        name: What is wrong with it.
        make: Writes it into an empty folder.
        code: Error or problem code that names it.
        status: Exit status of ``pull`` and ``convert``.
        inspect: Exit status of ``inspect``, where it differs.
    """

    item: int
    name: str
    make: Callable[[Path], object]
    code: str
    status: int = 2
    inspect: int | None = None


def raw(header: object, body: bytes = b"", *, pad: int = 0) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def weights(data: bytes, config: object = CONFIG, name: str = "adapter_model.safetensors"):
    """A folder with these bytes as weights."""

    def make(folder: Path) -> None:
        if config is not None:
            text = config if isinstance(config, bytes) else json.dumps(config).encode()
            (folder / "adapter_config.json").write_bytes(text)
        (folder / name).write_bytes(data)

    return make


def saved(arrays: dict, dtype: str = "F32", metadata: object = None) -> bytes:
    """A well-formed safetensors file."""
    header: dict = {} if metadata is None else {"__metadata__": metadata}
    body = b""
    for name, array in arrays.items():
        data = np.ascontiguousarray(array, CODES[dtype]).tobytes()
        header[name] = entry(dtype, list(array.shape), len(body), len(body) + len(data))
        body += data
    return raw(header, body)


def factors(value: float = 0.5, **changes: object) -> dict:
    return {**{n: np.full(s, value) for n, s in PAIR.items()}, **changes}


def good(config: object = CONFIG, **extra: object):
    return weights(saved(factors(**extra)), config)


def configured(**changes: object):
    return good({**CONFIG, **changes})


def one(dtype: str = "F32", shape: object = (2,), begin: object = 0, end: object = 8, **more):
    fields = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}
    return raw({"a": fields}, bytes(8))


def torch_zip(state: object) -> bytes:
    whole = io.BytesIO()
    torch.save(state, whole)
    return whole.getvalue()


def legacy(state: object) -> bytes:
    whole = io.BytesIO()
    torch.save(state, whole, _use_new_zipfile_serialization=False)
    return whole.getvalue()


def state(**more: object) -> dict:
    return {**{n: torch.full(s, 0.5) for n, s in PAIR.items()}, **more}


class Evil:
    """Leaves a canary where it is built."""

    def __reduce__(self):
        return os.system, ("touch CANARY",)


def evil_zip() -> bytes:
    """A torch archive whose pickle calls a function."""
    source, target = io.BytesIO(torch_zip(state())), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = pickle.dumps(Evil()) if name.endswith("data.pkl") else old.read(name)
            new.writestr(name, data)
    return target.getvalue()


def old_tar() -> bytes:
    """The layout of torch before 0.1.10."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Evil())
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return whole.getvalue()


def stride_zero(count: int) -> bytes:
    """A tensor of ``count`` elements over a storage of one."""
    found = state()
    found[f"{PREFIX}.lora_A.weight"] = torch.zeros(1).expand(count // 8, 8)
    return torch_zip(found)


def bomb() -> bytes:
    """A deflated storage that unpacks to 400 MB."""
    source, target = io.BytesIO(torch_zip(state())), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            big = name.endswith("data/0")
            data = bytes(400 << 20) if big else old.read(name)
            kind = zipfile.ZIP_DEFLATED if big else zipfile.ZIP_STORED
            new.writestr(name, data, compress_type=kind)
    return target.getvalue()


def nested_json(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def sparse(path: Path, size: int, head: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)


def huge_header(folder: Path) -> None:
    """99 MB of blanks, as a hole in the file."""
    weights(b"")(folder)
    size = 99 << 20
    sparse(folder / "adapter_model.safetensors", size + 8, struct.pack("<Q", size) + b"{")


def huge_config(folder: Path) -> None:
    good()(folder)
    sparse(folder / "adapter_config.json", 1 << 30, b"{")


def smuggled(*names: str, config: object = CONFIG):
    more = {n: np.ones((16, 8)) for n in names}
    return weights(saved({**factors(), **more}), config)


def many(count: int) -> bytes:
    return raw({f"t{n}": entry("F32", [0], 0, 0) for n in range(count)})


def doubled(times: int) -> list:
    """A short pickle of a list with ``2^times`` leaves."""
    found: list = []
    for _ in range(times):
        found = [found, found]
    return found


HOSTILE_REGEX = "(([a-z_.0-9]+)+)+!"
A, B = PAIR
