// Talks to a guest: go run . SOCKET PREFIX, where PREFIX begins the path of a file that it may write in the guest.
package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"sync"
	"time"
)

type message = map[string]any

func main() {
	log.SetFlags(0)
	guest, err := Dial(os.Args[1])
	check(err)
	defer guest.Close()
	fmt.Println("agent:", guest.Agent())
	ctx := context.Background()

	var info struct{ Hostname string }
	check(guest.Call(ctx, "/vsrpc.v1.System/Info", message{}, &info))
	fmt.Println("host name:", info.Hostname)

	var exec struct{ Stdout string } // text on REST routes, base64 on rpc paths
	file := os.Args[2] + "log"
	command := fmt.Sprintf("echo hello >> %[1]s; cat %[1]s", file) // once, whatever becomes of the link
	check(guest.REST(ctx, "POST", "/api/v1/shell/exec", message{"command": command}, &exec))
	fmt.Printf("stdout: %q\n", exec.Stdout)

	missing := os.Args[2] + "missing"
	var nothing message
	var byRPC, byREST, late *Error
	errors.As(guest.Call(ctx, "/vsrpc.v1.File/Download", message{"path": missing}, &nothing), &byRPC)
	errors.As(guest.REST(ctx, "GET", "/api/v1/file/chunked/download?path="+url.QueryEscape(missing), nil, &nothing), &byREST)
	fmt.Println("errors:", byRPC.Code, byREST.Code, byRPC.Facts["path"] == missing, byREST.Facts["path"] == missing)

	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	errors.As(guest.Call(short, "/vsrpc.v1.Shell/Exec", message{"command": "sleep 60"}, &nothing), &late)
	fmt.Println("deadline:", late.Code)

	content := make([]byte, 5<<20+5)
	rand.Read(content)
	copy(content[1<<20:], magic) // what files may contain and nobody must take for more than that
	copy(content[3<<20:], noSession)
	path := os.Args[2] + "go.bin"
	upload(ctx, guest, path, content)
	fmt.Println("same content:", bytes.Equal(content, download(ctx, guest, path)))
}

// upload sends all chunks at once: they may arrive in any order.
func upload(ctx context.Context, guest *Client, path string, content []byte) {
	var begun struct {
		SessionID string `json:"session_id"`
		ChunkSize int    `json:"chunk_size"`
	}
	check(guest.Call(ctx, "/vsrpc.v1.File/InitUpload", message{"path": path, "size": len(content)}, &begun))
	var chunks sync.WaitGroup
	for start := 0; start < len(content); start += begun.ChunkSize {
		chunks.Add(1)
		go func(offset int) {
			defer chunks.Done()
			chunk := content[offset:min(offset+begun.ChunkSize, len(content))]
			in := addBytes(nil, 1, []byte(begun.SessionID)) // protobuf: in JSON, bytes are longer by a third
			in = addBytes(addNumber(in, 2, uint64(offset)), 4, chunk)
			_, err := guest.RPC(ctx, "/vsrpc.v1.File/UploadChunk", "application/proto", in)
			check(err)
		}(start)
	}
	chunks.Wait()
	digest := md5.Sum(content)
	in, out := message{"session_id": begun.SessionID, "md5": hex.EncodeToString(digest[:])}, message{}
	check(guest.Call(ctx, "/vsrpc.v1.File/FinishUpload", in, &out))
}

func download(ctx context.Context, guest *Client, path string) (content []byte) {
	for more := true; more; {
		in := addNumber(addBytes(nil, 1, []byte(path)), 2, uint64(len(content)))
		out, err := guest.RPC(ctx, "/vsrpc.v1.File/DownloadChunk", "application/proto", in)
		check(err)
		more = false // as a field that is absent
		check(eachField(out, func(number, value uint64, bytes []byte) error {
			switch number {
			case 2:
				content = append(content, bytes...)
			case 7:
				more = value != 0
			}
			return nil
		}))
	}
	return content
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
