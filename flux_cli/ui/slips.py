"""What is said of a command line that does not parse: what is wrong with it, and what was probably meant."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from typer._click.exceptions import BadOptionUsage, BadParameter, ClickException, MissingParameter, NoSuchOption

PROGRAM = "flux-cli"


def explained(error: ClickException, group: Any, arguments: Sequence[str]) -> tuple[str, str]:
    """Return the message and the hint; `group` is the program, `arguments` is what was typed."""
    context = getattr(error, "ctx", None)
    known = arguments and arguments[0] in group.list_commands(None)
    path = context.command_path if context else " ".join([PROGRAM, *arguments[: bool(known)]])
    see = f"see `{path} --help`"
    if isinstance(error, NoSuchOption):
        return f"there is no option `{error.option_name}`", _option_hint(error, group, arguments) or see
    if isinstance(error, MissingParameter):
        return f"{_name(error)} is missing", see
    if isinstance(error, BadParameter) and error.param is not None:
        return _value_explained(error, see)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if isinstance(error, BadOptionUsage):
        return f"`{error.option_name}` {'needs a' if 'requires' in message else 'takes no'} value", see
    if match := re.match(r"No such command (['\"])(.*?)\1\.", message):
        return _command_explained(match[2], context, arguments, see)
    if match := re.match(r"Got unexpected extra argument\(?s?\)? \((.*)\)$", message, re.DOTALL):
        quote = f'put the prompt in quotes: {PROGRAM} imagine "a red kite"'
        return f"too many arguments: {match[1]}", quote if path == f"{PROGRAM} imagine" else see
    return message[:1].lower() + message[1:].rstrip("."), see


def _option_hint(error: NoSuchOption, group: Any, arguments: Sequence[str]) -> str | None:
    context: Any = error.ctx
    name = error.option_name
    if context.command is group:
        for other in group.list_commands(context):
            if name in _options(group.get_command(context, other)):
                return f"options go after the command, as in `{PROGRAM} {other} … {name}`"
    known = _options(context.command)
    if near := _nearest(name, known):
        return _meant(near)
    initial = [each for each in known if each[:3].lower() == f"-{name}".lower()]  # of `-V`: `--version`
    if len(name) == 2 and len(initial) == 1:
        return _meant(initial[0])
    if context.command_path == f"{PROGRAM} imagine" and not _has_prompt(context, name, arguments):
        return f'a prompt that begins with a dash goes after `--`: {PROGRAM} imagine -- "-x"'
    return None


def _has_prompt(context: Any, unknown: str, arguments: Sequence[str]) -> bool:
    """Say whether there is a prompt beside the argument in which there is something that is no option."""
    after = list(arguments[list(arguments).index("imagine") + 1 :])
    short = re.compile(f"-[^-]*{re.escape(unknown[1:])}" if len(unknown) == 2 else re.escape(unknown))
    rest = [each for each in after if not short.match(each)]
    return context.command.make_context("imagine", rest, resilient_parsing=True).params["prompt"] is not None


def _value_explained(error: BadParameter, see: str) -> tuple[str, str]:
    """Explain a value that an option or argument does not take."""
    kind: Any = error.param.type if error.param else None
    match = re.match(r"(['\"]?)(.*)\1 is not ", error.message, re.DOTALL)
    if not match:
        return f"{_name(error)}: {error.message.rstrip('.')}", see
    value = match[2]
    choices = [str(getattr(choice, "value", choice)) for choice in getattr(kind, "choices", ())]
    if choices:
        near = _nearest(value, choices)
        return f"{_name(error)} does not know `{value}`", _meant(near) if near else f"known: {', '.join(choices)}"
    wanted = "a whole number" if "int" in kind.name else "a number"
    if "in the range" in error.message:
        wanted = f"{kind.min} or more" if kind.max is None else f"{kind.min} to {kind.max}"
    return f"{_name(error)} takes {wanted}, not `{value}`", see


def _command_explained(name: str, context: Any, arguments: Sequence[str], see: str) -> tuple[str, str]:
    """Explain a command that there is not, and what stands for it: the nearest, or an option."""
    path, known = context.command_path, context.command.list_commands(context)
    near = _nearest(name, known)
    if name in ("help", "version"):
        asked = [each for each in arguments[arguments.index(name) + 1 :][:1] if name == "help" and each in known]
        near = " ".join([*asked, f"--{name}"])
    whole = " ".join([*path.split()[1:], name])
    return f"there is no command `{whole}`", _meant(f"{path} {near}") if near else see


def _name(error: BadParameter) -> str:
    """Return how a message names what a value is for: an option's long name, or an argument's in the usage."""
    param: Any = error.param
    if param.param_type_name == "option":
        return f"`{max(param.opts, key=len)}`"
    return str(re.sub(r"[][.]", "", param.make_metavar(error.ctx)))


def _options(command: Any) -> list[str]:
    return [
        name
        for param in command.params
        if param.param_type_name == "option" and not param.hidden
        for name in [*param.opts, *param.secondary_opts]
    ]


def _nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most like a mistyped one, or nothing; one letter is like none."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), [each for each in known if len(each) > 2], n=1)
    return close[0] if close else ""


def _meant(near: str) -> str:
    return f"did you mean `{near}`?"
