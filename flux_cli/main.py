"""The Typer app, and the one place where an exception becomes a message and an exit code.

Nothing heavy is imported before it is needed: of the command modules only the one that runs.
"""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer._click.exceptions import ClickException, NoArgsIsHelpError
from typer.core import TyperGroup

from flux_cli import __version__
from flux_cli.engine import signals
from flux_cli.errors import ExitCode, FluxError, SignalReceived
from flux_cli.ui import console, help_page

COMMANDS = {
    "imagine": "Generate a picture from a prompt, and save it.",
    "fetch": "Ask once how tasks stand.",
    "wait": "Wait for tasks to end, and save their pictures.",
    "batch": "Generate many pictures from a file; run it again to resume.",
    "history": "Show what was submitted from here, and what became of it.",
    "show": "Show a picture in the terminal, or print its path in a pipe.",
    "gallery": "Write one HTML page of what was made: to look at, to search, and to make a picture again.",
    "login": "Store the API key: typed at a hidden prompt, or read from stdin.",
    "logout": "Remove the stored API key.",
    "config": "Look at the settings and change them.",
    "account": "Show the account: e-mail, credits, images made, plan.",
    "models": "Show each model and the parameters that only some models take.",
    "listen": "Receive the service's webhooks here, and save the pictures of tasks that finish.",
    "sandbox": "Run a free stand-in for the service.",
}
"""Each is a module in `flux_cli.commands` with an `app`; in the order of the help. What is said of each is the
first sentence of its own help, kept here as well because importing all of them takes 30 ms, too long for a TAB or
the list in the help."""


class Commands(TyperGroup):
    """The subcommands, each imported when it is asked for."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002 - typer's signature
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ARG002 - typer's, whose types are private
        """Return the subcommand of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            from importlib import import_module

            module = import_module(f"flux_cli.commands.{cmd_name}")
            command: Any = typer.main.get_command(module.app)
            command.name = cmd_name
            help_page.attach(command)
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help; the list of subcommands takes no more than what is said of each."""
        formatter.write(help_page.page(ctx, COMMANDS))

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the names that begin like this, or the options; nothing after a name that there is not."""
        from typer._click.shell_completion import CompletionItem

        if ctx._protected_args:
            return []
        if incomplete.startswith("-"):
            return super(TyperGroup, self).shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=summary) for name, summary in COMMANDS.items() if name.startswith(incomplete)
        ]


app = typer.Typer(
    name="flux-cli",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,  # `ui.shells` has scripts that do more
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        console.out(f"flux-cli {__version__}")
        raise typer.Exit


def _print_completion(context: typer.Context, shell: str | None) -> None:
    if shell is not None and not context.resilient_parsing:
        from flux_cli.ui import shells

        console.out_bytes(shells.script(shell).encode())
        raise typer.Exit


def _shells() -> tuple[str, ...]:
    from flux_cli.ui.shells import SHELLS

    return SHELLS


@app.callback(
    help="Generate images with APIFRAME's Flux endpoint from the terminal.",
    epilog="Examples:\n\n"
    "$ flux-cli login\n\n"
    '$ flux-cli imagine "a sunflower field in the wind"\n\n'
    '$ flux-cli imagine "a red kite" --sandbox',
)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    show_completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="SHELL",
            callback=_print_completion,
            is_eager=True,
            autocompletion=_shells,
            help="Print the completion script for bash, zsh, fish or powershell.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for an error.")] = False,
) -> None:
    """Nothing to do before a subcommand."""


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; what goes wrong is told on stderr."""
    debug = "--debug" in arguments
    try:
        signals.install()
        group = typer.main.get_command(app)
        if os.environ.get("_FLUX_CLI_COMPLETE"):
            from flux_cli.ui import shells

            shells.answer(group)
        code = _run(group, arguments)
        sys.stdout.flush()
        return int(code or 0)
    except typer.Exit as request:
        return request.exit_code
    except ClickException as error:
        from flux_cli.ui import slips

        message, hint = slips.explained(error, group, arguments)
        console.error(message)
        console.hint(hint)
        return ExitCode.USAGE
    except FluxError as error:
        _traceback_if(debug)
        for message in error.messages:
            console.error(message)
        if error.hint:
            console.hint(error.hint)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.SIGINT
    except SignalReceived as signal:
        return signal.exit_code
    except BrokenPipeError:
        console.discard_stdout()
        return ExitCode.SIGPIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # of a help page; all else says what it is
            console.discard_stdout()
            console.error("cannot write to stdout: no space left on device")
            return ExitCode.LOCAL_FILE
        _traceback_if(debug)
        console.error(f"unexpected {type(error).__name__}: {error}")
        console.hint("this is a bug in flux-cli; run the command again with --debug and report what it shows")
        return ExitCode.UNEXPECTED


def _run(group: Any, arguments: Sequence[str]) -> int | None:
    try:
        with group.make_context("flux-cli", list(arguments)) as context:
            code: int | None = group.invoke(context)
            return code
    except NoArgsIsHelpError as error:
        typer.echo(error.format_message())
        return ExitCode.OK


def _traceback_if(debug: bool) -> None:
    if debug:
        import traceback

        console.raw_stderr(traceback.format_exc())


def run() -> NoReturn:
    """Be the command `flux-cli`."""
    console.fill_missing_streams()
    try:
        code = main(sys.argv[1:])
        console.flush()
        signals.ignore()
    except (KeyboardInterrupt, SignalReceived) as again:  # while what the first one ended was being told
        signals.ignore()
        console.discard_stdout()
        code = getattr(again, "exit_code", ExitCode.SIGINT)
    sys.exit(code)
