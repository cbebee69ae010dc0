"""`flux-cli imagine`: submit, wait, download."""

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux_cli import completion, options
from flux_cli.api.request import DEFAULT_MODEL, ULTRA, Body, JsonValue, violations
from flux_cli.commands.loading import load_config
from flux_cli.errors import ExitCode, FluxError, UsageError, ViolationsError
from flux_cli.options import OutputOptions, PictureOptions, RequestOptions, ServiceOptions
from flux_cli.storage.config import Config
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.pictures.image_prompt import ImagePrompt
    from flux_cli.pictures.reuse import RecordedRequest

app = typer.Typer(add_completion=False)

MAX_PROMPT_BYTES = 1024 * 1024
"""The limit for a prompt from stdin; the service documents none."""
_FLAG_IN_PROMPT = re.compile(
    r"(?:^|\s)(--(ar|aspect|aspect-ratio|no|seed|stylize|style|s|v|version|chaos|c|q|quality|iw|niji|tile|raw|w|h"
    r"|width|height|steps|guidance|model|n|count)(?:[ =]([^\s-]\S*))?)(?=\s|$)"
)
"""Flags of Midjourney, and of this program."""


@app.command(
    epilog="Examples:\n\n"
    '$ flux-cli imagine "a sunflower field in the wind" --sandbox\n\n'
    "$ flux-cli imagine -m flux-pro-1.1-ultra --aspect-ratio 21:9 -o 'wide-{seed}.{ext}' --seed 7 \"dunes\"\n\n"
    '$ echo "a red kite" | flux-cli imagine --no-wait | flux-cli wait -'
)
@options.expanded
def imagine(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]",
            help="What to see in the picture; with - or without it, it is read from stdin.",
        ),
    ] = None,
    *,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="EARLIER",
            autocompletion=completion.tasks_or_files,
            help="Start from an earlier request, without its webhook: a task id, a picture or its sidecar.",
            rich_help_panel=options.REQUEST,
        ),
    ] = None,
    request: RequestOptions,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            parser=options.integer(1),
            metavar="N",
            help="How many pictures; with --seed S they get S, S+1 and so on. Default: 1.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    output: OutputOptions,
    pictures: PictureOptions,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Print the task's id and end.", rich_help_panel=options.WAITING),
    ] = False,
    timeout: options.Timeout = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the request's body and send nothing.", rich_help_panel=options.SERVICE
        ),
    ] = False,
    no_validate: Annotated[
        bool,
        typer.Option(
            "--no-validate",
            help="Send what the local rules would refuse, for models newer than this program.",
            rich_help_panel=options.SERVICE,
        ),
    ] = False,
    service: ServiceOptions,
) -> int:
    """Generate a picture from a prompt, and save it."""
    config = load_config(quiet=service.quiet)
    origin = _recorded_request(like)
    base = origin.request if origin else {}
    model = _model(request, config, base.get("model"))
    defaults = config.defaults_for(model)
    if origin is None:
        request = request.with_defaults(defaults)
    count = count if count is not None else int(defaults.get("count", 1))
    if not no_wait and output.output != "-":
        pictures = pictures.with_default(sidecar=bool(defaults.get("sidecar")))
    start: Body = {
        **{name: value for name, value in base.items() if name != "image_prompt"},
        "model": model,
        "prompt": _prompt(prompt, request, base.get("prompt")),
    }
    body, recorded = _bodies(start, request, config, origin, no_validate)
    if dry_run:
        if "webhook_secret" in body:
            recorded["webhook_secret"] = "[redacted]"  # noqa: S105 - the opposite of a password
        for _, kept in _numbered(body, recorded, count):
            console.out_json(kept, indent=2 if sys.stdout.isatty() else None)
        return ExitCode.OK

    from flux_cli.commands import running  # requests: 160 ms
    from flux_cli.commands.service import choose, connect
    from flux_cli.engine.job import Job
    from flux_cli.engine.run import Plan
    from flux_cli.storage.history import History
    from flux_cli.storage.record import SANDBOX
    from flux_cli.ui import saved

    limit = running.timeout_seconds(timeout if timeout is not None else defaults.get("timeout"))
    choice = choose(service, config)
    if no_wait and output.output is not None:
        raise UsageError("`--no-wait` saves no picture, so `-o` cannot be used", "give `-o` to `flux-cli wait`")
    target = None if no_wait else running.target(output, service, config, count)
    saved.check(pictures, target)
    if not service.quiet:
        _warn_of_flags(str(body["prompt"]))
    history = History()
    jobs = [
        Job(target, request=sent, recorded=kept, n=n)
        for n, (sent, kept) in enumerate(_numbered(body, recorded, count), 1)
    ]
    with connect(choice, request.webhook_secret) as connected:
        if count > running.CONFIRMED_PICTURES and not service.quiet and connected.name != SANDBOX:
            running.announce_cost(count, running.credits_left(connected))
        plan = Plan(wait=not no_wait, timeout=limit)
        return running.run_jobs(jobs, connected, history, service, output, plan, pictures)


