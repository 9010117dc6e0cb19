package redirect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"
)

// lockTimeout is how many seconds to wait for the lock that all users of
// iptables on the node share.
const lockTimeout = 5

// IPTables is what the runner needs of iptables; *iptables.IPTables has it.
type IPTables interface {
	ChainExists(table, chain string) (bool, error)
	List(table, chain string) ([]string, error)
	NewChain(table, chain string) error
	Insert(table, chain string, pos int, rulespec ...string) error
	Exists(table, chain string, rulespec ...string) (bool, error)
	Delete(table, chain string, rulespec ...string) error
	DeleteById(table, chain string, id int) error
	ClearAndDeleteChain(table, chain string) error
}

// NewIPTables finds the iptables of this machine.
func NewIPTables() (IPTables, error) {
	return newKernel("", iptables.ProtocolIPv4, unix.NFPROTO_IPV4)
}

// NewIP6Tables finds the ip6tables of this machine.
func NewIP6Tables() (IPTables, error) {
	return newKernel("", iptables.ProtocolIPv6, unix.NFPROTO_IPV6)
}

// legacyTables lists the tables that iptables-legacy has in this network, for root.
const legacyTables = "/proc/thread-self/net/ip_tables_names"

// NewLegacyIPTables is NewIPTables for iptables-legacy, whose rules are beside those of
// nf_tables. It is nil without an error if there are none: to look would make them.
func NewLegacyIPTables() (IPTables, error) {
	tables, err := os.ReadFile(legacyTables)
	if errors.Is(err, os.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(tables)), table) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for iptables-legacy: %w", err)
	}
	path, err := exec.LookPath("iptables-legacy")
	if err != nil {
		return nil, fmt.Errorf("finding iptables-legacy: %w", err)
	}
	return newKernel(path, iptables.ProtocolIPv4, unix.NFPROTO_IPV4)
}

// kernel is the iptables of this machine, of one family.
type kernel struct {
	*iptables.IPTables
	family byte
}

// newKernel takes the command at a path, or that of the family if it is empty.
func newKernel(path string, protocol iptables.Protocol, family byte) (IPTables, error) {
	t, err := iptables.New(iptables.Path(path), iptables.IPFamily(protocol), iptables.Timeout(lockTimeout))
	if err != nil {
		return nil, fmt.Errorf("finding iptables: %w", err)
	}
	return kernel{t, family}, nil
}

// Watch implements Noticing.
func (k kernel) Watch(ctx context.Context, changed func(certain bool), failed func(error)) {
	watchKernel(ctx, k.family, changed, failed)
}

// missing says whether an error means that the rule or chain does not exist,
// which is what a delete wants: another NMI or a person was quicker.
func missing(err error) bool {
	var e interface{ IsNotExist() bool }
	return errors.As(err, &e) && e.IsNotExist()
}
