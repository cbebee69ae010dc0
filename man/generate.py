"""Write the manual: `python -m man.generate [DIRECTORY]`.

Each `man/NAME.SECTION.rst` becomes the page `manSECTION/NAME.SECTION`. These lines in a source insert text:

    .. insert:: usage, description, options, examples    what `--help` says of the command
    .. insert:: common KEY …                             entries of `common.rst`
    .. insert:: models, faults, commands, settings, …    tables of the program
"""

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import typer
from docutils import nodes
from docutils.core import publish_string
from docutils.writers import manpage

from flux_cli import __version__
from flux_cli.api.request import FIELDS, MODELS, flag
from flux_cli.commands import SUMMARIES
from flux_cli.main import app
from flux_cli.sandbox.faults import FAULTS, RULES, Stage
from flux_cli.storage.settings import SETTINGS, Setting
from flux_cli.ui import help  # noqa: A004 - a module

PROGRAM = "flux-cli"
SOURCES = Path(__file__).parent
DAY = date(2026, 11, 25)
"""The date at the foot of the pages. It changes with the version, so that pages do not change by themselves."""
_INSERT = re.compile(r"^\.\. insert:: (\w+) ?(.*)\n", re.MULTILINE)
_ENTRY = re.compile(r"^(\S.*)\n((?:    .*\n|\n)+)", re.MULTILINE)
_SPECIAL = re.compile(r"([\\*_|])")


def pages() -> Iterator[tuple[Path, str]]:
    """Yield the path below `man` and the text of each page."""
    program = typer.main.get_command(app).make_context(PROGRAM, [], resilient_parsing=True)
    for source in sorted(SOURCES.glob(f"{PROGRAM}*.rst")):
        name, number = source.stem.split(".")
        text = source.read_text(encoding="utf-8")
        command = name.removeprefix(PROGRAM).lstrip("-")
        if number == "1" and command:
            context, summary = _context(program, command), _lower(SUMMARIES[command]).rstrip(".")
        else:  # the first line is the summary
            context, (summary, _, text) = program, text.partition("\n")
        body = _INSERT.sub(lambda match: _inserted(match[1], match[2].split(), context), text)  # noqa: B023 - used now
        yield Path(f"man{number}", source.stem), _roff(name, number, summary, body)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _context(parent: Any, name: str) -> Any:
    """Return the context of a command; its attributes are what help reads."""
    command = parent.command.get_command(parent, name)
    return command.make_context(name, [], parent=parent, resilient_parsing=True)


def _inserted(kind: str, words: list[str], context: Any) -> str:
    makers: dict[str, Callable[..., str]] = {
        "usage": _usage,
        "description": _description,
        "options": _options,
        "examples": _examples,
        "subcommands": _subcommands,
        "common": _common,
        "commands": lambda _: _list((f"{PROGRAM}-{name}(1)", text) for name, text in SUMMARIES.items()),
        "models": lambda _: _list((model, _special(model, purpose)) for model, purpose in MODELS.items()),
        "faults": _faults,
        "settings": lambda _: _list((setting.name, _setting(setting)) for setting in SETTINGS.values()),
        "overrides": lambda _: _list((s.envvar, f"Overrides `{s.name}`.") for s in SETTINGS.values() if s.envvar),
    }
    return makers[kind](context, *words) + "\n"


def _usage(context: Any) -> str:
    contexts = [_context(context, name) for name in getattr(context.command, "commands", ()) if context.parent]
    return "\n\n".join(_call(each) for each in contexts or [context]) + "\n"


def _call(context: Any) -> str:
    arguments = help.usage(context).removeprefix(context.command_path)
    return f"**{context.command_path}** {_escaped(arguments.strip())}"


def _description(context: Any) -> str:
    paragraphs = (context.command.help or "").split("\n\n")
    return "\n\n".join(_text(paragraph) for paragraph in paragraphs) + "\n"


def _subcommands(context: Any) -> str:
    contexts = [_context(context, name) for name in context.command.commands]
    entries = []
    for each in contexts:
        arguments = "\n".join(_entry(f"*{_escaped(name)}*", text) for name, text in help.arguments(each))
        entries.append(
            f"{_call(each)}\n    {_text(each.command.help)}\n\n" + re.sub("(?m)^(?=.)", "    ", arguments)
        )
    return "\n".join(entries)


def _options(context: Any) -> str:
    """Return the arguments, and the options in the groups of the help; the general ones come first."""
    arguments = [_entry(f"*{_escaped(name)}*", text) for name, text in help.arguments(context)]
    parts = [_section("ARGUMENTS", "=", arguments)] if arguments else []
    groups = {title: [_option(option) for option in group] for title, group in help.options(context).items()}
    parts.append(_section("OPTIONS", "=", groups.popitem()[1]))
    parts += [_section(title, "-", entries) for title, entries in groups.items()]
    return "\n".join(parts)


def _option(option: help.Option) -> str:
    names = ", ".join(f"**{name}**" for name in option.names)
    placeholder = f" *{_escaped(option.placeholder)}*" if option.placeholder else ""
    return _entry(names + placeholder, option.text)


def _examples(context: Any) -> str:
    lines = help.examples(context) or [f"$ {context.command_path}"]
    return "::\n\n" + "".join(f"    {line}\n" for line in lines)


def _special(model: str, purpose: str) -> str:
    flags = [flag(name) for name, field in FIELDS.items() if model in field.models]
    return f"{purpose[0].upper()}{purpose[1:]}." + (f" Also accepts {', '.join(flags)}." if flags else "")


