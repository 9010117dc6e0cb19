// Package redirect keeps the iptables rules that send the pods' requests for the
// instance metadata service to NMI.
//
// In the nat table, a chain of our own does the redirect and one jump in
// PREROUTING leads to it:
//
//	-A PREROUTING -j aad-metadata
//	-A aad-metadata ! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination <node>:2579
//	-A aad-metadata -j RETURN
//
// Where the service has an IPv6 address, the same is kept in the tables of IPv6.
// Nothing else is touched. A repair never opens a gap: what is missing is
// inserted before what is stale is deleted, so that at no instant a pod's request
// finds the way to the real service. The rules outlive the process for the same
// reason; Remove takes them away when the release is uninstalled.
package redirect
