package cluster

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// Chains of our own; everything else in them is written by kube-proxy, the kubelet and NMI.
const (
	postroutingChain = "AAD-CLUSTER-POSTROUTING"
	forwardChain     = "AAD-CLUSTER-FORWARD"
)

// ownRules is applied with iptables-restore --noflush: the chain lines create or empty our two chains.
const ownRules = `*nat
:` + postroutingChain + ` - [0:0]
-A ` + postroutingChain + ` -s ` + podCIDR + ` ! -d ` + podCIDR + ` -j MASQUERADE
COMMIT
*filter
:` + forwardChain + ` - [0:0]
-A ` + forwardChain + ` -i ` + bridgeName + ` -j ACCEPT
-A ` + forwardChain + ` -o ` + bridgeName + ` -j ACCEPT
COMMIT
`

// ensureRules lets pods reach the outside under the machine's address, and lets forwarded
// packets of pods pass where another program (Docker) sets the policy to DROP.
func ensureRules(ctx context.Context) error {
	if _, err := run(ctx, ownRules, "iptables-restore", "--wait", "--noflush"); err != nil {
		return fmt.Errorf("writing iptables rules: %w", err)
	}
	for _, jump := range [][]string{{"nat", "POSTROUTING", postroutingChain}, {"filter", "FORWARD", forwardChain}} {
		if _, err := run(ctx, "", "iptables", "--wait", "-t", jump[0], "-C", jump[1], "-j", jump[2]); err == nil {
			continue
		}
		if _, err := run(ctx, "", "iptables", "--wait", "-t", jump[0], "-A", jump[1], "-j", jump[2]); err != nil {
			return fmt.Errorf("writing iptables rules: %w", err)
		}
	}
	return nil
}

// ownedChain reports whether a chain was made by the cluster or by NMI running on it.
func ownedChain(name string) bool {
	return strings.HasPrefix(name, "KUBE-") || strings.HasPrefix(name, "AAD-CLUSTER-") || name == "aad-metadata"
}

// iptablesState is what of a saved rule set belongs to the cluster.
type iptablesState struct{ tables []iptablesTable }

type iptablesTable struct {
	name string
	// chains that are ours, and the jumps into them from chains that are not.
	chains, jumps []string
}

func (s iptablesState) empty() bool { return len(s.tables) == 0 }

// parseRules reads the output of iptables-save and keeps what belongs to the cluster.
func parseRules(saved string) iptablesState {
	var state iptablesState
	var table iptablesTable
	flush := func() {
		if len(table.chains)+len(table.jumps) > 0 {
			state.tables = append(state.tables, table)
		}
		table = iptablesTable{}
	}
	lines := bufio.NewScanner(strings.NewReader(saved))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "*"):
			table = iptablesTable{name: line[1:]}
		case strings.HasPrefix(line, ":"):
			if name, _, _ := strings.Cut(line[1:], " "); ownedChain(name) {
				table.chains = append(table.chains, name)
			}
		case strings.HasPrefix(line, "-A "):
			if chain, target := ruleTarget(line); !ownedChain(chain) && ownedChain(target) {
				table.jumps = append(table.jumps, line)
			}
		case line == "COMMIT":
			flush()
		}
	}
	return state
}

// ruleTarget returns the chain a saved rule stands in and the chain or target it leads to.
func ruleTarget(rule string) (chain, target string) {
	fields := strings.Fields(rule)
	if len(fields) > 1 {
		chain = fields[1]
	}
	if i := slices.IndexFunc(fields, func(f string) bool { return f == "-j" || f == "-g" }); i >= 0 && i+1 < len(fields) {
		target = fields[i+1]
	}
	return chain, target
}

// removal is the input for iptables-restore --noflush that removes the state: first the jumps, then the emptied chains.
func (s iptablesState) removal() string {
	var b strings.Builder
	for _, t := range s.tables {
		fmt.Fprintf(&b, "*%s\n", t.name)
		for _, c := range t.chains {
			fmt.Fprintf(&b, ":%s - [0:0]\n", c)
		}
		for _, j := range t.jumps {
			fmt.Fprintf(&b, "-D %s\n", strings.TrimPrefix(j, "-A "))
		}
		for _, c := range t.chains {
			fmt.Fprintf(&b, "-X %s\n", c)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// lines describe the state for people.
func (s iptablesState) lines(program string) []string {
	var out []string
	for _, t := range s.tables {
		for _, c := range t.chains {
			out = append(out, fmt.Sprintf("%s chain %s in table %s", program, c, t.name))
		}
		for _, j := range t.jumps {
			out = append(out, fmt.Sprintf("%s rule %q in table %s", program, j, t.name))
		}
	}
	return out
}

// iptablesVariants are the backends and families that pods and the kubelet may have written to.
var iptablesVariants = []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"}

// ownedRules returns for each variant that this machine has what belongs to the cluster.
func ownedRules(ctx context.Context) (map[string]iptablesState, error) {
	states := map[string]iptablesState{}
	for _, v := range iptablesVariants {
		if _, err := exec.LookPath(v + "-save"); err != nil {
			continue
		}
		saved, err := run(ctx, "", v+"-save")
		if err != nil {
			// A kernel without this backend or family cannot hold rules of it.
			continue
		}
		if s := parseRules(saved); !s.empty() {
			states[v] = s
		}
	}
	return states, ctx.Err()
}

// removeRules removes the cluster's chains and the jumps into them; other rules stay untouched.
func removeRules(ctx context.Context) error {
	states, err := ownedRules(ctx)
	if err != nil {
		return fmt.Errorf("reading iptables rules: %w", err)
	}
	for variant, state := range states {
		if _, err := run(ctx, state.removal(), variant+"-restore", "--noflush"); err != nil {
			return fmt.Errorf("removing iptables rules: %w", err)
		}
	}
	return nil
}
