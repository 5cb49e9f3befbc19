"""Command lines: what is understood, and what is refused with which words."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.policy.commands_parser import parse
from guest.policy.commands_syntax import (
    MAX_COMMANDS,
    MAX_WORDS,
    CommandLine,
    CommandRefused,
    CommandSyntaxError,
    Duplication,
    SimpleCommand,
    Text,
    Word,
)


def show(line: CommandLine) -> str:
    """A tree as text: [words] joined by operators; quoted text as 'x', variables as <NAME>, redirections at the end."""
    out = ""
    for number, step in enumerate(line.steps):
        out += f" {step.condition.value} " if number else ""
        out += " | ".join(_show_command(command) for command in step.pipeline.commands)
    return out


def _show_command(command: SimpleCommand) -> str:
    items = [_show_word(word) for word in command.words]
    for redirection in command.redirections:
        if isinstance(redirection, Duplication):
            items.append(f"{redirection.fd}>&{redirection.source}")
        else:
            items.append(f"{redirection.fd}{redirection.mode.value}{_show_word(redirection.target)}")
    return f"[{' '.join(items)}]"


def _show_word(word: Word) -> str:
    return "".join(
        (repr(part.text) if part.quoted else part.text) if isinstance(part, Text) else f"<{part.name}>"
        for part in word.parts
    )


@pytest.mark.parametrize(
    ("line", "tree"),
    [
        ("ls", "[ls]"),
        ("  ls\t-l  /tmp ", "[ls -l /tmp]"),
        ("a|b | c", "[a] | [b] | [c]"),
        ("a&&b||c;d", "[a] && [b] || [c] ; [d]"),
        ("a;", "[a]"),
        ("a\n\nb\n", "[a] ; [b]"),
        ("\n a && \n b | \n c", "[a] && [b] | [c]"),
        ("echo a\\\nb", "[echo ab]"),
        ("echo \\\n b", "[echo b]"),
        ("echo 'a b'\"c d\"e", "[echo 'a bc d'e]"),
        ("echo '' \"\"", "[echo '' '']"),
        ("echo 'a\nb'", "[echo 'a\\nb']"),
        ("echo \\a\\ \\\\ \\*", "[echo 'a \\\\' '*']"),
        ('echo "\\a \\$X \\" \\\\"', "[echo '\\\\a $X \" \\\\']"),
        ("echo $A ${B}c \"$C\" '$D'", "[echo <A> <B>c ''<C> '$D']"),
        ('grep "x$" $', "[grep 'x$' '$']"),
        ("echo a$/b", "[echo a'$'/b]"),
        ("ls *.txt [a-c]?", "[ls *.txt [a-c]?]"),
        ("ls ~ ~/x a~", "[ls <HOME> <HOME>/x a~]"),
        ("echo a#b", "[echo a#b]"),
        ("find . ! -name x", "[find . ! -name x]"),
        ("echo if a=b", "[echo if a=b]"),
        ("a >x 2>>y <z", "[a 1>x 2>>y 0<z]"),
        ("a>x", "[a 1>x]"),
        ("a2>x", "[a2 1>x]"),
        ("a 2>x", "[a 2>x]"),
        ("a 2>&1 >/dev/null", "[a 2>&1 1>/dev/null]"),
        ("a &>x", "[a 1>x 2>&1]"),
        ("a &>>x", "[a 1>>x 2>&1]"),
        ("a >&2", "[a 1>&2]"),
        (">x a", "[a 1>x]"),
        ("a 2>'b c'", "[a 2>'b c']"),
        ("naïve “x”", "[naïve “x”]"),
    ],
)
def test_accepted(line: str, tree: str) -> None:
    assert show(parse(line)) == tree


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("echo $(id)", "'$(' (command substitution) at column 6"),
        ('echo "$(id)"', "'$(' (command substitution) at column 7"),
        ("echo `id`", "'`' (command substitution) at column 6"),
        ('echo "`id`"', "'`' (command substitution) at column 7"),
        ("echo $((1+1))", "'$((' (arithmetic) at column 6"),
        ("echo $[1+1]", "'$[' at column 6"),
        ("echo ${x:-y}", "'${' with more than a name at column 6"),
        ("echo ${x", "'${' with more than a name"),
        ("echo ${!x}", "'${' with more than a name"),
        ("echo $?", "'$?' at column 6"),
        ("echo $1 $$", "'$1' at column 6"),
        ("echo $'\\x41'", "'$'' at column 6"),
        ('echo $"x"', "'$\"' at column 6"),
        ("(ls)", "'(' (subshells and functions) at column 1"),
        ("f() ls", "'(' (subshells and functions) at column 2"),
        ("ls)", "')' (subshells and functions) at column 3"),
        ("{ ls; }", "'{' (brace groups and expansion) at column 1"),
        ("echo {a,b}", "'{' (brace groups and expansion) at column 6"),
        ("sleep 1 &", "'&' (a background job) at column 9"),
        ("a & b", "'&' (a background job) at column 3"),
        ("cat <<EOF", "'<<' at column 5"),
        ("cat <<< x", "'<<' at column 5"),
        ("cat <(ls)", "'<(' at column 5"),
        ("cat >(ls)", "'>(' at column 5"),
        ("a <>x", "'<>' at column 3"),
        ("a >|x", "'>|' at column 3"),
        ("a 3>x", "'3>' at column 3"),
        ("a 0>x", "'0>' at column 3"),
        ("a 1<x", "'1<' at column 3"),
        ("a 99999999999999999999>x", "only 1 and 2 written to"),
        ("a 2>&3", "'2>&3' at column 3"),
        ("a 2>&-", "'2>&-' at column 3"),
        ("a <&0", "'<&0' at column 3"),
        ("a >&x", "'>&x' at column 3"),
        ("a >*", "a glob after a redirection at column 4"),
        ("a |& b", "'|&' at column 3: write '2>&1 |'"),
        ("X=1 ls", "the assignment 'X=…' at column 1: give the variable in `env`"),
        ("X=1", "the assignment 'X=…'"),
        ("ls; X+=1 ls", "the assignment 'X+=…' at column 5"),
        ("if true", "the shell's keyword 'if' at column 1"),
        ("while true; do ls", "the shell's keyword 'while'"),
        ("! ls", "the shell's keyword '!'"),
        ("ls | time ls", "the shell's keyword 'time' at column 6"),
        ("ls # all", "'#' (a comment) at column 4"),
        ("ls ~root", "'~' before a name (another user's home) at column 4"),
        ("ls [^a]", "'[^' in a glob at column 4"),
        ("ls [[:alpha:]]", "'[[' in a glob at column 4"),
        ("ls\u00a0-l", "the character U+00A0, which does not print at column 3"),
        ("ls '\x1b[31m'", "the character U+001B, which does not print at column 5"),
        ("ls \x00", "the character U+0000"),
        ("ls\r\n", "the character U+000D"),
        ("ls \u202e", "the character U+202E"),
        ("ls \\\x07", "the character U+0007"),
    ],
)
def test_needs_a_shell(line: str, message: str) -> None:
    with pytest.raises(CommandRefused) as caught:
        parse(line)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "a command is missing (column 1)"),
        ("; ls", "a command is missing before ';' (column 1)"),
        ("ls ;; ls", "a command is missing between ';' and ';' (column 4)"),
        ("ls && && ls", "a command is missing before '&' (column 7)"),
        ("| ls", "a command is missing before '|' (column 1)"),
        ("ls | | ls", "a command is missing before '|' (column 6)"),
        ("ls |", "a command is missing after '|' (column 4)"),
        ("ls &&", "a command is missing after '&&' (column 4)"),
        ("ls || ", "a command is missing after '||' (column 4)"),
        (">x", "a redirection needs a command (column 3)"),
        ("ls >", "a path is missing after '>' (column 4)"),
        ("ls > ; ls", "a path is missing after '>' (column 4)"),
        ("echo 'x", "the quote ' is never closed (column 6)"),
        ('echo "x', 'the quote " is never closed (column 6)'),
        ("echo \\", "nothing follows the backslash (column 6)"),
        (";".join(["ls"] * (MAX_COMMANDS + 1)), f"more than {MAX_COMMANDS} commands"),
        ("ls" + " x" * MAX_WORDS, f"more than {MAX_WORDS} words"),
    ],
)
def test_wrong_in_any_shell(line: str, message: str) -> None:
    with pytest.raises(CommandSyntaxError) as caught:
        parse(line)
    assert message in str(caught.value)
    assert not isinstance(caught.value, CommandRefused)


printable_text = st.text(st.characters().filter(lambda c: c.isprintable() or c in "\n\t"), max_size=20)


@given(st.lists(printable_text, min_size=1, max_size=5))
def test_quoted_words_are_themselves(arguments: list[str]) -> None:
    line = parse(" ".join(["echo", *(shlex.quote(argument) for argument in arguments)]))
    (command,) = line.commands
    assert not any(word.has_glob for word in command.words)
    assert ["".join(part.text for part in word.parts if isinstance(part, Text)) for word in command.words] == [
        "echo",
        *arguments,
    ]


@given(st.text(st.sampled_from(" \t\n'\"\\$`|&;<>(){}[]*?!~#=ab1.-/\x00\x7f"), max_size=30))
def test_every_text_is_parsed_or_refused(text: str) -> None:
    try:
        line = parse(text)
    except CommandSyntaxError:
        return
    assert line.commands
    assert all(command.words for command in line.commands)
