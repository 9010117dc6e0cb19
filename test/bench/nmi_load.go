package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// loadCommand is the name under which this program is the pods: `ip netns exec`
// starts it in their network namespace.
const loadCommand = "nmi-load"

// traffic is what pods send.
type traffic struct {
	// To is the address that is asked, as host:port.
	To, Path string
	// From are the source addresses, which take turns.
	From []string
	// Connections are used by one request after the other.
	Connections int
	// Requests of each connection; 0 goes on for Seconds.
	Requests int
	Seconds  float64
}

// trafficResult is what came of it.
type trafficResult struct {
	Answered, Failed int
	// Failure is the first one.
	Failure  string
	Seconds  float64
	P50, P99 float64 // in milliseconds
	// Body of the last answer, if there was one connection.
	Body string
	// Last is when the last answer came, in nanoseconds of the Unix epoch.
	Last int64
}

func (r trafficResult) rate() float64 { return float64(r.Answered) / r.Seconds }

// send runs the load in the pods' namespace.
func (w *nmiWorld) send(ctx context.Context, l traffic) (trafficResult, error) {
	var r trafficResult
	self, err := os.Executable()
	if err != nil {
		return r, fmt.Errorf("finding this program: %w", err)
	}
	in, err := json.Marshal(l)
	if err != nil {
		return r, fmt.Errorf("encoding the load: %w", err)
	}
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", podNamespace(w.scenario), self, loadCommand, string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("sending requests: %w", err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("reading what came of the requests: %w", err)
	}
	if r.Failed > 0 {
		return r, fmt.Errorf("%d of %d requests failed, the first one with %s", r.Failed, r.Failed+r.Answered, r.Failure)
	}
	return r, nil
}

// loadMain is the program in the pods' namespace.
func loadMain(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet(loadCommand, flag.ContinueOnError)
	if err := fs.Parse(args); err != nil {
		return err
	}
	var l traffic
	if err := json.Unmarshal([]byte(fs.Arg(0)), &l); err != nil {
		return fmt.Errorf("reading the load: %w", err)
	}
	return json.NewEncoder(out).Encode(l.run(ctx))
}

// run opens connections, and sends requests on each: for a number of requests as
// soon as it is open, since NMI waits for a request for some seconds only, and for
// some time once all are.
func (l traffic) run(ctx context.Context) trafficResult {
	const dialers = 64
	dialing := make(chan struct{}, dialers)
	dial := func(i int) (net.Conn, error) {
		dialing <- struct{}{}
		defer func() { <-dialing }()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(l.From[i%len(l.From)])}}
		return d.DialContext(ctx, "tcp", l.To)
	}
	request := []byte("GET " + l.Path + " HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nUser-Agent: bench\r\n\r\n")
	var mu sync.Mutex
	var r trafficResult
	var took durations
	begin := make(chan struct{})
	var open, running sync.WaitGroup
	deadline := time.Time{}
	open.Add(l.Connections)
	started := time.Now()
	for i := range l.Connections {
		running.Go(func() {
			var mine durations
			var body []byte
			c, failure := dial(i)
			open.Done()
			if failure == nil {
				defer func() { _ = c.Close() }()
			}
			reader := bufio.NewReader(c)
			if l.Requests == 0 {
				<-begin
			}
			for n := 0; ctx.Err() == nil && failure == nil; n++ {
				if l.Requests > 0 && n == l.Requests || l.Requests == 0 && time.Now().After(deadline) {
					break
				}
				sent := time.Now()
				if _, failure = c.Write(request); failure == nil {
					body, failure = readAnswer(reader, body)
				}
				if failure == nil {
					mine = append(mine, time.Since(sent))
				}
			}
			last := time.Now().UnixNano()
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			r.Last = max(r.Last, last)
			if l.Connections == 1 {
				r.Body = string(body)
			}
			if failure != nil {
				if r.Failed++; r.Failed == 1 {
					r.Failure = failure.Error()
				}
			}
		})
	}
	if l.Requests == 0 {
		open.Wait()
		started = time.Now()
		deadline = started.Add(time.Duration(l.Seconds * float64(time.Second)))
		close(begin)
	}
	running.Wait()
	r.Seconds, r.Answered = time.Since(started).Seconds(), len(took)
	r.P50, r.P99 = took.percentile(50), took.percentile(99)
	return r
}

// readAnswer reads the body of an answer, which must be 200, into a buffer. A full
// HTTP client would cost more than the servers that are compared.
func readAnswer(r *bufio.Reader, buffer []byte) ([]byte, error) {
	status, length := "", -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if status == "" {
			status = string(line)
			continue
		}
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return nil, fmt.Errorf("reading the answer: %w", err)
			}
		}
	}
	if length < 0 {
		return nil, errors.New("the answer does not say how long it is")
	}
	body := slices.Grow(buffer[:0], length)[:length]
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		return nil, fmt.Errorf("%s: %s", status, body)
	}
	return body, nil
}
