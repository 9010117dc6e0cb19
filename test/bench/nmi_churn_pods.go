package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// churnCommand is the name under which this program is the processes of pods that
// come and go, in their network namespace.
const churnCommand = "nmi-churn-pods"

// churnPause is between two requests of a process, churnHurry when its identity is
// about to be withdrawn. Each pod has two processes: one with a connection of its own
// for each request, one that keeps its connection.
const (
	churnPause = 2500 * time.Millisecond
	churnHurry = 50 * time.Millisecond
)

// churnProcesses are those of one pod.
type churnProcesses struct {
	end   context.CancelFunc
	hurry chan struct{}
}

// churnMain starts and ends pods as it is told, and tells of the tokens they get.
func churnMain(ctx context.Context, in io.Reader, out io.Writer) error {
	var mu sync.Mutex
	answers := json.NewEncoder(out)
	answer := func(a churnAnswer) {
		mu.Lock()
		defer mu.Unlock()
		_ = answers.Encode(a) // who reads has the error
	}
	running := map[int]churnProcesses{}
	var processes sync.WaitGroup
	defer processes.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	orders := bufio.NewScanner(in)
	for orders.Scan() {
		var o churnOrder
		if err := json.Unmarshal(orders.Bytes(), &o); err != nil {
			return fmt.Errorf("reading an order: %w", err)
		}
		switch {
		case o.Hurry:
			close(running[o.Pod].hurry)
			continue
		case o.Address == "":
			running[o.Pod].end()
			delete(running, o.Pod)
			continue
		}
		alive, end := context.WithCancel(ctx)
		hurry := make(chan struct{})
		running[o.Pod] = churnProcesses{end, hurry}
		var own sync.WaitGroup
		for _, keep := range []bool{true, false} {
			own.Go(func() {
				askWhile(alive, o.Address, keep, hurry, func(clientID string, sent time.Time) {
					answer(churnAnswer{Pod: o.Pod, ClientID: clientID, Sent: sent})
				})
			})
		}
		processes.Go(func() {
			own.Wait()
			answer(churnAnswer{Pod: o.Pod, Ended: true})
		})
	}
	return orders.Err()
}

// askWhile asks from an address until the pod ends.
func askWhile(alive context.Context, address string, keep bool, hurry <-chan struct{}, got func(clientID string, sent time.Time)) {
	tr := &http.Transport{
		DialContext:       (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext,
		DisableKeepAlives: !keep,
	}
	defer tr.CloseIdleConnections()
	tick := time.NewTicker(churnPause)
	defer tick.Stop()
	for {
		sent := time.Now()
		if clientID, err := askToken(alive, tr); err == nil {
			got(clientID, sent)
		}
		select {
		case <-tick.C:
		case <-hurry:
			hurry = nil
			tick.Reset(churnHurry)
		case <-alive.Done():
			return
		}
	}
}

// askToken returns whose token came, as the token itself says.
func askToken(ctx context.Context, tr http.RoundTripper) (clientID string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metadataTo+tokenPath, nil)
	if err != nil {
		return "", fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Metadata", "true")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" {
		return "", fmt.Errorf("%s: %s", resp.Status, body)
	}
	parts := strings.Split(answer.AccessToken, ".")
	if len(parts) != 3 {
		return "no token", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "unreadable", nil // a token it is not, and so the wrong one
	}
	var claims struct {
		AppID string `json:"appid"`
	}
	_ = json.Unmarshal(raw, &claims) // without the claim it is the wrong one
	return claims.AppID, nil
}
