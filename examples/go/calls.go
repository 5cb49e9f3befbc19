package main

// Calls: messages as JSON, by rpc path and by REST route, or as protobuf; and the errors of all of them.

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
)

// Error is what the guest answered a call that failed.
type Error struct {
	Code    uint64 // number of PROTOCOL.md's table; 0 for an answer that is not of a vsrpc daemon
	HTTP    int
	Message string
	Facts   map[string]string
}

func (e *Error) Error() string { return fmt.Sprintf("%d (HTTP %d): %s", e.Code, e.HTTP, e.Message) }

// The rpcs whose idempotency_level in the schema allows to repeat them. All others need a key for that.
var repeatable = map[string]bool{"Ping": true, "Info": true, "Status": true, "Download": true, "Stat": true,
	"UploadChunk": true, "AbortUpload": true, "DownloadChunk": true}

func (c *Client) do(ctx context.Context, method, target, contentType string, body []byte) (*Reply, error) {
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	if method != http.MethodGet && !repeatable[path.Base(target)] {
		header.Set("Idempotency-Key", random(16))
	}
	return c.Do(ctx, method, target, header, body)
}

// RPC calls an rpc by its path, for example "/vsrpc.v1.System/Ping", with the message in the form of the content type.
func (c *Client) RPC(ctx context.Context, path, contentType string, in []byte) ([]byte, error) {
	reply, err := c.do(ctx, http.MethodPost, path, contentType, in)
	if err != nil {
		return nil, err
	}
	if reply.StatusCode == http.StatusOK {
		return reply.Body, nil
	}
	var failure struct { // JSON in any case
		Message string
		Details []struct{ Type, Value string }
	}
	if err := json.Unmarshal(reply.Body, &failure); err != nil {
		return nil, &Error{HTTP: reply.StatusCode, Message: string(reply.Body)}
	}
	result := &Error{HTTP: reply.StatusCode, Message: failure.Message}
	for _, detail := range failure.Details {
		if detail.Type != "vsrpc.v1.ErrorDetail" {
			continue
		}
		raw, err := base64.RawStdEncoding.DecodeString(detail.Value)
		if err != nil {
			return nil, err
		}
		if result.Code, result.Facts, err = errorDetail(raw); err != nil {
			return nil, err
		}
	}
	return nil, result
}

// Call is RPC with JSON.
func (c *Client) Call(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if body, err = c.RPC(ctx, path, "application/json", body); err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// REST calls a route; in is nil where it has no body.
func (c *Client) REST(ctx context.Context, method, target string, in, out any) (err error) {
	var body []byte
	contentType := ""
	if in != nil {
		contentType = "application/json"
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	reply, err := c.do(ctx, method, target, contentType, body)
	if err != nil {
		return err
	}
	var envelope struct {
		Code    uint64
		Message string
		Data    json.RawMessage
	}
	if err := json.Unmarshal(reply.Body, &envelope); err != nil {
		return &Error{HTTP: reply.StatusCode, Message: string(reply.Body)}
	}
	if envelope.Code == 0 {
		return json.Unmarshal(envelope.Data, out)
	}
	result := &Error{Code: envelope.Code, HTTP: reply.StatusCode, Message: envelope.Message}
	if err := json.Unmarshal(envelope.Data, &result.Facts); err != nil {
		return err
	}
	return result
}

// errorDetail reads a protobuf vsrpc.v1.ErrorDetail.
func errorDetail(raw []byte) (code uint64, facts map[string]string, err error) {
	facts = map[string]string{}
	err = eachField(raw, func(number, value uint64, content []byte) error {
		if number == 1 {
			code = value
			return nil
		}
		entry := map[uint64]string{}
		defer func() { facts[entry[1]] = entry[2] }()
		return eachField(content, func(n, _ uint64, text []byte) error { entry[n] = string(text); return nil })
	})
	return code, facts, err
}

// eachField reads a protobuf message whose fields are varints (wire type 0) and strings or messages (2).
func eachField(raw []byte, field func(number, value uint64, content []byte) error) error {
	for len(raw) > 0 {
		tag, n := binary.Uvarint(raw)
		value, m := binary.Uvarint(raw[max(n, 0):])
		if n <= 0 || m <= 0 {
			return errors.New("protobuf: bad varint")
		}
		raw = raw[n+m:]
		var content []byte
		if tag&7 == 2 && value <= uint64(len(raw)) {
			content, raw = raw[:value], raw[value:]
		} else if tag&7 != 0 {
			return fmt.Errorf("protobuf: wire type %d, length %d", tag&7, value)
		}
		if err := field(tag>>3, value, content); err != nil {
			return err
		}
	}
	return nil
}

// addNumber and addBytes write such fields.
func addNumber(raw []byte, number, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(raw, number<<3), value)
}

func addBytes(raw []byte, number uint64, content []byte) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(raw, number<<3|2), uint64(len(content))), content...)
}
