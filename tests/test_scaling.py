"""The simulation of a cluster agrees with queues whose mean is known in closed form, and keeps the code's policy."""

from __future__ import annotations

import json
import random

import pytest

from benchmarks import scaling
from benchmarks.scaling import (
    Cluster,
    Outcome,
    bursts,
    cost_per_thousand,
    read_times,
    simulate,
    steady,
    trace,
    wave,
)

ENDLESS = 10**9
SERVICE = 2.0


def mean_latency(times: tuple[float, ...], load: float, jobs: int = 60_000, narrow: int = 1) -> float:
    cluster = Cluster(1, times, ENDLESS, narrow)
    arrivals = trace("steady", load / SERVICE, jobs, seed=3)
    return simulate(cluster, arrivals, random.Random(4)).mean


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_job_at_a_time_is_the_queue_m_d_1(load):
    expected = SERVICE + load * SERVICE / (2 * (1 - load))  # Pollaczek and Khinchin
    assert mean_latency((SERVICE,), load) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_jobs_that_share_one_replica_evenly_are_m_g_1_with_processor_sharing(load):
    together = tuple(SERVICE * jobs for jobs in range(1, 200))
    assert mean_latency(together, load, narrow=len(together)) == pytest.approx(SERVICE / (1 - load), rel=0.05)


def test_jobs_that_gain_from_running_together_end_earlier():
    assert mean_latency((2.0, 2.5), 0.6, 5000) < mean_latency((2.0, 4.0), 0.6, 5000)


def test_a_replica_takes_one_job_after_another_and_two_at_a_time_once_a_third_waits():
    times, generator = (1.0, 1.8), random.Random(0)
    alone = simulate(Cluster(1, times, 9), [0.0, 0.5], generator)
    assert sorted(alone.latencies) == pytest.approx([1.0, 1.5])
    # the third comes when the first is half done; 0.5 x 1.8 s more for it, as much for the rest of the second
    three = simulate(Cluster(1, times, 9), [0.0, 0.0, 0.5], generator)
    assert three.latencies == pytest.approx([1.4, 2.3, 2.3])


def test_the_server_keeps_as_many_as_the_code_and_refuses_the_next():
    cluster = Cluster(2, (1.0,), queue=3)
    outcome = simulate(cluster, [0.0] * 20, random.Random(0))
    assert len(outcome.latencies) == 2 * (1 + 1) + 3 and outcome.refused == 13


def test_every_job_is_answered_or_refused_and_none_before_its_time():
    arrivals = trace("bursts", 5.0, 500, seed=1)
    outcome = simulate(Cluster(4, (1.0, 1.5), 16), arrivals, random.Random(0))
    assert len(outcome.latencies) + outcome.refused == len(arrivals)
    assert min(outcome.latencies) >= 1.0 - 1e-9


@pytest.mark.parametrize("pattern", [steady, wave, bursts])
def test_each_pattern_brings_as_many_jobs_as_asked(pattern):
    arrivals = trace(pattern.__name__, 2.0, 30_000, seed=5)
    span = -(-30_000 // (2 * 3600)) * 3600
    assert len(arrivals) == pytest.approx(2.0 * span, rel=0.05)
    assert arrivals == sorted(arrivals)


def test_a_wave_is_high_in_its_first_half_and_bursts_come_at_once():
    arrivals = trace("wave", 2.0, 30_000, seed=5)
    first = sum(now % 3600 < 1800 for now in arrivals)
    assert first / len(arrivals) == pytest.approx(0.5 + scaling.SWING / 3.14159, abs=0.02)
    groups = trace("bursts", 2.0, 30_000, seed=5)
    assert len(groups) / len(set(groups)) == pytest.approx(scaling.GROUP, rel=0.1)


def test_cost_counts_every_replica_for_the_whole_time():
    outcome = Outcome(latencies=[1.0] * 500, ended=7200.0)
    assert cost_per_thousand(Cluster(4, (1.0,), 8), outcome, price=3.0) == 4 * 2 * 3.0 * 2


def test_service_times_come_from_a_file_or_are_refused_with_its_name(tmp_path):
    file = tmp_path / "times.json"
    file.write_text(json.dumps({"service_times": [1.0, 1.5]}))
    assert read_times(file)[0] == (1.0, 1.5)
    file.write_text(json.dumps({"end_to_end": {"7": {"median": 0.6}}}))
    assert read_times(file)[0] == (0.6, 1.2)
    file.write_text(json.dumps({"end_to_end": {"7": {"median": 0.6}, "28": {"median": 2.0}}}))
    assert read_times(file)[0] == (0.6, 1.0)
    for bad in ({}, {"service_times": []}, {"service_times": [2.0, 1.0]}):
        file.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=r"times\.json"):
            read_times(file)


def test_the_report_has_a_row_a_size_for_each_pattern(tmp_path, capsys):
    scaling.main(["--gpus", "1", "2", "--jobs", "300", "--out", str(tmp_path / "s.md")])
    text = (tmp_path / "s.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    rows = [line for line in text.splitlines() if line.startswith(("| 1 |", "| 2 |"))]
    assert len(rows) == 2 * len(scaling.PATTERNS)
