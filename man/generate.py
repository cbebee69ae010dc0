"""Write the manual: `python -m man.generate [DIRECTORY]`, from the options, their help and the program's tables.

A page for each command, `flux-cli.1`, `flux-cli-config.5` and `flux-cli-exit-codes.7`.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path

import typer

from flux_cli import __version__
from flux_cli.api.request import FIELDS, MODELS, flag
from flux_cli.api.task import Status
from flux_cli.commands import SUMMARIES as COMMANDS
from flux_cli.engine.job import Result
from flux_cli.errors import WORST_FIRST, ExitCode
from flux_cli.main import app
from flux_cli.pictures.naming import FIELD_NAMES
from flux_cli.sandbox.faults import FAULTS, RULES, Stage
from flux_cli.storage.settings import SETTINGS, Setting
from man import commands, prose
from man.commands import Context, paragraphs, words
from man.roff import Block, bold, literal, page, paragraph, section, terms

PROGRAM = "flux-cli"
DAY = date(2026, 11, 22)
"""What the pages say at their foot. It goes up with the version, so that a page never changes by itself."""


def pages() -> Iterator[tuple[str, str]]:
    """Yield the file name and the text of each page."""
    top = typer.main.get_command(app).make_context(PROGRAM, [], resilient_parsing=True)
    contexts = {context.command.name: context for context in commands.subcommands(top)}
    yield _page(PROGRAM, 1, "generate images with APIFRAME's Flux endpoint", _program(top, contexts))
    for name, context in contexts.items():
        summary = COMMANDS[name][0].lower() + COMMANDS[name][1:].rstrip(".")
        yield _page(f"{PROGRAM}-{name}", 1, summary, _command(name, context))
    yield _page(f"{PROGRAM}-config", 5, "the settings of flux-cli", _settings())
    yield _page(f"{PROGRAM}-exit-codes", 7, "what flux-cli says with its exit code", _exit_codes())


def _page(name: str, number: int, summary: str, sections: Iterable[Block]) -> tuple[str, str]:
    return f"{name}.{number}", page(name, number, summary, f"{PROGRAM} {__version__}", DAY, sections)


def _program(top: Context, contexts: Mapping[str, Context]) -> Iterator[Block]:
    yield section("SYNOPSIS", paragraph(*commands.usage(top)))
    yield section("DESCRIPTION", *paragraphs(prose.ABOUT))
    yield commands.options(top)
    listed = terms(([bold(_reference(name))], [words(summary)]) for name, summary in COMMANDS.items())
    yield section("COMMANDS", words("Each takes `--help`, and has a page of its own."), listed)
    keys = _list(prose.JSON_KEYS, Result(Status.UNSENT).as_json())
    yield section("JSON", *paragraphs(prose.ABOUT_JSON), keys)
    shown = [example for name in prose.SHOWN for example in commands.examples(contexts[name])[:1]]
    yield section("EXAMPLES", literal("\n".join(shown)))
    yield section("COMPLETION", *paragraphs(prose.ABOUT_COMPLETION), literal(prose.COMPLETION_EXAMPLE))
    options = {**commands.variables(contexts.values()), **prose.SECRET}
    variables = {**prose.KEY, **options, **prose.LOOKS, **prose.DIRECTORIES, **prose.NETWORK}
    yield section("ENVIRONMENT", _list(variables))
    yield section("FILES", _files(prose.FILES))
    yield section("EXIT STATUS", _exit_code_list(), words("See flux-cli-exit-codes(7)."))
    yield _see_also(*COMMANDS, "config(5)", "exit-codes(7)")


def _command(name: str, context: Context) -> Iterator[Block]:
    inner = commands.subcommands(context)
    described = paragraphs(context.command.help) + paragraphs(prose.DESCRIPTIONS.get(name, ""))
    arguments = commands.arguments(context)
    yield section("SYNOPSIS", *(paragraph(*commands.usage(each)) for each in inner or [context]))
    yield section("DESCRIPTION", *described)
    if inner:
        yield section("COMMANDS", terms((commands.usage(each), _subcommand(each)) for each in inner))
    if arguments:
        yield section("ARGUMENTS", *arguments)
    yield commands.options(context)
    if name in _TABLES:
        yield _TABLES[name]()
    yield section("EXAMPLES", literal("\n".join(commands.examples(context) or [f"$ {context.command_path}"])))
    files = prose.FILES_OF[name]
    yield section("ENVIRONMENT", _list(_variables(name, context)))
    yield section("FILES", _files(files) if files else words(prose.NO_FILES))
    yield section("EXIT STATUS", _exit_codes_of(name), words(prose.ABOUT_SIGNALS))
    pages = ["config(5)"] if "config" in files else []
    yield _see_also("", *prose.RELATED[name], *pages, "exit-codes(7)")


def _variables(name: str, context: Context) -> dict[str, str]:
    """Return the environment variables that a command heeds, and what each does."""
    asks, files = commands.asks_the_service(context), prose.FILES_OF[name]
    special = prose.VARIABLES_OF.get(name, {})
    variables = {**(prose.KEY if asks else {}), **commands.variables([context]), **special}
    variables |= {name: text for name, text in prose.SECRET.items() if name in variables}
    variables |= prose.LOOKS
    variables |= {name: text for name, text in prose.DIRECTORIES.items() if _is_below(name, files)}
    variables |= prose.NETWORK if asks else {}
    return {**variables, **special}


def _is_below(variable: str, files: Iterable[str]) -> bool:
    """Say whether a variable moves one of these files."""
    return ("config" in files) if variable == "XDG_CONFIG_HOME" else not {"history", "sandbox"}.isdisjoint(files)


def _exit_codes_of(name: str) -> Block:
    return _list(
        {str(code): text or prose.EXIT_CODES[ExitCode(code)] for code, text in prose.EXIT_CODES_OF[name].items()}
    )


def _subcommand(context: Context) -> list[Block]:
    return [*paragraphs(context.command.help), *commands.arguments(context)]


def _settings() -> Iterator[Block]:
    yield section("DESCRIPTION", *paragraphs(prose.ABOUT_CONFIG))
    yield section("NAMES", _list({name: _setting_help(setting) for name, setting in SETTINGS.items()}))
    yield section("EXAMPLES", literal(prose.CONFIG_EXAMPLE))
    winners = {setting.envvar: f"Overrides `{name}`." for name, setting in SETTINGS.items() if setting.envvar}
    moved = {name: text for name, text in prose.DIRECTORIES.items() if _is_below(name, ["config"])}
    yield section("ENVIRONMENT", _list({**winners, **moved}))
    yield section("FILES", _list({prose.FILES["config"][0]: prose.CONFIG_FILE}))
    yield section("EXIT STATUS", words(prose.CONFIG_EXIT_STATUS))
    yield _see_also("", "config", "login", "exit-codes(7)")


def _setting_help(setting: Setting) -> str:
    return f"{setting.help}{f' Default: {setting.default}.' if setting.default else ''}"


def _exit_codes() -> Iterator[Block]:
    worst = ", ".join(str(int(code)) for code in WORST_FIRST)
    yield section("DESCRIPTION", words(prose.ABOUT_EXIT_CODES), words(prose.ABOUT_WORST.format(worst)))
    yield section("EXIT STATUS", _exit_code_list())
    yield section("EXAMPLES", literal(prose.EXIT_CODE_EXAMPLE))
    yield section("ENVIRONMENT", words(prose.NO_VARIABLES))
    yield section("FILES", _list({prose.FILES["history"][0]: prose.RECORDED_CODES}))
    yield _see_also("", "imagine", "wait", "fetch", "history")


def _models() -> Block:
    special = {model: [flag(name) for name, field in FIELDS.items() if model in field.models] for model in MODELS}
    texts = {model: f"{', '.join(flags)}." if flags else "None of them." for model, flags in special.items()}
    return section("MODELS", words(prose.ABOUT_MODELS), _list(texts))


def _file_names() -> Block:
    fields = {f"{{{name}}}": text for name, text in prose.TEMPLATE_FIELDS.items()}
    return section(
        "FILE NAMES", words(prose.ABOUT_TEMPLATES), _list(fields, (f"{{{name}}}" for name in FIELD_NAMES))
    )


def _faults() -> Block:
    stages = [
        section(
            f"In {stage}", _list({fault.usage: fault.effect for fault in FAULTS.values() if fault.stage is stage})
        )
        for stage in Stage
    ]
    return section("FAULTS", *map(words, RULES), *stages)


_TABLES = {"imagine": _file_names, "models": _models, "sandbox": _faults}
"""The sections that a command's page has of its own."""


def _exit_code_list() -> Block:
    texts = {str(int(code)): text for code, text in prose.EXIT_CODES.items()}
    return _list(texts, (str(int(code)) for code in ExitCode))


def _files(keys: Iterable[str]) -> Block:
    return _list(dict(prose.FILES[key] for key in keys))


def _list(texts: Mapping[str, str], known: Iterable[str] | None = None) -> Block:
    """Return a list of names and what they mean; the program exits if those are not the ones that are known."""
    if known is not None and (missing := set(known) ^ set(texts)):
        sys.exit(f"man/prose.py and the program differ in {sorted(missing)}")
    return terms(([bold(name)], [words(text)]) for name, text in texts.items())


def _reference(name: str) -> str:
    """Return how a page is referred to, with the manual's section; "" is the program's page."""
    title = "-".join(filter(None, [PROGRAM, name]))
    return title if title.endswith(")") else f"{title}(1)"


def _see_also(*names: str) -> Block:
    return section("SEE ALSO", words(", ".join(f"`{_reference(name)}`" for name in names)))


def main() -> None:
    """Write all pages into a directory, by default the one that this file is in."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, text in pages():
        (directory / name).write_text(text, encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
