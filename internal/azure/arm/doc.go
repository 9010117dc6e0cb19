// Package arm is what every client of Azure Resource Manager here has in
// common: the options of its pipeline, a budget of calls per subscription that
// obeys Retry-After, and ARM's failures as typed errors that callers tell apart
// by meaning instead of by status code or text.
package arm
