"""The Ray Serve application: which replicas there are, what each may use, and how they load.

`serve deploy lumiply/cluster/serve.yaml` and `lumiply serve --engine ray` both come here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from lumiply.cluster.replica import Replica
from lumiply.engine.protocol import Engine, renders_ahead, renders_at_once
from lumiply.errors import SettingsError, WeightsError
from lumiply.settings import Settings

APPLICATION: Final = "lumiply"
DEPLOYMENT: Final = "Engine"

#: Settings that the replicas need; the others, and all secrets, stay with the server.
ENGINE_SETTINGS: Final = (
    "device", "precision", "model", "ckpt_dir", "adaptors_dir", "steps", "preset", "compile", "max_batch",
    "queue_size", "cache_dir", "stuck_after_s", "replicas",
)  # fmt: skip

#: Seconds between health checks. A replica whose process died is replaced at the next one.
HEALTH_CHECK_S: Final = 2.0
#: Seconds that a replica which is to go is given for what it has begun.
DRAIN_S: Final = 300.0


def replica_range(replicas: str | None) -> tuple[int, int]:
    """(least, most) of "3" or "1..8"; one replica if nothing was said."""
    low, _, high = (replicas or "1").partition("..")
    return int(low), int(high or low)


def engine_settings(settings: Settings) -> dict[str, Any]:
    """What the replicas are told. Folders are made absolute: every machine needs the same files at the same place."""
    told = {name: getattr(settings, name) for name in ENGINE_SETTINGS}
    return {name: value.absolute() if isinstance(value, Path) else value for name, value in told.items()}


@dataclasses.dataclass(frozen=True)
class LoadEngine:
    """Loads a replica's engine; the model packages are imported there, not where this is made."""

    settings: Settings

    def __call__(self) -> Engine:
        from lumiply.commands.common import set_up_logging
        from lumiply.engine.start import initialize_engine

        set_up_logging(self.settings)
        return initialize_engine(self.settings)


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config file, whose `args` are settings of the engine by name.

    Raises:
        SettingsError: an unknown name, a value out of its limits, or one that is none of the engine's.
    """
    if foreign := sorted(set(args) - set(ENGINE_SETTINGS)):
        raise SettingsError(
            f"args of the Serve application may hold {', '.join(ENGINE_SETTINGS)}; not {', '.join(foreign)}"
        )
    return application(Settings.from_env({}, engine="ray", **args))


def application(settings: Settings, load: Callable[[], Engine] | None = None) -> serve.Application:
    """The application that `settings` ask for; needs a connection to the cluster, to see what it has.

    Args:
        load: loads a replica's engine; from the settings by default.
    """
    settings = settings.replace(
        **{name: value for name, value in engine_settings(settings).items() if isinstance(value, Path)}
    )
    told = Settings.from_env({}, engine="ray", **engine_settings(settings))
    least, most = replica_range(settings.replicas)
    gpu = wants_gpu(settings)
    batch = largest_batch(settings, gpu)
    # `parallel` and `most_ahead` of what a replica says of itself
    at_once, ahead = renders_at_once(batch), renders_ahead(batch)
    scale: dict[str, Any] = {"num_replicas": least}
    if most > least:
        scale = {
            "autoscaling_config": {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": at_once,
            }
        }
    deployment = serve.deployment(
        name=DEPLOYMENT,
        **scale,
        ray_actor_options={"num_gpus": 1} if gpu else {"num_cpus": cpu_share(most)},
        max_ongoing_requests=ahead,  # so that it never idles
        # Each server counts for itself (RayEngine). Serve counts late: what it has yet to place, or to take back.
        max_queued_requests=2 * (settings.queue_size + most * ahead),
        user_config={"replicas": most, "asked": "" if load else asked_by(settings)},
        health_check_period_s=HEALTH_CHECK_S,
        graceful_shutdown_timeout_s=DRAIN_S,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    return deployment(Replica).bind(load or LoadEngine(told), settings.stuck_after_s)


def asked_by(settings: Settings) -> str:
    """Another text once anything is other that decides what replicas are: release, settings, or the files here."""
    from lumiply.version import __version__
    from lumiply.weights import find_weights

    told = engine_settings(settings)
    try:
        files = find_weights(settings.ckpt_dir, settings.adaptors_dir, settings.model).fingerprint()
    except WeightsError:  # a server without the weights
        files = "none"
    parts = [__version__, *(f"{name}={told[name]}" for name in sorted(told)), files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def wants_gpu(settings: Settings) -> bool:
    """Whether each replica takes a GPU: where the cluster has one, unless the processor is asked for."""
    return settings.device == "cuda" or settings.device == "auto" and gpus() > 0


def gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def cpu_share(replicas: int) -> int:
    """Processors that each of `replicas` may use, torch's threads included."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // replicas)


def largest_batch(settings: Settings, gpu: bool) -> int:
    """Pictures that a replica denoises at once."""
    from lumiply.engine.start import MAX_BATCH

    return settings.max_batch or MAX_BATCH["cuda" if gpu else "cpu"]
