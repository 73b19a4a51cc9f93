"""The command line. Commands are imported when they are run, so that `lumiply --help` answers at once."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from lumiply.errors import LumiplyError, SettingsError, UserError
from lumiply.version import __version__

log = logging.getLogger(__name__)

#: Name: (module, attribute, one line of help). The attribute is a click command, or a function of an argument list.
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "serve": ("lumiply.commands.serve", "serve", "Answer HTTP requests until Ctrl-C."),
    "relight": ("lumiply.commands.relight", "relight", "Relight photos into a folder, without a server."),
    "demo": ("lumiply.demo", "demo", "Serve, send a sample room in all seven colours, go on serving."),
    "fetch": ("lumiply.commands.fetch", "fetch", "Download the published weights."),
    "doctor": (
        "lumiply.commands.doctor",
        "doctor",
        "Check this machine; say what is missing and how to get it.",
    ),
    "convert": ("lumiply.commands.convert", "convert", "Make one half-precision file of the weights."),
    "bench": ("lumiply.commands.bench", "bench", "Measure speed, beside the published way."),
    "augment": ("lumiply.commands.augment", "augment", "Make training data from your own photos."),
    "evaluate": ("lumiply.commands.evaluate", "evaluate", "Score relit photos against the truth."),
    "synth": ("lumiply.synth.command", "synth", "Render training rooms (needs the training extra)."),
    "train": ("lumiply.commands.train", "train", "Train a model (needs the training extra)."),
}


class LazyGroup(click.Group):
    """Finds its commands in a table such as `COMMANDS`, and tells every error in one line."""

    def __init__(
        self, *args: Any, table: Mapping[str, tuple[str, str, str]] = COMMANDS, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        return _load(cmd_name, *self.table[cmd_name])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, _, help) in self.table.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.exceptions.NoArgsIsHelpError:
            raise
        except BrokenPipeError:  # whoever read the output has enough, such as `| head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (what is left is flushed there at the end)
            ctx.exit(0)
        except click.UsageError as exc:
            _complain(
                f"{exc.format_message()} See `{exc.ctx.command_path if exc.ctx else ctx.command_path} --help`."
            )
            ctx.exit(exc.exit_code)
        except click.ClickException as exc:
            _complain(exc.format_message())
            ctx.exit(exc.exit_code)
        except LumiplyError as exc:
            log.debug("failed", exc_info=exc)
            _complain(str(exc))
            ctx.exit(2 if isinstance(exc, (UserError, SettingsError)) else 1)
        except Exception as exc:
            log.debug("failed", exc_info=exc)
            _complain(f"{type(exc).__name__}: {exc} (LUMIPLY_LOG_LEVEL=debug shows where)")
            ctx.exit(1)


def _load(name: str, module: str, attribute: str, help: str) -> click.Command:
    try:
        found: click.Command | Callable[[Sequence[str]], Any] = getattr(
            importlib.import_module(module), attribute
        )
    except ImportError as exc:
        raise click.ClickException(
            f"`{name}` needs a package that is not installed: {exc.name or exc}."
            " Install it, for example with `pip install 'lumiply[training]'`."
        ) from exc
    return found if isinstance(found, click.Command) else _pass_through(name, help, found)


def _pass_through(name: str, help: str, function: Callable[[Sequence[str]], Any]) -> click.Command:
    """A command that hands all its arguments, `--help` too, to a function with a parser of its own."""

    @click.command(name, help=help, add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        sys.exit(function(list(arguments)))

    return command


def _complain(sentence: str) -> None:
    click.echo("lumiply: error: " + " ".join(sentence.split()), err=True)


@click.group("lumiply", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lumiply")
def main() -> None:
    """Turn the lamp on in a photo of a room, in seven colours.

    To begin: `lumiply doctor` checks this machine, `lumiply demo` shows all seven colours, `lumiply serve` answers
    requests and shows a web page.

    Settings are read from LUMIPLY_... variables; options win over them (all of them: docs/settings.md). Every
    command ends with 0 if all went well, 1 if something failed, 2 if an option, a setting or a photo is wrong.
    """
