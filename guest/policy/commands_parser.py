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
    MAX_LINE,
    MAX_WORDS,
    CommandLine,
    CommandRefused,
    CommandSyntaxError,
    Condition,
    Duplication,
    FileRedirection,
    Mode,
    Part,
    Pipeline,
    Redirection,
    SimpleCommand,
    Step,
    Text,
    Variable,
    Word,
)

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""POSIX XBD 3.235: the name of a variable."""

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_IO_NUMBER = re.compile(r"[0-9]+(?=[<>])")
_OPERATORS = {"&&": Condition.IF_SUCCESS, "||": Condition.IF_FAILURE, ";": Condition.ALWAYS, "\n": Condition.ALWAYS}
_WORD_ENDS = frozenset(" \t\n|&;<>()")
_REDIRECTION_MODES = {"<": Mode.READ, ">": Mode.WRITE, ">>": Mode.APPEND}

# POSIX XCU 2.4 and bash's own; `{` and `}` are refused wherever they are unquoted.
_KEYWORDS = frozenset(
    ("!", "if", "then", "else", "elif", "fi", "do", "done", "case", "esac", "while", "until", "for", "in")
    + ("function", "select", "time", "coproc", "[[")
)

_QUOTE_IT = "quote it ('…') to mean the characters themselves"


def parse(line: str) -> CommandLine:
    """The tree of a command line.

    Raises CommandSyntaxError for what is no command line, CommandRefused for what would need a shell.
    """
    if len(line) > MAX_LINE:
        raise CommandSyntaxError(f"the command has {len(line)} characters; at most {MAX_LINE} are taken")
    return _Parser(line).command_line()


def has_command(line: str) -> bool:
    """Whether there is anything but blanks."""
    return bool(line.strip(" \t\n"))


class _Parser:
    def __init__(self, line: str) -> None:
        self._line = line
        self._at = 0
        self._words = 0
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
        while end < len(self._line) and self._line[end] not in _WORD_ENDS:
            end += 1
        if self._line[self._at : end] in _KEYWORDS:
            raise self._refused(f"the shell's keyword '{self._line[self._at : end]}'", "use |, &&, || and ; only")

    # Tokens

    def _skip_blanks(self, newlines: bool = False) -> None:
        blanks = " \t\n" if newlines else " \t"
        while True:
            if self._line.startswith("\\\n", self._at):
                self._at += 2
            elif self._at < len(self._line) and self._line[self._at] in blanks:
                self._at += 1
            else:
                return

    def _take_operator(self) -> str:
        for operator in ("&&", "||", ";;", ";", "\n"):
            if self._line.startswith(operator, self._at):
                break
        else:
            if self._line.startswith("&", self._at):
                raise self._refused("'&' (a background job)", f"use && for 'and then', or {_QUOTE_IT}")
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
        if self._at == len(line) or line[self._at] in _WORD_ENDS:
            raise self._wrong(f"a path is missing after '{line[start : self._at].rstrip()}'", start)
        target = self._word()
        if target.has_glob:
            raise self._refused("a glob after a redirection", _QUOTE_IT, target.column - 1)
        redirection = FileRedirection(fd, _REDIRECTION_MODES[operator], target)
        return [redirection, Duplication(2, 1)] if both else [redirection]

    def _duplication(self, fd: int, operator: str, both: bool, start: int) -> Duplication:
        match = re.compile(r"&([12])(?=[\s|&;<>)]|\Z)").match(self._line, self._at)
        if both or operator != ">" or not match:
            text = self._line[start : self._at + 2]
            raise self._refused(f"'{text}'", "only 1 and 2 can be copied: 2>&1, 1>&2", start)
        self._at = match.end()
        return Duplication(fd, int(match.group(1)))

    # Words

    def _word(self) -> Word:
        start = self._at
        self._words += 1
        if self._words > MAX_WORDS:
            raise self._wrong(f"more than {MAX_WORDS} words in one line", start)
        parts: list[Part] = []
        while self._at < len(self._line):
            character = self._line[self._at]
            if character in _WORD_ENDS and character not in "()":
                break
            if character == "'":
                parts.append(self._single_quoted())
            elif character == '"':
                parts += self._double_quoted()
            elif character == "\\":
                parts += self._escaped()
            elif character == "$":
                parts.append(self._dollar(quoted=False))
            else:
                parts.append(self._bare_character(character, first=self._at == start))
        return Word(_joined(parts), start + 1)

    def _bare_character(self, character: str, first: bool) -> Part:
        self._check_printable(character)
        if character == "`":
            raise self._refused("'`' (command substitution)", f"run the inner command first, or {_QUOTE_IT}")
        if character in "(){}":
            kind = "subshells and functions" if character in "()" else "brace groups and expansion"
            raise self._refused(f"'{character}' ({kind})", _QUOTE_IT)
        if character == "#" and first:
            raise self._refused("'#' (a comment)", f"leave it out, or {_QUOTE_IT}")
        if character == "[" and self._line[self._at + 1 : self._at + 2] in ("^", "["):
            text = self._line[self._at : self._at + 2]
            raise self._refused(f"'{text}' in a glob", f"write '[!…]' and ranges such as '[a-z]', or {_QUOTE_IT}")
        if character == "~" and first:
            return self._tilde()
        self._at += 1
        return Text(character)

    def _tilde(self) -> Part:
        following = self._line[self._at + 1 : self._at + 2]
        if following and following != "/" and following not in _WORD_ENDS:
            raise self._refused("'~' before a name (another user's home)", f"write the whole path, or {_QUOTE_IT}")
        self._at += 1
        return Variable("HOME", quoted=True)

    def _single_quoted(self) -> Text:
        start = self._at
        end = self._line.find("'", start + 1)
        if end < 0:
            raise self._wrong("the quote ' is never closed", start)
        for self._at in range(start + 1, end):
            self._check_printable(self._line[self._at])
        self._at = end + 1
        return Text(self._line[start + 1 : end], quoted=True)

    def _double_quoted(self) -> list[Part]:
        start = self._at
        self._at += 1
        parts: list[Part] = [Text("", quoted=True)]
        while self._at < len(self._line):
            character = self._line[self._at]
            following = self._line[self._at + 1 : self._at + 2]
            if character == '"':
                self._at += 1
                return parts
            if character == "$":
                parts.append(self._dollar(quoted=True))
            elif character == "`":
                raise self._refused("'`' (command substitution)", "run the inner command first, or use '…' quotes")
            elif character == "\\" and following == "\n":
                self._at += 2
            # POSIX XCU 2.2.3: in double quotes a backslash quotes only these.
            elif character == "\\" and following and following in '$`"\\':
                parts.append(Text(following, quoted=True))
                self._at += 2
            else:
                self._check_printable(character)
                parts.append(Text(character, quoted=True))
                self._at += 1
        raise self._wrong('the quote " is never closed', start)

    def _escaped(self) -> list[Part]:
        following = self._line[self._at + 1 : self._at + 2]
        if not following:
            raise self._wrong("nothing follows the backslash", self._at)
        start, self._at = self._at, self._at + 1
        self._check_printable(following)
        self._at = start + 2
        return [] if following == "\n" else [Text(following, quoted=True)]

    def _dollar(self, quoted: bool) -> Part:
        line, start = self._line, self._at
        braced = line.startswith("${", start)
        match = NAME.match(line, start + 1 + braced)
        if match and (not braced or line.startswith("}", match.end())):
            self._at = match.end() + braced
            return Variable(match.group(), quoted)
        following = line[start + 1 : start + 2]
        if line.startswith("$((", start):
            raise self._refused("'$((' (arithmetic)", "put the result in the command")
        if following == "(":
            raise self._refused("'$(' (command substitution)", "run the inner command first")
        if braced:
            raise self._refused("'${' with more than a name", "only $NAME and ${NAME} are expanded")
        if following and (following in "@*#?-$!" or following.isdigit() or (not quoted and following in "'\"[")):
            raise self._refused(f"'${following}'", "only $NAME and ${NAME} are expanded")
        self._at += 1
        return Text("$", quoted=True)

    def _check_printable(self, character: str) -> None:
        if not character.isprintable() and character not in "\n\t":
            raise self._refused(
                f"the character U+{ord(character):04X}, which does not print",
                "remove it; in `argv` of the request it can be given",
            )

    # Errors

    def _refused(self, what: str, way_out: str, at: int | None = None) -> CommandRefused:
        column = (self._at if at is None else at) + 1
        return CommandRefused(f"{what} at column {column}: {way_out}")

    def _wrong(self, what: str, at: int) -> CommandSyntaxError:
        return CommandSyntaxError(f"{what} (column {at + 1})")


def _show(character: str) -> str:
    return "the end of the line" if character == "\n" else f"'{character}'"


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """The parts with neighbouring texts of one kind made one."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Text) and isinstance(last, Text) and last.quoted == part.quoted:
            joined[-1] = Text(last.text + part.text, part.quoted)
        else:
            joined.append(part)
    return tuple(joined)
