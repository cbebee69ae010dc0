"""Options that several commands share, parsers for option values, and commands that take groups of options."""

import inspect
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from flux_cli import completion
from flux_cli.api.request import FIELDS, Body, Field, JsonValue, flag, parse_text, random_seed, shown
from flux_cli.errors import LocalFileError, UsageError
from flux_cli.storage.durations import parse_duration, parse_moment
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.pictures.naming import Target
    from flux_cli.storage.config import Config

_T = TypeVar("_T")

REQUEST, TASKS, OUTPUT, WAITING, SERVICE = "Request", "Tasks", "Output", "Waiting", "Service"
"""The groups in a command's help."""
request_option = partial(typer.Option, rich_help_panel=REQUEST)
service_option = partial(typer.Option, rich_help_panel=SERVICE)
output_option = partial(typer.Option, rich_help_panel=OUTPUT)


def expanded(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Let a command take its options as dataclasses.

    Each parameter that is annotated with a dataclass is replaced, in the signature that Typer reads, by that
    class's fields; the command gets an instance. A field `from_flags` is not an option: it gets the names of the
    options that are on the command line itself.
    """
    own = inspect.signature(function, eval_str=True).parameters
    groups = {name: each.annotation for name, each in own.items() if is_dataclass(each.annotation)}
    parameters = [_parameter("context", typer.Context)]
    for name, each in own.items():
        parameters += _options(groups[name]) if name in groups else [each.replace(kind=each.KEYWORD_ONLY)]

    def command(context: typer.Context, **values: Any) -> int | None:
        sources = {name: context.get_parameter_source(name) for name in values}
        given = (name for name, source in sources.items() if source and source.name == "COMMANDLINE")
        values["from_flags"] = frozenset(given)
        values |= {name: _instance(group, values) for name, group in groups.items()}
        return function(**{name: values[name] for name in own})

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # inspect looks for it
    return command


def _parameter(name: str, annotation: Any, default: object = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _options(group: Any) -> list[inspect.Parameter]:
    if group is RequestOptions:
        return [_request_option(field) for field in FIELDS.values() if field.name != "prompt"]
    annotations = get_type_hints(group, include_extras=True)
    options = [field for field in fields(group) if field.name != "from_flags"]
    return [_parameter(field.name, annotations[field.name], field.default) for field in options]


def _instance(group: Any, values: Mapping[str, Any]) -> object:
    if group is RequestOptions:
        given = {name: values[name] for name in FIELDS if name != "prompt" and values[name] is not None}
        return RequestOptions(given, values["from_flags"])
    return group(**{field.name: values[field.name] for field in fields(group)})


def _parser(parse: Callable[[str], _T]) -> Callable[[Any], _T]:
    """Return the parser of an option, for `typer.Option(parser=…)`, from a function that raises ValueError."""

    def parser(value: Any) -> _T:
        try:
            return parse(str(value))
        except ValueError as error:
            raise typer.BadParameter(f"{error}, not `{shown(value)}`") from None

    return parser


duration = _parser(parse_duration)
moment = _parser(lambda text: parse_moment(text, time.time()))


def integer(minimum: int, maximum: int | None = None) -> Callable[[Any], int]:
    """Return the parser of an option for a whole number."""
    limits = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError("must be a whole number") from None
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError(f"must be {limits}")
        return number

    return _parser(parse)


def one_of(choices: Iterable[_T]) -> Callable[[Any], _T]:
    """Return the parser of an option that accepts only these values."""
    known = {str(choice): choice for choice in choices}

    def parse(text: str) -> _T:
        if text not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return known[text]

    return _parser(parse)


DEFAULT_TIMEOUT = 600.0
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        help="Stop waiting after this time: seconds, or 90s, 10m, 1h; 0 does not wait. Default: 10m.",
        rich_help_panel=WAITING,
    ),
]


def timeout_seconds(value: object, default: float | None = DEFAULT_TIMEOUT) -> float | None:
    """Return a `--timeout` in seconds; None for no limit. Raises UsageError if it is not a duration."""
    if value is None:
        return default
    try:
        seconds = parse_duration(str(value))
    except ValueError as error:
        raise UsageError(f"`--timeout` {error}, not `{shown(value)}`") from None
    return seconds if math.isfinite(seconds) else None


TaskIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TASK_ID]...",
        help="Task IDs or prefixes of at least 4 characters; - reads them from stdin.",
        autocompletion=completion.task_ids,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=console.set_quiet, help="Print only errors on stderr.")
]
Force = Annotated[bool, output_option("--force", "-f", help="Replace existing files.")]
Original = Annotated[bool, output_option("--original", help="Save the original image too, if there is one.")]
Sidecar = Annotated[
    bool | None,
    output_option(
        "--sidecar/--no-sidecar", help="Write the request next to the picture, as PICTURE.json; see --like."
    ),
]
DryRun = Annotated[bool, service_option("--dry-run", help="Check and print the requests, and send nothing.")]
NoValidate = Annotated[
    bool,
    service_option(
        "--no-validate", help="Send what the local rules would reject, for models newer than this version."
    ),
]


@dataclass(frozen=True, eq=False, repr=False)
class ServiceOptions:
    """Which service to use and what to print, for all commands that talk to it."""

    api_url: Annotated[
        str | None,
        service_option(
            "--api-url",
            envvar="FLUX_CLI_API_URL",
            metavar="URL",
            help="The address of the service. Default: https://api.apiframe.pro.",
        ),
    ] = None
    sandbox: Annotated[
        bool | None,
        service_option(
            "--sandbox", envvar="FLUX_CLI_SANDBOX", help="Use the embedded sandbox: free, offline, no key needed."
        ),
    ] = None
    quiet: Annotated[
        bool, service_option("--quiet", "-q", callback=console.set_quiet, help="Print only errors on stderr.")
    ] = False
    verbose: Annotated[
        bool,
        service_option("--verbose", "-v", help="Print requests and responses on stderr, without key and secret."),
    ] = False
    json: Annotated[bool, service_option("--json", help="Print JSON Lines on stdout: one object per line.")] = (
        False
    )
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False
    from_flags: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False, repr=False)
class RequestOptions:
    """The request flags, one for each field of the table except the prompt.

    Numbers arrive as text, so that all invalid values can be reported together. `from_flags` has the names that
    were given on the command line, rather than in the environment.
    """

    values: Mapping[str, str | bool]
    from_flags: frozenset[str] = frozenset()

    @property
    def model(self) -> str | None:
        """The model, if given."""
        return self._text("model")

    @property
    def image_prompt(self) -> str | None:
        """The source of the image prompt, if given."""
        return self._text("image_prompt")

    @property
    def webhook_secret(self) -> str | None:
        """The webhook secret, if given."""
        return self._text("webhook_secret")

    @property
    def has_random_seed(self) -> bool:
        """Whether `--seed random` is given."""
        return str(self.values.get("seed")).strip().lower() == "random"

    def _text(self, name: str) -> str | None:
        value = self.values.get(name)
        return None if value is None else str(value)

    def name_of(self, name: str) -> str:
        """Return how a message names a field: by the environment variable if the value comes from there."""
        variable = FIELDS[name].envvar if name in FIELDS else None
        return variable if variable and name in self.values and name not in self.from_flags else flag(name)

    def with_defaults(self, defaults: Mapping[str, JsonValue]) -> "RequestOptions":
        """Return these options, completed from the config file.

        The model and the webhook secret are left alone. A default for the strength needs an image prompt.
        """
        values = {
            name: value if isinstance(value, bool) else str(value)
            for name, value in defaults.items()
            if name in FIELDS and name not in ("prompt", "model", "webhook_secret")
        }
        if "image_prompt" not in {**values, **self.values}:
            values.pop("image_prompt_strength", None)
        return replace(self, values={**values, **self.values})

    def given(self) -> tuple[Body, list[str]]:
        """Return the fields that were given, and one line for each value that has the wrong type.

        The model, the image prompt and the webhook secret are left out: they have other sources, too.
        """
        body: Body = {}
        broken: list[str] = []
        for name, value in self.values.items():
            if name in ("model", "image_prompt", "webhook_secret"):
                continue
            if isinstance(value, bool):
                body[name] = value
            elif name == "seed" and self.has_random_seed:
                body[name] = random_seed()
            else:
                try:
                    body[name] = parse_text(name, value)
                except ValueError as error:
                    broken.append(f"{self.name_of(name)} {error}, not `{shown(value)}`")
        return body, broken


def _request_option(field: Field) -> inspect.Parameter:
    name = flag(field.name).strip("`")
    names = [f"{name}/--no-{name[2:]}"] if field.kind is bool else [name, *([field.short] if field.short else [])]
    option = request_option(
        *names,
        metavar=field.metavar,
        help=field.description,
        envvar=field.envvar,
        autocompletion=completion.for_field(field),
    )
    kind = bool | None if field.kind is bool else str | None
    return _parameter(field.name, Annotated[kind, option], None)


@dataclass(frozen=True, eq=False, repr=False)
class OutputOptions:
    """Where pictures go."""

    output: Annotated[
        str | None,
        output_option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file, a directory, - for stdout, or a template with {task_id} {id8} {model} {seed} {slug} {n} "
            "{date} {ext}.",
            autocompletion=completion.output,
        ),
    ] = None
    force: Force = False
    original: Original = False

    def target(self, service: ServiceOptions, config: "Config", count: int, *, dry_run: bool = False) -> "Target":
        """Return the target that `-o` names for so many pictures, checked to be writable.

        A dry run creates no directory, and does not check whether one can be created.

        Raises:
            UsageError: `-o` is invalid, or in conflict with another flag.
            LocalFileError: The file exists, the directory cannot be written, or stdout is closed.
        """
        from flux_cli.pictures import naming

        target = naming.parse_output(self.output, config.output_dir, count, self.force)
        if target.stdout and service.json:
            raise UsageError("`-o -` and `--json` both write to stdout", "choose one of them")
        if target.stdout and sys.stdout.isatty():
            raise UsageError(
                "`-o -` writes the picture's bytes to stdout, which is a terminal", "pipe it, or name a file"
            )
        if target.stdout and console.stdout_is_closed:
            raise LocalFileError("stdout is closed, so the picture cannot be written to it", "give -o a file")
        naming.check(target, create=not dry_run)
        return target


@dataclass(frozen=True, eq=False, repr=False)
class PictureOptions:
    """What else to do with a saved picture."""

    sidecar: Sidecar = None
    preview: Annotated[
        bool,
        output_option(
            "--preview",
            help="Show the picture in the terminal (Kitty, Sixel or half blocks); needs the extra `preview`.",
        ),
    ] = False
    viewer: Annotated[bool, output_option("--open", help="Open the picture in the default viewer.")] = False

    def with_default(self, *, sidecar: bool) -> "PictureOptions":
        """Return these options with a default for `--sidecar`."""
        return self if self.sidecar is not None else replace(self, sidecar=sidecar)
