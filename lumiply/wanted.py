"""Which of the published files are wanted: Lumiply's own, and by choice some of LumiNet's."""

from __future__ import annotations

from collections.abc import Sequence

from lumiply.errors import UserError
from lumiply.hub import LUMINET_FILES, Hub, RemoteFile


def wanted_files(hub: Hub, luminet: str | Sequence[str] = (), *, own: bool = True) -> list[RemoteFile]:
    """What to fetch. A file that both repositories have comes from Lumiply's.

    Args:
        hub: where they are looked up.
        luminet: one of `LUMINET_FILES`, some of them, or "all".
        own: whether Lumiply's own files are wanted.

    Raises:
        UserError: LumiNet has no such file, or nothing is wanted.
        FetchError: the hub does not tell.
    """
    names = [luminet] if isinstance(luminet, str) else list(luminet)
    unknown = sorted(set(names) - {*LUMINET_FILES, "all"})
    if unknown:
        raise UserError(
            f"LumiNet's files are {', '.join(LUMINET_FILES)}, or all of them: all. There is no {', '.join(unknown)}."
        )
    if not own and not names:
        raise UserError("Nothing is asked for. Name a file with --luminet, or leave --no-lumiply out.")
    chosen = LUMINET_FILES if "all" in names else [name for name in LUMINET_FILES if name in names]
    files = (hub.lumiply_files() if own else []) + (hub.luminet_files(chosen) if chosen else [])
    return list({(file.place, file.name): file for file in reversed(files)}.values())[::-1]
