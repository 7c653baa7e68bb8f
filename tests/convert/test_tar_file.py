"""Tar archives: members are read in place; what would leave the archive is refused."""

import io
import tarfile

import pytest

from adaptrix.convert.source import MemorySource
from adaptrix.convert.tar_file import is_tar, tar_members
from adaptrix.schema.errors import FormatError, PolicyRefused

LONG = "a" * 80 + "/" + "b" * 60 + "/weights.ckpt"


def archive(*members, form=tarfile.GNU_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)
    return MemorySource("x.nemo", out.getvalue())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_ranges_of_the_archive(form):
    source = archive(("./a.yaml", b"x: 1"), (LONG, bytes(range(256)) * 5), ("e", b""), form=form)
    assert is_tar(source)
    found = tar_members(source)
    assert list(found) == ["a.yaml", LONG, "e"]
    assert bytes(found[LONG].read(3, 300)) == (bytes(range(256)) * 5)[3:300]
    assert found["e"].size_bytes == 0
    with pytest.raises(FormatError):
        found["a.yaml"].read(0, 5)


@pytest.mark.parametrize(
    "member",
    [("../up", b"x"), ("/root", b"x"), ("a/../../b", b"x"), ("link", (tarfile.SYMTYPE, "/etc")),
     ("hard", (tarfile.LNKTYPE, "x")), ("dev", (tarfile.CHRTYPE, "")), ("fifo", (tarfile.FIFOTYPE, ""))],
)  # fmt: skip
def test_what_leads_out_is_refused(member):
    with pytest.raises(PolicyRefused) as error:
        tar_members(archive(("good", b"x"), member))
    assert error.value.exit_status == 7


def test_old_torch_is_named():
    parts = [(name, b"x") for name in ("sys_info", "pickle", "storages", "tensors")]
    with pytest.raises(PolicyRefused, match="torch"):
        tar_members(archive(*parts))


def test_damaged_archives():
    good = bytes(archive(("a", b"x" * 600), ("b", b"y")).content)
    for bad in (good[:700], good[:124] + b"9" * 11 + good[135:], b"z" + good[1:]):
        with pytest.raises(FormatError):
            tar_members(MemorySource("x", bad))
    with pytest.raises(FormatError, match="one name"):
        tar_members(archive(("a", b"x"), ("./a", b"y")))
