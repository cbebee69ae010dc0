"""`flux-cli imagine`: submit, wait, download."""

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux_cli import completion, options
from flux_cli.api.redaction import REDACTED
from flux_cli.api.request import DEFAULT_MODEL, ULTRA, Body, as_recorded, violations
from flux_cli.commands import SUMMARIES, load_config
from flux_cli.errors import ExitCode, FluxError, UsageError
from flux_cli.options import OutputOptions, PictureOptions, RequestOptions, ServiceOptions
from flux_cli.ui import console

if TYPE_CHECKING:
    from flux_cli.pictures.image_prompt import ImagePrompt
    from flux_cli.pictures.reuse import RecordedRequest
    from flux_cli.storage.config import Config

app = typer.Typer(add_completion=False)

MAX_PROMPT_BYTES = 1024 * 1024
"""The limit for a prompt from stdin; the service documents none."""
_FLAG_IN_PROMPT = (
    r"(?:^|\s)(--(ar|aspect|aspect-ratio|no|seed|stylize|style|s|v|version|chaos|c|q|quality|iw|niji|tile|raw|w|h"
    r"|width|height|steps|guidance|model|n|count)(?:[ =]([^\s-]\S*))?)(?=\s|$)"
)
"""Flags of Midjourney and of this program."""


@app.command(
    help=f"{SUMMARIES['imagine']}\n\nWithout -o, pictures go to output_dir from the config file, or to the "
    "current directory, with names of the form {slug}-{id8}.{ext}.",
    epilog="Examples:\n\n"
    '$ flux-cli imagine "a sunflower field in the wind" --sandbox\n\n'
    "$ flux-cli imagine -m flux-pro-1.1-ultra --aspect-ratio 21:9 -o 'wide-{seed}.{ext}' --seed 7 \"dunes\"\n\n"
    '$ echo "a red kite" | flux-cli imagine --no-wait | flux-cli wait -',
)
@options.expanded
def imagine(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]",
            help="The description of the picture. If it is missing or -, it is read from stdin.",
        ),
    ] = None,
    *,
    like: Annotated[
        str | None,
        options.request_option(
            "--like",
            metavar="EARLIER",
            autocompletion=completion.tasks_or_files,
            help="Start from an earlier request, without its webhook: a task ID, a picture or its sidecar.",
        ),
    ] = None,
    request: RequestOptions,
    count: Annotated[
        int | None,
        options.output_option(
            "--count",
            "-n",
            parser=options.integer(1),
            metavar="N",
            help="The number of pictures. With --seed S, they get the seeds S, S+1 and so on. Default: 1.",
        ),
    ] = None,
    output: OutputOptions,
    pictures: PictureOptions,
    no_wait: Annotated[
        bool,
        typer.Option("--no-wait", help="Print the task ID and exit.", rich_help_panel=options.WAITING),
    ] = False,
    timeout: options.Timeout = None,
    dry_run: options.DryRun = False,
    no_validate: options.NoValidate = False,
    service: ServiceOptions,
) -> int:
    """Generate a picture from a prompt, and save it."""
    config = load_config()
    base = None
    if like is not None:
        from flux_cli.pictures import reuse

        base = reuse.find(like)
    model = _model(request, config, base)
    defaults = config.defaults_for(model)
    if base is None:
        request = request.with_defaults(defaults)
    count = count if count is not None else int(defaults.get("count", 1))
    if not no_wait and output.output != "-":
        pictures = pictures.with_default(sidecar=bool(defaults.get("sidecar")))
    start: Body = dict(base.request) if base else {}
    start |= {"model": model, "prompt": _prompt(prompt, request, start.get("prompt"))}
    body, recorded = _bodies(start, request, config, base, validate=not no_validate)
    bodies = _with_seeds(body, recorded, count)
    if no_wait and output.output is not None:
        raise UsageError("`--no-wait` saves no picture, so `-o` cannot be used", "give `-o` to `flux-cli wait`")
    _warn_of_flags(str(body["prompt"]))
    from flux_cli.commands.service import choose, connect
    from flux_cli.ui import saved

    limit = options.timeout_seconds(timeout if timeout is not None else defaults.get("timeout"))
    choice = choose(service, config, keyless=dry_run)
    target = None if no_wait else output.target(service, config, count, dry_run=dry_run)
    saved.check(pictures, target)
    if dry_run:
        secret = {"webhook_secret": REDACTED} if "webhook_secret" in body else {}
        for _, kept in bodies:
            console.out_json({**kept, **secret}, indent=2 if sys.stdout.isatty() else None)
        return ExitCode.OK

    from flux_cli.commands import running  # with the modules below 40 ms
    from flux_cli.engine.job import Job
    from flux_cli.engine.settings import RunSettings
    from flux_cli.storage.history import History

    history = History()
    jobs = [Job(target, request=body, recorded=kept, n=n) for n, (body, kept) in enumerate(bodies, 1)]
    with connect(choice, request.webhook_secret) as connected:
        running.announce_cost(count, connected, running.credits_left)
        until = options.DEFAULT_TIMEOUT if limit == 0 else limit
        settings = RunSettings(wait=not no_wait, check_once=limit == 0, timeout=until)
        return running.run_jobs(jobs, connected, history, service, output, settings, pictures)


