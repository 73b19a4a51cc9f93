"""What the Serve application asks of the cluster, and that the shipped config file means it."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import lumiply.cluster
from lumiply.cluster.replica import Replica
from lumiply.errors import SettingsError
from lumiply.settings import Settings

CONFIG = Path(lumiply.cluster.__file__).with_name("serve.yaml")


def config_of(application: Any) -> Any:
    return application._bound_deployment


def test_the_shipped_file_is_a_serve_config_of_this_application(cluster):
    from ray.serve.schema import ServeDeploySchema

    from lumiply.cluster import deployment

    (shipped,) = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text())).applications
    module, _, function = shipped.import_path.partition(":")
    built = config_of(getattr(import_module(module), function)(shipped.args))
    assert (shipped.name, built.name) == (deployment.APPLICATION, deployment.DEPLOYMENT)
    assert built.func_or_class is Replica or built.func_or_class.__name__ == "Replica"
    scaling = built._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 8)


def test_args_that_are_no_settings_of_the_engine_are_refused(cluster):
    from lumiply.cluster.deployment import build

    with pytest.raises(SettingsError, match="not port, token"):
        build({"model": "mini", "token": "x" * 20, "port": 1})


def test_each_replica_takes_its_share_of_the_processors_and_half_as_many_renders_again_as_it_works_on(
    cluster,
):
    from lumiply.cluster.deployment import application, cpu_share

    built = config_of(application(Settings(engine="ray", device="cpu", replicas="1..2", max_batch=21)))
    assert built.ray_actor_options["num_cpus"] == cpu_share(2) >= 1
    assert built.max_ongoing_requests == 5
    assert built._deployment_config.autoscaling_config.target_ongoing_requests == 21 // 7


def test_no_secret_and_nothing_of_the_server_goes_to_the_replicas(cluster):
    from lumiply.cluster.deployment import engine_settings

    told = engine_settings(Settings(token="t" * 20, secret_key="s" * 20, ckpt_dir=Path("here")))
    assert not {"token", "secret_key", "ngrok_authtoken", "port"} & set(told)
    assert told["ckpt_dir"] == Path("here").absolute()


def test_what_replicas_are_asked_for_with_counts_settings_and_files_and_nothing_of_the_server(tmp_path):
    pytest.importorskip("ray.serve", reason="needs lumiply[cluster]")
    from lumiply.cluster.deployment import asked_by

    settings = Settings(engine="ray", replicas="2", model="mini", ckpt_dir=tmp_path)
    without_files = asked_by(settings)
    shutil.copytree("ckpt/mini", tmp_path / "mini")
    asked = asked_by(settings)
    assert asked_by(settings.replace(port=1, token="t" * 20, public_url="https://a.example")) == asked
    others = [settings.replace(replicas="1..2"), settings.replace(steps=3), settings.replace(compile="off")]
    (tmp_path / "mini" / "adaptor_red.safetensors").unlink()
    assert len({without_files, asked, asked_by(settings), *map(asked_by, others)}) == 6
