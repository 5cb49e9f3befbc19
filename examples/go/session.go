package main

// One session of PROTOCOL.md: a sync and a hello, then requests in flight whose responses are matched by X-Request-ID.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	version    = "1"
	magic      = "\x16\x56\x96\xd6\xd6\x96\x56\xd6\x96\x96\xd6\x56\x56\xd6\xd6\x96" // ours: what is before it is void
	mark       = "HTTP/1.1 100 Continue\r\nvsrpc-sync: "                            // the server's
	noSession  = mark + "00000000000000000000000000000000"
	window     = 196608 // 15/16 of Linux's net.core.wmem_default, in whole 32 KiB
	perMessage = 2048   // what a message counts in the window besides its bytes

	helloTime = 2 * time.Second
	wayTime   = 500 * time.Millisecond // from the deadline in the guest until its answer must be here
	quietTime = 2 * time.Second        // without a byte, until we ask whether the session lives: a port does not tell
	deadTime  = 20 * time.Second       // until we believe that it does not
)

var (
	start      = time.Now()
	errMark    = errors.New("the guest knows of no session with us")
	errVersion = errors.New("the guest does not speak version " + version)
	errLost    = errors.New("session lost")
)

// Reply is a whole response.
type Reply struct {
	*http.Response
	Body []byte
}

type session struct {
	hello   http.Header // what the server says of itself
	id      string
	conn    net.Conn
	source  io.Reader // conn, after what came with the echo
	reader  *bufio.Reader
	tail    []byte // the last bytes read, where a mark may have begun
	marked  bool
	heard   atomic.Int64 // when a byte last came, by clock()
	counted int          // bytes of the window that the server has used, and how many halves of it we acknowledged
	acked   int
	half    int // 0: the server grants no window
	sending sync.Mutex
	mutex   sync.Mutex // pending, signs
	pending map[string]chan *Reply
	signs   *challenge    // nil: the guest wants no signatures
	over    chan struct{} // closed once lost says why
	lost    error
}

// open begins a session on a fresh connection. echoTime is how long the guest may take to notice us.
func open(conn net.Conn, echoTime time.Duration) (*session, error) {
	nonce := random(16)
	s := &session{id: nonce[:16], conn: conn, pending: map[string]chan *Reply{}, over: make(chan struct{})}
	s.reader = bufio.NewReaderSize(s, 1<<16)
	if err := s.begin(nonce, echoTime); err != nil {
		conn.Close()
		return nil, err
	}
	go s.receive()
	return s, nil
}

// leave closes, and says so where nothing is on its way to us: of others, the guest must take it that a part of the port
// is lost.
func (s *session) leave() {
	s.mutex.Lock()
	waiting := len(s.pending)
	s.mutex.Unlock()
	if waiting == 0 {
		s.write([]byte{4})
	}
	s.conn.Close()
}

func (s *session) begin(nonce string, echoTime time.Duration) error {
	s.conn.SetReadDeadline(time.Now().Add(echoTime))
	defer s.conn.SetReadDeadline(time.Time{})
	if err := s.write([]byte(magic + nonce)); err != nil {
		return err
	}
	id, ask := random(8), http.Header{"Vsrpc-Version": {version}, "Vsrpc-Window": {strconv.Itoa(window)}}
	if err := s.send(id, "OPTIONS", "*", ask, nil); err != nil {
		return err
	}
	if err := s.echo(nonce); err != nil {
		return err
	}
	s.conn.SetReadDeadline(time.Now().Add(helloTime))
	reply, err := s.next()
	if err != nil {
		return err
	}
	if reply.StatusCode == http.StatusHTTPVersionNotSupported || reply.Header.Get("Vsrpc-Version") != version {
		return fmt.Errorf("%w: status %d: %s", errVersion, reply.StatusCode, reply.Body)
	}
	if reply.StatusCode != http.StatusOK || reply.Header.Get("X-Request-ID") != id {
		return fmt.Errorf("hello: status %d: %s", reply.StatusCode, reply.Body)
	}
	s.hello, s.signs = reply.Header, challengeOf(reply.Header)
	if granted, err := strconv.Atoi(s.hello.Get("Vsrpc-Window")); err == nil { // else absent: a socket needs none
		s.half = granted / 2
	}
	return nil
}

// echo skips all that is not the echo of our nonce: it was for a client before us.
func (s *session) echo(nonce string) error {
	echo, chunk, seen := []byte(mark+nonce+"\r\n\r\n"), make([]byte, 4096), []byte{}
	for {
		n, err := s.conn.Read(chunk)
		seen = append(seen, chunk[:n]...)
		before, after, found := bytes.Cut(seen, echo)
		if bytes.Contains(before, []byte(noSession)) {
			return errMark
		}
		if found {
			s.source = io.MultiReader(bytes.NewReader(after), s.conn)
			s.count(len(echo)) // no message of its own
			return nil
		}
		if err != nil {
			return fmt.Errorf("no echo: %w", err)
		}
		seen = seen[max(0, len(seen)-len(echo)):]
	}
}

// Read is the source until a mark, which ends the session wherever it comes. Its first bytes may have been handed out
// before the rest of them came: no harm is done, since they are the whole of no head, and a body's checksum is wrong then.
func (s *session) Read(p []byte) (int, error) {
	if s.marked {
		return 0, errMark
	}
	n, err := s.source.Read(p)
	s.heard.Store(clock())
	s.count(n)
	before := len(s.tail)
	s.tail = append(s.tail, p[:n]...)
	if i := bytes.Index(s.tail, []byte(mark)); i >= 0 {
		s.marked = true
		return max(0, i-before), nil
	}
	s.tail = append([]byte{}, s.tail[max(0, len(s.tail)-len(mark)+1):]...)
	return n, err
}

