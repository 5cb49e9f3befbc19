package main

// Signed requests (PROTOCOL.md, Authentication), for guests that ask for them: the key is the environment's VSRPC_KEY.

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

const scheme = "VSRPC1-HMAC-SHA256"

var signedFields = []string{"Connect-Timeout-Ms", "Content-Encoding", "Content-Type", "Idempotency-Key", "Vsrpc-Instance",
	"Vsrpc-Retry-Age-Ms"} // and X-Request-ID

// challenge is what to sign for: an instance of the guest, and its time, in milliseconds, when we heard of it.
type challenge struct {
	instance string
	time     int64
	heard    time.Time
	stale    bool
}

// challengeOf returns nil where the guest wants no signatures.
func challengeOf(header http.Header) *challenge {
	c := &challenge{heard: time.Now()}
	text := strings.NewReplacer("=", " ", ",", "").Replace(header.Get("WWW-Authenticate"))
	if n, _ := fmt.Sscanf(text, scheme+" instance %s time %d", &c.instance, &c.time); n != 2 {
		return nil
	}
	c.stale = strings.HasSuffix(text, " stale true")
	return c
}

// sign returns the value of Authorization.
func (c *challenge) sign(id, method, target string, header http.Header, body []byte) (string, error) {
	name, digits, _ := strings.Cut(os.Getenv("VSRPC_KEY"), " ")
	secret, err := hex.DecodeString(digits)
	if err != nil || len(secret) == 0 {
		return "", fmt.Errorf("the guest takes only signed requests: set VSRPC_KEY to NAME SECRET, the secret in hexadecimal digits")
	}
	now, nonce := c.time+time.Since(c.heard).Milliseconds(), random(16)
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%d\n%s\n%s\n%s\n", scheme, name, c.instance, now, nonce, method, target)
	for _, field := range signedFields {
		if value := header.Get(field); value != "" {
			fmt.Fprintf(mac, "%s: %s\n", strings.ToLower(field), value)
		}
	}
	fmt.Fprintf(mac, "x-request-id: %s\n%x\n", id, sha256.Sum256(body))
	return fmt.Sprintf("%s key=%s, instance=%s, time=%d, nonce=%s, signature=%x", scheme, name, c.instance, now, nonce, mac.Sum(nil)), nil
}
