"""Help pages: as wide as the terminal, up to what reads well, and without ever cutting the name of anything.

Not typer's own: those shorten the names of options where it is narrow, and take rich, which is 90 ms.
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flux_cli.ui import console

WIDEST = 100
"""Text is not wider than this, however wide the terminal is."""
WIDEST_NAMES = 36
"""How much of it the names may take; a longer one has a line of its own."""
NARROWEST_TEXT = 28
"""Where less is left beside the names, what is said of them stands below."""
BELOW = 10
"""How far it is indented there."""
NARROWEST_TERMINAL = 30

ARGUMENTS, OPTIONS, OTHER_OPTIONS, COMMANDS = "Arguments", "Options", "Other", "Commands"

_FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
_QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
_BOLD, _CYAN, _RESET = "\x1b[1m", "\x1b[36m", "\x1b[0m"
_COLOUR = re.compile(r"\x1b\[\d+m")

Named = tuple[str, str]
"""What is typed for an option, an argument or a command, and what is said of it."""


def attach(command: Any) -> None:
    """Let a command and its subcommands write their help this way."""
    inner = getattr(command, "commands", {})
    command.format_help = lambda context, formatter: formatter.write(
        page(context, {name: each.help for name, each in inner.items()})
    )
    for each in inner.values():
        attach(each)


def page(context: Any, commands: Mapping[str, str]) -> str:
    """Return the help of a command that has these subcommands."""
    columns = max(NARROWEST_TERMINAL, shutil.get_terminal_size().columns)
    text = "\n\n".join("\n".join(block) for block in _blocks(context, commands, columns))
    if not console.wants_colour(sys.stdout):
        text = _COLOUR.sub("", text)
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def facts(param: Any, context: Any) -> Iterator[str]:
    """Yield what an option or argument knows beyond its help text: limits, default, environment variable."""
    low, high = getattr(param.type, "min", None), getattr(param.type, "max", None)
    if low and high:  # that a number is not negative goes without saying
        yield f"From {low} to {high}."
    default = param.get_default(context)
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        yield f"Default: {default:g}." if isinstance(default, float) else f"Default: {default}."
    if param.envvar:
        yield f"Environment: {param.envvar}."


def _blocks(context: Any, commands: Mapping[str, str], columns: int) -> Iterator[list[str]]:
    """Yield usage, description, lists and examples, each as its lines."""
    command, width = context.command, min(columns, WIDEST)
    pieces = re.sub(r"[{}]", "", " ".join(command.collect_usage_pieces(context)))
    first, *rest = _wrapped(f"Usage: {context.command_path} {pieces}", width, hanging=7)
    yield [first.replace("Usage:", _title("Usage")), *rest]
    for paragraph in (command.help or "").split("\n\n"):
        yield _wrapped(paragraph, width)
    arguments, options = _parameters(context)
    column = _column([item for items in options.values() for item in items], width)
    lists = [(ARGUMENTS, arguments), *options.items(), (COMMANDS, list(commands.items()))]
    for title, items in lists:
        if items:
            yield [_title(title), *_list(items, width, column if title in options else _column(items, width))]
    if command.epilog:
        title, *examples = command.epilog.split("\n\n")
        yield [_title(title.rstrip(":")), *(line for example in examples for line in _example(example, columns))]


def _parameters(context: Any) -> tuple[list[Named], dict[str, list[Named]]]:
    """Return the arguments, and the options in their groups; those of none are the last."""
    arguments: list[Named] = []
    ungrouped: list[Named] = []
    groups: dict[str, list[Named]] = {}
    for param in context.command.get_params(context):
        if param.hidden:
            continue
        said = " ".join([param.help or "", *facts(param, context)])
        if param.param_type_name == "argument":
            arguments.append((param.make_metavar(context), said))
            continue
        names = ", ".join([*sorted(param.opts, key=len), *param.secondary_opts])
        names += "" if param.is_flag else f" {param.make_metavar(context)}"
        panel = getattr(param, "rich_help_panel", None)
        # The long names stand in line, whether or not there is a short one.
        indented = names if len(param.opts) > 1 else f"    {names}"
        (groups.setdefault(panel, []) if panel else ungrouped).append((indented, said))
    return arguments, {**groups, OTHER_OPTIONS if groups else OPTIONS: ungrouped}


def _column(items: Iterable[Named], width: int) -> int:
    """Return where the texts of a list begin: beside the names, or where that leaves too little, below them."""
    beside = min(WIDEST_NAMES, max((len(name) + 4 for name, _ in items), default=0))
    return beside if width - beside >= NARROWEST_TEXT else BELOW


def _list(items: Iterable[Named], width: int, column: int) -> Iterator[str]:
    """Yield the lines of a list whose texts begin at a column."""
    for name, said in items:
        *above, last = _wrapped(name.strip(), width, indent=len(name) - len(name.lstrip()) + 2, hanging=6)
        text = _wrapped(said, width, indent=column, hanging=column)
        yield from map(_painted, above)
        if text and len(last) + 2 <= column:
            text[0] = _painted(last) + text[0][len(last) :]
        else:
            yield _painted(last)
        yield from text


def _example(line: str, columns: int) -> Iterator[str]:
    """Yield the lines of an example, which can be copied as they stand: what is quoted stays in one piece."""
    whole = _QUOTED.sub(lambda match: match[0].replace(" ", "\0"), line)
    lines = [each.replace("\0", " ") for each in _wrapped(whole, columns - 2, indent=2, hanging=6)]
    yield from (f"{each} \\" for each in lines[:-1])
    yield lines[-1]


def _wrapped(text: str, width: int, *, indent: int = 0, hanging: int = 0) -> list[str]:
    """Return a text as lines, broken between words only: never inside the name of an option or a model."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _title(text: str) -> str:
    return f"{_BOLD}{text}:{_RESET}"


def _painted(names: str) -> str:
    return _FLAG.sub(lambda match: f"{_CYAN}{match[0]}{_RESET}", names)
