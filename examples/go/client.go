package main

// A client that begins a session when it needs one, and repeats a call once whose session was lost.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	connectTime  = 15 * time.Second
	leaveTime    = 5 * time.Millisecond   // for the guest to see that a client has left; doubled each time
	echoTime     = 250 * time.Millisecond // how soon a guest that hears us answers; the same
	longEchoTime = 8 * time.Second
)

// Client is a guest, by the path of its socket. Its methods may be called from several goroutines.
type Client struct {
	path    string
	mutex   sync.Mutex // the following
	session *session
	closed  bool
}

// Dial returns once the guest has answered.
func Dial(path string) (*Client, error) {
	c := &Client{path: path}
	if _, err := c.current(); err != nil {
		return nil, err
	}
	return c, nil
}

// Agent is the program in the guest and its version.
func (c *Client) Agent() string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.session.hello.Get("Vsrpc-Agent")
}

// Close ends the session, which cancels what still runs for it without a key.
func (c *Client) Close() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.closed = true
	c.session.leave()
}

// current returns the session, or a new one where that is over.
func (c *Client) current() (*session, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	if c.session != nil {
		select {
		case <-c.session.over:
			time.Sleep(leaveTime)
		default:
			return c.session, nil
		}
	}
	fresh, err := connect(c.path)
	if err != nil {
		return nil, err
	}
	c.session = fresh
	return fresh, nil
}

func connect(path string) (*session, error) {
	began, leave, echo := time.Now(), leaveTime, echoTime
	for {
		var s *session
		turn := time.Now()
		conn, err := net.Dial("unix", path)
		if err == nil {
			s, err = open(conn, echo)
		} else if !errors.Is(err, syscall.EAGAIN) { // too many clients wait for their turn
			return nil, err
		}
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, errVersion):
			return nil, err
		case time.Since(began) > connectTime:
			return nil, fmt.Errorf("%s: no vsrpc daemon answers: %w", path, err)
		case errors.Is(err, errMark): // a daemon is there, and waits until the client before it has left, which we are
			time.Sleep(leave)
			leave *= 2
		default: // our sync was lost in what another left half sent, or QEMU is deaf until its client is replaced
			time.Sleep(echo - time.Since(turn))
			echo = min(2*echo, longEchoTime)
		}
	}
}

// Do sends one request and waits for its response, whatever its status. A deadline travels to the guest. If the session is lost meanwhile the request is
// sent once more: one with an Idempotency-Key has no second effect, and one without must be harmless to repeat.
func (c *Client) Do(ctx context.Context, method, target string, header http.Header, body []byte) (*Reply, error) {
	s, err := c.current()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	reply, err := s.call(ctx, method, target, header, body)
	if !errors.Is(err, errLost) {
		return reply, err
	}
	if header.Get("Idempotency-Key") != "" { // so that a guest that cannot know refuses: restarted since, or too late
		header.Set("Vsrpc-Instance", s.hello.Get("Vsrpc-Instance"))
		header.Set("Vsrpc-Retry-Age-Ms", strconv.FormatInt(time.Since(began).Milliseconds(), 10))
	}
	if s, err = c.current(); err != nil {
		return nil, fmt.Errorf("whether it took effect is not known: %w", err)
	}
	return s.call(ctx, method, target, header, body)
}
