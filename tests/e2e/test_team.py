"""Three users, each with a home of their own, share through CNCF distribution with tokens.

Alice and Bob may write, Carol may read. Everything goes through the command line, as in
docs/team.md.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "adapters"
docker = sys.modules["docker_registry"]

pytestmark = [
    pytest.mark.skipif(docker.DOCKER_REGISTRY is None, reason="no docker-registry here"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here"),
]


@pytest.fixture
def server(tmp_path):
    with docker.TokenServer(tmp_path / "issuer") as issuer:
        with docker.DockerRegistry(
            tmp_path / "registry", auth="token", token_server=issuer
        ) as found:
            yield found


@pytest.fixture
def adaptrix(tmp_path):
    said = []

    def call(user, *arguments, stdin="", status=0):
        settings = {
            **os.environ, "PYTHONPATH": str(ROOT / "src"), "ADAPTRIX_HOME": str(tmp_path / user),
            "ADAPTRIX_HUB_ATTEMPTS": "2",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "adaptrix.cli.main", *map(str, arguments), "--json"],
            check=False, input=stdin, capture_output=True, text=True, timeout=120, env=settings,
        )  # fmt: skip
        said.append(done.stdout + done.stderr)
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout) if status == 0 else json.loads(done.stderr)["error"]

    yield call
    for secret in docker.PASSWORDS.values():
        assert all(secret not in text for text in said)


def test_three_users_share_math_code_and_their_composition(server, adaptrix, tmp_path):
    for user, account in (("alice", "writer"), ("bob", "writer"), ("carol", "reader")):
        adaptrix(user, "remote", "add", "team", f"{server.url}/adapters")
        secret = docker.PASSWORDS[account]
        adaptrix(user, "login", "team", "--username", account, stdin=f"{secret}\n")
        kept = tmp_path / user / "credentials.json"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600

    adaptrix("alice", "pull", SAMPLES / "math", "--as", "math")
    adaptrix("bob", "pull", SAMPLES / "code", "--as", "code")
    adaptrix("alice", "push", "math")
    adaptrix("bob", "push", "code", "team", "--tag", "v1")

    adaptrix("alice", "pull", "team/code:v1")
    mix = adaptrix("alice", "compose", "math", "code:v1", "-o", "mix")
    pushed = adaptrix("alice", "push", "mix")
    assert pushed["digest"] == mix["digest"]
    assert pushed["skipped_bytes"] > 0

    rows = adaptrix("carol", "ls", "team/")["rows"]
    assert {row["reference"] for row in rows} == {
        "team/math:latest", "team/code:v1", "team/mix:latest",
    }  # fmt: skip
    assert adaptrix("carol", "pull", "team/mix")["digest"] == mix["digest"]
    assert adaptrix("carol", "verify", "mix")["verdict"] == "PASS"
    assert len(adaptrix("carol", "log", "mix")["rows"]) == 3
    refused = adaptrix("carol", "push", "mix", "team/stolen", status=4)
    assert refused["code"] == "access_denied"

    shutil.rmtree(tmp_path / "alice")
    adaptrix("alice", "remote", "add", "team", f"{server.url}/adapters")
    adaptrix("alice", "ls", "team/", status=4)
    adaptrix("alice", "login", "team", "-u", "writer", stdin=docker.PASSWORDS["writer"])
    everything = adaptrix("alice", "pull", "--all", "team")
    assert {row["reference"]: row["digest"] for row in everything["rows"]} == {
        row["reference"].removeprefix("team/"): row["digest"] for row in rows
    }
    assert adaptrix("alice", "fsck")["verdict"] == "PASS"


def test_a_wrong_password_is_refused_and_not_kept(server, adaptrix, tmp_path):
    adaptrix("mallory", "remote", "add", "team", server.url)
    error = adaptrix("mallory", "login", "team", "-u", "writer", stdin="guess", status=4)
    assert "guess" not in json.dumps(error)
    assert not (tmp_path / "mallory" / "credentials.json").exists()
