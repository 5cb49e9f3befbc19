// One call with the official Connect client over a UNIX socket: the call as JSON on stdin, its outcome on stdout.
//
// The services come from a descriptor set, so that no generated code is needed.

import { readFileSync } from "node:fs";
import { createFileRegistry, fromBinary, fromJson, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createConnectTransport } from "@connectrpc/connect-node";

const call = JSON.parse(readFileSync(0, "utf8"));
const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(call.descriptors)));
const json = { registry, useProtoFieldName: true, alwaysEmitImplicit: true };

const transport = createConnectTransport({
  baseUrl: "http://guest",
  httpVersion: "1.1",
  nodeOptions: { socketPath: call.socket },
  useBinaryFormat: call.binary,
  useHttpGet: call.get,
  sendCompression: call.gzip ? compressionGzip : null,
  compressMinBytes: 0,
});
const service = registry.getService(call.service);
const method = service.methods.find((candidate) => candidate.name === call.method);
const client = createClient(service, transport);

const outcome = { headers: {} };
try {
  const response = await client[method.localName](fromJson(method.input, call.request, json), {
    headers: call.headers,
    timeoutMs: call.timeoutMs,
    onHeader: (headers) => (outcome.headers = Object.fromEntries(headers)),
  });
  outcome.response = toJson(method.output, response, json);
} catch (reason) {
  const error = ConnectError.from(reason);
  const detail = registry.getMessage("vsrpc.v1.ErrorDetail");
  outcome.error = {
    code: Code[error.code],
    message: error.rawMessage,
    details: error.findDetails(detail).map((found) => toJson(detail, found, json)),
  };
}
console.log(JSON.stringify(outcome));
