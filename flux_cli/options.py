"""Options that several commands share, each described once, and how a command takes a whole group of them."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from flux_cli import completion
from flux_cli.api.request import ULTRA, Body, flag, parse_text, shown

REQUEST, OUTPUT, WAITING, SERVICE = "Request", "Output", "Waiting", "Service"
"""The groups in a command's help."""


def expanded(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Let a command take its options as dataclasses.

    Each parameter that is annotated with a dataclass is replaced, in the signature that typer reads, by that
    class's fields; the command gets an instance. A field `from_flags` is no option: it gets the names of the
    options that stand on the command line itself.
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
            values[name] = group(**{field.name: values[field.name] for field in fields(group)})
        return function(**{name: values[name] for name in inspect.signature(function).parameters})

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # inspect looks for it
    return command


def _parameters(group: type) -> list[inspect.Parameter]:
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


@dataclass(frozen=True)
class ServiceOptions:
    """Which service, and how much to tell of it: for all commands that talk to it."""

    api_url: Annotated[
        str | None,
        typer.Option(
            "--api-url",
            envvar="FLUX_CLI_API_URL",
            metavar="URL",
            help="The service's address. Default: https://api.apiframe.pro.",
            rich_help_panel=SERVICE,
        ),
    ] = None
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--sandbox",
            envvar="FLUX_CLI_SANDBOX",
            help="Use the embedded service: free, offline, no key needed.",
            rich_help_panel=SERVICE,
        ),
    ] = None
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.", rich_help_panel=SERVICE)
    ] = False
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Show requests and answers on stderr, without key and secret.",
            rich_help_panel=SERVICE,
        ),
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line on stdout.", rich_help_panel=SERVICE)
    ] = False
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False
    from_flags: frozenset[str] = frozenset()


def _request_option(
    *names: str,
    metavar: str | None,
    text: str,
    envvar: str | None = None,
    completes: Callable[..., Any] | None = None,
) -> Any:
    return typer.Option(
        *names, metavar=metavar, help=text, envvar=envvar, autocompletion=completes, rich_help_panel=REQUEST
    )


@dataclass(frozen=True)
class RequestOptions:
    """The fields of the request, but for the prompt. Numbers come as text: all mistakes are told at once."""

    model: Annotated[
        str | None,
        _request_option(
            "--model",
            "-m",
            metavar="MODEL",
            envvar="FLUX_CLI_MODEL",
            text="The model. Default: flux-pro.",
            completes=completion.models,
        ),
    ] = None
    image_prompt: Annotated[
        str | None,
        _request_option(
            "--image-prompt",
            metavar="SOURCE",
            text="An image to start from: a file, a URL, or - for stdin; PNG, JPEG or WebP, at most 20 MiB.",
            completes=completion.files,
        ),
    ] = None
    image_prompt_strength: Annotated[
        str | None,
        _request_option(
            "--image-prompt-strength",
            metavar="0-1",
            text=f"How much the image prompt counts. Only {ULTRA}.",
        ),
    ] = None
    prompt_upsampling: Annotated[
        bool | None,
        _request_option(
            "--prompt-upsampling/--no-prompt-upsampling",
            metavar=None,
            text="Let the service rewrite the prompt for a more creative picture.",
        ),
    ] = None
    width: Annotated[
        str | None,
        _request_option("--width", metavar="256-1440", text="Width in pixels. The service's default: 1024."),
    ] = None
    height: Annotated[
        str | None,
        _request_option("--height", metavar="256-1440", text="Height in pixels. The service's default: 768."),
    ] = None
    aspect_ratio: Annotated[
        str | None,
        _request_option(
            "--aspect-ratio",
            metavar="W:H",
            text=f"From 21:9 to 9:21. The service's default: 16:9. Only {ULTRA}.",
            completes=completion.aspect_ratios,
        ),
    ] = None
    steps: Annotated[
        str | None,
        _request_option("--steps", metavar="INTEGER", text="Steps of the generation. Only flux-pro and flux-dev."),
    ] = None
    guidance: Annotated[
        str | None,
        _request_option(
            "--guidance",
            metavar="NUMBER",
            text="How closely to follow the prompt, at the cost of realism. Only flux-pro and flux-dev.",
        ),
    ] = None
    interval: Annotated[
        str | None,
        _request_option(
            "--interval",
            metavar="1-4",
            text="Interval of guidance control. The service's default: 2. Only flux-pro.",
            completes=completion.numbers("interval"),
        ),
    ] = None
    seed: Annotated[
        str | None,
        _request_option("--seed", metavar="INTEGER", text="Seed of the generation, for the same picture again."),
    ] = None
    safety_tolerance: Annotated[
        str | None,
        _request_option(
            "--safety-tolerance",
            metavar="0-6",
            text="Moderation, from 0 (strictest) to 6.",
            completes=completion.numbers("safety_tolerance"),
        ),
    ] = None
    raw: Annotated[
        bool | None,
        _request_option(
            "--raw/--no-raw", metavar=None, text=f"A less processed, more natural look. Only {ULTRA}."
        ),
    ] = None
    webhook_url: Annotated[
        str | None,
        _request_option("--webhook-url", metavar="URL", text="Where the service posts updates and the result."),
    ] = None
    webhook_secret: Annotated[
        str | None,
        _request_option(
            "--webhook-secret",
            metavar="TEXT",
            envvar="FLUX_CLI_WEBHOOK_SECRET",
            text="Sent back as x-webhook-secret. Better set in the environment than here.",
        ),
    ] = None

    from_flags: frozenset[str] = frozenset()

    def given(self) -> tuple[Body, list[str]]:
        """Return the fields that were given, and a line for each that cannot be what it has to be.

        The model, the image prompt and the webhook secret are left out: each comes from elsewhere, too.
        """
        body: Body = {}
        broken: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name not in ("model", "image_prompt", "webhook_secret", "from_flags"):
                try:
                    body[field.name] = value if isinstance(value, bool) else parse_text(field.name, value)
                except ValueError as error:
                    broken.append(f"{flag(field.name)} {error}, not `{shown(value)}`")
        return body, broken


@dataclass(frozen=True)
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
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace files that exist.", rich_help_panel=OUTPUT)
    ] = False
    original: Annotated[
        bool,
        typer.Option(
            "--original", help="Save the original image too, where there is one.", rich_help_panel=OUTPUT
        ),
    ] = False


@dataclass(frozen=True)
class PictureOptions:
    """What else is done with a picture once it is saved."""

    sidecar: Annotated[
        bool,
        typer.Option(
            "--sidecar",
            help="Write what made the picture beside it, as PICTURE.json for --like.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Show the picture on a terminal, by Kitty's protocol, Sixel or half blocks; needs the extra "
            "`preview`.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    viewer: Annotated[
        bool, typer.Option("--open", help="Open the picture in the default viewer.", rich_help_panel=OUTPUT)
    ] = False


Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", min=0, metavar="SECONDS", help="Give up waiting after so long.", rich_help_panel=WAITING
    ),
]
DEFAULT_TIMEOUT = 600.0
