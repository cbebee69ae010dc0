"""What a command says of itself, as blocks of a page: usage, arguments, options, examples, environment."""

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperGroup, TyperOption

from flux_cli.ui import help  # noqa: A004 - a module
from man.roff import Block, Inline, Item, bold, paragraph, section, slanted, terms

Context = Any
Option = Any  # typer's classes for contexts and options are private


def words(sentences: str) -> Block:
    """Return a paragraph; what stands between backticks is to be typed as it stands."""
    parts = " ".join(sentences.split()).split("`")
    return paragraph(*(bold(part) if n % 2 else part for n, part in enumerate(parts)))


def paragraphs(text: str) -> list[Block]:
    """Return the paragraphs of a text that has blank lines between them."""
    return [words(part) for part in text.split("\n\n") if part.strip()]


def subcommands(context: Context) -> list[Context]:
    """Return the subcommands of a command; a plain one has none."""
    command = context.command
    if not isinstance(command, TyperGroup):
        return []
    found = [command.get_command(context, name) for name in command.list_commands(context)]
    return [each.make_context(each.name, [], parent=context, resilient_parsing=True) for each in found if each]


def usage(context: Context) -> list[Inline]:
    """Return how a command is called."""
    return [bold(context.command_path), help.usage(context).removeprefix(context.command_path)]


def arguments(context: Context) -> list[Block]:
    """Return the list of a command's arguments; of none, no list."""
    items: list[Item] = [([slanted(name)], [words(text)]) for name, text in help.arguments(context)]
    return [terms(items)] if items else []


def options(context: Context) -> Block:
    """Return the section of a command's options, in the groups of its help."""
    groups = {name: terms(map(_option, group)) for name, group in help.options(context).items()}
    general = groups.popitem()[1]
    return section("OPTIONS", general, *(section(name, items) for name, items in groups.items()))


def examples(context: Context) -> list[str]:
    """Return the examples of a command's help, as typed after a `$`."""
    return re.findall(r"^\$ .*$", context.command.epilog or "", re.MULTILINE)


def variables(contexts: Iterable[Context]) -> dict[str, str]:
    """Return the environment variables that stand for options of these commands, each with what it does."""
    return {
        param.envvar: f"Set to `1`, the default is `{param.opts[0]}`."
        if param.is_flag
        else f"The default for `{param.opts[0]}`."
        for context in contexts
        for param in options_of(context)
        if param.envvar
    }


def asks_the_service(context: Context) -> bool:
    """Say whether a command talks to the service."""
    return any("--api-url" in param.opts for param in options_of(context))


def options_of(context: Context) -> list[Option]:
    """Return the options that a command shows."""
    params = context.command.get_params(context)
    return [param for param in params if isinstance(param, TyperOption) and not param.hidden]


def _option(option: help.Option) -> Item:
    term: list[Inline] = []
    for name in option.names:
        term += [", ", bold(name)] if term else [bold(name)]
    if option.placeholder:
        term += [" ", slanted(option.placeholder)]
    return term, [words(option.text)]
