"""Merge methods against dense float64 computations that share nothing with them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptrix.compose.combine import combine
from adaptrix.compose.core import canonical, core_of
from adaptrix.compose.elements import Elements, dense, in_basis
from adaptrix.compose.inputs import Input, groups
from adaptrix.compose.methods import find
from adaptrix.compose.methods.della import keep_chances
from adaptrix.compose.methods.election import dropped
from adaptrix.compose.tensors import to_torch
from adaptrix.schema.errors import UsageError

conftest = sys.modules.get("tests.conftest") or sys.modules["conftest"]
make = conftest.load_helper("compose_makers", Path(__file__).parent / "makers.py")
ONE = make.as_float64(make.adapter(1, ranks=(3, 2)))
TWO = make.as_float64(make.adapter(2, ranks=(2, 4)))
THREE = make.as_float64(make.adapter(3, ranks=(4,)))
PATHS = sorted(make.SHAPES)


def merged(name, *pairs, **parameters):
    return make.deltas(combine(make.inputs(*pairs), name, parameters).adapter)


def dense_of(*adapters):
    tables = [make.deltas(one) for one in adapters]
    return {path: [table[path] for table in tables] for path in PATHS}


def close(got, wanted, tolerance=1e-9):
    assert make.distance(got, wanted) <= tolerance


def test_svd_is_the_best_of_its_rank_and_reports_the_tail():
    exact = {p: 0.6 * a + 0.5 * b for p, (a, b) in dense_of(ONE, TWO).items()}
    result = combine(make.inputs((ONE, 0.6), (TWO, 0.5)), "svd", {"rank": 2})
    lost = total = 0.0
    wanted = {}
    for path, update in exact.items():
        u, s, v = np.linalg.svd(update)
        wanted[path] = (u[:, :2] * s[:2]) @ v[:2]
        lost, total = lost + (s[2:] ** 2).sum(), total + (s**2).sum()
    close(make.deltas(result.adapter), wanted)
    assert result.relative_error == pytest.approx((lost / total) ** 0.5, rel=1e-9)
    assert result.adapter.ranks == (2,)


def test_energy_keeps_the_least_rank_that_reaches_it():
    result = combine(make.inputs((ONE, 1.0), (TWO, 1.0)), "svd", {"energy": 0.9})
    for module in result.adapter.modules:
        s = np.linalg.svd(sum(dense_of(ONE, TWO)[module.path]), compute_uv=False) ** 2
        shares = s.cumsum() / s.sum()
        assert module.rank == int((shares < 0.9).sum()) + 1


def _slerp(a, b, t, lengths):
    na, nb = np.linalg.norm(a), np.linalg.norm(b)
    theta = np.arccos((a * b).sum() / (na * nb))
    ca, cb = np.sin((1 - t) * theta) / np.sin(theta), np.sin(t * theta) / np.sin(theta)
    if not lengths:
        return ca * a + cb * b
    return (ca * a / na + cb * b / nb) * ((1 - t) * na + t * nb)


@pytest.mark.parametrize(("name", "lengths"), [("slerp", False), ("nuslerp", True)])
def test_slerp(name, lengths):
    # Weights 3 and 1: a quarter of the way.
    wanted = {p: _slerp(a, b, 0.25, lengths) for p, (a, b) in dense_of(ONE, TWO).items()}
    close(merged(name, (ONE, 3.0), (TWO, 1.0)), wanted)


def test_karcher_is_where_the_mean_of_the_logs_is_zero():
    got = merged("karcher", (ONE, 1.0), (TWO, 2.0), (THREE, 1.0))
    for path, parts in dense_of(ONE, TWO, THREE).items():
        units = [part / np.linalg.norm(part) for part in parts]
        point = got[path] / np.linalg.norm(got[path])
        logs = []
        for unit in units:
            theta = np.arccos((unit * point).sum())
            logs.append(theta / np.sin(theta) * (unit - np.cos(theta) * point))
        mean = 0.25 * logs[0] + 0.5 * logs[1] + 0.25 * logs[2]
        assert np.linalg.norm(mean) <= 1e-8
        sizes = [np.linalg.norm(part) for part in parts]
        assert np.linalg.norm(got[path]) == pytest.approx(np.dot([0.25, 0.5, 0.25], sizes))


def test_two_adapters_meet_where_multislerp_karcher_and_nuslerp_agree():
    pairs = [(ONE, 1.0), (TWO, 1.0)]
    for name in ("multislerp", "karcher"):
        close(merged(name, *pairs), merged("nuslerp", *pairs))


def test_model_stock():
    wanted = {}
    for path, parts in dense_of(ONE, TWO, THREE).items():
        pairs = [(0, 1), (0, 2), (1, 2)]
        cosine = np.mean([
            (parts[i] * parts[j]).sum() / np.linalg.norm(parts[i]) / np.linalg.norm(parts[j])
            for i, j in pairs
        ])  # fmt: skip
        wanted[path] = max(0.0, 3 * cosine / (1 + 2 * cosine)) * sum(parts) / 3
    close(merged("model_stock", (ONE, 1.0), (TWO, 1.0), (THREE, 1.0)), wanted)


def _trim(part, density):
    keep = int(np.ceil(density * part.size - 1e-9))
    cut = np.sort(np.abs(part.astype(np.float32)).ravel())[-keep]
    return np.where(np.abs(part.astype(np.float32)) >= cut, part, 0)


def _elect(parts, weights):
    stack, factors = np.stack(parts), np.reshape(weights, (-1, 1, 1))
    sign = np.sign((factors * stack).sum(0))
    agree = (np.sign(factors * stack) == sign) & (stack != 0)
    top, bottom = (factors * stack * agree).sum(0), (np.abs(factors) * agree).sum(0)
    return top / np.maximum(bottom, 1e-300)


def test_ties_densely():
    wanted = {
        p: _elect([_trim(x, 0.3) for x in parts], (1.0, 0.5))
        for p, parts in dense_of(ONE, TWO).items()
    }
    close(merged("ties@dense", (ONE, 1.0), (TWO, 0.5), density=0.3, rank=20), wanted, 1e-5)


def test_magnitude_prune_and_breadcrumbs_densely():
    parts = dense_of(ONE, TWO)
    wanted = {p: 0.7 * _trim(a, 0.4) + 0.2 * _trim(b, 0.4) for p, (a, b) in parts.items()}
    pairs = [(ONE, 0.7), (TWO, 0.2)]
    close(merged("magnitude_prune@dense", *pairs, density=0.4, rank=20), wanted, 1e-5)

    def crumbs(x):
        return _trim(x, 0.5) * (_trim(x, 0.1) == 0)

    wanted = {p: 0.7 * crumbs(a) + 0.2 * crumbs(b) for p, (a, b) in parts.items()}
    got = merged("breadcrumbs@dense", *pairs, density=0.4, gamma=0.1, rank=20)
    close(got, wanted, 1e-5)


def test_sce_densely():
    wanted = {}
    for path, parts in dense_of(ONE, TWO, THREE).items():
        variance = np.stack(parts).var(axis=0).astype(np.float32)
        cut = np.sort(variance.ravel())[-int(np.ceil(0.3 * variance.size))]
        kept = [p * (variance >= cut) for p in parts]
        energy = np.array([(p**2).sum() for p in kept])
        wanted[path] = _elect(kept, energy / energy.sum())
    pairs = [(ONE, 1.0), (TWO, 1.0), (THREE, 1.0)]
    close(merged("sce@dense", *pairs, density=0.3, rank=20), wanted, 1e-4)


def test_knots():
    wanted = {}
    for path, parts in dense_of(ONE, TWO).items():
        u, s, v = np.linalg.svd(np.hstack(parts), full_matrices=False)
        k = int((s > 1e-10).sum())
        blocks = np.split(s[:k, None] * v[:k], 2, axis=1)
        wanted[path] = u[:, :k] @ _elect([_trim(b, 0.5) for b in blocks], (1.0, 1.0))
    close(merged("knots", (ONE, 1.0), (TWO, 1.0)), wanted)
    with_all = merged("knots", (ONE, 1.0), density=1.0)
    close(with_all, make.deltas(ONE))


def _polar(m):
    u, _, v = np.linalg.svd(m, full_matrices=False)
    return u @ v


def _ranked(m, k=None):
    u, s, v = np.linalg.svd(m, full_matrices=False)
    k = k if k is not None else int((s > 1e-10 * s[0]).sum())
    return u[:, :k], s[:k], v[:k].T


def test_tsv_m_iso_c_and_cart():
    tsv, iso, cart = {}, {}, {}
    for path, (a, b) in dense_of(ONE, TWO).items():
        (u1, s1, v1), (u2, s2, v2) = _ranked(0.6 * a), _ranked(0.8 * b)
        left, right = _polar(np.hstack([u1, u2])), _polar(np.hstack([v1, v2]))
        tsv[path] = left @ np.diag(np.r_[s1, s2]) @ right.T
        u, s, v = _ranked(0.6 * a + 0.8 * b)
        iso[path] = 1.5 * s.mean() * u @ v.T
        mean = (a + b) / 2
        total = 0.7 * mean
        for weight, part in ((0.6, a), (0.8, b)):
            u, s, v = _ranked(part - mean)
            k = round(0.5 * len(s))
            total = total + weight * (u[:, :k] * s[:k]) @ v[:, :k].T
        cart[path] = total
    pairs = [(ONE, 0.6), (TWO, 0.8)]
    close(merged("tsv_m", *pairs), tsv, 1e-7)
    close(merged("iso_c", *pairs, scale=1.5), iso)
    close(merged("cart", *pairs), cart)


def test_pico():
    wanted = {}
    for path, parts in dense_of(ONE, TWO, THREE).items():
        u, s, _ = np.linalg.svd(np.hstack(parts), full_matrices=False)
        alpha = 1 / (1 + 2 * s**2 / (s**2).sum())
        total = sum(u @ np.diag(alpha) @ u.T @ p for p in parts)
        size = np.mean([np.linalg.norm(p) for p in parts])
        wanted[path] = total * size / np.linalg.norm(total)
    close(merged("pico", (ONE, 1.0), (TWO, 1.0), (THREE, 1.0)), wanted)


def test_core_space_as_published():
    """Reference bases by SVD of all B and of all A; TIES on ``U^T B_t A_t V``."""
    wanted = {}
    for path in PATHS:
        shares = [next(m for m in one.modules if m.path == path) for one in (ONE, TWO)]
        bs = [m.scale.value * to_torch(m.b).double().numpy() for m in shares]
        downs = [to_torch(m.a).double().numpy() for m in shares]
        u, s, _ = np.linalg.svd(np.hstack(bs), full_matrices=False)
        _, t, v = np.linalg.svd(np.vstack(downs), full_matrices=False)
        u, v = u[:, s > 1e-10 * s[0]], v[t > 1e-10 * t[0]]
        cores = [u.T @ b @ a @ v.T for b, a in zip(bs, downs, strict=True)]
        wanted[path] = u @ _elect([_trim(m, 0.4) for m in cores], (1.0, 0.5)) @ v
    pairs = [(ONE, 1.0), (TWO, 0.5)]
    close(merged("core_space", *pairs, density=0.4), wanted)
    close(merged("ties@core", *pairs, density=0.4), wanted)
    with pytest.raises(UsageError, match="no space 'canonical'"):
        merged("core_space@canonical", *pairs)


def test_regmean_is_nearest_to_every_adapters_outputs():
    wanted = {}
    grams = [make.grams_of(one) for one in (ONE, TWO)]
    for path, parts in dense_of(ONE, TWO).items():
        gs = []
        for table in grams:
            g = to_torch(table[path]).numpy()
            g = np.diag(g) if g.ndim == 1 else g
            gs.append(0.7 * g + 0.3 * np.diag(np.diag(g)) + 1e-12 * np.eye(len(g)))
        top = 0.6 * parts[0] @ gs[0] + 0.9 * parts[1] @ gs[1]
        wanted[path] = np.linalg.solve(sum(gs), top.T).T
    close(merged("regmean", (ONE, 0.6), (TWO, 0.9), alpha=0.7), wanted, 1e-5)
    only = make.as_float64(make.adapter(7, paths=("model.layers.0.q",)))
    # An adapter without the module has an update of zero on its own inputs.
    got = merged("regmean", (ONE, 1.0), (only, 1.0), alpha=1.0)["model.layers.1.fc"]
    part = make.deltas(ONE)["model.layers.1.fc"]
    gs = [to_torch(make.grams_of(one)["model.layers.1.fc"]).numpy() for one in (ONE, only)]
    np.testing.assert_allclose(
        got, np.linalg.solve(sum(gs), (part @ gs[0]).T).T, rtol=1e-6, atol=1e-7
    )


def test_regmean_needs_grams_of_the_right_shape():
    with pytest.raises(UsageError, match=r"model\.embed: regmean needs the Gram matrix"):
        combine([Input(adapter=ONE), Input(adapter=TWO)], "regmean")
    narrow = dict.fromkeys(PATHS, make.tensor(torch.eye(3)))
    with pytest.raises(
        UsageError, match=r"expected a Gram matrix of shape \(20, 20\), got \(3, 3\)"
    ):
        combine([Input(adapter=ONE, grams=narrow), Input(adapter=TWO, grams=narrow)], "regmean")


def test_pico_before_another_method():
    wanted = {}
    for path, parts in dense_of(ONE, TWO).items():
        u, s, _ = np.linalg.svd(np.hstack(parts), full_matrices=False)
        alpha = 1 / (1 + s**2 / (s**2).sum())
        (u1, s1, v1), (u2, s2, v2) = (_ranked(u @ np.diag(alpha) @ u.T @ p) for p in parts)
        left, right = _polar(np.hstack([u1, u2])), _polar(np.hstack([v1, v2]))
        total = left @ np.diag(np.r_[s1, s2]) @ right.T
        wanted[path] = total * np.mean([np.linalg.norm(p) for p in parts]) / np.linalg.norm(total)
    close(merged("pico+tsv_m", (ONE, 1.0), (TWO, 1.0)), wanted, 1e-7)
    close(merged("pico+linear", (ONE, 0.5), (TWO, 2.0)), merged("pico", (ONE, 0.5), (TWO, 2.0)))
    for name in ("pico+pico", "pico+ties@dense", "pico+compat:peft-linear", "pico+regmean"):
        with pytest.raises(UsageError, match="pico cannot come before"):
            merged(name, (ONE, 1.0), (TWO, 1.0))


def test_iso_cts_has_equal_singular_values_and_keeps_the_common_directions():
    got = merged("iso_cts", (ONE, 1.0), (TWO, 1.0), common=0.5)
    for path, (a, b) in dense_of(ONE, TWO).items():
        s = np.linalg.svd(got[path], compute_uv=False)
        real = s[s > 1e-9 * s[0]]
        assert real.max() - real.min() <= 1e-6 * real.max()
        u, _, _ = _ranked(a + b, 1)
        column_space = np.linalg.svd(got[path])[0][:, : len(real)]
        assert np.linalg.norm(column_space.T @ u) == pytest.approx(1.0, abs=1e-6)


def test_ctm_has_the_rank_that_is_asked_for_and_is_exact_where_that_suffices():
    result = combine(make.inputs((ONE, 1.0), (TWO, 1.0)), "ctm", {"rank": 3, "density": 1.0})
    assert max(result.adapter.ranks) == 3
    # One adapter twice: the common basis holds it, and the mean of two equals is itself.
    close(merged("ctm", (ONE, 1.0), (ONE, 1.0), rank=3, density=1.0), make.deltas(ONE), 1e-7)


def test_a_core_holds_its_updates_and_is_canonical():
    for group in groups(make.inputs((ONE, 1.0), (TWO, 1.0))):
        for core in (core_of(group.shares), canonical(core_of(group.shares))):
            eye = torch.eye(core.left.shape[1], dtype=torch.float64)
            assert torch.allclose(core.left.T @ core.left, eye, atol=1e-12)
            for part, wanted in zip(core.parts, dense_of(ONE, TWO)[group.path], strict=True):
                got = (core.left @ part @ core.right.T).numpy()
                assert np.abs(got - wanted).max() <= 1e-12 * np.abs(wanted).max()


def test_cuts_are_those_of_a_full_sort():
    generator = torch.Generator().manual_seed(3)
    part = torch.randn(37, 41, generator=generator).double()
    elements = in_basis([part], list)
    values = part.abs().float().flatten().sort(descending=True).values
    for density in (0.001, 0.1, 0.5, 0.999):
        wanted = values[int(np.ceil(density * part.numel() - 1e-9)) - 1]
        assert elements.cut(lambda parts: parts[0].abs(), density) == float(wanted)


def test_dense_blocks_are_the_update(monkeypatch):
    monkeypatch.setattr("adaptrix.compose.elements.DENSE_ROWS", 4)
    group = groups(make.inputs((ONE, 1.0), (TWO, 1.0)))[0]
    elements: Elements = dense(group.shares, list)
    whole = torch.cat([parts[1] for parts in elements.blocks()]).numpy()
    assert np.abs(whole - dense_of(ONE, TWO)[group.path][1]).max() <= 1e-4


def test_dropping_is_unbiased_and_della_drops_small_entries_more_often():
    part = torch.linspace(1, 4, 40, dtype=torch.float64).reshape(2, 20)
    draw = torch.Generator().manual_seed(0)
    mean = torch.stack([dropped(part, 0.4, draw) for _ in range(4000)]).mean(0)
    assert float((mean / part - 1).abs().max()) < 0.1
    chances = keep_chances(part, 0.5, 0.2)
    assert chances[0].tolist() == pytest.approx(np.linspace(0.3, 0.7, 20).tolist())


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("nothing", {}, "no method 'nothing'"),
        ("linear@core", {}, "no choice of spaces"),
        ("ties@where", {}, "no space 'where'"),
        ("ties", {"density": 0.0}, "expected a number from 0.0001 to 1"),
        ("ties", {"depth": 1.0}, "ties has no parameter 'depth'"),
        ("linear", {"rank": 4}, "linear has no parameter 'rank'"),
        ("svd", {"rank": 1.5}, "expected a whole number"),
        ("svd", {"rank": 2, "energy": 0.5}, "not both"),
        ("ties@dense", {}, "a dense result has full rank"),
        ("della", {"density": 0.05}, r"density ± epsilon must lie in \(0, 1\]"),
    ],
)
def test_what_cannot_be_done_is_said(name, parameters, words):
    with pytest.raises(UsageError, match=words):
        combine(make.inputs((ONE, 1.0), (TWO, 1.0)), name, parameters)


def test_pairs_and_signs():
    with pytest.raises(UsageError, match="slerp is for two adapters, not 3"):
        combine(make.inputs((ONE, 1.0), (TWO, 1.0), (THREE, 1.0)), "slerp")
    with pytest.raises(UsageError, match="weights above 0"):
        combine(make.inputs((ONE, 1.0), (TWO, -0.5)), "karcher")
    with pytest.raises(UsageError, match="opposite|cancel"):
        opposite = combine(make.inputs((ONE, -1.0)), "linear").adapter
        combine(make.inputs((ONE, 1.0), (opposite, 1.0)), "multislerp")


@pytest.mark.parametrize(
    ("written", "name"),
    [("cat", "linear"), ("dare-ties", "dare_ties"), ("compat:peft-dare-ties", "compat:peft-dare_ties"),
     ("compat:peft-cat", "compat:peft-cat"), ("pico+tsv-m", "pico+tsv_m"), ("ties@core", "ties")],
)  # fmt: skip
def test_names_as_people_write_them(written, name):
    assert find(written)[0].name == name
