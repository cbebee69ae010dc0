"""Completion in bash, zsh, fish and PowerShell: the script for each, and what the program answers to it.

A script hands over the command line up to the cursor and gets a line for each candidate: its kind (`word`, or
`file` and `dir` for what the shell completes itself), the whole word, and a description, with tabs between. All
knowledge of commands and values is in the program, so a script is never out of date.

Typer's own scripts are not used, but for PowerShell's: they sort task ids by the alphabet, break a ratio at its
colon in bash, offer files where there is nothing to offer, and import rich for each TAB (90 ms).
"""

import contextlib
import os
from bisect import bisect_right
from itertools import accumulate
from typing import Any, NoReturn

from typer._click.core import Command
from typer._click.shell_completion import CompletionItem, ShellComplete, split_arg_string
from typer._completion_classes import PowerShellComplete
from typer._completion_shared import get_completion_script

from flux_cli.errors import ExitCode, UsageError
from flux_cli.ui import console

VARIABLE = "_FLUX_CLI_COMPLETE"
"""The environment variable that turns a run of the program into an answer; its value names the shell."""
_POWERSHELL = "complete_powershell"
"""What Typer's script for PowerShell sets it to."""
_DESCRIPTION_WIDTH = 100

_BASH = r"""# bash completion of flux-cli, from `flux-cli --show-completion bash`
_flux_cli() {
    local line=${COMP_LINE:0:COMP_POINT} kind word listing place=
    local -a listed=()
    # Readline replaces only what follows the last of COMP_WORDBREAKS, a colon for example.
    local kept=${line##*[[:space:]]}
    kept=${kept%"$2"}
    COMPREPLY=()
    while IFS=$'\t' read -r kind word listing; do
        case $kind in
            word) COMPREPLY+=("${word#"$kept"}") listed+=("${listing#"$kept"}") ;;
            *) place=$kind ;;
        esac
    done < <(_FLUX_CLI_COMPLETE=bash _FLUX_CLI_LINE=$line _FLUX_CLI_COLUMNS=${COLUMNS:-80} \
        "${1/#\~\//$HOME/}" 2>/dev/null)
    case $place in
        file)
            if [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt -o default 2>/dev/null; then return; fi
            compopt -o filenames 2>/dev/null
            while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$2")
            ;;
        dir) compopt -o plusdirs 2>/dev/null ;;
    esac
    # Where candidates are only listed (63), or at most what words have in common is inserted (33, 64: the option
    # show-all-if-ambiguous), each word comes with its description. Bash before 4.0 does not tell.
    if [[ ${#COMPREPLY[@]} -gt 1 && ${#listed[@]} -gt 0 ]] && [[ ${COMP_TYPE-} == 63 ||
        ${COMP_TYPE-} =~ ^(33|64)$ && ${#COMPREPLY[@]} -eq ${#listed[@]} ]]; then
        compopt +o filenames
        COMPREPLY=("${listed[@]}" "${COMPREPLY[@]:${#listed[@]}}")
    fi
}
# Older ones than bash 4.4, as on macOS, cannot keep the order.
complete -o nosort -F _flux_cli flux-cli 2>/dev/null || complete -F _flux_cli flux-cli
"""

_ZSH = r"""#compdef flux-cli
# zsh completion of flux-cli, from `flux-cli --show-completion zsh`
_flux-cli() {
    local kind word description place ret=1 line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    local -a found descriptions shown
    integer width i
    while IFS=$'\t' read -r kind word description; do
        if [[ $kind == word ]]; then
            found+=("$word") descriptions+=("$description")
            (( $#word > width )) && width=$#word
        else
            place=$kind
        fi
    done < <(_FLUX_CLI_COMPLETE=zsh _FLUX_CLI_LINE=$line ${(Q)~words[1]} 2>/dev/null)
    # Not _describe: it puts tasks with the same prompt on one line, and out of order.
    if [[ -n ${(j::)descriptions} ]]; then
        for (( i = 1; i <= $#found; i++ )); do
            line="${(r:width:)found[i]}${descriptions[i]:+  -- $descriptions[i]}"
            shown+=("${(mr:COLUMNS - 1:)line}")
        done
        compadd -V flux-cli -l -d shown -a found && ret=0
    else
        compadd -V flux-cli -a found && ret=0
    fi
    [[ $PREFIX == --*=* ]] && compset -P '--*='
    case $place in
        (file) _files && ret=0 ;;
        (dir) _files -/ && ret=0 ;;
    esac
    return ret
}
# Found in fpath, this file has just replaced itself by the function, and calls it; sourced, it registers it.
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _flux-cli "$@"
else
    compdef _flux-cli flux-cli
fi
"""

