"""A cluster that is full reaches HTTP clients as any full server does: 503, `Retry-After`, code "busy"."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from lumiply.engine.protocol import Progress
from lumiply.server import create_app
from lumiply.server.site import site_of
from lumiply.settings import Settings
from tests.fakes import INFO, photo_bytes, wait_until
from tests.server.conftest import later, post

STEPS = 1000  # enough to fill the cluster meanwhile


def is_refusal(answer: TestResponse) -> bool:
    return (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (503, "busy", "10")


@pytest.fixture
def app(cluster: Settings, tmp_path: Path) -> Iterator[Flask]:
    """A server that keeps two renders waiting, over the cluster of two replicas."""
    from lumiply.cluster.start import connect

    engine = connect(cluster.replace(replicas=None))
    app = create_app(Settings(results_dir=tmp_path / "results", queue_size=2, port=0), engine)
    yield app
    site_of(app).close(0)
    engine.close()


def test_a_full_cluster_is_503_and_takes_more_once_there_is_room(app: Flask) -> None:
    queue, jobs = site_of(app).queue, [f"job-{number}" for number in range(6)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        waiting = []
        for number, job_id in enumerate(jobs):  # two render, one is ready for each, two wait
            photo = photo_bytes(red=number)
            waiting.append(later(pool, app, job_id=job_id, image=photo, color="red", steps=STEPS))
            wait_until(lambda number=number: queue.length == number + 1)
        client = app.test_client()
        assert is_refusal(post(client, job_id="too-many", image=photo_bytes(red=99)))
        assert client.get("/health").json["queue"] == {"length": 6, "limit": 2}
        assert client.get("/jobs/too-many").status_code == 404
        for job_id in jobs:
            assert client.delete(f"/jobs/{job_id}").status_code == 200
        assert [answer.result(30).json["code"] for answer in waiting] == ["cancelled"] * 6
        assert post(client, job_id="too-many", image=photo_bytes(red=99), steps=1).status_code == 200


def test_what_ray_itself_holds_back_is_the_same_503(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="needs lumiply[cluster]")
    from ray.serve.exceptions import BackPressureError

    from lumiply.cluster.engine import RayEngine

    class Full:
        """A handle of an application whose queue is full, until there is room."""

        def options(self, **options: object) -> Full:
            return self

        def remote(self, call: object) -> Iterator[Progress]:
            raise BackPressureError(num_queued_requests=12, max_queued_requests=12)

    engine = RayEngine(Full(), INFO, queue_size=9, is_up=lambda: True, disconnect=lambda: None)
    app = create_app(Settings(results_dir=tmp_path / "results", port=0), engine)
    assert is_refusal(post(app.test_client()))
    assert app.test_client().get("/jobs/job-1").json["colors"]["red"]["error"]["code"] == "busy"
    site_of(app).close(0)
    engine.close()
