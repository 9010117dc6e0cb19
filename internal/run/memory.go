package run

import "runtime/debug"

// LimitGarbage sets how far the heap may grow beyond what is in use before it is
// cleared, in percent, unless $GOGC says it. A component knows better than the
// default of 100 what its heap is made of.
func LimitGarbage(getenv func(string) string, percent int) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
