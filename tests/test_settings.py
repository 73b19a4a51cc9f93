"""Settings: defaults, the environment, and what stops the start."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path

import pytest

from lumiply.errors import SettingsError
from lumiply.settings import Settings
from lumiply.settings_page import page


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_env({}) == Settings()


def test_variables_are_read_by_type() -> None:
    settings = Settings.from_env(
        {
            "LUMIPLY_PORT": " 8080 ",
            "LUMIPLY_RESULTS_DIR": "here/there",
            "LUMIPLY_STEPS": "",
            "LUMIPLY_CALLBACK_HOSTS": "A.example, b.example:80,",
            "LUMIPLY_MODEL": "MINI",
            "LUMIPLY_PUBLIC_URL": "https://a.example/",
            "PATH": "/bin",
        }
    )
    assert settings.port == 8080
    assert settings.results_dir == Path("here/there")
    assert settings.steps is None
    assert settings.callback_hosts == ("a.example", "b.example:80")
    assert settings.model == "mini"
    assert settings.public_url == "https://a.example"


def test_a_tilde_stands_for_the_home_folder_given_or_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = Settings.from_env({"LUMIPLY_RESULTS_DIR": "~/res"}, ckpt_dir=Path("~/ckpt"))
    home = Path("/home/somebody")
    assert (settings.results_dir, settings.ckpt_dir) == (home / "res", home / "ckpt")
    assert settings.cache_dir == home / ".cache" / "lumiply"


def test_arguments_win_over_the_environment_unless_none() -> None:
    environ = {"LUMIPLY_PORT": "1", "LUMIPLY_SEED": "2"}
    settings = Settings.from_env(environ, port=3, seed=None)
    assert (settings.port, settings.seed) == (3, 2)


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("PORT", "70000", "a whole number from 0 to 65535"),
        ("PORT", "5000.5", "a whole number"),
        ("QUEUE_SIZE", "0", "from 1"),
        ("MAX_MEGAPIXELS", "nan", "from 0.001 to 89"),
        ("MAX_MEGAPIXELS", "200", "from 0.001 to 89"),
        ("REQUEST_TIMEOUT_S", "inf", "a number"),
        ("JPEG_QUALITY", "101", "from 1 to 100"),
        ("MODEL", "huge", "one of auto, full, mini"),
        ("DEVICE", "cuda:x", "auto, cpu, cuda or cuda:N"),
        ("PUBLIC_URL", "example.com", "http or https URL"),
        ("PUBLIC_URL", "https://a.example/?token=x", "http or https URL"),
        ("CALLBACK_HOSTS", "https://a.example/x", "host names"),
        ("CALLBACK_HOSTS", "*", "host names"),
        ("RESULTS_DIR", "", "path of a folder"),
        ("HOST", "a b", "host name"),
        ("SEED", "-1", "from 0"),
        ("STEPS", "0", "from 1 to 1000"),
        ("SIGN_URLS", "maybe", "true or false"),
        ("CORS_ORIGINS", "a.example", "origins such as"),
        ("THREADS", "4", "from 8"),
    ],
)
def test_a_bad_value_is_named_with_its_limit_and_remedy(name: str, value: str, limit: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({f"LUMIPLY_{name}": value})
    text = str(caught.value)
    assert text.startswith(f"{name.lower()} must be ") and limit in text
    assert repr(value) in text and f"unset LUMIPLY_{name}" in text


def test_values_given_in_code_are_checked_too() -> None:
    with pytest.raises(SettingsError, match="port must be"):
        Settings(port=-1)
    with pytest.raises(SettingsError, match="port must be"):
        Settings().replace(port=True)


def test_an_unknown_name_stops_the_start_with_a_guess() -> None:
    with pytest.raises(SettingsError, match="no setting LUMIPLY_PROT. Did you mean LUMIPLY_PORT"):
        Settings.from_env({"LUMIPLY_PROT": "5000"})
    with pytest.raises(SettingsError, match="no setting LUMIPLY_port"):
        Settings.from_env({"LUMIPLY_port": "5000"})
    with pytest.raises(SettingsError, match="no setting xyz. Known: host"):
        Settings.from_env({}, xyz=1)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"tunnel": "ngrok"}, "needs a token"),
        ({"tunnel": "ngrok", "ngrok_authtoken": "t", "public_url": "https://a.example"}, "contradict"),
        ({"auth": "none", "page": "token"}, "contradict"),
        ({"device": "cpu", "precision": "float16"}, "precision=float16 contradict"),
        ({"device": "cpu", "precision": "float8"}, "precision=float8 contradict"),
    ],
)
def test_contradictions_stop_the_start(values: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        Settings(**values)


def test_the_token_is_never_shown() -> None:
    settings = Settings.from_env({"NGROK_AUTHTOKEN": "sesame123"})
    assert settings.ngrok_authtoken == "sesame123"
    assert "sesame" not in repr(settings) + str(settings)
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"LUMIPLY_NGROK_AUTHTOKEN": "sesame 123"})
    assert "sesame" not in str(caught.value)


def test_a_password_in_an_address_is_neither_taken_nor_shown() -> None:
    given = {"results_url": "s3://me:open-sesame@bucket/results"}
    with pytest.raises(SettingsError) as caught:
        Settings(**given)
    assert "open-sesame" not in "".join(traceback.format_exception(caught.value))
    assert "results_url must be" in str(caught.value)


@pytest.mark.parametrize("name", ["token", "secret_key", "ngrok_authtoken"])
def test_a_mistyped_secret_stays_out_of_the_traceback(name: str) -> None:
    mistyped = {name: "open sesame, please"}
    with pytest.raises(SettingsError) as caught:
        Settings(**mistyped)
    assert "sesame" not in "".join(traceback.format_exception(caught.value))


def test_our_own_token_variable_comes_before_ngroks() -> None:
    environ = {"NGROK_AUTHTOKEN": "theirs", "LUMIPLY_NGROK_AUTHTOKEN": "ours"}
    assert Settings.from_env(environ).ngrok_authtoken == "ours"


def test_every_setting_is_described() -> None:
    table = Settings.describe()
    assert [row[0] for row in table] == [f"LUMIPLY_{f.name.upper()}" for f in dataclasses.fields(Settings)]
    assert all(limit and help.endswith(".") for _, _, limit, help in table)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_the_page_of_settings_is_current() -> None:
    written = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    assert written == page(), "run: python -m lumiply.settings_page > docs/settings.md"


@pytest.mark.parametrize(("given", "value"), [("true", True), ("1", True), ("No", False), (False, False)])
def test_yes_and_no_are_read(given: object, value: bool) -> None:
    assert Settings(sign_urls=given).sign_urls is value


def test_some_threads_never_wait() -> None:
    assert Settings().waiting_requests == 112
    assert Settings(threads=8).waiting_requests == 6
