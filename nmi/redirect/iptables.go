package redirect

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-iptables/iptables"
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
	t, err := iptables.New(iptables.IPFamily(iptables.ProtocolIPv4), iptables.Timeout(lockTimeout))
	if err != nil {
		return nil, fmt.Errorf("finding iptables: %w", err)
	}
	return kernel{t}, nil
}

// kernel is the iptables of this machine.
type kernel struct{ *iptables.IPTables }

// Watch implements Noticing.
func (kernel) Watch(ctx context.Context, changed func(certain bool)) error {
	return watchKernel(ctx, changed)
}

// missing says whether an error means that the rule or chain does not exist,
// which is what a delete wants: another NMI or a person was quicker.
func missing(err error) bool {
	var e interface{ IsNotExist() bool }
	return errors.As(err, &e) && e.IsNotExist()
}
