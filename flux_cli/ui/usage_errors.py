"""Usage errors: what is wrong with a command line, and a suggestion.

Names from other tools take precedence over similar spellings. A destructive option or command is never suggested
for a misspelling. Typer's errors are recognised by their attributes, never by their text.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flux_cli.api.request import shown
from flux_cli.errors import UsageError, closest

PROGRAM = "flux-cli"
_PROMPT = f'{PROGRAM} imagine "a red kite"'

OPTION_HABITS = {
    "--api-url": ["--endpoint", "--base-url", "--url"],
    "--aspect-ratio": ["--ar", "--aspect"],
    "--concurrency": ["--jobs", "--parallel", "--workers"],
    "--count": ["--n", "--num", "--number", "--num-images", "--num-outputs"],
    "--force": ["--overwrite"],
    "--guidance": ["--cfg", "--cfg-scale", "--guidance-scale"],
    "--image-prompt": ["--image", "--image-url", "--init-image", "--input-image"],
    "--image-prompt-strength": ["--strength"],
    "--no-wait": ["--async"],
    "--output": ["--dir", "--out", "--outdir", "--output-dir"],
    "--quiet": ["--silent"],
    "--show-completion": ["--install-completion"],
    "--steps": ["--inference-steps", "--num-inference-steps"],
}
"""Our options, each with those of other tools that mean the same."""
_FORMAT = "the model chooses the format; the file name gets the matching extension"
_KEY = f"arguments are public: use `{PROGRAM} login`, or set APIFRAME_API_KEY"
OPTION_ADVICE = {
    "--size": "use `--width W --height H`, or `--aspect-ratio W:H`",
    "--prompt": f"the prompt is an argument: {_PROMPT}",
    "--negative-prompt": "Flux has no negative prompts; describe what you want instead",
    "--no": "Flux has no negative prompts; describe what you want instead",
    "--format": _FORMAT,
    "--output-format": _FORMAT,
    "--key": _KEY,
    "--api-key": _KEY,
    "--token": _KEY,
}
"""Hints for options of other tools that have no equivalent here."""
COMMAND_HABITS = {
    "--show-completion": ["completion"],
    "--version": ["version"],
    "account": ["balance", "credits", "whoami"],
    "config": ["settings"],
    "fetch": ["status"],
    "help": ["man"],
    "history": ["list", "ls", "queue"],
    "imagine": ["create", "gen", "generate", "run", "txt2img"],
    "login": ["auth", "auth login", "key"],
    "logout": ["auth logout"],
    "sandbox": ["serve", "server"],
    "show": ["view"],
    "wait": ["download", "get", "poll", "watch"],
}
"""Our commands, each with those of other tools that mean the same."""
NEVER_GUESSED = frozenset(
    {"--force", "--insecure", "--no-validate", "--retry-unknown", "forget", "logout", "unset"}
)
"""Using one of these by mistake destroys something or costs money."""


def explain(error: Any, group: Any, arguments: Sequence[str]) -> tuple[str, str]:
    """Return the message and the hint for one of Typer's errors. `group` is the program."""
    context = getattr(error, "ctx", None)
    see = _see(context.command_path if context else PROGRAM)
    if context and hasattr(error, "possibilities"):
        return f"unknown option `{shown(error.option_name)}`", _option_hint(
            error.option_name, context, group, arguments
        )
    if context and hasattr(error, "option_name"):
        return f"`{error.option_name}` {_value_rule(error.option_name, context)}", see
    param = getattr(error, "param", None)
    if param is None:
        message = str(error.format_message())
        return message[:1].lower() + message[1:].rstrip("."), see
    if hasattr(error, "param_type"):
        return f"{_name(param)} is missing", see
    if _from_environment(param, context):
        wanted = "must be 1 or 0" if param.is_flag else error.message.rstrip(".")
        return f"{param.envvar} {wanted}, not `{shown(os.environ[param.envvar])}`", f"set or unset {param.envvar}"
    return f"{_name(param)} {error.message.rstrip('.')}", see


def extra_arguments(path: str, extra: Sequence[str]) -> UsageError:
    """Return the error for more arguments than a command accepts."""
    quote = f"put the prompt in quotes: {_PROMPT}"
    return UsageError(
        f"too many arguments: {shown(' '.join(extra))}", quote if path == f"{PROGRAM} imagine" else _see(path)
    )


def unknown_command(path: str, typed: Sequence[str], known: Sequence[str]) -> UsageError:
    """Return the error for a command that does not exist.

    `path` is the program or the command whose subcommand it would be, `typed` the arguments from there on.
    """
    name = typed[0]
    message = f"unknown command `{shown(' '.join([*path.split()[1:], name]))}`"
    if path == PROGRAM and name.lower() == "cancel":
        return UsageError(message, "the service cannot cancel a task")
    near = None
    if path == PROGRAM:
        near = _ours(COMMAND_HABITS, " ".join(typed[:2]).lower()) or _ours(COMMAND_HABITS, name.lower())
    elif name == "help":
        near = "--help"
    near = near or closest(name, [each for each in known if each not in NEVER_GUESSED])
    return UsageError(message, _meant(f"{path} {near}") if near else _see(path))


def _option_hint(name: str, context: Any, group: Any, arguments: Sequence[str]) -> str:
    known = _options(context.command)
    if context.command is group:
        for other in group.list_commands(context):
            if name in _options(group.get_command(context, other)):
                return f"options go after the command: {PROGRAM} {other} … {name}"
    if (ours := _ours(OPTION_HABITS, name)) in known:
        return f"use `{ours}`"
    if name in OPTION_ADVICE:
        return OPTION_ADVICE[name]
    if near := closest(name, [each for each in known if each.startswith("--") and each not in NEVER_GUESSED]):
        return _meant(near)
    if context.command_path == f"{PROGRAM} imagine" and not _has_prompt(context, name, arguments):
        return f'put a prompt that begins with a dash after `--`: {PROGRAM} imagine -- "-x"'
    return _see(context.command_path)


def _ours(habits: Mapping[str, Sequence[str]], theirs: str) -> str | None:
    return next((ours for ours, others in habits.items() if theirs in others), None)


def _has_prompt(context: Any, unknown: str, arguments: Sequence[str]) -> bool:
    """Return whether there is a prompt other than the argument that contains the unknown option."""
    after = list(arguments[list(arguments).index("imagine") + 1 :])
    short = re.compile(f"-[^-]*{re.escape(unknown[1:])}" if len(unknown) == 2 else re.escape(unknown))
    rest = [each for each in after if not short.match(each)]
    parsed = context.command.make_context("imagine", rest, resilient_parsing=True)
    return parsed.params.get("prompt") is not None


def _value_rule(name: str, context: Any) -> str:
    flags = [param.is_flag for param in context.command.params if name in (*param.opts, *param.secondary_opts)]
    return "takes no value" if any(flags) else "needs a value"


def _from_environment(param: Any, context: Any) -> bool:
    source = context.get_parameter_source(param.name) if context else None
    return bool(source and source.name == "ENVIRONMENT" and param.envvar in os.environ)


def _name(param: Any) -> str:
    """Return how a message names a parameter: the long name of an option, or an argument as in the usage."""
    if param.param_type_name == "option":
        return f"`{max(param.opts, key=len)}`"
    return str(param.metavar or param.name.upper()).strip("[].")


def _options(command: Any) -> list[str]:
    shown = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    return [name for param in shown for name in (*param.opts, *param.secondary_opts)]


def _see(path: str) -> str:
    return f"see `{path} --help`"


def _meant(near: str) -> str:
    return f"did you mean `{near}`?"
