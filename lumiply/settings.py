"""Every setting of Lumiply: one table, each with its default, its limits and a sentence of help.

A value comes from the code (`Settings(port=80)`), from the environment (`LUMIPLY_PORT=80`), or is the default.
All of them are checked when the table is built; a name or value that cannot be meant stops the start.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lumiply import settings_kinds as kinds
from lumiply.engine.protocol import DEFAULT_SEED
from lumiply.errors import SettingsError

PREFIX: Final = "LUMIPLY_"

#: Above this Pillow itself takes a picture for an attack (`PIL.Image.MAX_IMAGE_PIXELS`).
MOST_MEGAPIXELS: Final = 89.0


def _setting(
    default: Any, kind: kinds.Kind, help: str, *, secret: bool = False, also: str | None = None
) -> Any:
    """A field of `Settings`. `also` names a variable of another program that may give the value."""
    metadata = {"kind": kind, "help": help, "secret": secret, "also": also}
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True)
class Settings:
    """All settings, checked. `describe()` gives them as a table for people.

    Raises:
        SettingsError: a value is out of its limits, or two of them contradict each other.
    """

    host: str = _setting(
        "127.0.0.1",
        kinds.pattern(r"[A-Za-z0-9.:_-]+", "a host name or an address"),
        "Address to listen on; 0.0.0.0 lets other machines in.",
    )
    port: int = _setting(5000, kinds.integer(0, 65535), "Port to listen on; 0 takes any free one.")
    public_url: str | None = _setting(
        None,
        kinds.optional(kinds.url()),
        "Address under which others reach the server; results are linked under it.",
    )
    results_dir: Path = _setting(
        Path("images/inference"), kinds.path(), "Folder of the results, one folder a job in it."
    )
    results_url: str | None = _setting(
        None,
        kinds.optional(kinds.storage_url()),
        "Where results live instead, for several servers together; any fsspec URL (needs lumiply[cluster]).",
    )
    queue_size: int = _setting(
        64, kinds.integer(1, 10_000), "Renders that may wait; one more is answered 503."
    )
    threads: int = _setting(
        128,
        kinds.integer(8, 1000),
        "Requests handled at once; an eighth of them is kept free of those that wait for a render.",
    )
    upload_timeout_s: float = _setting(
        120.0, kinds.number(0.1, 3600), "Seconds in which a request must have arrived whole."
    )
    stuck_after_s: float = _setting(
        120.0,
        kinds.number(0.05, 86_400),
        "Seconds without any progress after which the engine is taken for stuck and replaced.",
    )
    shutdown_s: float = _setting(
        20.0,
        kinds.number(0, 3600),
        "Seconds that renders under way are given when the server is told to stop.",
    )
    keep_days: float = _setting(
        30.0, kinds.number(0, 36_500), "Days that results are kept; 0 means for ever."
    )
    keep_gb: float = _setting(
        20.0, kinds.number(0, 1e6), "GB that all results may take before the oldest go; 0 means no limit."
    )
    auth: str = _setting(
        "auto",
        kinds.choice("auto", "none"),
        "auto: calls need the token if there is one, and opening a tunnel makes one, which the results folder keeps;"
        " none: open to everyone.",
    )
    token: str | None = _setting(
        None,
        kinds.optional(kinds.pattern(r"[A-Za-z0-9._~-]{16,200}", "16 to 200 letters, digits and . _ ~ -")),
        "Token that calls of /process, /jobs and /metrics must carry. A secret.",
        secret=True,
    )
    sign_urls: bool = _setting(
        False, kinds.boolean(), "Whether results are only served under signed addresses."
    )
    secret_key: str | None = _setting(
        None,
        kinds.optional(kinds.pattern(r"\S{16,200}", "16 to 200 characters without spaces")),
        "Key that signs addresses and callbacks; empty: made once and kept in the results folder. A secret.",
        secret=True,
    )
    cors_origins: tuple[str, ...] = _setting(
        ("*",), kinds.origins(), "Origins of web pages whose scripts may call the server."
    )
    trusted_proxies: int = _setting(
        0, kinds.integer(0, 10), "Proxies in front whose X-Forwarded-For, -Proto and -Host are believed."
    )
    max_upload_mb: float = _setting(32.0, kinds.number(0.001, 1024), "Largest request body, in MB.")
    max_megapixels: float = _setting(
        50.0, kinds.number(0.001, MOST_MEGAPIXELS), "Largest photo, in millions of pixels."
    )
    jpeg_quality: int = _setting(95, kinds.integer(1, 100), "Quality of the JPEG results.")
    request_timeout_s: float = _setting(
        290.0,
        kinds.number(0.01, 86_400),
        "Seconds a request waits for its render; the gateway gives up after 300.",
    )
    tunnel: str = _setting(
        "auto",
        kinds.choice("auto", "ngrok", "none"),
        "Public address: ngrok, none, or auto (in a notebook, ngrok where there is a token; elsewhere none).",
    )
    ngrok_authtoken: str | None = _setting(
        None,
        kinds.optional(kinds.pattern(r"[A-Za-z0-9_-]{1,200}", "an ngrok token")),
        "Token of the ngrok account. A secret: give it by the environment only.",
        secret=True,
        also="NGROK_AUTHTOKEN",
    )
    page: str = _setting(
        "on",
        kinds.choice("on", "token", "off"),
        "Web page at /: on (open to all; asks for the token where one is needed), token (shown only to who has the"
        " token; one is made if none is set), or off.",
    )
    callback_hosts: tuple[str, ...] = _setting(
        (), kinds.hosts(), "Hosts to which results may be pushed (`callback_url`); empty means none."
    )
    callback_private: bool = _setting(
        False,
        kinds.boolean(),
        "Whether allowed callback hosts may have private addresses, as on a local network.",
    )
    device: str = _setting(
        "auto",
        kinds.pattern(r"auto|cpu|cuda(:[0-9]{1,3})?", "auto, cpu, cuda or cuda:N"),
        "Where the model runs; auto takes a GPU if there is one.",
    )
    precision: str = _setting(
        "auto",
        kinds.choice("auto", "float32", "float16", "bfloat16", "float8"),
        "Numbers that the model computes in. float8 is float16 with some products in float8, if that changes little;"
        " auto is float8 for the full model on a GPU where that is quicker, float16 on other GPUs, else float32.",
    )
    model: str = _setting(
        "auto",
        kinds.choice("auto", "full", "mini"),
        "full (published weights), mini (embedded), or auto: full where its files are.",
    )
    ckpt_dir: Path = _setting(Path("ckpt"), kinds.path(), "Folder of the model's weights.")
    adaptors_dir: Path = _setting(Path("adaptors"), kinds.path(), "Folder of the colours' adaptors.")
    seed: int = _setting(
        DEFAULT_SEED, kinds.integer(0, 2**63 - 1), "Seed of the noise; one seed, one result."
    )
    steps: int | None = _setting(
        None, kinds.optional(kinds.integer(1, 1000)), "Denoising steps; empty means the model's own number."
    )
    preset: str | None = _setting(
        None,
        kinds.optional(kinds.choice("exact", "balanced", "fast")),
        "Sampler and steps of a render that names neither; empty means the model's own.",
    )
    max_batch: int | None = _setting(
        None,
        kinds.optional(kinds.integer(1, 64)),
        "Pictures denoised at once at most, one a colour; empty means what suits the device.",
    )
    compile: str = _setting(
        "auto",
        kinds.choice("auto", "off", "background"),
        "Whether the networks are compiled while the first requests are served; auto: on a GPU only.",
    )
    cache_dir: Path = _setting(
        Path("~/.cache/lumiply"), kinds.path(), "Folder in which compiled code is kept for the next start."
    )
    engine: str = _setting(
        "local",
        kinds.choice("local", "ray"),
        "Where renders happen: local (in this process), or ray (on the replicas of a Ray cluster).",
    )
    ray_address: str | None = _setting(
        None,
        kinds.optional(kinds.pattern(r"auto|[A-Za-z0-9.-]+:[0-9]{1,5}", "auto or host:port")),
        "Ray cluster to join, from one of its machines; empty starts Ray on this machine alone.",
    )
    replicas: str | None = _setting(
        None,
        kinds.optional(kinds.replicas()),
        "Replicas of the model on the Ray cluster; empty takes the application as it runs, or one.",
    )
    log_level: str = _setting(
        "info", kinds.choice("debug", "info", "warning", "error"), "Least important messages that are logged."
    )

    log_format: str = _setting(
        "text", kinds.choice("text", "json"), "How log lines are written: text for people, json for programs."
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            kind: kinds.Kind = field.metadata["kind"]
            given = getattr(self, field.name)
            try:
                value = kind.read(given)
            except (ValueError, TypeError, KeyError, OverflowError) as exc:
                hidden = field.metadata["secret"] or "@" in str(given)  # a password may stand before it
                raise SettingsError(
                    f"{field.name} must be {kind.limit}, not {'the given value' if hidden else repr(given)}."
                    f" Change it, or unset {PREFIX}{field.name.upper()} for {field.default!r}."
                ) from (None if hidden else exc)  # a traceback shows its cause, which quotes the value
            object.__setattr__(self, field.name, value)
        _refuse_contradictions(self)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Settings from `LUMIPLY_...` variables; `overrides` that are not None win over them.

        Args:
            environ: the variables; the process's own by default.
            overrides: values by field name.

        Raises:
            SettingsError: an unknown name, a value out of its limits, or a contradiction.
        """
        environ = os.environ if environ is None else environ
        fields = {field.name: field for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name in sorted(environ):
            if name.startswith(PREFIX):
                key = name[len(PREFIX) :].lower()
                if key not in fields or name != PREFIX + key.upper():
                    raise SettingsError(_unknown(name, [PREFIX + field.upper() for field in fields]))
                values[key] = environ[name]
        for key, field in fields.items():
            also = field.metadata["also"]
            if also and environ.get(also):
                values.setdefault(key, environ[also])
        for key, value in overrides.items():
            if key not in fields:
                raise SettingsError(_unknown(key, list(fields)))
            if value is not None:
                values[key] = value
        return cls(**values)

    @property
    def waiting_requests(self) -> int:
        """Requests that may wait for a render at the same time; the other threads answer at once."""
        return self.threads - max(2, self.threads // 8)

    def replace(self, **changes: Any) -> Settings:
        """These settings with some of them changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def describe(cls) -> list[tuple[str, str, str, str]]:
        """(variable, default, what it may be, help) of every setting."""
        return [
            (
                PREFIX + field.name.upper(),
                _shown(field.default),
                field.metadata["kind"].limit,
                field.metadata["help"],
            )
            for field in dataclasses.fields(cls)
        ]


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(default)
    return "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}."
    return f"There is no setting {name}.{hint} Rename or unset it."


def _refuse_contradictions(settings: Settings) -> None:
    if settings.tunnel == "ngrok" and settings.ngrok_authtoken is None:
        raise SettingsError(
            "tunnel=ngrok needs a token. Set LUMIPLY_NGROK_AUTHTOKEN"
            " (https://dashboard.ngrok.com/get-started/your-authtoken), or LUMIPLY_TUNNEL=none."
        )
    if settings.tunnel == "ngrok" and settings.public_url is not None:
        raise SettingsError(
            f"tunnel=ngrok and public_url={settings.public_url} contradict each other: ngrok chooses the address."
            " Unset LUMIPLY_PUBLIC_URL, or set LUMIPLY_TUNNEL=none."
        )
    if settings.auth == "none" and settings.token is not None:
        raise SettingsError(
            "auth=none and a token contradict each other. Unset LUMIPLY_TOKEN, or set LUMIPLY_AUTH=auto."
        )
    if settings.auth == "none" and settings.page == "token":
        raise SettingsError(
            "auth=none and page=token contradict each other: there is no token then. Set LUMIPLY_PAGE to on or off,"
            " or LUMIPLY_AUTH=auto."
        )
    if settings.device == "cpu" and settings.precision in ("float16", "float8"):
        raise SettingsError(
            f"device=cpu and precision={settings.precision} contradict each other: processors compute it slowly and"
            " with holes. Set LUMIPLY_PRECISION to auto, float32 or bfloat16."
        )
    if settings.results_url is not None:
        _refuse_contradictions_of_url(settings)
    if settings.engine == "local" and (settings.replicas or settings.ray_address):
        name = "replicas" if settings.replicas else "ray_address"
        raise SettingsError(
            f"engine=local and {name} contradict each other. Set LUMIPLY_ENGINE=ray, or unset {PREFIX}{name.upper()}."
        )
    if settings.engine == "ray" and ":" in settings.device:
        raise SettingsError(
            f"engine=ray and device={settings.device} contradict each other: Ray chooses each replica's GPU."
            " Set LUMIPLY_DEVICE to auto, cuda or cpu."
        )


def _refuse_contradictions_of_url(settings: Settings) -> None:
    if settings.results_dir != Settings.results_dir:
        raise SettingsError(
            f"results_dir={settings.results_dir} and results_url={settings.results_url} contradict each other:"
            " results live in one place. Unset LUMIPLY_RESULTS_DIR or LUMIPLY_RESULTS_URL."
        )
    if settings.secret_key is None and (settings.sign_urls or settings.callback_hosts):
        name = "sign_urls" if settings.sign_urls else "callback_hosts"
        raise SettingsError(
            f"results_url={settings.results_url} and {name} need a key that all servers have, and no secret is kept"
            " with the results. Set LUMIPLY_SECRET_KEY to the same 16 or more characters on each server."
        )
