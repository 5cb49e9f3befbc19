"""Reads custom options without any generated google.api or vsrpc.options module.

protoc hands the plugin the .proto files that define the options; a private pool is built from them, and the bytes of
each option message are parsed again with the classes of that pool.
"""

from __future__ import annotations

from typing import Any, Iterable

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

HTTP = "google.api.http"
ERROR = "vsrpc.options.v1.error"
TEXT = "vsrpc.options.v1.text"


class OptionReader:
    """Custom options of the files of one request."""

    def __init__(self, files: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in files:
            self._pool.AddSerializedFile(file.SerializeToString())

    def get(self, options: Any, extension_name: str) -> Any:
        """The value of an option in a MethodOptions, FieldOptions …; None where it is not set or not defined."""
        try:
            extension = self._pool.FindExtensionByName(extension_name)
            descriptor = self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name)
        except KeyError:  # no file of this request imports it
            return None
        parsed: Any = message_factory.GetMessageClass(descriptor).FromString(options.SerializeToString())
        return parsed.Extensions[extension] if parsed.HasExtension(extension) else None
