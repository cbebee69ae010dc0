"""Options that several commands share, parsers for option values, and commands that take groups of options."""

import inspect
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
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

REQUEST, TASKS, OUTPUT, WAITING, SERVICE = "Request", "Tasks", "Output", "Waiting", "Service"
"""The groups in a command's help."""


def expanded(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Let a command take its options as dataclasses.

    Each parameter that is annotated with a dataclass is replaced, in the signature that Typer reads, by that
    class's fields; the command gets an instance. A field `from_flags` is not an option: it gets the names of the
    options that are on the command line itself.
    """
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context]
    groups: dict[str, type] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation  # type: ignore[assignment] # the class, not an instance
            parameters += _parameters(groups[parameter.name])
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def command(context: typer.Context, **values: Any) -> int | None:
        sources = {name: context.get_parameter_source(name) for name in values}
        given = (name for name, source in sources.items() if source and source.name == "COMMANDLINE")
        values["from_flags"] = frozenset(given)
        for name, group in groups.items():
            values[name] = _instance(group, values)
        return function(**{name: values[name] for name in inspect.signature(function).parameters})

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # inspect looks for it
    return command


def _instance(group: type, values: Mapping[str, Any]) -> object:
    if group is RequestOptions:
        given = {name: values[name] for name in FIELDS if name != "prompt" and values[name] is not None}
        return RequestOptions(given, values["from_flags"])
    return group(**{field.name: values[field.name] for field in fields(group)})


def _parameters(group: type) -> list[inspect.Parameter]:
    if group is RequestOptions:
        return RequestOptions.parameters()
    annotations = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=annotations[field.name],
        )
        for field in fields(group)
        if field.name != "from_flags"
    ]


def integer(minimum: int, maximum: int | None = None) -> Callable[[Any], int]:
    """Return the parser of an option for a whole number, for `typer.Option(parser=…)`."""

    def parse(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            raise typer.BadParameter(f"must be a whole number, not `{shown(value)}`") from None
        if number < minimum or (maximum is not None and number > maximum):
            limits = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"
            raise typer.BadParameter(f"must be {limits}, not `{shown(value)}`")
        return number

    return parse


def duration(value: Any) -> float:
    """Return the seconds of an option's value such as `90`, `90s`, `10m` or `1h`: a parser for `typer.Option`."""
    try:
        return parse_duration(str(value))
    except ValueError as error:
        raise typer.BadParameter(f"{error}, not `{shown(value)}`") from None


def moment(value: Any) -> float:
    """Return the Unix time of an option's value such as `2026-11-25` or `2h`: a parser for `typer.Option`."""
    try:
        return parse_moment(str(value), time.time())
    except ValueError as error:
        raise typer.BadParameter(f"{error}, not `{shown(value)}`") from None


_T = TypeVar("_T")


def one_of(choices: Iterable[_T]) -> Callable[[Any], _T]:
    """Return the parser of an option that accepts only these values, for `typer.Option(parser=…)`."""
    known = {str(choice): choice for choice in choices}

    def parse(value: Any) -> _T:
        if str(value) not in known:
            names = ", ".join(known)
            raise typer.BadParameter(f"must be one of {names}, not `{shown(value)}`")
        return known[str(value)]

    return parse


DEFAULT_TIMEOUT = 600.0
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        help="Stop waiting after this time: seconds, or 90s, 10m, 1h. Default: 10m.",
        rich_help_panel=WAITING,
    ),
]


def timeout_seconds(value: object, default: float | None = DEFAULT_TIMEOUT) -> float | None:
    """Return a `--timeout`, or the one in the config, in seconds; None for no limit.

    Raises:
        UsageError: The value is not a duration.
    """
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
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace existing files.", rich_help_panel=OUTPUT)]
Original = Annotated[
    bool, typer.Option("--original", help="Save the original image too, if there is one.", rich_help_panel=OUTPUT)
]
Sidecar = Annotated[
    bool | None,
    typer.Option(
        "--sidecar/--no-sidecar",
        help="Write the request next to the picture, as PICTURE.json; see --like.",
        rich_help_panel=OUTPUT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check and print the requests, and send nothing.", rich_help_panel=SERVICE),
]
NoValidate = Annotated[
    bool,
    typer.Option(
        "--no-validate",
        help="Send what the local rules would reject, for models newer than this version.",
        rich_help_panel=SERVICE,
    ),
]


@dataclass(frozen=True, eq=False, repr=False)
class ServiceOptions:
    """Which service to use and what to print, for all commands that talk to it."""

    api_url: Annotated[
        str | None,
        typer.Option(
            "--api-url",
            envvar="FLUX_CLI_API_URL",
            metavar="URL",
            help="The address of the service. Default: https://api.apiframe.pro.",
            rich_help_panel=SERVICE,
        ),
    ] = None
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--sandbox",
            envvar="FLUX_CLI_SANDBOX",
            help="Use the embedded sandbox: free, offline, no key needed.",
            rich_help_panel=SERVICE,
        ),
    ] = None
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            callback=console.set_quiet,
            help="Print only errors on stderr.",
            rich_help_panel=SERVICE,
        ),
    ] = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Print requests and responses on stderr, without key and secret.",
            rich_help_panel=SERVICE,
        ),
    ] = False
    json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON Lines on stdout: one object per line.", rich_help_panel=SERVICE),
    ] = False
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False
    from_flags: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False, repr=False)
class RequestOptions:
    """The request flags, one for each field of the table except the prompt.

    Numbers arrive as text, so that all invalid values can be reported together.

    Attributes:
        values: What was given for each field, by its name.
        from_flags: The names that were given on the command line, rather than in the environment.
    """

    values: Mapping[str, str | bool]
    from_flags: frozenset[str] = frozenset()

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """Return the parameters of a command that takes these options."""
        return [_request_parameter(field) for field in FIELDS.values() if field.name != "prompt"]

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
            elif name == "seed" and value.strip().lower() == "random":
                body[name] = random_seed()
            else:
                try:
                    body[name] = parse_text(name, value)
                except ValueError as error:
                    broken.append(f"{self.name_of(name)} {error}, not `{shown(value)}`")
        return body, broken


def _request_parameter(field: Field) -> inspect.Parameter:
    name = flag(field.name).strip("`")
    names = [f"{name}/--no-{name[2:]}"] if field.kind is bool else [name, *([field.short] if field.short else [])]
    option = typer.Option(
        *names,
        metavar=field.metavar,
        help=field.description,
        envvar=field.envvar,
        autocompletion=completion.for_field(field),
        rich_help_panel=REQUEST,
    )
    kind = bool | None if field.kind is bool else str | None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


@dataclass(frozen=True, eq=False, repr=False)
class OutputOptions:
    """Where pictures go."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="A file, a directory, - for stdout, or a template with {task_id} {id8} {model} {seed} {slug} {n} "
            "{date} {ext}.",
            autocompletion=completion.output,
            rich_help_panel=OUTPUT,
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
        typer.Option(
            "--preview",
            help="Show the picture in the terminal (Kitty, Sixel or half blocks); needs the extra `preview`.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    viewer: Annotated[
        bool, typer.Option("--open", help="Open the picture in the default viewer.", rich_help_panel=OUTPUT)
    ] = False

    def with_default(self, *, sidecar: bool) -> "PictureOptions":
        """Return these options with a default for `--sidecar`."""
        return self if self.sidecar is not None else replace(self, sidecar=sidecar)
