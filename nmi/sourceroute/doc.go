// Package sourceroute checks that a connection came in on the interface by which the
// node reaches its source address. NMI knows pods by nothing but that address, and a
// pod with CAP_NET_RAW can send from the address of another (CVE-2021-1677).
//
// Where every pod has a route and an interface of its own, as with Azure CNI, Calico
// and the ptp plugin, this tells pods apart. On a bridge it does not: there such a pod
// can also have the other one's packets sent to itself, and so read its answers, which
// nothing that NMI looks at would show.
package sourceroute
