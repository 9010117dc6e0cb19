package redirect

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// fakeTables behaves like the nat table of a kernel: chains hold rules in order,
// a chain that is used or not empty cannot be deleted, positions must exist.
type fakeTables struct {
	mu     sync.Mutex
	chains map[string][]string
	fail   func(op string) error // may be nil
	// inspect runs after each change.
	inspect func()
}

func newFakeTables() *fakeTables {
	return &fakeTables{chains: map[string][]string{hook: {"-m comment --comment kube -j KUBE-SERVICES"}, "KUBE-SERVICES": nil}}
}

type fakeNotExist string

func (e fakeNotExist) Error() string    { return string(e) }
func (e fakeNotExist) IsNotExist() bool { return true }

func (f *fakeTables) do(op, chain string, needChain bool, act func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		if err := f.fail(op); err != nil {
			return err
		}
	}
	if _, ok := f.chains[chain]; needChain && !ok {
		return fakeNotExist("No chain/target/match by that name.")
	}
	if err := act(); err != nil {
		return err
	}
	if f.inspect != nil && !slices.Contains([]string{"list", "exists"}, op) {
		f.inspect()
	}
	return nil
}

func (f *fakeTables) ChainExists(_, c string) (ok bool, err error) {
	err = f.do("exists", c, false, func() error { _, ok = f.chains[c]; return nil })
	return ok, err
}

func (f *fakeTables) List(_, c string) (lines []string, err error) {
	err = f.do("list", c, true, func() error {
		lines = append(lines, "-N "+c)
		for _, r := range f.chains[c] {
			lines = append(lines, "-A "+c+" "+r)
		}
		return nil
	})
	return lines, err
}

func (f *fakeTables) NewChain(_, c string) error {
	return f.do("new", c, false, func() error {
		if _, ok := f.chains[c]; ok {
			return fmt.Errorf("chain %s exists", c)
		}
		f.chains[c] = []string{}
		return nil
	})
}

func (f *fakeTables) Insert(_, c string, pos int, spec ...string) error {
	return f.do("insert", c, true, func() error {
		if pos < 1 || pos > len(f.chains[c])+1 {
			return fmt.Errorf("index of insertion too big")
		}
		if i := slices.Index(spec, "-j"); i >= 0 {
			target := spec[i+1]
			if _, ok := f.chains[target]; !ok && !slices.Contains([]string{"DNAT", "RETURN"}, target) {
				return fakeNotExist("No chain/target/match by that name.")
			}
		}
		f.chains[c] = slices.Insert(f.chains[c], pos-1, strings.Join(spec, " "))
		return nil
	})
}

func (f *fakeTables) Exists(_, c string, spec ...string) (ok bool, err error) {
	err = f.do("exists", c, true, func() error { ok = slices.Contains(f.chains[c], strings.Join(spec, " ")); return nil })
	return ok, err
}

func (f *fakeTables) Delete(_, c string, spec ...string) error {
	return f.do("delete", c, true, func() error {
		i := slices.Index(f.chains[c], strings.Join(spec, " "))
		if i < 0 {
			return fakeNotExist("Bad rule (does a matching rule exist in that chain?).")
		}
		f.chains[c] = slices.Delete(f.chains[c], i, i+1)
		return nil
	})
}

func (f *fakeTables) DeleteById(_, c string, id int) error {
	return f.do("delete", c, true, func() error {
		if id < 1 || id > len(f.chains[c]) {
			return fmt.Errorf("index of deletion too big")
		}
		f.chains[c] = slices.Delete(f.chains[c], id-1, id)
		return nil
	})
}

func (f *fakeTables) ClearAndDeleteChain(_, c string) error {
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

// dump is the table as iptables -S prints it, without the policy lines.
func (f *fakeTables) dump() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules()
}

func (f *fakeTables) rules() []string {
	var out []string
	for _, c := range []string{hook, chain} {
		for _, r := range f.chains[c] {
			out = append(out, "-A "+c+" "+r)
		}
	}
	return out
}

// redirects says whether a pod's request is redirected to the address now.
func (f *fakeTables) redirects(to string) bool {
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
