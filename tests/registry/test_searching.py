"""Words, filters and likeness, here and at a remote."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptrix.registry.registry import Registry
from adaptrix.registry.searching import parse_query
from adaptrix.samples.deltas import sample_deltas
from adaptrix.schema.errors import UsageError
from adaptrix.store.query import SearchQuery, Span

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "adapters"
NAMES = ("math", "instruct", "news", "code", "qa")


@pytest.fixture
def registry(tmp_path):
    with Registry(tmp_path / "home") as found:
        for name in NAMES:
            found.pull(
                str(SAMPLES / name), name=f"team/{name}", description=f"Prüft {name} problems",
                domain="education", capabilities=("answers", name),
            )  # fmt: skip
        yield found


def found(registry, query, **options):
    return [row.reference for row in registry.search(query, **options)]


def test_words_begin_words_and_all_must_fit(registry):
    assert found(registry, "math") == ["team/math:latest"]
    assert found(registry, "MA prob") == ["team/math:latest"]
    assert found(registry, "pruft inst") == ["team/instruct:latest"]
    assert found(registry, "math news") == []
    assert len(found(registry, "education")) == 5
    assert len(found(registry, "")) == 5
    assert found(registry, "answers", limit=2) == found(registry, "answers")[:2]


def test_a_name_counts_more_than_a_description(registry):
    registry.pull(str(SAMPLES / "math"), name="other", description="not about news, math rather")
    assert found(registry, "news")[0] == "team/news:latest"
    assert set(found(registry, "news")) == {"team/news:latest", "other:latest"}


def test_punctuation_is_compared_as_it_stands(registry):
    assert found(registry, "team/math") == ["team/math:latest"]
    assert found(registry, "q_proj math") == ["team/math:latest"]
    assert found(registry, '"') == []
    assert found(registry, "' OR 1=1 --") == []
    assert found(registry, "%") == []


def test_filters(registry):
    ranks = {row.reference: row.ranks for row in registry.ls()}
    for rank in {rank for known in ranks.values() for rank in known}:
        wanted = sorted(name for name, known in ranks.items() if rank in known)
        assert sorted(found(registry, f"rank:{rank}")) == wanted
    sizes = {row.reference: row.bytes for row in registry.ls()}
    small = sorted(name for name, size in sizes.items() if size < 400_000)
    assert 0 < len(small) < 5
    assert sorted(found(registry, "size:<400kB")) == small
    assert found(registry, "family:PHI base:sample capability:math") == ["team/math:latest"]
    assert found(registry, "format:gguf") == ["team/qa:latest"]
    assert found(registry, "family:llama") == []
    assert found(registry, "module:proj") == []
    with_k = {n for n in NAMES if any(path.endswith("k_proj") for path in sample_deltas(n))}
    assert {r.split("/")[1].split(":")[0] for r in found(registry, "module:k_proj")} == with_k
    assert len(found(registry, "since:2020-01-01")) == 5
    assert found(registry, "until:2020-01-01") == []
    assert found(registry, "domain:educ license:apache-2.0 math") == ["team/math:latest"]


def test_a_moved_or_removed_name_is_found_as_it_is_now(registry):
    registry.pull(str(SAMPLES / "news"), name="team/math", description="headlines",
                  capabilities=["titles"])  # fmt: skip
    assert found(registry, "headlines") == ["team/math:latest"]
    assert found(registry, "capability:math") == []
    registry.rm("team/math")
    assert found(registry, "headlines") == []
    registry.restore("team/math")
    assert found(registry, "headlines") == ["team/math:latest"]
    registry.reindex()
    assert found(registry, "headlines") == ["team/math:latest"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a b", SearchQuery(words=("a", "b"))),
        ("rank:8", SearchQuery(rank=Span(low=8, high=8))),
        ("rank:4..16", SearchQuery(rank=Span(low=4, high=16))),
        ("rank:..16", SearchQuery(rank=Span(high=16))),
        ("rank:<8", SearchQuery(rank=Span(high=7))),
        ("rank:>=8", SearchQuery(rank=Span(low=8))),
        ("size:<1.5MB", SearchQuery(size_bytes=Span(high=1_499_999))),
        ("math:v1", SearchQuery(words=("math:v1",))),
        ("since:2026-01-02", SearchQuery(since="2026-01-02")),
    ],
)
def test_queries(text, wanted):
    assert parse_query(text) == wanted


@pytest.mark.parametrize("text", ["rank:x", "size:5furlongs", "famly:phi", "since:now", "rank:"])
def test_what_is_no_filter_is_said(text):
    with pytest.raises(UsageError):
        parse_query(text)


def test_the_same_query_gives_the_same_at_a_remote(registry, tmp_path):
    registry.add_remote("share", str(tmp_path / "share"))
    for name in NAMES:
        registry.push(f"team/{name}", "share")
    for query in (
        "math",
        "rank:8",
        "module:k_proj",
        "size:<400kB",
        "capability:news",
        "format:mlx",
    ):
        here = {f"share/{reference}" for reference in found(registry, query)}
        assert set(found(registry, query, remote="share")) == here, query
    with pytest.raises(UsageError, match="dates"):
        registry.search("since:2020-01-01", remote="share")


def test_similar_ranks_by_the_exact_cosine(registry):
    registry.compose([("team/math", 1.0), ("team/code", 0.1)], output="near")
    rows = registry.similar("team/math")
    assert rows[0].reference == "near:latest"
    assert [row.cosine for row in rows] == sorted((row.cosine for row in rows), reverse=True)
    a, b = sample_deltas("math"), sample_deltas("news")
    inner = sum(float((a[path] * b[path]).sum()) for path in a.keys() & b.keys())
    sizes = [sum(float(delta.norm()) ** 2 for delta in d.values()) ** 0.5 for d in (a, b)]
    news = next(row for row in rows if row.reference == "team/news:latest")
    assert news.cosine == pytest.approx(inner / sizes[0] / sizes[1], abs=1e-9)
    assert news.shared == len(a.keys() & b.keys())
    assert registry.home.index.signatures().keys() == {e.digest for e in registry.home.versions()}
    assert registry.similar("team/math", limit=1) == rows[:1]


def test_ls_by_pages(registry):
    everything = [row.reference for row in registry.ls()]
    pages, after = [], ""
    while page := [row.reference for row in registry.ls(limit=2, after=after)]:
        pages += page
        after = page[-1]
    assert pages == everything
