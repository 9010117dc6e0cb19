// Package redirecttest imitates the kernel's nat table for tests of the redirect,
// so that they assert the rules there are in the end and not the calls.
package redirecttest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Tables behaves like the nat table of a kernel: chains hold rules in order,
// a chain that is used or not empty cannot be deleted, positions must exist.
type Tables struct {
	mu     sync.Mutex
	chains map[string][]string
	// fail makes commands fail; see Fail.
	fail func(op string) error
	// inspect runs after each change; see Inspect.
	inspect func()
}

// KubeRule is the rule of kube-proxy that every table begins with.
const KubeRule = "-m comment --comment kube -j KUBE-SERVICES"

const (
	hook  = "PREROUTING"
	chain = "aad-metadata"
)

// NewTables makes the table of a node with nothing but kube-proxy's rule.
func NewTables() *Tables {
	return &Tables{chains: map[string][]string{hook: {KubeRule}, "KUBE-SERVICES": nil}}
}

// Set replaces the rules of PREROUTING and of aad-metadata, as someone else might;
// nil means that there is no such chain.
func (f *Tables) Set(prerouting, ours []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chains[hook] = slices.Clone(prerouting)
	delete(f.chains, chain)
	if ours != nil {
		f.chains[chain] = slices.Clone(ours)
	}
}

// Fail asks the function before each command whether it fails; nil ends that. The
// operations are exists, list, new, insert, delete and clear.
func (f *Tables) Fail(fail func(op string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// Inspect calls the function after each change, with whether a pod's request is
// redirected to any of the addresses then.
func (f *Tables) Inspect(addresses []string, inspect func(redirected bool)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inspect = func() { inspect(slices.ContainsFunc(addresses, f.redirects)) }
}

// Redirects says whether a pod's request is redirected to the address now.
func (f *Tables) Redirects(address string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.redirects(address)
}

// notExist is the error about a rule or chain that is not there.
type notExist string

// Error implements error.
func (e notExist) Error() string { return string(e) }

// IsNotExist is what the runner asks an error.
func (e notExist) IsNotExist() bool { return true }

func (f *Tables) do(op, chain string, needChain bool, act func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		if err := f.fail(op); err != nil {
			return err
		}
	}
	if _, ok := f.chains[chain]; needChain && !ok {
		return notExist("No chain/target/match by that name.")
	}
	if err := act(); err != nil {
		return err
	}
	if f.inspect != nil && !slices.Contains([]string{"list", "exists"}, op) {
		f.inspect()
	}
	return nil
}

// ChainExists says whether a chain exists.
func (f *Tables) ChainExists(_, c string) (ok bool, err error) {
	err = f.do("exists", c, false, func() error { _, ok = f.chains[c]; return nil })
	return ok, err
}

// List prints a chain.
func (f *Tables) List(_, c string) (lines []string, err error) {
	err = f.do("list", c, true, func() error {
		lines = append(lines, "-N "+c)
		for _, r := range f.chains[c] {
			lines = append(lines, "-A "+c+" "+r)
		}
		return nil
	})
	return lines, err
}

// NewChain makes a chain.
func (f *Tables) NewChain(_, c string) error {
	return f.do("new", c, false, func() error {
		if _, ok := f.chains[c]; ok {
			return fmt.Errorf("chain %s exists", c)
		}
		f.chains[c] = []string{}
		return nil
	})
}

// Insert inserts a rule at a position counted from 1.
func (f *Tables) Insert(_, c string, pos int, spec ...string) error {
	return f.do("insert", c, true, func() error {
		if pos < 1 || pos > len(f.chains[c])+1 {
			return errors.New("index of insertion too big")
		}
		if i := slices.Index(spec, "-j"); i >= 0 {
			target := spec[i+1]
			if _, ok := f.chains[target]; !ok && !slices.Contains([]string{"DNAT", "RETURN"}, target) {
				return notExist("No chain/target/match by that name.")
			}
		}
		f.chains[c] = slices.Insert(f.chains[c], pos-1, strings.Join(spec, " "))
		return nil
	})
}

// Exists says whether a chain has a rule.
func (f *Tables) Exists(_, c string, spec ...string) (ok bool, err error) {
	err = f.do("exists", c, true, func() error { ok = slices.Contains(f.chains[c], strings.Join(spec, " ")); return nil })
	return ok, err
}

// Delete deletes the first copy of a rule.
func (f *Tables) Delete(_, c string, spec ...string) error {
	return f.do("delete", c, true, func() error {
		i := slices.Index(f.chains[c], strings.Join(spec, " "))
		if i < 0 {
			return notExist("Bad rule (does a matching rule exist in that chain?).")
		}
		f.chains[c] = slices.Delete(f.chains[c], i, i+1)
		return nil
	})
}

// DeleteById deletes the rule at a position counted from 1.
func (f *Tables) DeleteById(_, c string, id int) error {
	return f.do("delete", c, true, func() error {
		if id < 1 || id > len(f.chains[c]) {
			return errors.New("index of deletion too big")
		}
		f.chains[c] = slices.Delete(f.chains[c], id-1, id)
		return nil
	})
}

// ClearAndDeleteChain deletes a chain with its rules.
func (f *Tables) ClearAndDeleteChain(_, c string) error {
	return f.do("clear", c, false, func() error {
		for name, rules := range f.chains {
			for _, r := range rules {
				if name != c && strings.HasSuffix(r, "-j "+c) {
					return fmt.Errorf("CHAIN_DEL failed (Device or resource busy): chain %s", c)
				}
			}
		}
		delete(f.chains, c)
		return nil
	})
}

// Rules are PREROUTING and aad-metadata as iptables -S prints their rules.
func (f *Tables) Rules() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, c := range []string{hook, chain} {
		for _, r := range f.chains[c] {
			out = append(out, "-A "+c+" "+r)
		}
	}
	return out
}

func (f *Tables) redirects(to string) bool {
	for _, r := range f.chains[hook] {
		if !strings.HasSuffix(r, "-j "+chain) {
			continue
		}
		for _, r := range f.chains[chain] {
			if r == "-j RETURN" {
				break
			}
			if strings.Contains(r, "--to-destination "+to) {
				return true
			}
		}
	}
	return false
}
