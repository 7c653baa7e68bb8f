"""What is opened and what is not, when a user names a file or a folder."""

import os
import socket

import pytest

from adaptrix.convert.source import FileSource, MemorySource, open_path
from adaptrix.schema.errors import AccessDenied, FormatError, NotFound, PolicyRefused


def test_a_file_is_read_by_ranges(tmp_path):
    path = tmp_path / "adapter.bin"
    path.write_bytes(bytes(range(200)))
    files = open_path(path)
    source = files.files["adapter.bin"]
    assert files.location == str(path)
    assert (source.name, source.size_bytes) == ("adapter.bin", 200)
    assert bytes(source.read(10, 13)) == b"\n\x0b\x0c"
    assert bytes(source.read(200, 200)) == b""


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 201), (5, 4), (300, 400)])
def test_a_range_outside_of_the_file_is_refused(tmp_path, start, stop):
    path = tmp_path / "f"
    path.write_bytes(bytes(200))
    for source in (FileSource(path), MemorySource("f", bytes(200))):
        with pytest.raises(FormatError) as caught:
            source.read(start, stop)
        assert caught.value.code == "truncated"


def test_a_folder_is_searched_two_levels_deep_and_hidden_files_are_skipped(tmp_path):
    for name in ("b.json", "a.bin", "x/c.bin", "x/y/d.bin", "x/y/z/e.bin", ".git/f", ".hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert list(open_path(tmp_path).files) == ["a.bin", "b.json", "x/c.bin", "x/y/d.bin"]


def test_an_empty_file_is_listed(tmp_path):
    (tmp_path / "empty").touch()
    source = open_path(tmp_path).files["empty"]
    assert source.size_bytes == 0
    assert bytes(source.read(0, 0)) == b""


def test_nothing_there_is_not_found(tmp_path):
    with pytest.raises(NotFound) as caught:
        open_path(tmp_path / "absent")
    assert caught.value.exit_status == 5


def test_links_inside_the_folder_are_read_and_links_out_of_it_refused(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "real.bin").write_bytes(b"abc")
    (folder / "link.bin").symlink_to("real.bin")
    assert bytes(open_path(folder).files["link.bin"].read(0, 3)) == b"abc"
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "out.bin").symlink_to("../secret")
    with pytest.raises(PolicyRefused) as caught:
        open_path(folder)
    assert (caught.value.exit_status, caught.value.where) == (7, "out.bin")


@pytest.mark.parametrize("target", ["nowhere", "loop", "/etc", "/dev/zero", ".."])
def test_bad_links_are_refused(tmp_path, target):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "loop").symlink_to(target)
    with pytest.raises(PolicyRefused):
        open_path(folder)


def test_a_link_named_by_the_user_is_followed(tmp_path):
    (tmp_path / "real.bin").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("real.bin")
    assert bytes(open_path(tmp_path / "link").files["link"].read(0, 3)) == b"abc"


def test_a_snapshot_of_the_hub_cache_is_read_through_its_links(tmp_path):
    snapshot = tmp_path / "models--org--repo" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--org--repo" / "blobs"
    blobs.mkdir()
    (blobs / "aa").write_bytes(b"abc")
    (snapshot / "adapter_config.json").symlink_to("../../blobs/aa")
    assert bytes(open_path(snapshot).files["adapter_config.json"].read(0, 3)) == b"abc"


def test_a_fifo_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(PolicyRefused) as caught:
            open_path(path)
        assert caught.value.code == "not_a_file"


def test_devices_and_sockets_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        for path in (tmp_path / "s", "/dev/null"):
            with pytest.raises(PolicyRefused):
                open_path(tmp_path / path)


def test_a_file_that_changed_after_it_was_listed_is_refused(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one")
    source = FileSource(path)
    path.unlink()
    path.write_bytes(b"other")
    with pytest.raises(FormatError, match="changed"):
        source.read(0, 3)


def test_a_file_replaced_by_a_link_is_not_followed(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one")
    (tmp_path / "g").write_bytes(b"two")
    source = FileSource(path)
    path.unlink()
    path.symlink_to("g")
    with pytest.raises(FormatError):
        source.read(0, 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one")
    path.chmod(0)
    with pytest.raises(AccessDenied):
        FileSource(path).read(0, 3)


@pytest.mark.parametrize("name", ["a\x1b[31m.bin", "a\u202egpj.bin", "new\nline"])
def test_names_that_cannot_be_printed_are_refused_and_escaped(tmp_path, name):
    (tmp_path / name).write_bytes(b"1")
    with pytest.raises(FormatError) as caught:
        open_path(tmp_path)
    assert str(caught.value).isprintable()


def test_a_weight_file_is_read_with_the_settings_beside_it(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "other.safetensors").write_bytes(b"y")
    found = open_path(tmp_path / "adapter_model.safetensors")
    assert sorted(found.files) == ["adapter_config.json", "adapter_model.safetensors"]
    outside = tmp_path / "inner"
    outside.mkdir()
    (outside / "a.safetensors").write_bytes(b"x")
    (outside / "adapter_config.json").symlink_to(tmp_path / "adapter_config.json")
    assert sorted(open_path(outside / "a.safetensors").files) == ["a.safetensors"]
