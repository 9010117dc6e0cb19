package main

import "runtime/debug"

// gcPercent is how far the heap may grow beyond what is in use before it is
// cleared. What a review leaves is garbage at once and the caches are small, so
// that the default of 100 would buy speed that nobody needs with memory.
const gcPercent = 25

// limitGarbage makes the garbage collector run more often, unless the
// environment says how often.
func limitGarbage(env func(string) (string, bool)) {
	if value, set := env("GOGC"); !set || value == "" {
		debug.SetGCPercent(gcPercent)
	}
}
