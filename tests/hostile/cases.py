"""The table: item of docs/hostile-files.md, what is wrong, the code, the exit statuses."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tarfile
import zipfile

import numpy as np
import torch

m = sys.modules["hostile_makers"]
Case, raw, entry, weights, one, configured = (
    m.Case, m.raw, m.entry, m.weights, m.one, m.configured
)  # fmt: skip
U64 = 1 << 64
A, B = m.PAIR


def case(item, name, make, code, status=2, inspect=None):
    return Case(item=item, name=name, make=make, code=code, status=status, inspect=inspect)


def two(first: tuple[int, int], second: tuple[int, int], size: int):
    """Two float32 vectors of two elements at these places."""
    return weights(
        raw({"a": entry("F32", [2], *first), "b": entry("F32", [2], *second)}, bytes(size))
    )


def named(name: str):
    return weights(raw({name: entry("F32", [2], 0, 8)}, bytes(8)))


FIELD = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
SAFETENSORS = (
    case(1, "empty", weights(b""), "empty_file"),
    case(1, "seven bytes", weights(b"\0" * 7), "truncated"),
    case(2, "header of 0 bytes", weights(raw(b"")), "bad_header"),
    case(2, "header of 2^63 bytes", weights(struct.pack("<Q", 1 << 63) + b"{}"), "header_too_large"),
    case(2, "header of 2^64-1 bytes", weights(b"\xff" * 8 + b"{}"), "header_too_large"),
    case(3, "header longer than the file", weights(struct.pack("<Q", 1 << 20) + b"{}"), "truncated"),
    case(4, "header of 99 MB of blanks", m.huge_header, "header_too_large"),
    case(5, "header is not UTF-8", weights(raw(b'{"\xff\xfe":1}')), "bad_header"),
    case(5, "header is not JSON", weights(raw(b"{nonsense}")), "bad_header"),
    case(5, "header is a list", weights(raw([1])), "bad_header"),
    case(5, "header is null", weights(raw(None)), "bad_header"),
    case(6, "header nested 10,000 deep", weights(raw(m.nested_json(10_000))), "bad_header"),
    case(7, "one name twice", weights(raw(FIELD + b"," + FIELD[1:] + b"}", bytes(8))), "duplicate_tensor"),
    case(8, "one field twice", weights(raw(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8))), "duplicate_tensor"),
    case(8, "__metadata__ twice", weights(raw(b'{"__metadata__":{},"__metadata__":{},' + FIELD[1:] + b"}", bytes(8))), "duplicate_tensor"),
    case(8, "__metadata__ of numbers", weights(m.saved(m.factors(), metadata={"x": 1})), "bad_header"),
    case(9, "unknown dtype", weights(one("F31")), "unknown_dtype"),
    case(9, "lower-case dtype", weights(one("f32")), "unknown_dtype"),
    case(10, "negative dimension", weights(one(shape=[-2])), "bad_shape"),
    case(10, "dimension 2.0", weights(one(shape=[2.0])), "bad_header"),
    case(10, "dimension 2^64", weights(one(shape=[U64])), "bad_shape"),
    case(10, "dimension true", weights(one(shape=[True])), "bad_header"),
    case(10, "product overflows", weights(one(shape=[1 << 33, 1 << 33])), "bad_shape"),
    case(11, "size is not shape times dtype", weights(one(shape=[3])), "size_mismatch"),
    case(12, "reversed offsets", weights(one(begin=8, end=0)), "bad_header"),
    case(12, "overlapping", two((0, 8), (4, 12), 12), "overlapping_offsets"),
    case(12, "hole", two((0, 8), (12, 20), 20), "hole"),
    case(12, "shared offsets", two((0, 8), (0, 8), 8), "overlapping_offsets"),
    case(13, "zip appended", weights(m.saved(m.factors()) + b"PK\x05\x06" + bytes(18)), "trailing_bytes"),
    case(14, "truncated body", weights(m.saved(m.factors())[:-5]), "truncated"),
    case(15, "empty name", named(""), "bad_name"),
    case(15, "NUL in a name", named("a\0b"), "bad_name"),
    case(15, "ANSI escape in a name", named("\x1b[2Ja"), "bad_name"),
    case(15, "right-to-left override in a name", named("a\u202eb"), "bad_name"),
    case(15, "name of 2 KiB", named("a" * 2048), "bad_name"),
    case(15, "name with ../", named("../../etc/passwd"), "bad_name"),
    case(16, "70,000 tensors", weights(m.many(70_000)), "too_many_tensors"),
    case(16, "9 dimensions", weights(raw({"a": entry("F32", [1] * 9, 0, 4)}, bytes(4))), "bad_shape"),
    case(17, "no tensor", weights(raw({})), "no_tensors"),
    case(17, "metadata and no tensor", weights(raw({"__metadata__": {"format": "pt"}})), "no_tensors"),
)  # fmt: skip


def patterned(key: str, pattern: str = m.HOSTILE_REGEX):
    value = pattern if key == "target_modules" else {pattern: 4}
    if key == "layers_pattern":
        return configured(layers_pattern=pattern, layers_to_transform=[0])
    return configured(**{key: value})


def long_module(key: str):
    """A path on which a backtracking matcher would never end, and the pattern for it."""
    path = "base_model.model.model.layers.0." + "a" * 60
    arrays = {f"{path}.lora_A.weight": np.ones((2, 8)), f"{path}.lora_B.weight": np.ones((8, 2))}
    value = "(a+)+!" if key == "target_modules" else {"(a+)+!": 4}
    return weights(m.saved(arrays), {**m.CONFIG, "target_modules": ["a" * 60], key: value})


def config_bytes(data: bytes):
    return weights(m.saved(m.factors()), data)


TEXT = json.dumps(m.CONFIG).encode()
SEMANTICS = (
    case(18, "NaN", m.good(**{A: np.full((2, 8), np.nan)}), "non_finite", 1),
    case(18, "infinity", m.good(**{B: np.full((8, 2), np.inf)}), "non_finite", 1),
    case(19, "A without B", weights(m.saved({A: np.ones((2, 8))})), "unpaired_factor", 1),
    case(20, "unknown extra tensor", m.smuggled("base_model.model.model.layers.0.mystery.xyz"), "unknown_tensors", 1),
    case(21, "lm_head smuggled", m.smuggled("base_model.model.lm_head.weight"), "base_weights_inside", 1),
    case(21, "embed_tokens smuggled", m.smuggled("base_model.model.model.embed_tokens.weight"), "base_weights_inside", 1),
    case(21, "lm_head declared is shown loudly", m.smuggled("base_model.model.lm_head.weight", config={**m.CONFIG, "modules_to_save": ["lm_head"]}), "replaces_base_weights", 0),
    case(21, "base_layer smuggled", m.smuggled(f"{m.PREFIX}.base_layer.weight"), "base_weights_inside", 1),
    case(22, "r is not the tensors' rank", configured(r=4), "rank_mismatch", 1),
    case(22, "rank_pattern is not the tensors' rank", configured(rank_pattern={"q_proj": 3}), "rank_mismatch", 1),
    case(22, "A and B of two ranks", m.good(**{B: np.ones((8, 3))}), "rank_mismatch", 1),
    *(case(23, f"r = {r!r}", configured(r=r), "invalid_rank", 2, 1) for r in (0, -1, 4.5, 50_000_000)),
    case(23, "r = NaN", config_bytes(TEXT.replace(b'"r": 2', b'"r": NaN')), "invalid_rank", 2, 1),
    case(23, "r = '4' in a pattern of text", configured(rank_pattern={"q_proj": "x"}), "invalid_rank", 2, 1),
    case(24, "alpha infinite", config_bytes(TEXT.replace(b'"lora_alpha": 4', b'"lora_alpha": Infinity')), "invalid_config", 2, 1),
    case(24, "alpha 1e308", configured(lora_alpha=1e308), "invalid_config", 2, 1),
    case(25, "integer factors", weights(m.saved(m.factors(1), "I32")), "non_float_factor", 1),
    case(25, "boolean factors", weights(m.saved(m.factors(1), "BOOL")), "non_float_factor", 1),
    *(case(26, f"regular expression in {key}", patterned(key), "", 0) for key in ("target_modules", "layers_pattern")),
    *(case(26, f"regular expression in {key}", patterned(key), "", 0) for key in ("rank_pattern", "alpha_pattern")),
    *(case(26, f"class {text}", configured(rank_pattern={text: 4}), "invalid_config", 2, 1) for text in ("[z-a]_proj", "[90.\\]x", "[a--b]")),
    *(case(26, f"long path, {key}", long_module(key), "", 3) for key in ("target_modules", "rank_pattern", "alpha_pattern")),
    case(27, "configuration of 1 GB", m.huge_config, "invalid_config"),
    case(27, "configuration 100,000 deep", config_bytes(m.nested_json(100_000)), "invalid_config"),
    case(27, "configuration with a byte-order mark", config_bytes(b"\xef\xbb\xbf" + TEXT), "", 0),
    case(27, "duplicate keys", config_bytes(TEXT[:-1] + b', "r": 4}'), "invalid_config"),
    case(27, "configuration is a list", config_bytes(b"[]"), "invalid_config"),
    case(27, "configuration is not UTF-8", config_bytes(b"\xff\xfe{"), "invalid_config"),
    case(28, "auto_mapping names a class", configured(auto_mapping={"base_model_class": "os", "parent_library": "evil_module"}), "", 0),
    case(28, "_target_", configured(_target_="os.system"), "", 0),
    case(28, "unknown peft_type", configured(peft_type="EVIL"), "invalid_config", 2, 1),
    *(case(29, f"base {text[:12]!r}", configured(base_model_name_or_path=text), "", 3) for text in ("/etc", "\\\\host\\share", "http://127.0.0.1:9/x")),
    case(29, "base of 10 KB", configured(base_model_name_or_path="x" * 10_000), "", 3),
    case(29, "base with escapes", configured(base_model_name_or_path="\x1b[2J\u202eevil"), "", 3),
    case(30, "another base", configured(base_model_name_or_path="microsoft/phi-2"), "declared_base_differs", 0),
    case(31, "all B zero", m.good(**{B: np.zeros((8, 2))}), "zero_update", 3),
    case(32, "shape [0, 2^40]", weights(raw({A: entry("F32", [0, 1 << 40], 0, 0), B: entry("F32", [1 << 40, 0], 0, 0)})), "invalid_rank", 2, 1),
)  # fmt: skip


def second_file(name: str, data: bytes):
    """An adapter with another file beside it."""

    def make(folder):
        m.good()(folder)
        (folder / name).write_bytes(data)

    return make


def alone(name: str, data: bytes):
    return weights(data, None, name)


def joblib_bytes() -> bytes:
    """A pickle of an estimator, as joblib writes it: objects, not tensors."""
    return pickle.dumps(np.random.RandomState(1))


def nemo_tar() -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for name, data in (
            ("model_config.yaml", b"a: 1"),
            ("model_weights.ckpt", pickle.dumps(m.Evil())),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return whole.getvalue()


def keras_zip() -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(64))
    return whole.getvalue()


def object_array() -> bytes:
    whole = io.BytesIO()
    np.save(whole, np.array([m.Evil()], dtype=object), allow_pickle=True)
    return whole.getvalue()


def object_npz() -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("w.npy", object_array())
    return whole.getvalue()


PICKLES = (
    case(33, "Trainer's training_args.bin beside the adapter", second_file("training_args.bin", pickle.dumps(m.Evil())), "", 0),
    case(33, "evil .bin beside safetensors", second_file("adapter_model.bin", pickle.dumps(m.Evil())), "", 0),
    case(33, "numpy array of objects", alone("adapter.npy", object_array()), "", 2, 1),
    case(33, "npz of objects", alone("adapters.npz", object_npz()), "unsafe_pickle", 7),
    *(case(34, f"call in a pickle of protocol {p}", weights(pickle.dumps(m.Evil(), p), name="adapter_model.bin"), "unsafe_pickle", 7) for p in range(6)),
    case(34, "call in a torch archive", weights(m.evil_zip(), name="adapter_model.bin"), "unsafe_pickle", 7),
    case(34, "call in torch's old stream", weights(pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps(m.Evil()), name="adapter_model.bin"), "unsafe_pickle", 7),
    case(34, "tar of torch before 0.1.10", weights(m.old_tar(), name="adapter_model.bin"), "unsafe_file", 7),
    case(34, "whole module", weights(m.torch_zip(torch.nn.Linear(2, 2)), name="adapter_model.bin"), "unsafe_pickle", 7),
    case(35, "pickle named safetensors", weights(pickle.dumps(m.Evil())), "unsafe_pickle", 7),
    case(35, "pickle named json", config_bytes(pickle.dumps(m.Evil())), "invalid_config"),
    case(35, "torch archive named safetensors, with a call", weights(m.evil_zip()), "unsafe_pickle", 7),
    case(36, "honest torch archive", weights(m.torch_zip(m.state()), name="adapter_model.bin"), "", 0),
    case(36, "honest old stream", weights(m.legacy(m.state()), name="adapter_model.bin"), "", 0),
    case(36, "pickle of 5 million opcodes", weights(b"\x80\x02" + b"N0" * 2_500_001 + b"N.", name="adapter_model.bin"), "limit", 7),
    case(36, "pickle that doubles itself 60 times", weights(pickle.dumps(m.doubled(60), 2), name="adapter_model.bin"), "limit", 7),
    case(37, "view of 10^12 elements over one", weights(m.stride_zero(10**12), name="adapter_model.bin"), "limit", 7),
    case(37, "deflated storage of 400 MB", weights(m.bomb(), name="adapter_model.bin"), "limit", 7),
    case(38, "joblib", alone("model.joblib", joblib_bytes()), "not_an_adapter", 2, 1),
    case(38, ".nemo with a hostile checkpoint", alone("model.nemo", nemo_tar()), "", 7),
    case(38, ".keras", alone("model.keras", keras_zip()), "not_an_adapter", 2, 1),
)  # fmt: skip
CASES = (*SAFETENSORS, *SEMANTICS, *PICKLES)
