// Package freeport finds TCP ports for the servers of tests.
package freeport

import (
	"fmt"
	"net"
	"testing"
)

// Find returns a port of 127.0.0.1 that nothing listens on now.
func Find() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // bound and closed at once
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// Get is Find for a test, which ends without a port.
func Get(t testing.TB) string {
	t.Helper()
	port, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
