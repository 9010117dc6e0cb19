// Package e2e holds the end-to-end tests: the installed product on a real node,
// watched through kubectl, the node's iptables, the Azure emulator and a
// workload with the unmodified SDK. It has only tests; `make e2e` runs them.
package e2e
