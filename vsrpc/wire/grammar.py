r"""HTTP/1.1 syntax as regular expressions, each beside the rule of RFC 9110, 9112 or 3986 it implements.

Only patterns live here: no limit, no message, no decision about what to do on a mismatch. There are two
kinds. ``LINE_STOP`` and ``SECTION_STOP`` scan raw bytes for the end of an element *or* the first byte
that may not be in it, whichever comes first, so that the outcome depends on the bytes alone and not on how
they were cut into reads. All others judge text that such a scan has delimited, decoded as Latin-1.

No pattern nests one unbounded repeat in another over the same characters: all run in linear time.
Where we are stricter than the RFC the comment says so.
"""

from __future__ import annotations

import re

# RFC 9112 2.2: a recipient may take a bare LF as a line end, and must not take a bare CR as one; we take
# neither. RFC 9110 5.5: CR, LF and NUL are invalid in a field value; other CTLs may be refused, and are
# (HTAB is the one that is allowed). The pattern begins with one character class because the regex
# engine then skips all other bytes in a tight loop.
_STOP = (
    rb"[\x00-\x08\x0a-\x1f\x7f](?:"
    rb"(?<=\r)%s"  # the end looked for
    rb"|(?<=\r)(?=[^\n])"  # bare CR
    rb"|(?<=\n)(?<!\r\n)"  # bare LF
    rb"|(?<=[^\r\n]))"  # any other control character
)
LINE_END = b"\r\n"
LINE_STOP = re.compile(_STOP % rb"\n")
SECTION_END = b"\r\n\r\n"
SECTION_STOP = re.compile(_STOP % rb"\n\r\n")

# RFC 9110 5.6.2:  token = 1*tchar
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9110 5.1:  field-name = token
FIELD_NAME = re.compile(_TOKEN)

# RFC 9110 5.5:  field-value = *field-content; field-vchar = VCHAR / obs-text, with SP and HTAB inside only
_VALUE_CHAR = r"[\t\x20-\x7e\x80-\xff]"
FIELD_VALUE = re.compile(rf"(?![ \t]){_VALUE_CHAR}*(?<![ \t])")

# RFC 9112 5:  field-line = field-name ":" OWS field-value OWS
# The value is taken with its trailing OWS, to be stripped by the caller: cheaper than backtracking.
# Anchored to line starts, so that findall() over a section yields one match for each well formed line.
FIELD_LINES = re.compile(rf"^({_TOKEN}):[ \t]*({_VALUE_CHAR}*)\r\n", re.MULTILINE)

# RFC 9112 3:  request-line = method SP request-target SP HTTP-version
# RFC 9112 2.3:  HTTP-version = "HTTP/" DIGIT "." DIGIT  (case-sensitive)
REQUEST_LINE = re.compile(r"([^ ]+) ([^ ]+) HTTP/([0-9]\.[0-9])")

# RFC 1945 4.1:  Simple-Request = "GET" SP Request-URI CRLF, which is HTTP/0.9
SIMPLE_REQUEST = re.compile(r"[A-Z]+ /[^ ]*")

# RFC 9110 9.1:  method = token, case-sensitive. All registered methods are upper-case letters with
# hyphens; a lower-case one is a client's mistake, so stricter than the RFC.
METHOD = re.compile(r"[A-Z][A-Z\-]{0,31}")

# RFC 3986 3.3, 3.4:  pchar = unreserved / pct-encoded / sub-delims / ":" / "@";  query = *( pchar / "/" / "?" )
_PCT = r"%[0-9A-Fa-f]{2}"
_PATH = rf"[\w\-.~!$&'()*+,;=:@/]*(?:{_PCT}[\w\-.~!$&'()*+,;=:@/]*)*"
_QUERY = rf"[\w\-.~!$&'()*+,;=:@/?]*(?:{_PCT}[\w\-.~!$&'()*+,;=:@/?]*)*"

# RFC 9112 3.2.1:  origin-form = absolute-path [ "?" query ]
_ORIGIN = rf"/{_PATH}(?:\?{_QUERY})?"
ORIGIN_FORM = re.compile(_ORIGIN, re.ASCII)

# RFC 9110 7.2:  Host = uri-host [ ":" port ];  RFC 3986 3.2.2:  host = IP-literal / IPv4address / reg-name
# An IPv6 literal is checked for its characters only: the host is compared, never resolved.
_REG_NAME = rf"[\w\-.~!$&'()*+,;=]*(?:{_PCT}[\w\-.~!$&'()*+,;=]*)*"
_HOST = rf"(?:\[[0-9A-Fa-f:.]+\]|{_REG_NAME})(?::[0-9]{{0,5}})?"
HOST = re.compile(_HOST, re.ASCII)

# RFC 9112 3.2.2:  absolute-form = absolute-URI; the scheme is http, and RFC 9110 4.2.1 wants a host in it
ABSOLUTE_FORM = re.compile(rf"http://(?![/:?])({_HOST})({_ORIGIN})?", re.ASCII)

# RFC 9112 4:  status-line = HTTP-version SP status-code SP [ reason-phrase ]
# RFC 9110 15:  status codes outside 100..599 are invalid; a client should take 600..999 for a 5xx, as some use them
STATUS_LINE = re.compile(rf"HTTP/([0-9]\.[0-9]) ([1-9][0-9]{{2}}) ({_VALUE_CHAR}*)")
REASON = re.compile(rf"{_VALUE_CHAR}*")

# RFC 9110 8.6:  Content-Length = 1*DIGIT. At most 18 digits: no real body is longer, and the number fits 64 bits.
CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")

# RFC 9112 7.1:  chunk-size = 1*HEXDIG, then CRLF (chunk extensions are refused)
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]*")
