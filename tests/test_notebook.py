"""What the notebooks call: settings, serving, the state of a server, a folder of photos."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from lumiply import api, client, notebook
from lumiply.errors import AddressError, FetchError, RemoteError, SettingsError, UserError
from lumiply.settings import Settings
from tests.fakes import PATIENCE_S, FakeEngine, photo_bytes, wait_until

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LUMIPLY_", "HF_")) or name == "NGROK_AUTHTOKEN":
            monkeypatch.delenv(name)


def project(folder: Path) -> Path:
    """A folder that the notebooks take for the project, with two photos; what they import is this checkout."""
    (folder / "lumiply").mkdir(parents=True)
    (folder / "lumiply" / "cli.py").symlink_to(ROOT / "lumiply" / "cli.py")
    (folder / "images").mkdir()
    for name, red in (("sample_room.png", 200), ("second.jpg", 90)):
        format = "PNG" if name.endswith("png") else "JPEG"
        (folder / "images" / name).write_bytes(photo_bytes(red=red, format=format))
    return folder


def test_several_photos_get_a_folder_each_and_one_photo_none(tmp_path: Path) -> None:
    images = project(tmp_path / "here") / "images"
    engine, settings = FakeEngine(), Settings(seed=5, steps=3)
    results = notebook.relight(engine, settings, images, tmp_path / "relit")
    assert [len(paths) for paths in results.values()] == [7, 7]
    assert (tmp_path / "relit" / "second" / "output_purple.png").is_file()
    assert (engine.renders[0].seed, engine.renders[0].steps) == (5, 3)
    assert [sheet.mode for sheet in notebook.grid(results)] == ["RGB", "RGB"]
    one = notebook.relight(engine, settings, images / "second.jpg", tmp_path / "one", "blue")
    assert one == {images / "second.jpg": {"blue": tmp_path / "one" / "output_blue.png"}}
    with pytest.raises(UserError, match="no photo at .*Set PHOTOS"):
        notebook.relight(engine, settings, tmp_path / "nowhere", tmp_path)


def test_a_photo_that_cannot_be_used_is_named_and_the_others_are_relit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = project(tmp_path / "here") / "images"
    (images / "notes.png").write_text("milk, bread")
    results = notebook.relight(FakeEngine(), Settings(), images, tmp_path / "relit", "red")
    assert [photo.name for photo in results] == ["sample_room.png", "second.jpg"]
    told = capsys.readouterr().out
    assert f"{images / 'notes.png'}: 이미지" in told and "no readable picture (11 bytes arrived)" in told
    with pytest.raises(UserError, match="No photo at .*notes.png can be used"):
        notebook.relight(FakeEngine(), Settings(), images / "notes.png", tmp_path / "relit")


def test_the_environment_wins_over_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIPLY_PORT", "7000")
    settings = notebook.read_settings(port=5000, seed=7)
    assert (settings.port, settings.seed, settings.model) == (7000, 7, "auto")
    with pytest.raises(SettingsError, match="port must be"):
        monkeypatch.delenv("LUMIPLY_PORT")
        notebook.read_settings(port="x")


def test_the_token_may_come_from_colabs_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_colab_secret", lambda name: {"NGROK_AUTHTOKEN": "secret1"}.get(name))
    assert notebook.read_settings(tunnel="ngrok").ngrok_authtoken == "secret1"
    monkeypatch.setenv("NGROK_AUTHTOKEN", "nearer")
    assert notebook.read_settings().ngrok_authtoken == "nearer"


def test_the_servers_own_token_may_come_from_colabs_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_colab_secret", lambda name: f"from-the-key-sign-{name}".replace("_", "-"))
    assert notebook.read_settings().token == "from-the-key-sign-LUMIPLY-TOKEN"
    monkeypatch.setenv("LUMIPLY_TOKEN", "nearer-than-the-key-sign")
    assert notebook.read_settings().token == "nearer-than-the-key-sign"


def test_the_token_is_asked_for_only_where_the_tunnel_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("getpass.getpass", lambda question: asked.append(question) or "typed1")
    assert notebook.read_settings(tunnel="auto").ngrok_authtoken is None and asked == []
    assert notebook.read_settings(tunnel="ngrok").ngrok_authtoken == "typed1"
    assert len(asked) == 1 and "typed1" not in "".join(capsys.readouterr())


def test_results_behind_a_url_are_named_in_the_state() -> None:
    assert notebook._renders(Settings(results_url="s3://bucket/prefix")) == "stored at s3://bucket/prefix"


def test_serving_again_closes_the_former_server_and_keeps_its_port(tmp_path: Path) -> None:
    (tmp_path / "room.png").write_bytes(photo_bytes())
    settings = Settings(port=0, results_dir=tmp_path / "inference")
    first = notebook.serve(FakeEngine(), settings)
    port = int(first.url.rpartition(":")[2])
    second = notebook.serve(FakeEngine(), settings.replace(port=port))
    assert second.url == first.url
    assert notebook.try_out(second, tmp_path / "room.png").mode == "RGB"
    notebook.stop()
    notebook.stop()
    with pytest.raises(RemoteError, match="did not answer"):
        notebook.try_out(second, tmp_path / "room.png")


def test_a_photo_that_was_held_upright_is_shown_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # held a quarter turn to the left
    Image.new("RGB", (40, 30)).save(tmp_path / "room.jpg", exif=exif)
    service = notebook.serve(FakeEngine(), Settings(port=0, results_dir=tmp_path / "inference"))
    shown: dict[str, Image.Image] = {}
    monkeypatch.setattr(notebook, "contact_sheet", lambda pictures, cell: shown.update(pictures))
    notebook.try_out(service, tmp_path / "room.jpg")
    notebook.stop()
    assert {picture.size for picture in shown.values()} == {(30, 40)} and len(shown) == 8


def test_the_state_counts_what_waits_in_the_server_as_well_as_what_the_engine_has(tmp_path: Path) -> None:
    photos = [tmp_path / f"{number}.png" for number in range(4)]
    for number, photo in enumerate(photos):
        photo.write_bytes(photo_bytes(red=number))
    engine = FakeEngine(manual=True)
    service = notebook.serve(engine, Settings(port=0, results_dir=tmp_path / "inference", shutdown_s=0))
    with ThreadPoolExecutor() as callers:
        calls = [callers.submit(client.process, service.url, photo, photo.stem, "red") for photo in photos]
        try:
            wait_until(lambda: "queue     4 of 64" in notebook.status(service))
            assert engine.queue_length < 4
        finally:
            notebook.stop()
        assert all(isinstance(call.exception(PATIENCE_S), RemoteError) for call in calls)


def test_a_server_that_does_not_answer_once_is_told_so_and_the_state_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = notebook.serve(FakeEngine(), Settings(port=0, results_dir=tmp_path / "inference"))

    def silent(self: client.Client) -> None:
        raise RemoteError("http://127.0.0.1 did not answer within 10 s")

    monkeypatch.setattr(client.Client, "health", silent)
    try:
        assert "engine    http://127.0.0.1 did not answer within 10 s" in notebook.status(service)
        assert "memory" in notebook.status(service)
    finally:
        notebook.stop()


def test_a_busy_port_is_explained(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = Settings(port=listener.getsockname()[1], results_dir=tmp_path)
        with pytest.raises(AddressError, match="change PORT in the settings cell"):
            notebook.serve(FakeEngine(), settings)


def test_after_shutting_down_the_engine_can_be_had_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "build_engine", lambda settings: FakeEngine())
    settings = Settings(port=0, results_dir=tmp_path)
    engine = api.initialize_engine(settings)
    assert api.initialize_engine(settings) is engine
    notebook.serve(engine, settings)
    notebook.shut_down()
    notebook.shut_down()
    again = api.initialize_engine(settings)
    assert isinstance(engine, FakeEngine) and engine.closed
    assert isinstance(again, FakeEngine) and not again.closed
    notebook.shut_down()


def test_an_engine_that_the_server_replaced_is_the_notebooks_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FakeEngine] = []

    def build(settings: Settings) -> FakeEngine:
        made.append(FakeEngine())
        return made[-1]

    monkeypatch.setattr(api, "build_engine", build)
    (tmp_path / "room.png").write_bytes(photo_bytes())
    settings = Settings(port=0, results_dir=tmp_path)
    former = api.initialize_engine(settings)
    service = notebook.serve(former, settings)
    service.slot.restart(former, "its worker died")
    assert service.slot.wait(PATIENCE_S)
    wait_until(lambda: made[0].closed)
    assert service.slot.engine is made[1] is api.initialize_engine(settings)  # the engine's cell again
    again = notebook.serve(former, settings)  # the server's cell alone
    assert notebook.try_out(again, tmp_path / "room.png").mode == "RGB"
    notebook.shut_down()
    assert [engine.closed for engine in made] == [True, True]


def test_weights_that_cannot_be_had_stop_only_who_needs_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise FetchError("you are not logged in")

    monkeypatch.setattr(notebook, "Hub", refuse)
    monkeypatch.setattr(notebook, "_has_gpu", lambda: True)
    notebook.fetch_weights(Settings())
    assert "not logged in" in capsys.readouterr().out
    for settings, fetch in ((Settings(model="full"), "auto"), (Settings(), "yes")):
        with pytest.raises(FetchError):
            notebook.fetch_weights(settings, fetch)
    notebook.fetch_weights(Settings(), "no")
    with pytest.raises(UserError, match="FETCH must be one of yes, no, auto"):
        notebook.fetch_weights(Settings(), "maybe")
