"""Help pages: as wide as the terminal, up to a readable width, and without broken names.

Typer's own pages shorten option names on narrow terminals and import rich, which takes 90 ms. Only public
attributes of commands and parameters are read here. The manual uses the same descriptions.
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flux_cli.ui import console

WIDEST = 100
"""The most columns for text, however wide the terminal is."""
WIDEST_NAMES = 36
"""The most columns for names; a longer name gets its own line."""
NARROWEST_TEXT = 28
"""If fewer columns are left next to the names, the texts are printed below them."""
BELOW = 10
"""The indentation of texts below their names."""
NARROWEST_TERMINAL = 30

_FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
_QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
_BOLD, _CYAN, _RESET = "\x1b[1m", "\x1b[36m", "\x1b[0m"
_COLOUR = re.compile(r"\x1b\[\d+m")

Named = tuple[str, str]
"""The name of an option, an argument or a command, and its description."""


@dataclass(frozen=True)
class Option:
    """An option in the help and the manual: its names, short ones first, its placeholder, and its description."""

    names: tuple[str, ...]
    placeholder: str | None
    text: str


def page(context: Any) -> str:
    """Return the help page of a command."""
    blocks = _blocks(context, _columns())
    return _printable("\n\n".join("\n".join(block) for block in blocks))


def listing(items: Sequence[Named]) -> str:
    """Return names with their descriptions, as the lists of a help page."""
    width = min(_columns(), WIDEST)
    return _printable("\n".join(_list(items, width, _column(items, width))))


def _columns() -> int:
    return max(NARROWEST_TERMINAL, shutil.get_terminal_size().columns)


def _printable(text: str) -> str:
    """Return a text without the colours and characters that stdout cannot print."""
    if not console.wants_colour(sys.stdout):
        text = _COLOUR.sub("", text)
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def usage(context: Any) -> str:
    """Return how a command is called."""
    words = [context.command_path, "[OPTIONS]"]
    words += [_argument(param) for param in context.command.params if param.param_type_name == "argument"]
    return " ".join(words + (["COMMAND [ARGS]..."] if hasattr(context.command, "commands") else []))


def arguments(context: Any) -> list[Named]:
    """Return the arguments of a command."""
    return [(_argument(param), _description(param)) for param in _shown(context, "argument")]


def options(context: Any) -> dict[str, list[Option]]:
    """Return the options of a command by group; those without a group are the last."""
    groups: dict[str, list[Option]] = {}
    for param in _shown(context, "option"):
        group = getattr(param, "rich_help_panel", None)
        names = (*sorted(param.opts, key=len), *param.secondary_opts)
        placeholder = None if param.is_flag else param.metavar or "VALUE"
        groups.setdefault(group or "", []).append(Option(names, placeholder, _description(param)))
    ungrouped = groups.pop("", [])
    return {**groups, "Other" if groups else "Options": ungrouped}


def examples(context: Any) -> list[str]:
    """Return the examples of a command, each starting with `$`."""
    return re.findall(r"^\$ .*$", context.command.epilog or "", re.MULTILINE)


def _shown(context: Any, kind: str) -> list[Any]:
    params = context.command.get_params(context)
    return [param for param in params if param.param_type_name == kind and not param.hidden]


def _argument(param: Any) -> str:
    name = (param.metavar or param.name.upper()).strip("[].")
    repeated = "..." if param.nargs == -1 else ""
    return f"{name}{repeated}" if param.required else f"[{name}]{repeated}"


def _description(param: Any) -> str:
    sentences = [param.help or ""]
    default = param.default
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        sentences.append(f"Default: {default:g}." if isinstance(default, float) else f"Default: {default}.")
    if param.envvar:
        sentences.append(f"Environment: {param.envvar}.")
    return " ".join(filter(None, sentences))


def _blocks(context: Any, columns: int) -> Iterator[list[str]]:
    command, width = context.command, min(columns, WIDEST)
    first, *rest = _wrapped(f"Usage: {usage(context)}", width, hanging=7)
    yield [first.replace("Usage:", _title("Usage")), *rest]
    for paragraph in (command.help or "").split("\n\n"):
        yield _wrapped(paragraph, width)
    commands = command.summaries().items() if hasattr(command, "summaries") else ()
    groups = {title: [_named(option) for option in group] for title, group in options(context).items()}
    column = _column([item for items in groups.values() for item in items], width)
    lists = [("Arguments", arguments(context)), *groups.items(), ("Commands", list(commands))]
    for title, items in lists:
        if items:
            yield [_title(title), *_list(items, width, column if title in groups else _column(items, width))]
    if command.epilog:
        title, *lines = command.epilog.split("\n\n")
        yield [_title(title.rstrip(":")), *(line for example in lines for line in _example(example, columns))]


def _named(option: Option) -> Named:
    names = ", ".join(option.names) + (f" {option.placeholder}" if option.placeholder else "")
    # Long names are aligned, whether or not there is a short one.
    return names if len(option.names[0]) == 2 else f"    {names}", option.text


def _column(items: Iterable[Named], width: int) -> int:
    """Return the column where the texts of a list start: next to the names, or below them if there is no room."""
    beside = min(WIDEST_NAMES, max((len(name) + 4 for name, _ in items), default=0))
    return beside if width - beside >= NARROWEST_TEXT else BELOW


def _list(items: Iterable[Named], width: int, column: int) -> Iterator[str]:
    for name, description in items:
        *above, last = _wrapped(name.strip(), width, indent=len(name) - len(name.lstrip()) + 2, hanging=6)
        text = _wrapped(description, width, indent=column, hanging=column)
        yield from map(_painted, above)
        if text and len(last) + 2 <= column:
            text[0] = _painted(last) + text[0][len(last) :]
        else:
            yield _painted(last)
        yield from text


def _example(line: str, columns: int) -> Iterator[str]:
    """Yield the lines of an example, which can be pasted into a shell: quoted text is never broken."""
    whole = _QUOTED.sub(lambda match: match[0].replace(" ", "\0"), line)
    lines = [each.replace("\0", " ") for each in _wrapped(whole, columns - 2, indent=2, hanging=6)]
    yield from (f"{each} \\" for each in lines[:-1])
    yield lines[-1]


def _wrapped(text: str, width: int, *, indent: int = 0, hanging: int = 0) -> list[str]:
    """Return a text as lines, broken between words only, never inside the name of an option or a model."""
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
