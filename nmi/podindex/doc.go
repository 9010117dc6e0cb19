// Package podindex knows the pods of one node: which pod has a source address,
// and which identities are assigned to it.
//
// It is fed by watches and answers from memory. Four properties make it safe to
// hand out tokens by:
//
//   - A pod matches by address only while it is live, and never when it runs on
//     the host's network: its address is the node's.
//   - Two live pods with one address match neither. When an address has been
//     reused, the pod that is not terminating has it.
//   - A terminating pod keeps its address only as long as no pod of the node is
//     waiting for one: the kubelet reports a new pod's address late, and until
//     then the old owner's entry would speak for the new pod.
//   - After a reboot of the node a pod has no address until the kubelet has reported
//     it anew: the API server still tells the addresses of before.
//
// Whoever waits for a change waits on a channel, never on a timer.
package podindex
