package main

import "runtime/debug"

// gcPercent is how far the heap may grow beyond what is in use before it is cleared.
// Nearly all of the heap is the caches, which stay, so that with the default of 100
// a large cluster would need twice their size.
const gcPercent = 50

// limitGarbage makes the garbage collector run more often, unless the environment
// says how often.
func limitGarbage(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
