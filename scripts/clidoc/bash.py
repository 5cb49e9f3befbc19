"""Completion for bash, which needs nothing of the bash-completion package."""

from __future__ import annotations

from scripts.clidoc.model import DIRECTORY, FILE, WORDS, Command, Value

_SCRIPT = """\
# Completion of {name} for bash. Made from its parser by scripts/cli_docs.py.

# What an option of a command takes, or its argument of a number: into `kind`, or nothing for a switch.
{function}_kind() {{
    case "$1:$2" in
{kinds}
    *) kind= ;;
    esac
}}

{function}_options() {{
    case "$1" in
{options}
    *) options= ;;
    esac
}}

{function}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} command= option= kind= options= number=1 i word
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        if [[ -n $option ]]; then
            [[ $word == = ]] || option= # --option=VALUE comes as three words
        elif [[ $word == -* ]]; then
            {function}_kind "$command" "$word"
            [[ -z $kind ]] || option=$word
        else
            {function}_kind "$command" "$number"
            if [[ $kind == commands\\ * ]]; then
                command=${{command:+$command }}$word number=1
            else
                number=$((number + 1))
            fi
        fi
    done
    [[ -z $option || $cur != = ]] || cur=
    if [[ -z $option && $cur == -* ]]; then
        {function}_options "$command"
        kind="words $options"
    else
        {function}_kind "$command" "${{option:-$number}}"
    fi
    case $kind in
    file)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        ;;
    directory)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$cur")
        ;;
    words\\ * | commands\\ *) mapfile -t COMPREPLY < <(compgen -W "${{kind#* }}" -- "$cur") ;;
    esac
}}

complete -F {function} {name}
"""


def script(program: Command) -> str:
    """The completion script of a program."""
    kinds: list[str] = []
    options: list[str] = []
    for command in program.walk():
        path = " ".join(command.path[1:])
        for option in command.all_options:
            if option.value is not None:
                names = " | ".join(f'"{path}:{name}"' for name in option.names)
                kinds.append(f'    {names}) kind="{_kind(option.value)}" ;;')
        if command.commands:
            words = " ".join(below.name for below in command.commands)
            kinds.append(f'    "{path}:1") kind="commands {words}" ;;')
        for number, argument in enumerate(command.arguments, 1):
            pattern = f'"{path}:"[{number}-9]' if argument.many else f'"{path}:{number}"'
            kinds.append(f'    {pattern}) kind="{_kind(argument.value)}" ;;')
        names = " ".join(name for option in command.all_options for name in option.names)
        options.append(f'    "{path}") options="{names}" ;;')
    function = "_" + program.name.replace("-", "_")
    return _SCRIPT.format(name=program.name, function=function, kinds="\n".join(kinds), options="\n".join(options))


def _kind(value: Value) -> str:
    if value.kind == WORDS:
        return "words " + " ".join(value.words)
    return value.kind if value.kind in (FILE, DIRECTORY) else "anything"
