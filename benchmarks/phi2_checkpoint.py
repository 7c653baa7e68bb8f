"""A checkpoint with the shapes of Phi-2 and random values, sharded float16 safetensors.

Config, names, shapes and the split into two shards are those of the published model (its
config.json and index); the values are normal with its initialiser's deviation, 0.02, and
every tensor has its own seed, so that one tensor never depends on another. The adapters
have the ranks and modules of five public ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PhiConfig

from adaptrix import open_path, read_adapter, write_adapter
from adaptrix.convert.safetensors_file import safetensors_bytes
from adaptrix.schema.tensor import DType, LazyTensor

sys.path.insert(0, str(Path(__file__).parent))
from phi2_shapes import HEADS, INNER, LAYERS, SIX, WIDTH, make_adapter

VOCABULARY = 51200
SHARD_BYTES = 5_000_000_000
# Name, modules, rank, alpha and naming of five adapters that people have published for Phi-2.
FIVE = {
    "gsm8k": (("q_proj", "v_proj", "fc1", "fc2"), 16, 32, "l4"),
    "alpaca": (("Wqkv",), 16, 32, "l2"),
    "realnews": (("q_proj", "k_proj", "v_proj", "dense"), 8, 16, "l4"),
    "humaneval": (("q_proj", "k_proj", "v_proj"), 4, 16, "l4"),
    "webglm": (SIX, 32, 64, "l4"),
}
# Five that touch all 192 modules, of total rank 136.
WIDE = {
    f"wide{rank}-{n}": (SIX, rank, 2 * rank, "l4") for n, rank in enumerate((8, 16, 16, 32, 64))
}


def config(layers: int, vocabulary: int, width: int, inner: int, heads: int) -> PhiConfig:
    """The published config.json, with other sizes where asked."""
    return PhiConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=2048, partial_rotary_factor=0.4, layer_norm_eps=1e-5,
        resid_pdrop=0.1, embd_pdrop=0.0, attention_dropout=0.0, tie_word_embeddings=False,
        hidden_act="gelu_new", bos_token_id=50256, eos_token_id=50256, dtype="float16",
        architectures=["PhiForCausalLM"],
    )  # fmt: skip


def shapes(made: PhiConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter of the model, in the published order of layers."""
    width, inner, rows = made.hidden_size, made.intermediate_size, made.vocab_size
    yield "model.embed_tokens.weight", (rows, width)
    for layer in range(made.num_hidden_layers):
        path = f"model.layers.{layer}"
        square = [f"{path}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "dense")]
        for name in square:
            yield f"{name}.weight", (width, width)
            yield f"{name}.bias", (width,)
        yield f"{path}.mlp.fc1.weight", (inner, width)
        yield f"{path}.mlp.fc1.bias", (inner,)
        yield f"{path}.mlp.fc2.weight", (width, inner)
        yield f"{path}.mlp.fc2.bias", (width,)
        for leaf in ("weight", "bias"):
            yield f"{path}.input_layernorm.{leaf}", (width,)
    for leaf in ("weight", "bias"):
        yield f"model.final_layernorm.{leaf}", (width,)
    yield "lm_head.weight", (rows, width)
    yield "lm_head.bias", (rows,)


def _values(name: str, shape: tuple[int, ...]) -> bytes:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape, dtype=np.float32)
    values *= np.float32(0.02)
    if name.endswith("layernorm.weight"):
        values += 1
    return values.astype(np.float16).tobytes()


def make_checkpoint(
    folder: Path,
    *,
    layers: int = LAYERS,
    vocabulary: int = VOCABULARY,
    width: int = WIDTH,
    inner: int = INNER,
    heads: int = HEADS,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write config.json, the shards and their index; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = config(layers, vocabulary, width, inner, heads)
    made.save_pretrained(folder)
    shards: list[dict[str, LazyTensor]] = [{}]
    used = total = 0
    for name, shape in shapes(made):
        tensor = LazyTensor(
            dtype=DType.F16, shape=shape, source=name, load=partial(_values, name, shape)
        )
        if used and used + tensor.size_bytes > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += tensor.size_bytes
        total += tensor.size_bytes
    where = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        where |= dict.fromkeys(tensors, file)
        header, chunks, _ = safetensors_bytes(tensors, {"format": "pt"})
        with (folder / file).open("wb") as sink:
            sink.write(header)
            for chunk in chunks:
                sink.write(chunk)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    text = json.dumps(index, indent=2)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return folder


def make_adapters(folder: Path) -> None:
    """Write ``FIVE`` and ``WIDE`` below ``folder``, and ``-l4`` copies in today's naming.

    PEFT itself finds no module called ``Wqkv`` in today's class.
    """
    for seed, (name, (modules, rank, alpha, layout)) in enumerate({**FIVE, **WIDE}.items()):
        make_adapter(
            folder / name, modules=modules, rank=rank, alpha=alpha, layout=layout, seed=seed
        )
        if layout != "l4":
            adapter = read_adapter(open_path(folder / name)).adapter
            assert adapter is not None
            for file in write_adapter(adapter, "peft").files:
                place = folder / f"{name}-l4" / file.path
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(b"".join(bytes(chunk) for chunk in file.chunks()))


def main() -> None:
    """Write both, 8 GB, when a folder is given; a base that is there stays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    folder = parser.parse_args().folder
    if folder is None:
        print("skipped: name a folder to write 8 GB to")
        return
    if not (folder / "base" / "model.safetensors.index.json").is_file():
        make_checkpoint(folder / "base")
    make_adapters(folder / "adapters")


if __name__ == "__main__":
    main()
