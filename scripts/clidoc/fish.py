"""Completion for fish."""

from __future__ import annotations

from scripts.clidoc.model import DIRECTORY, FILE, WORDS, Command, Option, Value

_HEAD = """\
# Completion of {name} for fish. Made from its parser by scripts/cli_docs.py.

# The words so far that are neither options nor their values.
function {function}_words
    set -l tokens (commandline -opc)
    set -l command
    set -l skip no
    for token in $tokens[2..]
        if test $skip = yes
            set skip no
            continue
        end
        switch "$command:$token"
            case {valued}
                set skip yes
            case {commands}
                set command (string trim "$command $token")
                echo $token
            case '*'
                string match -q -- '-*' $token; or echo $token
        end
    end
end

# Whether the words begin with the command of the other arguments, and the next is its argument of that number; 0: any.
function {function}_at
    set -l words ({function}_words)
    set -l command $argv[2..]
    set -l number $argv[1]
    test $number -eq 0; or test (count $words) -eq (math (count $command) + $number - 1); or return 1
    for i in (seq (count $command))
        test "$words[$i]" = $command[$i]; or return 1
    end
end

complete -c {name} -f
"""


def script(program: Command) -> str:
    """The completion script of a program."""
    commands = list(program.walk())
    valued = [
        f"'{' '.join(command.path[1:])}:{name}'"
        for command in commands
        for option in command.all_options
        if option.value
        for name in option.names
    ]
    below = [f"'{' '.join(command.path[1:-1])}:{command.name}'" for command in commands[1:]]
    function = "__" + program.name.replace("-", "_")
    head = _HEAD.format(name=program.name, function=function, valued=" ".join(valued), commands=" ".join(below) or "''")
    lines = [head]
    for command in commands:
        path = " ".join(command.path[1:])
        begin = f"complete -c {program.name} -n '{function}_at"
        # The program's own options are offered before a command only: what a command takes as well stands with it.
        where = f"{begin} {f'0 {path}' if path else '1'}'"
        lines += [f"{where} {_option(option)}" for option in command.all_options]
        lines += [
            f"{begin} {f'1 {path}'.strip()}' -a {below.name} -d {_quoted(below.help)}" for below in command.commands
        ]
        for number, argument in enumerate(command.arguments, 1):
            taken = _taken(argument.value)
            if taken:
                lines.append(f"{begin} {f'{number} {path}'.strip()}' {taken}")
    return "\n".join(lines) + "\n"


def _option(option: Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    value = ""
    if option.value is not None:
        value = f" {'-r' if option.value.kind == FILE else '-x'} {_taken(option.value)}".rstrip()
    return f"{' '.join(names)}{value} -d {_quoted(option.help)}"


def _taken(value: Value) -> str:
    if value.kind == WORDS:
        return f"-a {_quoted(' '.join(value.words))}"
    return {FILE: "-F", DIRECTORY: "-a '(__fish_complete_directories)'"}.get(value.kind, "")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