// count acknowledges every whole half of the window that was read. In the background: while we wait for our turn to
// write, we must go on reading.
func (s *session) count(n int) {
	s.counted += n
	if s.half > 0 && s.counted/s.half > s.acked {
		acks := bytes.Repeat([]byte{6}, s.counted/s.half-s.acked)
		s.acked += len(acks)
		go s.write(acks)
	}
}

// call sends one request and waits for its response, whatever its status. The context's deadline travels.
func (s *session) call(ctx context.Context, method, target string, header http.Header, body []byte) (*Reply, error) {
	var late <-chan time.Time
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		header.Set("Connect-Timeout-Ms", strconv.FormatInt(max(1, left.Milliseconds()), 10))
		late = time.After(left + wayTime)
	}
	id, answer := random(8), make(chan *Reply, 1)
	defer s.take(id)
	request := func() error {
		s.mutex.Lock()
		s.pending[id] = answer
		signs := s.signs
		s.mutex.Unlock()
		if signs != nil {
			value, err := signs.sign(id, method, target, header, body)
			if err != nil {
				return err
			}
			header.Set("Authorization", value)
		}
		s.send(id, method, target, header, body) // an error of which ends the session
		return nil
	}
	if err := request(); err != nil {
		return nil, err
	}
	signedAnew := false
	ask := time.NewTicker(quietTime)
	defer ask.Stop()
	for {
		select {
		case reply := <-answer:
			// It did not run. The guest was paused, say, and its clock is behind.
			if fresh := challengeOf(reply.Header); fresh != nil && fresh.stale && !signedAnew {
				signedAnew = true
				s.mutex.Lock()
				s.signs = fresh
				s.mutex.Unlock()
				if err := request(); err != nil {
					return nil, err
				}
				continue
			}
			return reply, nil
		case <-s.over:
			return nil, s.lost
		case <-late:
			return nil, context.DeadlineExceeded
		case <-ask.C:
			if quiet := time.Duration(clock() - s.heard.Load()); quiet > deadTime {
				s.conn.Close()
			} else if quiet > quietTime {
				s.send(random(8), "OPTIONS", "*", nil, nil)
			}
		}
	}
}

func (s *session) take(id string) chan *Reply {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	defer delete(s.pending, id)
	return s.pending[id]
}

func (s *session) send(id, method, target string, header http.Header, body []byte) error {
	var message bytes.Buffer
	fmt.Fprintf(&message, "%s %s HTTP/1.1\r\nHost: guest\r\nX-Request-ID: %s\r\nVsrpc-Session: %s\r\n", method, target, id, s.id)
	header.Write(&message)
	if plain, key := body, make([]byte, 4); bytes.Contains(plain, []byte(magic)) { // the server would take it for a sync
		for bytes.Contains(body, []byte(magic)) {
			rand.Read(key)
			body = masked(plain, key)
		}
		fmt.Fprintf(&message, "Vsrpc-Mask: %x\r\n", key)
	}
	if len(body) > 0 {
		fmt.Fprintf(&message, "Vsrpc-Crc32: %s\r\n", checksum(body))
	}
	fmt.Fprintf(&message, "Content-Length: %d\r\n\r\n", len(body))
	message.Write(body)
	return s.write(message.Bytes())
}

// write ends the session when it fails: half a message may be on its way.
func (s *session) write(data []byte) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(deadTime))
	_, err := s.conn.Write(data)
	if err != nil {
		s.conn.Close()
	}
	return err
}

func (s *session) receive() {
	defer close(s.over)
	defer s.conn.Close()
	for {
		reply, err := s.next()
		if err != nil {
			s.lost = fmt.Errorf("%w: %w", errLost, err)
			return
		}
		if answer := s.take(reply.Header.Get("X-Request-ID")); answer != nil {
			answer <- reply
		}
		if reply.Close {
			s.lost = fmt.Errorf("%w: status %d: %.200s", errLost, reply.StatusCode, reply.Body)
			return
		}
	}
}

// next reads a message. http.ReadResponse is more lenient than PROTOCOL.md asks for; the checksum makes up for some of it.
func (s *session) next() (*Reply, error) {
	response, err := http.ReadResponse(s.reader, nil)
	if err != nil {
		return nil, err
	}
	if response.ContentLength < 0 {
		return nil, errors.New("a response without a length")
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if len(body) > 0 && response.Header.Get("Vsrpc-Crc32") != checksum(body) {
		return nil, errors.New("a response's checksum is wrong") // it was cut off, and other bytes followed
	}
	if text := response.Header.Get("Vsrpc-Mask"); text != "" {
		var key uint32
		if _, err := fmt.Sscanf(text, "%08x", &key); err != nil {
			return nil, err
		}
		body = masked(body, []byte{byte(key >> 24), byte(key >> 16), byte(key >> 8), byte(key)})
	}
	s.count(perMessage)
	return &Reply{response, body}, nil
}

func clock() int64 { return int64(time.Since(start)) } // nanoseconds, which no change of the time of day disturbs

func checksum(body []byte) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE(body)) }

func masked(body, key []byte) []byte {
	result := make([]byte, len(body))
	for i := range body {
		result[i] = body[i] ^ key[i%4]
	}
	return result
}

func random(bytes int) string {
	id := make([]byte, bytes)
	rand.Read(id)
	return fmt.Sprintf("%x", id)
}
