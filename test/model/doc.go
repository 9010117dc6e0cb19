// Package model holds MIC against a model of it: random histories of what users,
// nodes, Azure and failures do, on a real API server and the Azure emulator, and
// after each quiet period the assignments in both must be those that a hundred
// lines of plain logic (facts_test.go) say. A crash test kills MIC before and
// after each of its calls. It has only tests.
//
//	go test ./test/model                                        # a fixed seed, a minute at most
//	go test ./test/model -run Histories -args -seed=7 -histories=1000
//	go test ./test/model -run Crashes -args -every=1
package model
