"""Makers of pickles and archives, good and hostile, and readers of them."""

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from adaptrix.convert.container import open_container
from adaptrix.convert.source import MemorySource
from adaptrix.schema.errors import AdaptrixError

LAYOUTS = ["zip", "stream", "plain"]


def saved(value, layout="zip", protocol=2):
    if layout == "plain":
        return pickle.dumps(value, protocol=protocol)
    out = io.BytesIO()
    torch.save(value, out, pickle_protocol=protocol, _use_new_zipfile_serialization=layout == "zip")
    return out.getvalue()


def read(content, name="adapter_model.bin"):
    file = open_container(MemorySource(name, content))
    assert file is None or file.kind in ("pickle", "npz")
    return file


def read_all(content, name):
    file = read(content, name)
    for tensor in file.tensors.values() if file else ():
        tensor.load()


def refusal(content, name="adapter_model.bin"):
    with pytest.raises(AdaptrixError) as caught:
        read_all(content, name)
    assert str(caught.value).isprintable()
    return caught.value


class Call:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PAYLOADS = {
    "os.system": lambda: Call(os.system, "touch canary"),
    "eval": lambda: Call(eval, "open('canary', 'w')"),
    "open": lambda: Call(open, "canary", "w"),
    "getattr": lambda: Call(getattr, "os", "system"),
    "numpy": lambda: np.zeros(3),
    "class": lambda: collections.Counter("abc"),
    "module": lambda: torch.nn.Linear(2, 2),
    "partial": lambda: Call(__import__, "os"),
    "torch.load": lambda: Call(torch.load, "canary"),
    "hub": lambda: Call(torch.hub.load, "a", "b"),
}


class Storage:
    def __init__(self, count):
        self.count = count


class StoragePickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", torch.FloatStorage, "0", "cuda:0", value.count)
        return None


def archive(entries, method=zipfile.ZIP_STORED, prefix="archive/"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as new:
        for name, content in entries.items():
            new.writestr(prefix + name, content)
    return out.getvalue()
