"""The page of all settings, from the code: `python -m lumiply.settings_page > docs/settings.md`."""

from __future__ import annotations

from typing import Final

from lumiply.settings import PREFIX, Settings

_HEAD: Final = f"""\
# Settings

Made from the code by `python -m lumiply.settings_page > docs/settings.md`.

A setting is an environment variable `{PREFIX}...`, an argument of `Settings(...)` in code (lower case, without the
prefix), and, for some, an option of `lumiply serve`. All are checked at the start: an unknown name, a value out of
its limits, or two that contradict each other stop it with a sentence that says what to change. Secrets (token,
secret_key, ngrok_authtoken) never appear in logs and messages.

| variable | default | what it may be | |
|---|---|---|---|
"""


def page() -> str:
    """The page, as Markdown."""
    rows = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {_cell(limit)} | {_cell(help)} |"
        for name, default, limit, help in Settings.describe()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
