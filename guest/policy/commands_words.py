"""Reads the words of a command line: quotes, backslashes, variables, and what may not be in a word.

The scanner under commands_parser.py, whose rules hold here too.
"""

from __future__ import annotations

import re

from guest.policy.commands_syntax import MAX_WORDS, CommandRefused, CommandSyntaxError, Part, Text, Variable, Word

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""POSIX XBD 3.235: the name of a variable."""

WORD_ENDS = frozenset(" \t\n|&;<>()")
"""Unquoted, these end a word."""

QUOTE_IT = "quote it ('…') to mean the characters themselves"


class WordReader:
    """A line and the place in it that was read up to."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._at = 0
        self._words = 0

    def _skip_blanks(self, newlines: bool = False) -> None:
        blanks = " \t\n" if newlines else " \t"
        while True:
            if self._line.startswith("\\\n", self._at):
                self._at += 2
            elif self._at < len(self._line) and self._line[self._at] in blanks:
                self._at += 1
            else:
                return

    def _word(self) -> Word:
        start = self._at
        self._words += 1
        if self._words > MAX_WORDS:
            raise self._wrong(f"more than {MAX_WORDS} words in one line", start)
        parts: list[Part] = []
        while self._at < len(self._line):
            character = self._line[self._at]
            if character in WORD_ENDS and character not in "()":
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
            raise self._refused("'`' (command substitution)", f"run the inner command first, or {QUOTE_IT}")
        if character in "(){}":
            kind = "subshells and functions" if character in "()" else "brace groups and expansion"
            raise self._refused(f"'{character}' ({kind})", QUOTE_IT)
        if character == "#" and first:
            raise self._refused("'#' (a comment)", f"leave it out, or {QUOTE_IT}")
        if character == "[" and self._line[self._at + 1 : self._at + 2] in ("^", "["):
            text = self._line[self._at : self._at + 2]
            raise self._refused(f"'{text}' in a glob", f"write '[!…]' and ranges such as '[a-z]', or {QUOTE_IT}")
        if character == "~" and first:
            return self._tilde()
        self._at += 1
        return Text(character)

    def _tilde(self) -> Part:
        following = self._line[self._at + 1 : self._at + 2]
        if following and following != "/" and following not in WORD_ENDS:
            raise self._refused("'~' before a name (another user's home)", f"write the whole path, or {QUOTE_IT}")
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

    def _refused(self, what: str, way_out: str, at: int | None = None) -> CommandRefused:
        column = (self._at if at is None else at) + 1
        return CommandRefused(f"{what} at column {column}", way_out)

    def _wrong(self, what: str, at: int) -> CommandSyntaxError:
        return CommandSyntaxError(f"{what} (column {at + 1})")


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