_FISH = r"""# fish completion of flux-cli, from `flux-cli --show-completion fish`
function __flux_cli_complete
    set -l command (string replace -r '^~' $HOME -- (commandline -opc)[1])
    set -l ask env _FLUX_CLI_COMPLETE=fish _FLUX_CLI_LINE=(commandline -cp | string collect) $command
    set -l flag (string match -r -- '^--[^=]*=' (commandline -ct))
    set -l value (string replace -r -- '^--[^=]*=' '' (commandline -ct))
    $ask 2>/dev/null | while read -l -d \t kind word description
        switch $kind
            case file
                printf '%s\n' "$flag"(__fish_complete_path "$value")
            case dir
                printf '%s\n' "$flag"(__fish_complete_directories "$value")
            case '*'
                printf '%s\t%s\n' $word $description
        end
    end
end
complete --command flux-cli --no-files --keep-order --arguments '(__flux_cli_complete)'
"""

SHELLS = ("bash", "zsh", "fish", "powershell")


def script(shell: str) -> str:
    """Return the completion script for a shell. Raises UsageError for one that is not known."""
    if shell == "powershell":
        return get_completion_script(prog_name="flux-cli", complete_var=VARIABLE, shell=shell) + "\n"
    try:
        return {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    except KeyError:
        raise UsageError(
            f"there is no completion for the shell `{shell}`", f"known: {', '.join(SHELLS)}"
        ) from None


def answer(group: Command) -> NoReturn:
    """Print the candidates for the word at the cursor, and end the process; nothing is ever complained about."""
    shell = os.environ[VARIABLE]
    kind = {_POWERSHELL: _PowerShellAnswer, "bash": _BashAnswer}.get(shell, _Answer)
    asked = kind(group, {}, "flux-cli", VARIABLE)
    with contextlib.suppress(Exception):
        console.out_bytes(asked.complete().encode("utf-8", "replace"))
    os._exit(ExitCode.OK)  # without Python's cleaning up: 9 ms of the 90 that somebody waits for


class _Answer(ShellComplete):
    """The answer that our scripts understand."""

    def source_vars(self) -> dict[str, Any]:
        """Return nothing: the scripts are the same everywhere."""
        return {}

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor's and, as far as it goes, that one."""
        # A letter at the end makes the last word one, even if it is empty or has an open quote.
        _, *words, last = split_arg_string(os.environ.get("_FLUX_CLI_LINE", "") + "x")
        word = last[:-1]
        flag, equals, _ = word.partition("=")
        self._before_value = flag + equals if equals and flag.startswith("-") else ""
        return words, word

    def format_completion(self, item: CompletionItem) -> str:
        """Return the line for a candidate."""
        return f"{_kind(item)}\t{self._before_value}{item.value}\t{_description(item)}\n"

    def complete(self) -> str:
        """Return the lines for all candidates."""
        words, word = self.get_completion_args()
        return "".join(map(self.format_completion, self.get_completions(words, word)))


class _BashAnswer(_Answer):
    """The same for bash, which has no descriptions: instead of one, a candidate's line in a list."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return the candidates, and note the longest word."""
        found = super().get_completions(args, incomplete)
        self._longest = max((len(self._before_value + item.value) for item in found), default=0)
        return found

    def format_completion(self, item: CompletionItem) -> str:
        """Return the line for a candidate."""
        word, description = self._before_value + item.value, _description(item)
        columns = int(os.environ.get("_FLUX_CLI_COLUMNS", 80)) - 1
        room = columns - self._longest - len("  ()")
        listed = f"{word:{self._longest}}  ({_cut(description, room)})" if description and room > 0 else word
        # More than half a screen wide, else readline makes columns of them.
        return f"{_kind(item)}\t{word}\t{listed:{columns // 2 if listed != word else 0}}\n"


class _PowerShellAnswer(PowerShellComplete):
    """The answer that Typer's script understands; without any candidate PowerShell offers files by itself."""

    def format_completion(self, item: CompletionItem) -> str:
        """Return the line for a candidate; Typer's own way takes rich."""
        return f"{item.value}:::{_description(item) or ' '}" if _kind(item) == "word" else ""

    def complete(self) -> str:
        """Return the lines for all candidates."""
        return "".join(f"{line}\n" for line in super().complete().splitlines() if line)


def _kind(item: CompletionItem) -> str:
    return getattr(item.value, "kind", "word") if item.type == "plain" else item.type


def _description(item: CompletionItem) -> str:
    """Return a candidate's description as one safe line."""
    return console.shortened(item.help or "", _DESCRIPTION_WIDTH)


def _cut(text: str, columns: int) -> str:
    """Return a text cut to so many of a terminal's columns, of which some characters take two."""
    from unicodedata import east_asian_width

    ends = list(accumulate(2 if east_asian_width(character) in "WF" else 1 for character in text))
    return text if not ends or ends[-1] <= columns else text[: bisect_right(ends, columns - 1)] + "…"
