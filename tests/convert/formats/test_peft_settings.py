"""Ranks and alphas by PEFT's matching rules, against ``re`` as PEFT itself uses it."""

import math
import re
import time
from itertools import chain

import numpy as np
import pytest
from safetensors.numpy import save

from adaptrix.convert.formats.peft_config import parse_config
from adaptrix.convert.formats.peft_scale import Setting, Settings, resolve
from adaptrix.convert.patterns import Pattern
from adaptrix.convert.reading import read_adapter
from adaptrix.convert.source import AdapterFiles, MemorySource
from adaptrix.schema.errors import FormatError

PATHS = [
    f"model.layers.{i}.{t}"
    for i in range(3)
    for t in ("self_attn.q_proj", "self_attn.v_proj", "mlp.fc1")
] + ["lm_head", "model.embed_tokens", "q_proj"]
PATTERNS = [
    ({"q_proj": 4}, {"layers.0.self_attn.q_proj": 8}),
    ({"layers.1.self_attn.q_proj": 4, "q_proj": 2}, {"q_proj": 8}),
    ({r".*\.mlp\.fc1": 4}, {r"layers\.[01]\.self_attn\.(q|v)_proj": 8}),
    ({"^model.layers.0.mlp.fc1": 4}, {r"^lm_head$": 3, r"model\.layers\.\d+\.mlp\.fc1": 5}),
    ({}, {"model.layers.0.self_attn.q_proj": 8, "lm_head": 3}),
    ({"proj": 4}, {"q.proj": 8}),
]


