"""Small valid versions for tests of the store."""

from collections.abc import Sequence

from adaptrix.schema import media_types
from adaptrix.schema.adapter import ScaleRule
from adaptrix.schema.digest import Digest
from adaptrix.schema.manifest import Manifest, file_descriptor
from adaptrix.schema.record import (
    AdapterRecord,
    BaseRecord,
    ConversionRecord,
    ModuleRecord,
    ParentRecord,
    SourceFile,
    SourceRecord,
)
from adaptrix.schema.report import Fidelity, Verdict
from adaptrix.store.blobs import BlobStore
from adaptrix.store.home import Home


def weights(seed: int) -> bytes:
    return f"weights of {seed}".encode() * 50


def make_manifest(
    blobs: BlobStore, seed: int, *, parents: Sequence[Digest] = (), **fields: object
) -> Manifest:
    """A version whose two files are in ``blobs``."""
    data, config = weights(seed), b'{"r":4}'
    layers = (
        file_descriptor(
            "adapter_config.json", media_types.WEIGHT_CONFIG_RAW, blobs.put(config), len(config)
        ),
        file_descriptor(
            "adapter_model.safetensors", media_types.WEIGHT_RAW, blobs.put(data), len(data)
        ),
    )
    return Manifest(record=make_record(seed, parents=parents, **fields), layers=layers)


def make_record(seed: int, *, parents: Sequence[Digest] = (), **fields: object) -> AdapterRecord:
    module = ModuleRecord(
        path="model.layers.0.self_attn.q_proj",
        kind="linear",
        in_features=8,
        out_features=8,
        rank=4,
        alpha=8.0,
        scale=2.0,
        rule=ScaleRule.ALPHA_OVER_R,
    )
    values: dict[str, object] = {
        "tensors_digest": Digest.of(f"tensors of {seed}".encode()),
        "family": "phi",
        "method": "lora",
        "parameters": 64,
        "dtypes": ("float32",),
        "modules": (module,),
        "base": BaseRecord(name="microsoft/phi-2"),
        "source": SourceRecord(
            kind="hub",
            repository="org/math",
            commit="a" * 40,
            files=(
                SourceFile(path="adapter_model.bin", digest=Digest.of(weights(seed)), size_bytes=1),
            ),
        ),
        "conversion": ConversionRecord(
            format="peft",
            layout="phi-l4",
            method="lora",
            tool="adaptrix 0.1.0",
            fidelity=Fidelity.EXACT,
            verdict=Verdict.PASS,
            confidence=0.99,
            evidence=("keys",),
        ),
        "parents": tuple(
            ParentRecord(digest=parent, role="composed_from", weight=0.1 * (at + 1), name="p")
            for at, parent in enumerate(parents)
        ),
        "description": f"adapter number {seed}",
        "domain": "arithmetic",
        "license": "mit",
        "capabilities": ("sums", "größer"),
    }
    return AdapterRecord(**(values | fields))  # type: ignore[arg-type]


def add(home: Home, seed: int, *, parents: Sequence[Digest] = (), **fields: object) -> Digest:
    """Store a small version."""
    return home.add_version(make_manifest(home.blobs, seed, parents=parents, **fields))
