"""Which of the published files are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lumiply.errors import UserError
from lumiply.hub import LUMINET, LUMINET_FILES, LUMIPLY, RemoteFile
from lumiply.wanted import wanted_files


def remote(repo: str, path: str) -> RemoteFile:
    return RemoteFile(repo, "0" * 40, path, "ckpt", 1, "0" * 64)


class ToldHub:
    """Tells of these files without any network."""

    def lumiply_files(self) -> list[RemoteFile]:
        return [remote(LUMIPLY, "ckpt/trained_crossattn.ckpt"), remote(LUMIPLY, "ckpt/new_decoder.ckpt")]

    def luminet_files(self, names: Sequence[str]) -> list[RemoteFile]:
        return [remote(LUMINET, name) for name in names]


@pytest.mark.parametrize(
    ("luminet", "names"),
    [
        ((), []),
        ("last.pth.tar", ["last.pth.tar"]),
        (("last.pth.tar", "LumiNet.ckpt"), ["LumiNet.ckpt", "last.pth.tar"]),
        (("all", "LumiNet.ckpt"), list(LUMINET_FILES)),
    ],
)
def test_luminets_files_are_named_one_by_one_or_all(luminet: Any, names: list[str]) -> None:
    hub: Any = ToldHub()
    if names:
        assert [file.name for file in wanted_files(hub, luminet, own=False)] == names
    with_own = wanted_files(hub, luminet)
    assert [file.name for file in with_own if file.repo == LUMINET] == [
        name
        for name in names
        if name != "new_decoder.ckpt"  # Lumiply's own wins
    ]
    assert len([file for file in with_own if file.repo == LUMIPLY]) == 2


def test_what_is_not_there_or_nothing_is_refused() -> None:
    hub: Any = ToldHub()
    with pytest.raises(
        UserError, match=r"LumiNet.ckpt, new_decoder.ckpt, last.pth.tar, or .* There is no last.pth"
    ):
        wanted_files(hub, ["last.pth"])
    with pytest.raises(UserError, match="Nothing is asked for"):
        wanted_files(hub, own=False)
