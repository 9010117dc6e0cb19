package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
)

const (
	tokenURL = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
	// loadTimeout bounds one request.
	loadTimeout = 30 * time.Second
	// maxPrinted bounds how many failures are printed.
	maxPrinted = 20
)

type loadOptions struct {
	until   string
	clients int
	pause   time.Duration
}

func (o *loadOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.until, "until", "", "stop when this file exists")
	fs.IntVar(&o.clients, "clients", 4, "how many ask at a time; every other one opens a connection for each request")
	fs.DurationVar(&o.pause, "pause", 5*time.Millisecond, "of each between two requests")
}

// load asks for tokens, each client one after the other and never again for one
// that failed, until a file exists. It prints the failures and the counts.
func load(ctx context.Context, o loadOptions, out io.Writer) error {
	var mu sync.Mutex
	answered, failed := 0, 0
	done := func() bool {
		_, err := os.Stat(o.until)
		return err == nil || ctx.Err() != nil
	}
	var wg sync.WaitGroup
	for i := range o.clients {
		tr := &http.Transport{DisableKeepAlives: i%2 == 0}
		wg.Go(func() {
			defer tr.CloseIdleConnections()
			pause := time.NewTicker(o.pause)
			defer pause.Stop()
			for ; !done(); <-pause.C {
				_, err := getToken(ctx, tr)
				mu.Lock()
				if err == nil {
					answered++
				} else if failed++; failed <= maxPrinted {
					fmt.Fprintf(out, "%s failed: %v\n", time.Now().UTC().Format(time.StampMilli), err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	fmt.Fprintf(out, "%d answered, %d failed\n", answered, failed)
	return ctx.Err()
}

// getToken sends one request and returns the answer with the token. The request's
// body keeps the transport from sending it again by itself when the server closes
// the connection.
func getToken(ctx context.Context, tr http.RoundTripper) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, tokenURL, struct{ io.Reader }{strings.NewReader("x")})
	if err != nil {
		return nil, err
	}
	req.ContentLength = 1
	req.Header.Set("Metadata", "true")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("access_token")) {
		return nil, fmt.Errorf("status %d: %.200s", resp.StatusCode, hideToken(body))
	}
	return body, nil
}
