"""Completion for zsh: a function for each command, which hands its words to _arguments (zshcompsys(1))."""

from __future__ import annotations

from scripts.clidoc.model import DIRECTORY, FILE, WORDS, Argument, Command, Option, Value

_FUNCTION = """\
{function}() {{
    local curcontext=$curcontext state line
    local -A opt_args
    _arguments -C -s -S \\
{specifications}
{commands}}}
"""

_COMMANDS = """\
    case $state in
    command)
        local -a commands=(
{descriptions}
        )
        _describe -t commands command commands
        ;;
    arguments)
        case $words[1] in
{cases}
        esac
        ;;
    esac
"""


def script(program: Command) -> str:
    """The completion function of a program, a file for $fpath."""
    functions = "\n".join(_function(command) for command in program.walk())
    head = f"#compdef {program.name}\n# Made from its parser by scripts/cli_docs.py.\n\n"
    return f'{head}{functions}\n{_name(program)} "$@"\n'


def _function(command: Command) -> str:
    specifications = [_option(option) for option in command.all_options]
    specifications += [_argument(argument) for argument in command.arguments]
    commands = ""
    if command.commands:
        specifications += ["'1:command:->command'", "'*::arguments:->arguments'"]
        commands = _COMMANDS.format(
            descriptions="\n".join(
                "            " + _quoted(f"{below.name}:{below.help}") for below in command.commands
            ),
            cases="\n".join(f"        {below.name}) {_name(below)} ;;" for below in command.commands),
        )
    lines = " \\\n".join("        " + each for each in specifications)
    return _FUNCTION.format(function=_name(command), specifications=lines, commands=commands)


def _name(command: Command) -> str:
    return "_" + "_".join(command.path)


def _option(option: Option) -> str:
    text = _quoted(f"[{_escaped(option.help)}]" + _value(option.value))
    # -x+: its value may follow at once or as the next word; --x=: after "=" or as the next word.
    names = option.names
    if option.value is not None:
        names = tuple(name + ("=" if name.startswith("--") else "+") for name in names)
    if len(names) == 1:
        return names[0] + text
    return f"'({' '.join(option.names)})'{{{','.join(names)}}}{text}"


def _argument(argument: Argument) -> str:
    colon = "*:" if argument.many else (":" if argument.required else "::")
    return _quoted(colon + _message(argument.value) + _action(argument.value))


def _value(value: Value | None) -> str:
    return f":{_message(value)}{_action(value)}" if value else ""


def _message(value: Value) -> str:
    return "value" if value.metavar.startswith("{") else _escaped(value.metavar)


def _action(value: Value) -> str:
    if value.kind == WORDS:
        return f":({' '.join(value.words)})"
    return {FILE: ":_files", DIRECTORY: ":_files -/"}.get(value.kind, ": ")


def _escaped(text: str) -> str:
    return "".join("\\" + char if char in "\\[]:" else char for char in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
