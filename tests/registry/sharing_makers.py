"""Users who share: their fixtures and what they have."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adaptrix.registry.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
registries = sys.modules["loopback_registry"]
docker = sys.modules["docker_registry"]
makers = sys.modules["oci_makers"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("ADAPTRIX_HUB_BACKOFF", "0.01")
    monkeypatch.setenv("ADAPTRIX_HUB_ATTEMPTS", "4")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "2")
    monkeypatch.delenv("ADAPTRIX_REMOTE", raising=False)
    monkeypatch.delenv("ADAPTRIX_TOKEN", raising=False)


@pytest.fixture(params=["memory", "docker", "folder"])
def url(request, tmp_path):
    """Where a team shares."""
    if request.param == "folder":
        yield str(tmp_path / "share")
    elif request.param == "memory":
        with registries.LoopbackRegistry() as server:
            yield f"{server.url}/adapters"
    else:
        if docker.DOCKER_REGISTRY is None:
            pytest.skip("no docker-registry here")
        with docker.DockerRegistry(tmp_path / "registry") as server:
            yield f"{server.url}/adapters"


@pytest.fixture
def user(tmp_path):
    """Make a user with a registry of their own."""
    opened = []

    def make(name, url=None):
        registry = Registry(tmp_path / name)
        opened.append(registry)
        if url is not None:
            registry.add_remote("team", url)
        return registry

    yield make
    for registry in opened:
        registry.close()


def stocked(registry):
    for name in ("math", "code"):
        registry.pull(str(SAMPLES / name), name=name)
    registry.compose([("math", 1.0), ("code", 0.5)], output="mix")
    return registry