def _setting(setting: Setting) -> str:
    default = "the current directory" if setting.default == "." else setting.default
    return setting.help + (f" Default: {default}." if default else "")


def _faults(_: Any) -> str:
    parts = [_text(rule) for rule in RULES]
    for stage in Stage:
        faults = [fault for fault in FAULTS.values() if fault.stage is stage]
        entries = [_entry(f"**{_escaped(fault.usage)}**", fault.effect) for fault in faults]
        parts.append(_section(f"In {stage}", "-", entries))
    return "\n\n".join(parts)


def _common(_: Any, *keys: str) -> str:
    """Return entries of common.rst. Raises KeyError for one that is not there."""
    entries = dict(_ENTRY.findall((SOURCES / "common.rst").read_text(encoding="utf-8")))
    by_key = {term.strip("*/").rpartition("/")[2]: f"{term}\n{text}" for term, text in entries.items()}
    return "\n".join(by_key[key] for key in keys)


def _list(items: Iterable[tuple[str, str]]) -> str:
    return "\n".join(_entry(f"**{_escaped(name)}**", text) for name, text in items)


def _entry(term: str, text: str) -> str:
    return f"{term}\n    {_text(text)}\n"


def _section(title: str, line: str, entries: Iterable[str]) -> str:
    return f"{title}\n{line * len(title)}\n" + "\n".join(entries)


def _text(sentences: str) -> str:
    """Return help text as reStructuredText: what is in backticks is bold."""
    parts = " ".join(sentences.split()).split("`")
    return "".join(f"\\ **{_escaped(part)}**\\ " if n % 2 else _escaped(part) for n, part in enumerate(parts))


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _roff(name: str, number: str, summary: str, body: str) -> str:
    over, under = "#" * len(name), "^" * len(summary)
    head = f"{over}\n{name}\n{over}\n\n{under}\n{summary}\n{under}\n\n"
    facts = f":Version: {PROGRAM} {__version__}\n:Date: {DAY}\n:Manual section: {number}\n"
    facts += f":Manual group: {PROGRAM} Manual\n\n"
    writer = manpage.Writer()
    writer.translator_class = _Translator
    settings = {"output_encoding": "unicode", "smart_quotes": False, "halt_level": 2}
    roff: str = publish_string(head + facts + body, writer=writer, settings_overrides=settings)
    return _wrapped(roff)


def _wrapped(roff: str) -> str:
    """Return roff with lines of text of at most 80 bytes, except for tags and literal blocks."""
    lines: list[str] = []
    literal = False
    for line in roff.splitlines():
        literal = line == ".nf" or (literal and line != ".fi")
        if literal or line.startswith(".") or (lines and lines[-1] == ".TP"):
            lines.append(line)
        else:
            first, *others = textwrap.wrap(line, 78, break_long_words=False, break_on_hyphens=False) or [line]
            lines += [first, *(f"\\&{other}" if other[0] in ".'" else other for other in others)]
    return "\n".join(lines) + "\n"


class _Translator(manpage.Translator):
    """Changes what `mandoc -T lint` reports in the output of docutils."""

    document_start = "Generated by man/generate.py from man/*.rst."

    def append_header(self) -> None:
        self.header_written = 1
        facts: dict[str, str] = self._docinfo  # type: ignore[attr-defined] # the stubs omit it
        # Names are copied from here, so none is hyphenated; and lines are not filled, which would leave gaps.
        self.head.append(
            f'.TH "{facts["title"].upper()}" "{facts["manual_section"]}" "{facts["date"]}" "{facts["version"]}" '
            f'"{facts["manual_group"]}"\n.nh\n.ad l\n.SH NAME\n{facts["title"]} \\- {facts["subtitle"]}\n'
        )

    def deunicode(self, text: str) -> str:
        # groff reads bytes beyond ASCII as Latin-1.
        return re.sub(r"[^\x00-\x7f]", lambda match: f"\\[u{ord(match[0]):04X}]", text)

    def visit_paragraph(self, node: nodes.paragraph) -> None:
        self.ensure_eol()
        if node.parent.index(node) > isinstance(node.parent, nodes.section):  # not right after the headline
            self.body.append(".PP\n" if isinstance(node.parent, nodes.section) else ".sp\n")
        self._in_literal = True  # so that the writer escapes dots at the start of lines

    def visit_reference(self, node: nodes.reference) -> None:
        pass

    def depart_reference(self, node: nodes.reference) -> None:
        pass

    def visit_definition_list(self, node: nodes.definition_list) -> None:
        if isinstance(node.parent, nodes.definition):
            self.body.append(".RS\n")

    def depart_definition_list(self, node: nodes.definition_list) -> None:
        if isinstance(node.parent, nodes.definition):
            self.body.append(".RE\n")

    def depart_definition_list_item(self, _node: nodes.definition_list_item) -> None:
        pass

    def visit_term(self, _node: nodes.term) -> None:
        self.body.append("\n")

    def visit_literal_block(self, node: nodes.literal_block) -> None:
        self.ensure_eol()
        if node.parent.index(node) > 1:
            self.body.append(".sp\n")
        self.body.append(".RS 4\n.nf\n")
        self._in_literal = True

    def depart_literal_block(self, _node: nodes.literal_block) -> None:
        self._in_literal = False
        self.body.append("\n.fi\n.RE\n")


def main() -> None:
    """Write all pages below a directory, by default the one of this file."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES
    for path, text in pages():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(text, encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
