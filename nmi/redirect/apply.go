package redirect

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// maxCopies bounds how many copies of one rule are deleted, should someone add
// them as fast as we delete.
const maxCopies = 100

// maxPasses bounds how often the rules are set, should someone undo it each time.
const maxPasses = 5

// change is what had to be changed.
type change struct {
	// set says that something was missing or wrong.
	set bool
	// moved says that the jump was not the first rule of PREROUTING.
	moved bool
}

func (c change) any() bool { return c.set || c.moved }

// Ensure brings chain and jump to the desired state and says whether it had to
// change anything. It can be repeated and be stopped anywhere.
func Ensure(t IPTables, target Target) (changed bool, err error) {
	c, err := ensure(t, target, true)
	return c.any(), err
}

// ensure is Ensure, which moves the jump to the first place only if it may.
func ensure(t IPTables, target Target, move bool) (total change, err error) {
	if err := target.Validate(); err != nil {
		return change{}, err
	}
	// Until nothing is left to do: the chain is looked at before the jump, and somebody
	// may have flushed it in between, such as an NMI of 1.8 that ends.
	for range maxPasses {
		c, err := pass(t, target, move)
		total = change{set: total.set || c.set, moved: total.moved || c.moved}
		if err != nil || !c.any() {
			return total, err
		}
		move = move && !c.moved
	}
	return total, fmt.Errorf("setting chain %s of table %s: somebody else changes it as often", chain, table)
}

func pass(t IPTables, target Target, move bool) (change, error) {
	chainChanged, err := ensureChain(t, target)
	if err != nil {
		return change{set: chainChanged}, err
	}
	// The jump comes last: a jump to a chain without rules redirects nothing.
	c, err := ensureJump(t, target, move)
	c.set = c.set || chainChanged
	return c, err
}

// WaitReadable returns when the chains of all redirects can be read, so that they can
// probably be set, or with ctx's error. It says what keeps them from it.
func WaitReadable(ctx context.Context, redirects []Redirect) error {
	return wait.PollUntilContextCancel(ctx, retryAfter, true, func(ctx context.Context) (bool, error) {
		var errs []error
		for _, r := range redirects {
			_, err := r.Tables.List(table, hook)
			errs = append(errs, err)
		}
		err := errors.Join(errs...)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot read the rules of the node; trying again")
		}
		return err == nil, nil
	})
}

func ensureChain(t IPTables, target Target) (bool, error) {
	exists, err := t.ChainExists(table, chain)
	if err != nil {
		return false, fmt.Errorf("looking for chain %s in table %s: %w", chain, table, err)
	}
	if !exists {
		if err := t.NewChain(table, chain); err != nil {
			return false, fmt.Errorf("creating chain %s in table %s: %w", chain, table, err)
		}
	}
	lines, err := t.List(table, chain)
	if err != nil {
		return !exists, fmt.Errorf("listing chain %s in table %s: %w", chain, table, err)
	}
	steps := plan(listed(chain, lines), target.rules())
	for _, s := range steps {
		if s.insert != nil {
			if err := t.Insert(table, chain, s.position, s.insert...); err != nil {
				return true, fmt.Errorf("inserting rule %q in chain %s of table %s: %w", s.insert, chain, table, err)
			}
			continue
		}
		if err := t.DeleteById(table, chain, s.position); err != nil && !missing(err) {
			return true, fmt.Errorf("deleting stale rule %d of chain %s in table %s: %w", s.position, chain, table, err)
		}
	}
	return !exists || len(steps) > 0, nil
}

// ensureJump makes our jump the only one to our chain, and if it may the first rule
// of PREROUTING. PREROUTING belongs to many, so nothing there is deleted by its number:
// it could be another rule's by the time we get there. A delete by text takes the
// first copy, so while the jump is moved a stand-in does its work.
func ensureJump(t IPTables, target Target, move bool) (change, error) {
	lines, err := t.List(table, hook)
	if err != nil {
		return change{}, fmt.Errorf("listing chain %s in table %s: %w", hook, table, err)
	}
	current := listed(hook, lines)
	ours, standIn := jump().String(), target.standIn().String()
	copies := 0
	for _, r := range current {
		if r == ours {
			copies++
		}
	}
	hasStandIn := slices.Contains(current, standIn)
	single := copies == 1 && !hasStandIn
	did := change{set: !single, moved: single}
	switch {
	case single && (current[0] == ours || !move):
		return change{}, nil
	case copies == 0:
		if err := insertFirst(t, jump()); err != nil {
			return change{}, err
		}
	case copies > 1 || current[0] != ours:
		if err := insertFirst(t, target.standIn()); err != nil {
			return change{}, err
		}
		if err := deleteAll(t, jump()); err != nil {
			return did, err
		}
		if err := insertFirst(t, jump()); err != nil {
			return did, err
		}
	}
	// Also one that a run which was killed left behind.
	return did, deleteAll(t, target.standIn())
}

func insertFirst(t IPTables, r rule) error {
	if err := t.Insert(table, hook, 1, r...); err != nil {
		return fmt.Errorf("inserting rule %q in chain %s of table %s: %w", r, hook, table, err)
	}
	return nil
}

// deleteAll deletes every copy of a rule of PREROUTING.
func deleteAll(t IPTables, r rule) error {
	for range maxCopies {
		exists, err := t.Exists(table, hook, r...)
		if missing(err) || err == nil && !exists {
			return nil
		}
		if err == nil {
			err = t.Delete(table, hook, r...)
		}
		if err != nil && !missing(err) {
			return fmt.Errorf("deleting rule %q of chain %s in table %s: %w", r, hook, table, err)
		}
	}
	return fmt.Errorf("deleting rule %q of chain %s in table %s: it comes back", r, hook, table)
}

// Remove takes jump and chain away and says whether there was anything. What is
// not there counts as removed. Of the target only the address of the instance metadata
// service counts, and without that one, what an Ensure that was killed has left of the
// jump may keep the chain from going.
func Remove(t IPTables, target Target) (removed bool, err error) {
	exists, err := t.ChainExists(table, chain)
	if err != nil {
		return false, fmt.Errorf("looking for chain %s in table %s: %w", chain, table, err)
	}
	if !exists {
		return false, nil // and so no rule can jump to it
	}
	jumps := []rule{jump()}
	if target.Metadata.IsValid() {
		jumps = append(jumps, target.standIn())
	}
	for _, r := range jumps {
		if err := deleteAll(t, r); err != nil {
			return false, err
		}
	}
	if err := t.ClearAndDeleteChain(table, chain); err != nil && !missing(err) {
		return false, fmt.Errorf("deleting chain %s of table %s: %w", chain, table, err)
	}
	return true, nil
}
