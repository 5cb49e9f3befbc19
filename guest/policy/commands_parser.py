"""Turns the text of a command into a tree, without a shell.

Pure: no I/O, no environment, no knowledge of which commands are allowed. What is not certainly understood is
refused, with the column and the way out; nothing is guessed. Differences from sh, all on the safe side:

- an unquoted `$NAME` is neither split into words nor expanded as a glob: its value is one word, and none when empty;
- a newline is `;`, a comment is refused rather than dropped, braces are refused rather than taken literally
  (sh and bash disagree about them), and so are characters that do not print (they come from careless copying).
"""

from __future__ import annotations

import re

from guest.policy.commands_syntax import (
    MAX_COMMANDS,
    CommandLine,
    Condition,
    Duplication,
    FileRedirection,
    Mode,
    Pipeline,
    Redirection,
    SimpleCommand,
    Step,
    Word,
)
from guest.policy.commands_words import QUOTE_IT, WORD_ENDS, WordReader

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_IO_NUMBER = re.compile(r"[0-9]+(?=[<>])")
_OPERATORS = {"&&": Condition.IF_SUCCESS, "||": Condition.IF_FAILURE, ";": Condition.ALWAYS, "\n": Condition.ALWAYS}
_COPIED = re.compile(r"&([12])(?=[\s|&;<>)]|\Z)")
_REDIRECTION_MODES = {"<": Mode.READ, ">": Mode.WRITE, ">>": Mode.APPEND}

# POSIX XCU 2.4 and bash's own; `{` and `}` are refused wherever they are unquoted.
_KEYWORDS = frozenset(
    ("!", "if", "then", "else", "elif", "fi", "do", "done", "case", "esac", "while", "until", "for", "in")
    + ("function", "select", "time", "coproc", "[[")
)


def parse(line: str) -> CommandLine:
    """The tree of a command line.

    Raises CommandSyntaxError for what is no command line, CommandRefused for what would need a shell.
    """
    return _Parser(line).command_line()


def has_command(line: str) -> bool:
    """Whether there is anything but blanks."""
    return bool(line.strip(" \t\n"))


class _Parser(WordReader):
    def __init__(self, line: str) -> None:
        super().__init__(line)
        self._commands = 0

    # Grammar

    def command_line(self) -> CommandLine:
        steps: list[Step] = []
        condition = Condition.ALWAYS
        self._skip_blanks(newlines=True)
        while True:
            steps.append(Step(condition, self._pipeline()))
            start = self._at
            operator = self._take_operator()
            if not operator:
                break
            condition = _OPERATORS[operator]
            self._skip_blanks(newlines=True)
            if self._at < len(self._line):
                continue
            if condition is not Condition.ALWAYS:
                raise self._wrong(f"a command is missing after '{operator}'", start)
            break
        return CommandLine(tuple(steps))

    def _pipeline(self) -> Pipeline:
        commands = [self._simple_command()]
        while self._line.startswith("|", self._at) and not self._line.startswith("||", self._at):
            start = self._at
            if self._line.startswith("|&", self._at):
                raise self._refused("'|&'", "write '2>&1 |' for standard error too", start)
            self._at += 1
            self._skip_blanks(newlines=True)
            if self._at == len(self._line):
                raise self._wrong("a command is missing after '|'", start)
            commands.append(self._simple_command())
        return Pipeline(tuple(commands))

    def _simple_command(self) -> SimpleCommand:
        words: list[Word] = []
        redirections: list[Redirection] = []
        start = self._at
        self._commands += 1
        if self._commands > MAX_COMMANDS:
            raise self._wrong(f"more than {MAX_COMMANDS} commands in one line; put them in a file", start)
        while self._at < len(self._line):
            self._skip_blanks()
            found = self._redirection()
            if found:
                redirections += found
                continue
            if self._at == len(self._line) or self._line[self._at] in "|&;\n":
                break
            if not words:
                self._check_first_word()
            words.append(self._word())
        if not words:
            what = "a redirection needs a command" if redirections else "a command is missing"
            before = self._line[self._at : self._at + 1]
            raise self._wrong(what + (f" before {_show(before)}" if before else ""), self._at)
        return SimpleCommand(tuple(words), tuple(redirections))

    def _check_first_word(self) -> None:
        match = _ASSIGNMENT.match(self._line, self._at)
        if match:
            raise self._refused(f"the assignment '{match.group()}…'", "give the variable in `env` of the request")
        end = self._at
        while end < len(self._line) and self._line[end] not in WORD_ENDS:
            end += 1
        if self._line[self._at : end] in _KEYWORDS:
            raise self._refused(f"the shell's keyword '{self._line[self._at : end]}'", "use |, &&, || and ; only")

    # Tokens

    def _take_operator(self) -> str:
        for operator in ("&&", "||", ";;", ";", "\n"):
            if self._line.startswith(operator, self._at):
                break
        else:
            if self._line.startswith("&", self._at):
                raise self._refused("'&' (a background job)", f"use && for 'and then', or {QUOTE_IT}")
            return ""
        if operator == ";;":
            raise self._wrong("a command is missing between ';' and ';'", self._at)
        self._at += len(operator)
        return operator

    def _redirection(self) -> list[Redirection]:
        line, start = self._line, self._at
        match = _IO_NUMBER.match(line, self._at)
        if match:
            self._at = match.end()
        both = not match and line.startswith("&>", self._at)
        if both:
            self._at += 1
        if self._at == len(line) or line[self._at] not in "<>":
            self._at = start
            return []
        for text in ("<<", "<(", "<>", ">(", ">|"):
            if line.startswith(text, self._at):
                raise self._refused(f"'{text}'", "redirections are <, >, >> and 2>&1", self._at)
        operator = ">>" if line.startswith(">>", self._at) else line[self._at]
        self._at += len(operator)
        fd = int(match.group()) if match and len(match.group()) < 4 else -1 if match else int(operator != "<")
        if fd not in ((0,) if operator == "<" else (1, 2)):
            text = line[start : self._at]
            raise self._refused(f"'{text}'", "only 0 can be read from, only 1 and 2 written to", start)
        if line.startswith("&", self._at):
            return [self._duplication(fd, operator, both, start)]
        self._skip_blanks()
        if self._at == len(line) or line[self._at] in WORD_ENDS:
            raise self._wrong(f"a path is missing after '{line[start : self._at].rstrip()}'", start)
        target = self._word()
        if target.has_glob:
            raise self._refused("a glob after a redirection", QUOTE_IT, target.column - 1)
        redirection = FileRedirection(fd, _REDIRECTION_MODES[operator], target)
        return [redirection, Duplication(2, 1)] if both else [redirection]

    def _duplication(self, fd: int, operator: str, both: bool, start: int) -> Duplication:
        match = _COPIED.match(self._line, self._at)
        if both or operator != ">" or not match:
            text = self._line[start : self._at + 2]
            raise self._refused(f"'{text}'", "only 1 and 2 can be copied: 2>&1, 1>&2", start)
        self._at = match.end()
        return Duplication(fd, int(match.group(1)))


def _show(character: str) -> str:
    return "the end of the line" if character == "\n" else f"'{character}'"
