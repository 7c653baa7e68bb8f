"""What is no adapter, or a broken one: the code, the verdict and the exit status of each."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from adaptrix.convert.reading import ReadOptions, read_adapter, refusal
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.convert.writing import write_adapter
from adaptrix.schema.errors import FormatError, UsageError

Q = "base_model.model.model.layers.0.self_attn.q_proj"


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def pair(name=Q, out=16, into=16, rank=2, dtype=np.float32):
    return {
        f"{name}.lora_A.weight": ones(rank, into, dtype=dtype),
        f"{name}.lora_B.weight": ones(out, rank, dtype=dtype),
    }


def with_(tensors, **more):
    return {**tensors, **{k.replace("__", "."): v for k, v in more.items()}}


def test_a_good_one_passes(make):
    reading = make.read(pair(), make.lora_config())
    assert reading.inspection.verdict == "PASS"
    assert reading.inspection.convertible
    assert reading.inspection.fidelity == "exact"


NAN = pair()
NAN[f"{Q}.lora_A.weight"] = np.full((2, 16), np.nan, np.float32)
ZERO = pair()
ZERO[f"{Q}.lora_B.weight"] = np.zeros((16, 2), np.float32)
SOME_ZERO = {**ZERO, **pair(Q.replace("q_proj", "v_proj"))}
MAGNITUDE = {**pair(), f"{Q}.lora_magnitude_vector": ones(16)}
PLAIN: dict = {}


def bad(*, code, verdict="FAIL", status=1, tensors=None, config=PLAIN):
    """``config`` overrides fields of a plain one; None means that there is none."""
    return (code, verdict, status, tensors, config)


CASES = {
    "nothing known": bad(code="full_checkpoint", tensors={"model.layers.0.mlp.fc1.weight": ones(4, 4)}, config=None),
    "no format": bad(code="not_an_adapter", status=2, tensors={"strange": ones(4)}, config=None),
    "config without weights": bad(code="missing_weights", status=2, config={}),
    "weights without config": bad(code="missing_alpha", verdict="INCONCLUSIVE", status=2, tensors=pair(), config=None),
    "soft prompt": bad(code="soft_prompt", tensors={"prompt_embeddings": ones(8, 16)}, config={"peft_type": "PROMPT_TUNING"}),
    "soft prompt, no config": bad(code="soft_prompt", tensors={"prompt_embeddings": ones(8, 16)}, config=None),
    "prefix of ChatGLM": bad(code="soft_prompt", tensors={"transformer.prefix_encoder.embedding.weight": ones(8, 16)}, config=None),
    "ia3": bad(code="ia3", tensors={f"{Q}.ia3_l": ones(16, 1)}, config={"peft_type": "IA3"}),
    "ia3, no config": bad(code="ia3", tensors={f"{Q}.ia3_l": ones(16, 1)}, config=None),
    "x-lora": bad(code="routed_adapter", tensors={**pair(), "base_model.internal_xlora_classifier.inner.0.weight": ones(4, 4)}, config={"peft_type": "XLORA"}),
    "bottleneck": bad(code="bottleneck_adapter", tensors={"bert.encoder.layer.0.output.adapters.x.adapter_down.0.weight": ones(4, 16)}, config=None),
    "adalora": bad(code="unsupported_method", tensors={f"{Q}.lora_A": ones(2, 16), f"{Q}.lora_B": ones(16, 2), f"{Q}.lora_E": ones(2, 1)}, config=None),
    "half of a loha": bad(code="unpaired_factor", tensors={f"{Q}.hada_w1_a": ones(16, 2)}, config={"peft_type": "LOHA"}),
    "unheard-of method": bad(code="unsupported_method", tensors={"x.y": ones(1)}, config={"peft_type": "TOMORROW"}),
    "rank 0": bad(code="invalid_rank", status=2, tensors={f"{Q}.lora_A.weight": np.zeros((0, 16), np.float32), f"{Q}.lora_B.weight": np.zeros((16, 0), np.float32)}, config={"r": 0}),
    "rank 0 in the config": bad(code="invalid_rank", status=2, tensors=pair(), config={"r": 0}),
    "negative rank": bad(code="invalid_rank", status=2, tensors=pair(), config={"r": -4}),
    "rank true": bad(code="invalid_rank", status=2, tensors=pair(), config={"r": True}),
    "huge rank": bad(code="invalid_rank", status=2, tensors=pair(), config={"r": 10**400}),
    "rank is text": bad(code="invalid_rank", status=2, tensors=pair(), config={"r": "8"}),
    "NaN alpha": bad(code="invalid_config", status=2, tensors=pair(), config={"lora_alpha": float("nan")}),
    "endless alpha": bad(code="invalid_config", status=2, tensors=pair(), config={"lora_alpha": float("inf")}),
    "alpha of 400 digits": bad(code="invalid_config", status=2, tensors=pair(), config={"lora_alpha": 10**400}),
    "alpha null": bad(code="missing_alpha", verdict="INCONCLUSIVE", status=2, tensors=pair(), config={"lora_alpha": None}),
    "flag is text": bad(code="invalid_config", status=2, tensors=pair(), config={"use_rslora": "yes"}),
    "pattern is a list": bad(code="invalid_config", status=2, tensors=pair(), config={"alpha_pattern": ["q_proj"]}),
    "pattern that looks ahead": bad(code="invalid_config", status=2, tensors=pair(), config={"alpha_pattern": {"(?=q)q_proj": 3}}),
    "NaN in A": bad(code="non_finite", tensors=NAN),
    "infinity in B": bad(code="non_finite", tensors=with_(pair(), **{f"{Q}.lora_B.weight".replace(".", "__"): np.full((16, 2), np.inf, np.float32)})),
    "all B zero": bad(code="zero_update", verdict="INCONCLUSIVE", status=None, tensors=ZERO),
    "some B zero": bad(code="zero_module", verdict="PASS", status=None, tensors=SOME_ZERO, config={"target_modules": ["q_proj", "v_proj"]}),
    "half a pair": bad(code="unpaired_factor", tensors={f"{Q}.lora_A.weight": ones(2, 16)}),
    "ranks of a pair differ": bad(code="rank_mismatch", tensors=pair() | {f"{Q}.lora_B.weight": ones(16, 3)}),
    "rank of the config differs": bad(code="rank_mismatch", tensors=pair(), config={"r": 4}),
    "integer factors": bad(code="non_float_factor", tensors=pair(dtype=np.int32)),
    "empty shard": bad(code="sharded_state", tensors={f"{Q}.lora_A.weight": np.zeros((0,), np.float32), f"{Q}.lora_B.weight": np.zeros((0,), np.float32)}),
    "flat shard": bad(code="sharded_state", tensors={f"{Q}.lora_A.weight": ones(32), f"{Q}.lora_B.weight": ones(32)}),
    "deepspeed": bad(code="sharded_state", tensors={"optimizer_state_dict.fp32_flat_groups.0": ones(64)}, config=None),
    "optimizer": bad(code="not_an_adapter", status=2, tensors={"state.0.exp_avg": ones(4), "state.0.exp_avg_sq": ones(4)}, config=None),
    "base weights smuggled in": bad(code="base_weights_inside", tensors=pair() | {"base_model.model.model.layers.0.mlp.fc1.weight": ones(32, 16)}),
    "bias that is not declared": bad(code="base_weights_inside", tensors=pair() | {f"{Q}.base_layer.bias": ones(16)}),
    "head of no classifier": bad(code="base_weights_inside", tensors=pair() | {"base_model.model.classifier.weight": ones(2, 16)}),
    "unknown leaf": bad(code="unknown_tensors", tensors=pair() | {f"{Q}.lora_C.weights": ones(2, 2)}),
    "KaSA without its diagonal": bad(code="unpaired_factor", tensors=pair(), config={"kasa_config": {"beta": 1}}),
    "KaSA that is not declared": bad(code="unsupported_method", tensors=pair() | {f"{Q}.lora_diag": ones(2)}),
    "MonteCLoRA": bad(code="training_state", verdict="PASS", status=None, tensors=pair() | {f"{Q}.lora_monteclora_sampler.std": ones(2)}),
    "aLoRA": bad(code="positional_adapter", tensors=pair(), config={"alora_invocation_tokens": [1, 2]}),
    "Arrow": bad(code="routed_adapter", tensors=pair(), config={"arrow_config": {"top_k": 2}}),
    "PiSSA": bad(code="needs_residual_base", verdict="INCONCLUSIVE", status=None, tensors=pair(), config={"init_lora_weights": "pissa_niter_4"}),
    "LoftQ": bad(code="needs_residual_base", verdict="INCONCLUSIVE", status=None, tensors=pair(), config={"init_lora_weights": "loftq"}),
    "init of tomorrow": bad(code="unsupported_method", tensors=pair(), config={"init_lora_weights": "tomorrow"}),
    "experts without tensors": bad(code="unused_target", verdict="PASS", status=None, tensors=pair(), config={"target_parameters": ["mlp.experts.gate_up_proj"]}),
    "experts of one parameter of two": bad(code="unpaired_factor", tensors=pair("base_model.model.model.layers.0.mlp.experts"), config={"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}),
    "experts that do not divide": bad(code="rank_mismatch", tensors=pair("base_model.model.model.layers.0.mlp.experts"), config={"r": 5, "target_parameters": ["mlp.experts.down_proj"]}),
    "replicated layers": bad(code="unsupported_method", tensors=pair(), config={"layer_replication": [[0, 2]]}),
    "magnitude without DoRA": bad(code="dropped_magnitude", tensors=MAGNITUDE),
    "DoRA without magnitude": bad(code="unpaired_factor", tensors=pair(), config={"use_dora": True}),
    "magnitude of another size": bad(code="shape_mismatch", tensors=pair() | {f"{Q}.lora_magnitude_vector": ones(3)}, config={"use_dora": True}),
    "two adapters in one file": bad(code="multiple_adapters", verdict="INCONCLUSIVE", status=2, tensors={f"{Q}.lora_A.one.weight": ones(2, 16), f"{Q}.lora_B.one.weight": ones(16, 2), f"{Q}.lora_A.two.weight": ones(2, 16)}),
    "one module twice": bad(code="duplicate_module", tensors=pair() | pair(Q.removeprefix("base_model.model."))),
    "merged blocks that are not named": bad(code="unsupported_method", tensors={f"{Q}.lora_A.weight": ones(6, 16), f"{Q}.lora_B.weight": ones(48, 3, 1)}, config={"r": 6}),
    "merged blocks of another number": bad(code="unsupported_method", tensors={f"{Q}.lora_A.weight": ones(6, 16), f"{Q}.lora_B.weight": ones(48, 2, 1)}, config={"enable_lora": [True, True, True]}),
    "unused target": bad(code="unused_target", verdict="PASS", status=None, tensors=pair(), config={"target_modules": ["q_proj", "query_key_value"]}),
    "token rows that do not agree": bad(code="shape_mismatch", tensors=pair() | {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": ones(3, 16)}, config={"trainable_token_indices": [1, 2]}),
    "wide factors": bad(code="wide_dtype", verdict="PASS", status=None, tensors=pair(dtype=np.float64)),
    "config that says otherwise": bad(code="invalid_config", status=2, tensors=pair(), config={"peft_type": "PREFIX_TUNING"}),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_bad_input(make, case):
    code, verdict, status, tensors, more = CASES[case]
    config = (
        None if more is None else make.lora_config(base_model_name_or_path="me/sample-phi", **more)
    )
    reading = make.read(tensors, config)
    found = reading.inspection
    assert code in make.codes(reading), found.problems
    assert found.verdict == verdict, found.problems
    account = found.tensors
    assert account.total == account.used + len(account.ignored) + len(account.unknown)
    assert found.convertible == (reading.adapter is not None) == (status is None)
    if status is not None:
        error = refusal(reading)
        assert error.exit_status == status
        assert error.code == code
        assert error.message
        assert error.hint


def test_alpha_can_be_given(make):
    reading = make.read(pair(), alpha=6.0)
    assert reading.adapter.modules[0].scale.value == 3.0
    assert reading.inspection.modules[0].alpha == 6.0
    unknown = make.read(pair())
    assert unknown.inspection.modules[0].alpha is None


def test_a_given_alpha_does_not_replace_a_stored_one(make):
    reading = make.read(pair(), make.lora_config(), alpha=6.0)
    assert reading.adapter.modules[0].scale.value == 1.5
    assert "alpha_rule" in make.codes(reading)


def test_options_are_checked():
    with pytest.raises(UsageError):
        ReadOptions(source_layout="phi-l9")
    with pytest.raises(UsageError):
        ReadOptions(alpha=float("nan"))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"r": 1, "r": 2}', b"\xff\xfe", b"[" * 5000, b'{"a":' * 200 + b"1" + b"}" * 200],
)  # fmt: skip
def test_configurations_that_cannot_be_read(make, text):
    with pytest.raises(FormatError) as error:
        make.read(pair(), text)
    assert error.value.code == "invalid_config"
    assert error.value.exit_status == 2


def test_a_byte_order_mark_is_allowed(make):
    text = b"\xef\xbb\xbf" + json.dumps(make.lora_config()).encode()
    assert make.read(pair(), text).adapter is not None


def test_wrong_base_lists_wanted_and_got(make):
    config = make.phi_config(width=32, heads=4, layers=3, inner=64)
    reading = make.read(pair(), make.lora_config(), base_config=config, base_name="me/base")
    assert make.codes(reading) == ["wrong_base", "unused_target"]
    problem = reading.inspection.problems[0]
    assert "16×16" in problem.message
    assert "32×32" in problem.message
    assert reading.inspection.base_model.compatible is False
    assert refusal(reading).exit_status == 1


def test_too_many_layers_and_another_family_do_not_fit(make):
    tensors = pair(Q.replace("layers.0", "layers.7"))
    few = make.read(tensors, make.lora_config(), base_config=make.phi_config(layers=3))
    assert "layer 7" in few.inspection.problems[0].message
    dense = pair(Q.replace("q_proj", "dense"))
    llama = {**make.phi_config(), "model_type": "llama"}
    other = make.read(dense, make.lora_config(target_modules=["dense"]), base_config=llama)
    assert other.inspection.problems[0].code == "wrong_base"
    assert "phi" in other.inspection.problems[0].message


def test_headers_alone_say_that_values_were_not_read(make):
    reading = make.read(NAN, make.lora_config(), check_values=False)
    assert make.codes(reading)[-1] == "unchecked_values"
    assert reading.inspection.verdict == "PASS"


def folder(**files):
    found = {n: MemorySource(n, c) for n, c in files["files"].items()}
    return AdapterFiles(location="folder", files=found)


def test_folders(make):
    weights, config = save(pair()), json.dumps(make.lora_config()).encode()
    nested = {"a/adapter_model.safetensors": weights, "a/adapter_config.json": config}
    assert read_adapter(folder(files={**nested, "README.md": b"x"})).adapter is not None
    both = {**nested, "b/adapter_model.safetensors": weights}
    reading = read_adapter(folder(files=both))
    assert [p.code for p in reading.inspection.problems] == ["multiple_adapters"]
    steps = {**nested, "checkpoint-10/adapter_model.safetensors": weights}
    assert read_adapter(folder(files=steps)).adapter is not None
    mixed = {
        "adapter_model.safetensors": weights, "adapter_config.json": config,
        "training_args.bin": b"\x80\x02cos\nsystem\n", "adapter_model.bin": b"never opened",
    }  # fmt: skip
    reading = read_adapter(folder(files=mixed))
    assert reading.adapter is not None
    assert reading.inspection.problems[0].code == "ignored_files"
    empty = read_adapter(folder(files={"README.md": b"hello", "notes.txt": b"x"}))
    assert [p.code for p in empty.inspection.problems] == ["not_an_adapter"]
    assert refusal(empty).exit_status == 2


def test_shards_are_one_state_dict_and_other_files_are_not(make):
    v = pair(Q.replace("q_proj", "v_proj"))
    config = json.dumps(make.lora_config(target_modules=["q_proj", "v_proj"])).encode()
    names = [f"adapter_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    shards = dict(zip(names, [save(pair()), save(v)], strict=True))
    reading = read_adapter(folder(files={**shards, "adapter_config.json": config}))
    assert len(reading.adapter.modules) == 2
    two = {"one.safetensors": save(pair()), "two.safetensors": save(v)}
    reading = read_adapter(folder(files={**two, "adapter_config.json": config}))
    assert [p.code for p in reading.inspection.problems] == ["multiple_adapters"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "bias", "modules_to_save", "target_modules", "init_lora_weights", "auto_mapping", "revision",
    "enable_lora", "trainable_token_indices", "task_type", "base_model_name_or_path", "fan_in_fan_out",
    "peft_version", "lora_dropout", "layer_replication", "lora_parameters", "fine_tune_type", "model",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_no_configuration_surprises_the_reader(fields):
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, **fields}
    files = {
        "adapter_model.safetensors": save(pair()),
        "adapter_config.json": json.dumps(config).encode(),
    }
    try:
        reading = read_adapter(folder(files=files))
    except FormatError:
        return
    account = reading.inspection.tensors
    assert account.total == account.used + len(account.ignored) + len(account.unknown)
    assert (reading.adapter is None) == (not reading.inspection.convertible)
    if reading.adapter is None:
        assert refusal(reading).exit_status in {1, 2}
    else:
        write_adapter(reading.adapter, "peft")


NAMES = st.lists(
    st.sampled_from([
        "base_model.model.", "model.", "layers.0.", "self_attn.", "q_proj", ".lora_A", ".lora_B",
        ".weight", ".bias", ".default", ".base_layer", "lora_magnitude_vector", ".modules_to_save",
        ".token_adapter.trainable_tokens_delta", "lm_head", "mixer.Wqkv", ".m", ".lora_a", ".lora_b",
    ]), min_size=1, max_size=7,
).map("".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=6))
def test_no_tensor_names_or_shapes_surprise_the_reader(shapes):
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "base_model_name_or_path": "x/phi-2"}
    for more in ({}, {"adapter_config.json": json.dumps(config).encode()}):
        reading = read_adapter(folder(files={"adapter_model.safetensors": save(tensors), **more}))
        account = reading.inspection.tensors
        assert account.total == account.used + len(account.ignored) + len(account.unknown)
        assert account.total == len(tensors)
        assert (reading.adapter is None) == (not reading.inspection.convertible)