def by_peft_014(pattern, path, default):
    """peft/utils/other.py, get_pattern_key."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return pattern.get(path, default)


def by_peft_013(ranks, alphas, path, rank, alpha):
    """peft 0.13, tuners/lora/model.py, _create_and_replace."""
    keys = chain(ranks.keys(), alphas.keys())
    key = next(filter(lambda k: re.match(rf".*\.{k}$", path), keys), path)
    return ranks.get(key, rank), alphas.get(key, alpha)


@pytest.mark.parametrize("patterns", PATTERNS)
@pytest.mark.parametrize("path", PATHS)
def test_both_rules_are_pefts(patterns, path):
    ranks, alphas = patterns
    config, _ = parse_config(
        {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "rank_pattern": ranks, "alpha_pattern": alphas}
    )  # fmt: skip
    settings = Settings(config)
    new = Setting(by_peft_014(ranks, path, 16), by_peft_014(alphas, path, 32.0))
    assert settings.new(path) == new
    assert settings.old(path) == Setting(*by_peft_013(ranks, alphas, path, 16, 32.0))


DISAGREE = {"r": 16, "lora_alpha": 32, "rank_pattern": {"q_proj": 4},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 8}}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "alpha"),
    [
        ({"peft_version": "0.18.1"}, 8),
        ({"peft_version": "0.12.0"}, 32),
        ({"exclude_modules": None}, 8),
        ({"layers_pattern": None}, 32),
        ({}, 8),
    ],
)
def test_the_version_decides_and_a_difference_is_said(more, alpha):
    config, problems = parse_config({"peft_type": "LORA", **DISAGREE, **more})
    assert problems == ()
    path = "model.layers.0.self_attn.q_proj"
    settings, found = resolve(config, {path: 4})
    assert settings[path].alpha == alpha
    assert [p.code for p in found] == ["alpha_rule"]


def test_the_ranks_of_the_tensors_can_prove_the_rule():
    raw = {"r": 16, "lora_alpha": 32, "alpha_pattern": {"q_proj": 8},
           "rank_pattern": {"layers.0.self_attn.q_proj": 2, "q_proj": 4}}  # fmt: skip
    config, _ = parse_config({"peft_type": "LORA", **raw})
    path = "model.layers.1.self_attn.q_proj"
    new, old = resolve(config, {path: 4}), resolve(config, {path: 4})
    assert new == old
    only_old = {"r": 16, "lora_alpha": 32, "rank_pattern": {"^lm_head": 4}}
    config, _ = parse_config({"peft_type": "LORA", **only_old, "exclude_modules": None})
    settings, found = resolve(config, {"lm_head": 16})
    assert settings["lm_head"].rank == 16
    assert "fit it alone" in found[0].message


def test_rslora_divides_by_the_root_of_each_modules_own_rank(make):
    tensors, _ = make.phi_source("phi-l4", only=[0])
    for layer in range(3):
        key = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{key}.lora_A.weight"] = np.ones((8, 16), np.float32)
        tensors[f"{key}.lora_B.weight"] = np.ones((16, 8), np.float32)
    config = make.lora_config(
        use_rslora=True, lora_alpha=16, rank_pattern={"q_proj": 8}, alpha_pattern={"v_proj": 5}
    )
    found = {
        m.path.rpartition(".")[2]: m.scale.value
        for m in make.read(tensors, config, base_config=make.phi_config()).adapter.modules
    }
    assert found["q_proj"] == 16 / math.sqrt(8)
    assert found["k_proj"] == pytest.approx(16 / 2**0.5)
    assert found["v_proj"] == pytest.approx(5 / 2**0.5)


TEXTS = [*PATHS, "x.lm_head", "", "aab", "abab", "z.ab", "model.layers.12.mlp.fc1"]


@pytest.mark.parametrize(
    "text",
    ["q_proj", "lm.head", r"model\.layers\.\d+\.mlp\.fc1", "(a|b)*", "a{1,2}b", "(ab)+", "^lm_head$",
     r"layers\.(0|1[0-9])\.mlp\.\w+", "[0-9a-z_.]*head", "x?lm_head", "(?:ab|q)_?proj", "a{0}b"],
)  # fmt: skip
def test_patterns_match_as_re_does(text):
    pattern = Pattern(text)
    for candidate in TEXTS:
        assert pattern.fullmatch(candidate) == bool(re.fullmatch(text, candidate))
        assert pattern.matches_suffix(candidate) == bool(re.match(rf"(.*\.)?({text})$", candidate))


def test_a_hostile_pattern_takes_no_time():
    begin = time.perf_counter()
    assert not Pattern("(a*)*b").fullmatch("a" * 5000)
    assert not Pattern("(a|a)+" * 8 + "c").matches_suffix("a" * 500)
    assert time.perf_counter() - begin < 3


@pytest.mark.parametrize(
    "text",
    ["(?=a)b", "(?<!x)y", r"(a)\1", "a**", "*a", "(a", "a)", "[", "a{2", r"\bq", "(" * 30 + ")" * 30,
     "a" * 2000, "((a{99}){99}){99}", "(?P<x>a)", "[[:alpha:]]"],
)  # fmt: skip
def test_what_is_not_supported_is_refused(text):
    with pytest.raises(FormatError) as error:
        Pattern(text)
    assert error.value.code == "unsupported_pattern"


def test_merged_linear_layers_of_peft_02(make):
    """Blocks of out/3 rows on the diagonal (peft 0.2, MergedLinear.zero_pad)."""
    rng = np.random.default_rng(0)
    name = "base_model.model.transformer.h.0.self_attention.query_key_value"
    a = rng.standard_normal((4, 8)).astype(np.float32)
    b = rng.standard_normal((16, 2, 1)).astype(np.float32)
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    config = make.lora_config(
        enable_lora=[True, False, True], target_modules=["query_key_value"], lora_alpha=16,
        base_model_name_or_path="bigscience/bloom-560m",
    )  # fmt: skip
    reading = make.read(tensors, config)
    assert reading.adapter is not None, make.codes(reading)
    expected = np.zeros((24, 8))
    expected[0:8] = 8.0 * b[:8, :, 0].astype(np.float64) @ a[:2]
    expected[16:24] = 8.0 * b[8:, :, 0].astype(np.float64) @ a[2:]
    np.testing.assert_allclose(make.delta_of(reading.adapter.modules[0]), expected, rtol=1e-13)
    assert reading.adapter.modules[0].rank == 4


VARIANTS = {
    "MoRA": ({"use_mora": True, "mora_type": 6}, {}, "use_mora"),
    "HydraLoRA": ({"lora_nums": 3}, {"lora_route.weight": (3, 8), "lora_B0.weight": (8, 2)}, "lora_B0, lora_route"),
}  # fmt: skip


@pytest.mark.parametrize("row", list(VARIANTS))
def test_variants_of_other_peoples_peft_are_refused_by_name(make, row):
    settings, more, words = VARIANTS[row]
    place = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {"lora_A.weight": (2, 8), "lora_B.weight": (8, 2), **more}
    tensors = {f"{place}.{leaf}": np.ones(shape, "f4") for leaf, shape in shapes.items()}
    reading = read_adapter(make.files_of(tensors, make.lora_config(**settings)))
    (problem,) = [p for p in reading.inspection.problems if p.severity == "error"]
    assert problem.code == "unsupported_method"
    assert words in problem.message


def test_weights_beside_the_adapter_are_not_passed_over(make):
    place = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{place}.lora_A.weight": np.ones((2, 8), "f4"), f"{place}.lora_B.weight": np.ones((8, 2), "f4")}  # fmt: skip
    for name, warned in (("trainable_params.bin", True), ("adapter_model.bin", False), ("optimizer.pt", False)):  # fmt: skip
        files = make.files_of(tensors, make.lora_config())
        more = {**files.files, name: MemorySource(name, save(tensors))}
        found = read_adapter(AdapterFiles(location="mem", files=more)).inspection
        assert ("weights_beside" in {p.code for p in found.problems}) is warned
