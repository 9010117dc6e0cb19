package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
)

// bareCommand is the name under which this program is NMI's baseline: net/http as
// it is, which writes one answer to whoever asks.
const bareCommand = "nmi-bare"

func bareMain(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: %s ADDRESS FILE", bareCommand)
	}
	body, err := os.ReadFile(args[1])
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	srv := &http.Server{Addr: args[0], ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Cache-Control", "no-store")
		_, _ = w.Write(body)
	})}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the baseline: %w", err)
	}
	return nil
}

// redirectBare sends what pods send to bareIP on to the baseline, by the rule that
// NMI has for itself.
func redirectBare(port string) error {
	t, err := redirect.NewIPTables()
	if err != nil {
		return err
	}
	err = t.Insert("nat", "PREROUTING", 1, "!", "-s", "127.0.0.1/32", "-d", bareIP+"/32", "-p", "tcp", "-m", "tcp", "--dport", "80",
		"-j", "DNAT", "--to-destination", nmiNodeIP+":"+port)
	if err != nil {
		return fmt.Errorf("redirecting to the baseline: %w", err)
	}
	return nil
}
