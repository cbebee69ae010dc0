"""The Typer app, and the one place where an exception becomes a message and an exit code.

Nothing heavy is imported before it is needed: of the command modules only the one that runs.
"""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from flux_cli import __version__, completion
from flux_cli.commands import SUMMARIES
from flux_cli.engine import signals
from flux_cli.errors import ExitCode, FluxError, SignalReceived, os_reason
from flux_cli.ui import console

ParsingError: type[Exception] = typer.BadParameter.__base__ or typer.BadParameter
"""The base of everything that Typer raises for a command line; its own name has moved between versions."""


def _write_help(_command: object, ctx: Any, formatter: Any) -> None:
    from flux_cli.ui import help  # noqa: A004 - a module

    formatter.write(help.page(ctx))


class Command(TyperCommand):
    """A command with our help page and usage errors."""

    format_help = _write_help
    allow_extra_args = True  # or else Typer complains before we can

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments. Raises UsageError if there are too many."""
        try:
            extra = super().parse_args(ctx, args)
        except ParsingError as error:
            error.ctx = getattr(error, "ctx", None) or ctx  # type: ignore[attr-defined] # all of them have it
            raise
        if extra and not ctx.resilient_parsing:
            from flux_cli.ui import usage_errors

            raise usage_errors.extra_arguments(ctx.command_path, extra)
        return extra


class Group(TyperGroup):
    """A command with subcommands, with our help page and usage errors."""

    format_help = _write_help

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments; print the help if there are none."""
        if not args and not ctx.resilient_parsing:
            console.out_bytes(f"{ctx.get_help()}\n".encode())  # with its colours
            raise typer.Exit
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return name, command and arguments. Raises UsageError if the command does not exist."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            from flux_cli.ui import usage_errors

            raise usage_errors.unknown_command(ctx.command_path, args, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def summaries(self) -> dict[str, str]:
        """Return the subcommands, each with its description."""
        return {name: command.help or "" for name, command in self.commands.items()}


class Program(Group):
    """The program: its commands are imported when they are used."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002 - Typer's signature
        """Return the names, in the order of the help."""
        return list(SUMMARIES)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ARG002 - Typer's, whose types are private
        """Return the subcommand of that name, or None."""
        if cmd_name in SUMMARIES and cmd_name not in self.commands:
            from importlib import import_module

            self.commands[cmd_name] = _built(import_module(f"flux_cli.commands.{cmd_name}").app, cmd_name)
        return self.commands.get(cmd_name)

    def summaries(self) -> dict[str, str]:
        """Return the subcommands, each with its description, without importing them."""
        return SUMMARIES

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the commands or options that start like this; nothing after an unknown command."""
        if ctx._protected_args:
            return []
        if incomplete.startswith("-"):
            return super(TyperGroup, self).shell_complete(ctx, incomplete)
        return [
            completion.Item(name, summary) for name, summary in SUMMARIES.items() if name.startswith(incomplete)
        ]


def _built(app: typer.Typer, name: str) -> Any:
    """Return the command of a module's app, with our classes; its help is the summary unless it has its own."""
    first, *others = app.registered_commands
    for command in (first, *others):
        command.cls = Command
    if others:
        app.info.cls = Group
    else:
        first.help = first.help or SUMMARIES[name]
    built: Any = typer.main.get_command(app)
    built.name = name
    return built


app = typer.Typer(
    name="flux-cli",
    cls=Program,
    add_completion=False,  # the scripts in `completions/` do more
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(context: typer.Context, requested: bool) -> None:
    if requested and not context.resilient_parsing:
        console.out(f"flux-cli {__version__}")
        raise typer.Exit


def _print_completion(context: typer.Context, shell: str | None) -> None:
    if shell is not None and not context.resilient_parsing:
        console.out_bytes(completion.script(shell).encode())
        raise typer.Exit


@app.callback(
    help="Generate images with APIFRAME's Flux endpoint from the terminal.",
    epilog="Examples:\n\n"
    "$ flux-cli login\n\n"
    '$ flux-cli imagine "a sunflower field in the wind"\n\n'
    '$ flux-cli imagine "a red kite" --sandbox',
)
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    show_completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="SHELL",
            callback=_print_completion,
            is_eager=True,
            autocompletion=completion.words(completion.SCRIPTS),
            help="Print the completion script for bash, zsh, fish or powershell.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for an error.")] = False,
) -> None:
    """Do nothing before a subcommand."""


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Errors are reported on stderr."""
    debug = "--debug" in arguments
    try:
        signals.install()
        group = typer.main.get_command(app)
        if os.environ.get(completion.VARIABLE):
            completion.answer(group)
        with group.make_context("flux-cli", list(arguments)) as context:
            code = group.invoke(context)
        sys.stdout.flush()
        return int(code or 0)
    except typer.Exit as request:
        return request.exit_code
    except ParsingError as error:
        from flux_cli.ui import usage_errors

        message, hint = usage_errors.explain(error, group, arguments)
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
        _traceback_if(debug)
        return _unexpected(error)


def _unexpected(error: Exception) -> ExitCode:
    """Report an exception that no other code has handled. The system's own errors are not bugs."""
    if isinstance(error, OSError) and error.errno and type(error).__module__ == "builtins":
        if error.errno == errno.ENOSPC and error.filename is None:  # other writers name their file
            console.discard_stdout()
            error.filename = "cannot write to stdout"
        where = f"{error.filename}: " if error.filename else ""
        console.error(f"{where}{os_reason(error)}")
        return ExitCode.LOCAL_FILE
    if isinstance(error, MemoryError):
        console.error("out of memory")
        return ExitCode.UNEXPECTED
    console.error(f"unexpected {type(error).__name__}: {error}")
    console.hint("this is a bug in flux-cli; put --debug before the command, and report the traceback")
    return ExitCode.UNEXPECTED


def _traceback_if(debug: bool) -> None:
    if debug:
        import traceback

        console.raw_stderr(traceback.format_exc())


def run() -> NoReturn:
    """Run the command `flux-cli` and exit."""
    console.fill_missing_streams()
    try:
        code = main(sys.argv[1:])
        console.flush()
        signals.ignore()
    except (KeyboardInterrupt, SignalReceived) as again:  # while the first one was being reported
        signals.ignore()
        console.discard_stdout()
        code = getattr(again, "exit_code", ExitCode.SIGINT)
    sys.exit(code)
