// Package soak says at which size tests run: as make test does, in minutes, or at
// the full size that make soak asks for with SOAK=1 in the environment.
package soak

import (
	"os"
	"testing"
)

// variable is what make soak sets.
const variable = "SOAK"

// Size is how many of something a test does: full in a soak, ordinary else. The
// test's output says which.
func Size(t testing.TB, what string, ordinary, full int) int {
	t.Helper()
	if os.Getenv(variable) == "1" {
		t.Logf("%s: %d, the full size", what, full)
		return full
	}
	t.Logf("%s: %d (%d with make soak)", what, ordinary, full)
	return ordinary
}

// Only leaves a test to make soak: it repeats at full length what others show.
func Only(t testing.TB) {
	t.Helper()
	if os.Getenv(variable) != "1" {
		t.Skip("runs with make soak")
	}
}
