"""Slips of the keyboard: each is told in one line, and a second says what was probably meant."""

import pytest

from tests.conftest import Cli

SEE = "see `flux-cli {} --help`"
DASH = 'a prompt that begins with a dash goes after `--`: flux-cli imagine -- "-x"'
AFTER = "options go after the command, as in `flux-cli {}`"


def meant(near: str) -> str:
    """Return the hint that names what is nearest."""
    return f"did you mean `{near}`?"


@pytest.mark.parametrize(
    ("typed", "error", "hint"),
    [
        ("imagine x --widht 300", "there is no option `--widht`", meant("--width")),
        ("imagine x --widht=300", "there is no option `--widht`", meant("--width")),
        (
            "imagine x --no-prompt-upsamplng",
            "there is no option `--no-prompt-upsamplng`",
            meant("--no-prompt-upsampling"),
        ),
        ("wait --lst", "there is no option `--lst`", meant("--last")),
        ("login --key k", "there is no option `--key`", SEE.format("login")),
        ("--verison", "there is no option `--verison`", meant("--version")),
        ("-V", "there is no option `-V`", meant("--version")),
        ("--zzzz", "there is no option `--zzzz`", "see `flux-cli --help`"),
        ("--sandbox imagine x", "there is no option `--sandbox`", AFTER.format("imagine … --sandbox")),
        ("--limit 3 history", "there is no option `--limit`", AFTER.format("history … --limit")),
        ("imagine x -w 300", "there is no option `-w`", SEE.format("imagine")),
        ("imagine -w 300 x", "there is no option `-w`", SEE.format("imagine")),
        ("imagine -x", "there is no option `-x`", DASH),
        ("imagine --seed 7 -x", "there is no option `-x`", DASH),
        ("imagine -fx", "there is no option `-x`", DASH),
        ("imagine --count", "`--count` needs a value", SEE.format("imagine")),
        ("imagine x --raw=3", "`--raw` takes no value", SEE.format("imagine")),
        ("imagine x --count many", "`--count` takes a whole number, not `many`", SEE.format("imagine")),
        ("imagine x -n 0", "`--count` takes 1 or more, not `0`", SEE.format("imagine")),
        ("sandbox --port 99999", "`--port` takes 0 to 65534, not `99999`", SEE.format("sandbox")),
        ("imagine --count 5m x", "`--count` takes a whole number, not `5m`", SEE.format("imagine")),
        ("history --status finishd", "`--status` does not know `finishd`", meant("finished")),
        (
            "history --status x",
            "`--status` does not know `x`",
            "known: processing, finished, failed, unknown, unsent",
        ),
        ("fetch", "TASK_ID is missing", SEE.format("fetch")),
        ("config get", "NAME is missing", SEE.format("config get")),
        ("models extra", "too many arguments: extra", SEE.format("models")),
        (
            "imagine a red kite",
            "too many arguments: red kite",
            'put the prompt in quotes: flux-cli imagine "a red kite"',
        ),
        ("imagne x", "there is no command `imagne`", meant("flux-cli imagine")),
        ("foo", "there is no command `foo`", "see `flux-cli --help`"),
        ("help", "there is no command `help`", meant("flux-cli --help")),
        ("help imagine", "there is no command `help`", meant("flux-cli imagine --help")),
        ("help me", "there is no command `help`", meant("flux-cli --help")),
        ("version", "there is no command `version`", meant("flux-cli --version")),
        ("config ste", "there is no command `config ste`", meant("flux-cli config set")),
        ("config nope", "there is no command `config nope`", SEE.format("config")),
        ("config help", "there is no command `config help`", meant("flux-cli config --help")),
    ],
)
def test_what_was_meant(cli: Cli, typed: str, error: str, hint: str) -> None:
    """The error, and then what to do: nothing else, and 2."""
    done = cli(*typed.split())
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [f"error: {error}", f"hint: {hint}"]


def test_control_characters_of_a_slip_do_not_reach_the_terminal(cli: Cli) -> None:
    """Whatever was typed or pasted."""
    for arguments in (["\x1b[2J\n"], ["models", "\x1b[2J\n"], ["history", "--\x1b[2J"], ["imagine", "-\x1b\n"]):
        done = cli(*arguments)
        assert done.code == 2
        assert "\x1b" not in done.stderr
        assert len(done.stderr.splitlines()) == 2