def _model(request: RequestOptions, config: "Config", base: "RecordedRequest | None") -> str:
    """Return the model. `--like` comes after the flag and before the environment."""
    if base is not None and "model" in base.request and "model" not in request.from_flags:
        return str(base.request["model"])
    return request.model if request.model is not None else config.model or DEFAULT_MODEL


def _prompt(argument: str | None, request: RequestOptions, base: object) -> str:
    if argument is not None and argument != "-":
        return argument
    if argument is None and base is not None:
        return str(base)
    if request.image_prompt == "-":
        raise UsageError(
            "PROMPT and `--image-prompt` cannot both come from stdin", "give the prompt as an argument"
        )
    if argument is None and sys.stdin.isatty():
        raise UsageError("PROMPT is missing", 'for example: flux-cli imagine "a sunflower field in the wind"')
    from flux_cli.commands.selection import read_stdin_text

    return read_stdin_text(MAX_PROMPT_BYTES).rstrip("\r\n")


def _warn_of_flags(prompt: str) -> None:
    if found := re.search(_FLAG_IN_PROMPT, prompt):
        console.warning(f"the prompt contains `{console.shortened(found[1], 40)}`, which is sent as text")
        ratio = found[3] if found[2] in ("ar", "aspect", "aspect-ratio") else None
        console.hint(f"use --aspect-ratio {ratio} with {ULTRA}" if ratio else "flags go outside the quotes")


def _bodies(
    start: Body, request: RequestOptions, config: "Config", base: "RecordedRequest | None", *, validate: bool
) -> tuple[Body, dict[str, Any]]:
    """Return the body to send, and the body as it is recorded. Flags override the fields in `start`.

    Raises:
        UsageError: Rules are violated (all are reported), or the image prompt of `--like` is no longer available.
        LocalFileError, DownloadError: The image prompt cannot be read.
    """
    given, problems = request.given()
    body: Body = {**start, **given}
    body.pop("image_prompt", None)  # in `start` this is only a description
    secret = request.webhook_secret or config.webhook_secret
    if secret and ("webhook_url" in body or "webhook_secret" in request.from_flags):
        body["webhook_secret"] = secret
    image: ImagePrompt | None = None
    unreadable: FluxError | None = None
    try:
        image = _image_prompt(request, base)
    except FluxError as error:
        unreadable = error
        body["image_prompt"] = ""  # the rules depend on whether there is one
    if image is not None:
        body["image_prompt"] = image.encoded()
    if validate:
        problems += filter(None, [image.violation() if image else None, *violations(body, request.name_of)])
    if unreadable is not None:
        if not problems:
            raise unreadable
        problems.append(unreadable.message)
    if problems:
        raise UsageError(problems, f"fields without a flag come from {base.name}" if base else None)
    return body, as_recorded(body, image and image.described())


def _image_prompt(request: RequestOptions, base: "RecordedRequest | None") -> "ImagePrompt | None":
    if request.image_prompt is not None:
        from flux_cli.pictures import image_prompt

        return image_prompt.load(request.image_prompt)
    return base.image_prompt() if base else None


def _with_seeds(body: Body, recorded: dict[str, Any], count: int) -> list[tuple[Body, dict[str, Any]]]:
    """Return both bodies for each picture; with a seed S they get S, S+1 and so on."""
    seed = body.get("seed")
    if not isinstance(seed, int):
        return [(body, recorded)] * count
    return [({**body, "seed": seed + n}, {**recorded, "seed": seed + n}) for n in range(count)]
