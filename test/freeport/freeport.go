// Package freeport finds TCP ports for servers of tests that cannot be given a
// listener: other processes, and servers that end and start again.
package freeport

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/hashicorp/consul/sdk/freeport"
)

// Find returns a port of 127.0.0.1 that is the caller's until this process ends: no
// other process is given it, and the kernel gives it to nobody who asks for any port.
func Find() (string, error) {
	ports, err := freeport.Take(1)
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return strconv.Itoa(ports[0]), nil
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
