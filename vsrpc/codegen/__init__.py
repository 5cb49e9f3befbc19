"""protoc-gen-vsrpc: a protoc plugin that writes messages, stubs, servicers, tables and an OpenAPI document.

Data flows one way: protoc's request → `read` → `model` (frozen values) → `render_*` (pure, model → text). It runs when
code is generated and may need a current protobuf; what it writes runs on protobuf 3.12.4 and newer.
"""
