"""Comments and line numbers of a file, by protoc's paths (descriptor.proto, SourceCodeInfo.Location.path)."""

from __future__ import annotations

from typing import Tuple

from google.protobuf.descriptor_pb2 import FileDescriptorProto

Path = Tuple[int, ...]

# Field numbers of descriptor.proto, from which paths are made.
FILE_PACKAGE, FILE_MESSAGE, FILE_ENUM, FILE_SERVICE, FILE_SYNTAX = 2, 4, 5, 6, 12
MESSAGE_FIELD, MESSAGE_NESTED, MESSAGE_ENUM = 2, 3, 4
ENUM_VALUE, SERVICE_METHOD = 2, 2


class Comments:
    """What the source says beside its declarations."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file.name
        self._locations = {tuple(location.path): location for location in file.source_code_info.location}

    def of(self, *path: int) -> str:
        """The comment before the declaration, else the one after it on its line; "" where there is none."""
        location = self._locations.get(path)
        if location is None:
            return ""
        text = location.leading_comments or location.trailing_comments
        return "\n".join(
            line[1:].rstrip() if line.startswith(" ") else line.rstrip() for line in text.split("\n")
        ).strip()

    def where(self, *path: int) -> str:
        """ "file:line" of a declaration, for messages; only "file" where protoc gave no lines."""
        location = self._locations.get(path)
        return self._file if location is None else f"{self._file}:{location.span[0] + 1}"
