package main

// A session of PROTOCOL.md: HTTP/1.1 on a UNIX socket, a hello, then calls in flight matched by X-Request-ID.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	version   = "1"
	attempts  = 2                      // a hello can be lost in what an interrupted client left half sent
	helloTime = 2 * time.Second        // for each of them
	leaveTime = 50 * time.Millisecond  // between them, for the guest to see that we left
	wayTime   = 500 * time.Millisecond // from the deadline in the guest until its answer must be here
)

// Reply is a whole response.
type Reply struct {
	*http.Response
	Body []byte
}

// Client is one session. Its methods may be called from several goroutines.
type Client struct {
	Hello   http.Header // what the server says of itself
	conn    net.Conn
	sending sync.Mutex
	mutex   sync.Mutex // pending
	pending map[string]chan *Reply
	over    chan struct{} // closed once `lost` says why
	lost    error
}

// Dial connects to the socket at path and says hello.
func Dial(path string) (*Client, error) {
	var err error
	for attempt := 0; attempt < attempts; attempt++ {
		time.Sleep(time.Duration(attempt) * leaveTime)
		var conn net.Conn
		if conn, err = net.Dial("unix", path); err != nil {
			return nil, err
		}
		c := &Client{conn: conn, pending: map[string]chan *Reply{}, over: make(chan struct{})}
		reader := bufio.NewReader(conn)
		if err = c.hello(reader); err == nil {
			go c.receive(reader)
			return c, nil
		}
		conn.Close()
	}
	return nil, fmt.Errorf("%s: no vsrpc daemon of version %s answers: %w", path, version, err)
}

func (c *Client) hello(reader *bufio.Reader) error {
	c.conn.SetDeadline(time.Now().Add(helloTime))
	defer c.conn.SetDeadline(time.Time{})
	id := newID()
	if err := c.send(id, "OPTIONS", "*", http.Header{"Vsrpc-Version": {version}}, nil); err != nil {
		return err
	}
	for {
		reply, err := read(reader)
		if err != nil {
			return err
		}
		if got := reply.Header.Get("X-Request-ID"); got != id && got != "" {
			continue // meant for the client before us
		}
		if reply.StatusCode != http.StatusOK || reply.Header.Get("Vsrpc-Version") != version {
			return fmt.Errorf("status %d: %s", reply.StatusCode, reply.Body)
		}
		c.Hello = reply.Header
		return nil
	}
}

// Close ends the session, which cancels what still runs for it.
func (c *Client) Close() { c.conn.Close() }

// Do sends one request and waits for its response, whatever its status. The context's deadline travels.
func (c *Client) Do(ctx context.Context, method, target string, header http.Header, body []byte) (*Reply, error) {
	var late <-chan time.Time
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		header = header.Clone()
		header.Set("Connect-Timeout-Ms", strconv.FormatInt(max(1, left.Milliseconds()), 10))
		late = time.After(left + wayTime)
	}
	id, answer := newID(), make(chan *Reply, 1)
	c.mutex.Lock()
	c.pending[id] = answer
	c.mutex.Unlock()
	defer c.take(id)
	if err := c.send(id, method, target, header, body); err != nil {
		return nil, err
	}
	select {
	case reply := <-answer:
		return reply, nil
	case <-c.over:
		return nil, c.lost
	case <-late:
		return nil, context.DeadlineExceeded
	}
}

func (c *Client) take(id string) chan *Reply {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	defer delete(c.pending, id)
	return c.pending[id]
}

func (c *Client) send(id, method, target string, header http.Header, body []byte) error {
	var message bytes.Buffer
	fmt.Fprintf(&message, "%s %s HTTP/1.1\r\nHost: guest\r\nX-Request-ID: %s\r\n", method, target, id)
	header.Write(&message)
	fmt.Fprintf(&message, "Content-Length: %d\r\n\r\n", len(body))
	message.Write(body)
	c.sending.Lock()
	defer c.sending.Unlock()
	_, err := c.conn.Write(message.Bytes())
	return err
}

func (c *Client) receive(reader *bufio.Reader) {
	defer close(c.over)
	defer c.conn.Close()
	for {
		reply, err := read(reader)
		if err != nil {
			c.lost = fmt.Errorf("connection lost: %w", err)
			return
		}
		if answer := c.take(reply.Header.Get("X-Request-ID")); answer != nil {
			answer <- reply
		}
		if reply.Close {
			c.lost = fmt.Errorf("session ended by the guest: status %d: %.200s", reply.StatusCode, reply.Body)
			return
		}
	}
}

func read(reader *bufio.Reader) (*Reply, error) {
	for {
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, err
		}
		if response.StatusCode >= http.StatusOK { // else an interim one
			return &Reply{response, body}, nil
		}
	}
}

func newID() string {
	id := make([]byte, 8)
	rand.Read(id)
	return hex.EncodeToString(id)
}
