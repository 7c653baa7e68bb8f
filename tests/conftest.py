"""Fixtures that all tests share; nothing here reaches beyond 127.0.0.1."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

# Before anything imports huggingface_hub, which reads them once.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
# A shell's background job ignores Ctrl-C and hands that down to the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "ADAPTRIX_OFFLINE", "ADAPTRIX_HOME"):
    os.environ.pop(_name, None)


def load_helper(name: str, path: Path):
    """Import a helper module of the tests by its file."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


registries = load_helper("loopback_registry", Path(__file__).parent / "loopback" / "registry.py")
load_helper("loopback_hub_writes", Path(__file__).parent / "loopback" / "hub_writes.py")
loopback = load_helper("loopback_hub", Path(__file__).parent / "loopback" / "hub.py")
load_helper("docker_registry", Path(__file__).parent / "loopback" / "docker_registry.py")
load_helper("oci_makers", Path(__file__).parent / "loopback" / "oci_makers.py")


@pytest.fixture
def hub(monkeypatch):
    """A loopback Hub, announced by HF_ENDPOINT, with short pauses."""
    with loopback.LoopbackHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
        monkeypatch.setenv("ADAPTRIX_HUB_BACKOFF", "0.01")
        monkeypatch.setenv("ADAPTRIX_HUB_ATTEMPTS", "4")
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        yield server


@pytest.fixture
def registry_server():
    """An OCI registry in memory."""
    with registries.LoopbackRegistry() as server:
        yield server


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A registry folder of its own."""
    path = tmp_path / "home"
    monkeypatch.setenv("ADAPTRIX_HOME", str(path))
    return path
