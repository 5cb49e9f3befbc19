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
	fmt.Println("agent:", guest.Hello.Get("Vsrpc-Agent"))
	ctx := context.Background()

	var info struct{ Hostname string }
	check(guest.Call(ctx, "/vsrpc.v1.System/Info", message{}, &info))
	fmt.Println("host name:", info.Hostname)

	var exec struct{ Stdout string } // text on REST routes, base64 on rpc paths
	check(guest.REST(ctx, "POST", "/api/v1/shell/exec", message{"command": "echo hello"}, &exec))
	fmt.Print("stdout: ", exec.Stdout)

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
			in, out := message{"session_id": begun.SessionID, "offset": offset, "content": chunk}, message{}
			check(guest.Call(ctx, "/vsrpc.v1.File/UploadChunk", in, &out))
		}(start)
	}
	chunks.Wait()
	digest := md5.Sum(content)
	in, out := message{"session_id": begun.SessionID, "md5": hex.EncodeToString(digest[:])}, message{}
	check(guest.Call(ctx, "/vsrpc.v1.File/FinishUpload", in, &out))
}

func download(ctx context.Context, guest *Client, path string) (content []byte) {
	for {
		var chunk struct {
			Content []byte
			MD5     string `json:"chunk_md5"`
			HasMore bool   `json:"has_more"`
		}
		query := url.Values{"path": {path}, "offset": {fmt.Sprint(len(content))}}
		check(guest.REST(ctx, "GET", "/api/v1/file/chunked/download?"+query.Encode(), nil, &chunk))
		if digest := md5.Sum(chunk.Content); hex.EncodeToString(digest[:]) != chunk.MD5 {
			log.Fatal("a chunk is not what was sent")
		}
		content = append(content, chunk.Content...)
		if !chunk.HasMore {
			return content
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