def _recorded_request(like: str | None) -> "RecordedRequest | None":
    if like is None:
        return None
    from flux_cli.pictures import reuse

    return reuse.find(like)


def _model(request: RequestOptions, config: Config, recorded: str | None) -> str:
    """Return the model: the flag, the recorded request's, the environment's, the config file's, or the default."""
    if recorded is not None and "model" not in request.from_flags:
        return recorded
    return request.model if request.model is not None else config.model or DEFAULT_MODEL


def _prompt(argument: str | None, request: RequestOptions, recorded: str | None) -> str:
    """Return the prompt: the argument, the recorded request's, or what is on stdin."""
    if argument is not None and argument != "-":
        return argument
    if argument is None and recorded is not None:
        return recorded
    if request.image_prompt == "-":
        raise UsageError(
            "PROMPT and `--image-prompt` cannot both come from stdin", "give the prompt as an argument"
        )
    if argument is None and sys.stdin.isatty():
        raise UsageError("PROMPT is missing", 'for example: flux-cli imagine "a sunflower field in the wind"')
    from flux_cli.commands.tasks import read_stdin_text

    return read_stdin_text(MAX_PROMPT_BYTES).rstrip("\r\n")


def _warn_of_flags(prompt: str) -> None:
    """Warn if a prompt contains what looks like a flag of another program, or of this one."""
    if found := _FLAG_IN_PROMPT.search(prompt):
        console.warning(f"the prompt contains `{console.shortened(found[1], 40)}`, which is sent as text")
        ratio = found[3] if found[2] in ("ar", "aspect", "aspect-ratio") else None
        console.hint(f"use --aspect-ratio {ratio} with {ULTRA}" if ratio else "flags go outside the quotes")


def _bodies(
    start: Body,
    request: RequestOptions,
    config: Config,
    origin: "RecordedRequest | None",
    no_validate: bool,
) -> tuple[Body, dict[str, Any]]:
    """Return the body to send, and what is kept and shown of it: the fields to start from, the flags' over them.

    Raises:
        ViolationsError: Rules are broken; it names them all.
        LocalFileError, DownloadError: The image prompt cannot be read.
        UsageError: The recorded request's image prompt cannot be read again.
    """
    given, broken = request.given()
    body: Body = {**start, **given}
    secret = request.webhook_secret or config.webhook_secret
    if secret and ("webhook_url" in body or "webhook_secret" in request.from_flags):
        body["webhook_secret"] = secret
    recorded: dict[str, Any] = {name: value for name, value in body.items() if name != "webhook_secret"}
    image: ImagePrompt | None = None
    unreadable: FluxError | None = None
    try:
        image = _image_prompt(request, origin)
    except FluxError as error:
        unreadable = error
    if image is not None:
        body["image_prompt"], recorded["image_prompt"] = image.encoded(), image.described()
    elif unreadable is not None:
        body["image_prompt"] = ""  # there is one, for the rules
    if not no_validate:
        broken += filter(None, [image.violation() if image else None, *violations(body, request.name_of)])
    if unreadable is not None:
        if not broken:
            raise unreadable
        broken.append(unreadable.message)
    if broken:
        raise ViolationsError(broken, f"fields without a flag come from {origin.name}" if origin else None)
    return body, recorded


def _image_prompt(request: RequestOptions, origin: "RecordedRequest | None") -> "ImagePrompt | None":
    if request.image_prompt is not None:
        from flux_cli.pictures import image_prompt

        return image_prompt.load(request.image_prompt)
    return origin.image_prompt() if origin else None


def _numbered(body: Body, recorded: dict[str, Any], count: int) -> list[tuple[Body, dict[str, Any]]]:
    """Return a pair of bodies for each picture; with a seed S they get S, S+1 and so on."""
    seed = body.get("seed")
    if not isinstance(seed, int):
        return [(body, recorded)] * count
    seeds: list[dict[str, JsonValue]] = [{"seed": seed + n} for n in range(count)]
    return [({**body, **each}, {**recorded, **each}) for each in seeds]
