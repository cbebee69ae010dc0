"""Usage errors: one line with the error, one with a suggestion."""

import pytest

from flux_cli.ui import usage_errors
from tests.cli import Cli

SEE = "see `flux-cli {} --help`"
SEE_HELP = "see `flux-cli --help`"
DASH = 'put a prompt that begins with a dash after `--`: flux-cli imagine -- "-x"'
AFTER = "options go after the command: flux-cli {}"
QUOTES = 'put the prompt in quotes: flux-cli imagine "a red kite"'
STATUSES = "`--status` must be one of processing, finished, failed, unknown, unsent, not-saved, not"


def meant(near: str) -> str:
    return f"did you mean `{near}`?"


@pytest.mark.parametrize(
    ("typed", "error", "hint"),
    [
        ("imagine x --widht 300", "unknown option `--widht`", meant("--width")),
        ("imagine x --widht=300", "unknown option `--widht`", meant("--width")),
        ("imagine x --no-ra", "unknown option `--no-ra`", meant("--no-raw")),
        ("wait --lst", "unknown option `--lst`", meant("--last")),
        ("--verison", "unknown option `--verison`", meant("--version")),
        ("--zzzz", "unknown option `--zzzz`", SEE_HELP),
        ("--sandbox imagine x", "unknown option `--sandbox`", AFTER.format("imagine … --sandbox")),
        ("--limit 3 history", "unknown option `--limit`", AFTER.format("history … --limit")),
        ("imagine x -w 300", "unknown option `-w`", SEE.format("imagine")),
        ("imagine -w 300 x", "unknown option `-w`", SEE.format("imagine")),
        ("imagine -x", "unknown option `-x`", DASH),
        ("imagine --seed 7 -x", "unknown option `-x`", DASH),
        ("imagine -fx", "unknown option `-x`", DASH),
        ("imagine --count", "`--count` needs a value", SEE.format("imagine")),
        ("imagine x --raw=3", "`--raw` takes no value", SEE.format("imagine")),
        ("imagine x --count many", "`--count` must be a whole number, not `many`", SEE.format("imagine")),
        ("imagine x -n 0", "`--count` must be 1 or more, not `0`", SEE.format("imagine")),
        ("sandbox --port 99999", "`--port` must be 0 to 65534, not `99999`", SEE.format("sandbox")),
        ("history --status x", f"{STATUSES} `x`", SEE.format("history")),
        ("config get", "NAME is missing", SEE.format("config get")),
        ("models extra", "too many arguments: extra", SEE.format("models")),
        ("imagine a red kite", "too many arguments: red kite", QUOTES),
        ("imagne x", "unknown command `imagne`", meant("flux-cli imagine")),
        ("foo", "unknown command `foo`", SEE_HELP),
        ("help me", "unknown command `me`", SEE_HELP),
        ("help imagne", "unknown command `imagne`", meant("flux-cli imagine")),
        ("help config ste", "unknown command `config ste`", meant("flux-cli config set")),
        ("config ste", "unknown command `config ste`", meant("flux-cli config set")),
        ("config nope", "unknown command `config nope`", SEE.format("config")),
        ("config help", "unknown command `config help`", meant("flux-cli config --help")),
    ],
)
def test_usage_error(cli: Cli, typed: str, error: str, hint: str) -> None:
    done = cli(*typed.split())
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [f"error: {error}", f"hint: {hint}"]


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("imagine x --ar 16:9", "use `--aspect-ratio`"),
        ("imagine x --size 512x512", "use `--width W --height H`, or `--aspect-ratio W:H`"),
        ("imagine x --output-format png", usage_errors.OPTION_ADVICE["--output-format"]),
        ("login --key k", usage_errors.OPTION_ADVICE["--key"]),
        ("status", meant("flux-cli fetch")),
        ("download x", meant("flux-cli wait")),
        ("auth", meant("flux-cli login")),
        ("auth logout", meant("flux-cli logout")),
        ("version", meant("flux-cli --version")),
        ("cancel x", "the service cannot cancel a task"),
    ],
)
def test_habits_from_other_tools(cli: Cli, typed: str, hint: str) -> None:
    """They take precedence over suggestions by spelling."""
    done = cli(*typed.split())
    assert (done.code, done.stderr.splitlines()[1]) == (2, f"hint: {hint}")


@pytest.mark.parametrize(
    "typed", ["imagine x --forc", "batch x --retry-unknwon", "logot", "config unst", "imagine --no-validat"]
)
def test_no_destructive_guess(cli: Cli, typed: str) -> None:
    done = cli(*typed.split())
    assert done.code == 2
    assert "did you mean" not in done.stderr


def test_every_habit_leads_somewhere(cli: Cli) -> None:
    help_of_all = "".join(cli(*command, "--help").stdout for command in ([], ["imagine"], ["batch"]))
    assert [ours for ours in usage_errors.OPTION_HABITS if f" {ours}" not in help_of_all] == []
    commands = [ours for ours in usage_errors.COMMAND_HABITS if not ours.startswith("--")]
    assert [ours for ours in commands if cli("help", ours).code] == []


@pytest.mark.parametrize("arguments", [["imagine", "x", "y" * 999], ["y" * 999], ["imagine", f"--{'y' * 999}"]])
def test_long_arguments_are_cut(cli: Cli, arguments: list[str]) -> None:
    """A message quotes at most 60 characters."""
    done = cli(*arguments)
    assert done.code == 2
    assert 50 < done.stderr.count("y") <= 62


def test_environment_variables_are_named(cli: Cli) -> None:
    done = cli("imagine", "x", env={"FLUX_CLI_SANDBOX": "nope"})
    assert (done.code, done.stderr.splitlines()[0]) == (2, "error: FLUX_CLI_SANDBOX must be 1 or 0, not `nope`")
    done = cli("imagine", "x", "--dry-run", env={"FLUX_CLI_MODEL": "nope"})
    assert (done.code, done.stderr.splitlines()[0][:47]) == (2, "error: FLUX_CLI_MODEL: unknown model `nope`; kn")


@pytest.mark.parametrize(
    "arguments", [["\x1b[2J\n"], ["models", "\x1b[2J\n"], ["history", "--\x1b[2J"], ["imagine", "-\x1b\n"]]
)
def test_control_characters_are_escaped(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.code, len(done.stderr.splitlines())) == (2, 2)
    assert "\x1b" not in done.stderr
