"""Ray that does not come up is tried again, and then said in a sentence."""

from __future__ import annotations

import pytest

from lumiply.errors import EngineClosedError, SettingsError

pytest.importorskip("ray.serve", reason="needs lumiply[cluster]")


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What each start of Ray raises, one after another; none left: it comes up."""
    left: list[Exception] = []

    def init(**_: object) -> None:
        if left:
            raise left.pop(0)

    monkeypatch.setattr("lumiply.cluster.start.ray.init", init)
    monkeypatch.setattr("lumiply.cluster.start.ray.shutdown", lambda: None)
    return left


SLOW = "The current node timed out during startup.\nMore of it."


def test_ray_that_was_too_slow_to_start_is_started_again(tries, caplog):
    from lumiply.cluster.start import _Connection

    tries[:] = [Exception(SLOW)]
    _Connection()._init(None)
    assert tries == [] and "attempt 1 of 2): The current node timed out during startup." in caplog.text


def test_ray_that_does_not_start_is_told_with_the_next_step(tries):
    from lumiply.cluster.start import _Connection

    tries[:] = [Exception(SLOW), OSError("no space left"), OSError("never tried")]
    with pytest.raises(
        EngineClosedError, match=r"no space left\. Its logs lie in /tmp/ray/session_latest/logs"
    ):
        _Connection()._init(None)
    assert len(tries) == 1


def test_a_process_that_is_connected_to_one_cluster_refuses_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from lumiply.cluster.start import _Connection

    joined: list[str | None] = []
    monkeypatch.setattr("lumiply.cluster.start.ray.is_initialized", lambda: bool(joined))
    connection = _Connection()
    monkeypatch.setattr(connection, "_connect", joined.append)
    connection.open("10.0.0.1:6379")
    connection.open("10.0.0.1:6379")
    for _ in range(2):
        with pytest.raises(
            SettingsError, match=r"connected to the Ray cluster 10\.0\.0\.1:6379.*10\.0\.0\.2:6379"
        ):
            connection.open("10.0.0.2:6379")
        connection.close()
    with pytest.raises(SettingsError, match="asked for was one of its own. Start the process anew"):
        connection.open(None)  # what it joined goes on, and so does its connection
    connection.open("10.0.0.1:6379")
    assert joined == ["10.0.0.1:6379"]


def test_a_cluster_that_does_not_answer_is_named(tries):
    from lumiply.cluster.start import _Connection

    tries[:] = [ConnectionError("refused")]
    with pytest.raises(SettingsError, match="no Ray cluster answers at 10.0.0.1:6379: refused"):
        _Connection()._init("10.0.0.1:6379")
