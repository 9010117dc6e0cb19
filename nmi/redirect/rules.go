package redirect

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const (
	table = "nat"
	hook  = "PREROUTING"
	chain = "aad-metadata"
)

// Target is what is redirected, and where to.
type Target struct {
	// Metadata is the address of the instance metadata service.
	Metadata     netip.Addr
	MetadataPort uint16
	// NMI is where NMI listens, an address of this node and of the same family.
	NMI netip.AddrPort
}

// Redirect is a target in the tables of its family.
type Redirect struct {
	Tables IPTables
	Target Target
}

// Discard is an address that nothing is behind, of the prefix that RFC 6666 sets aside
// for that. What is redirected to it reaches nobody.
var Discard = netip.MustParseAddr("100::1")

// Validate says what is wrong with the target.
func (t Target) Validate() error {
	from, to := t.Metadata, t.NMI.Addr()
	if !from.IsValid() || from.BitLen() != to.BitLen() || from.Is4In6() || to.Is4In6() || from.Zone() != "" || to.Zone() != "" {
		return fmt.Errorf("redirect from %s to %s: both must be IPv4 addresses, or both IPv6 addresses", from, to)
	}
	return nil
}

// only is the prefix of one address.
func only(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// loopback is the prefix that processes of the node send from over that interface.
func (t Target) loopback() string {
	if t.Metadata.Is4() {
		return "127.0.0.1/32"
	}
	return only(netip.IPv6Loopback())
}

// rule is a rule without its chain, as arguments of iptables. Its order of
// matches is the one in which iptables prints it.
type rule []string

func (r rule) String() string { return strings.Join(r, " ") }

// rules are the rules of our chain, in order.
func (t Target) rules() []rule {
	return []rule{
		{
			"!", "-s", t.loopback(), "-d", only(t.Metadata), "-p", "tcp", "-m", "tcp",
			"--dport", strconv.Itoa(int(t.MetadataPort)), "-j", "DNAT", "--to-destination", t.NMI.String(),
		},
		{"-j", "RETURN"},
	}
}

// jump leads all packets to our chain, which picks its own.
func jump() rule { return rule{"-j", chain} }

// standIn does the work of the jump while the jump is being moved. It differs in
// its text, so that deleting the one by its text spares the other.
func (t Target) standIn() rule {
	return rule{"-d", only(t.Metadata), "-j", chain}
}

// listed are the rules of a chain in what iptables -S printed of it.
func listed(c string, lines []string) []string {
	var rules []string
	for _, l := range lines {
		if r, ok := strings.CutPrefix(l, "-A "+c+" "); ok {
			rules = append(rules, r)
		}
	}
	return rules
}

// step is one change of our chain, at a position counted from 1.
type step struct {
	insert   rule // nil deletes
	position int
}

// plan turns the current rules of our chain into the desired ones: all inserts
// come first, then the stale rules go, from the last one up.
func plan(current []string, desired []rule) []step {
	have := append([]string(nil), current...)
	var steps []step
	for i, d := range desired {
		if i < len(have) && have[i] == d.String() {
			continue
		}
		steps = append(steps, step{insert: d, position: i + 1})
		have = append(have[:i], append([]string{d.String()}, have[i:]...)...)
	}
	for i := len(have); i > len(desired); i-- {
		steps = append(steps, step{position: i})
	}
	return steps
}
