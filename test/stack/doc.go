// Package stack puts together what the demo and the end-to-end tests run on: a
// real Kubernetes node with cert-manager (test/cluster), the Azure emulator as a
// process beside it (test/azure/emulator), the product's images built from this
// tree, and the Helm release. It knows the product only from outside: images,
// chart, kubectl.
package stack
