// Package arch holds the rules of the architecture that a linter cannot see:
// what a binary links, and what every package owes its readers. It has only
// tests.
package arch
