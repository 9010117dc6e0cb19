package redirect

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect/redirecttest"
)

var guideTarget = Target{
	Metadata: netip.MustParseAddr("169.254.169.254"), MetadataPort: 80,
	NMI: netip.MustParseAddrPort("10.240.0.34:2579"),
}

var target6 = Target{
	Metadata: netip.MustParseAddr("fd00:a9fe::254"), MetadataPort: 80,
	NMI: netip.MustParseAddrPort("[fd00::4]:2579"),
}

const (
	guideRule  = "! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.240.0.34:2579"
	staleRule  = "! -s 127.0.0.1/32 -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.1:2579"
	kubeRule   = redirecttest.KubeRule
	jumpRule   = "-j aad-metadata"
	standRule  = "-d 169.254.169.254/32 -j aad-metadata"
	returnRule = "-j RETURN"
)

// wanted is the table after Ensure: the chain as the troubleshooting guide
// prints it, the jump first, the rules of others untouched.
var wanted = []string{
	"-A PREROUTING " + jumpRule,
	"-A PREROUTING " + kubeRule,
	"-A aad-metadata " + guideRule,
	"-A aad-metadata " + returnRule,
}

// starts are the states that Ensure and Remove may find.
var starts = map[string]struct{ prerouting, ours []string }{
	"a fresh node":                                {prerouting: []string{kubeRule}},
	"the wanted state":                            {prerouting: []string{jumpRule, kubeRule}, ours: []string{guideRule, returnRule}},
	"a chain without jump":                        {prerouting: []string{kubeRule}, ours: []string{guideRule, returnRule}},
	"someone flushed the chain":                   {prerouting: []string{jumpRule, kubeRule}, ours: []string{}},
	"someone flushed PREROUTING":                  {prerouting: []string{kubeRule}, ours: []string{guideRule, returnRule}},
	"the jump is not first":                       {prerouting: []string{kubeRule, jumpRule}, ours: []string{guideRule, returnRule}},
	"two jumps":                                   {prerouting: []string{jumpRule, kubeRule, jumpRule}, ours: []string{guideRule, returnRule}},
	"the redirect of the 1.8 releases":            {prerouting: []string{jumpRule, kubeRule}, ours: []string{staleRule, returnRule}},
	"the rules are in the wrong order":            {prerouting: []string{jumpRule, kubeRule}, ours: []string{returnRule, guideRule}},
	"a doubled chain of two that ran at once":     {prerouting: []string{jumpRule, jumpRule, kubeRule}, ours: []string{guideRule, returnRule, guideRule, returnRule}},
	"RETURN is missing":                           {prerouting: []string{jumpRule, kubeRule}, ours: []string{guideRule}},
	"foreign rules in our chain":                  {prerouting: []string{jumpRule, kubeRule}, ours: []string{"-p udp -j RETURN", guideRule, returnRule}},
	"killed while the jump was moved, before":     {prerouting: []string{standRule, kubeRule, jumpRule}, ours: []string{guideRule, returnRule}},
	"killed while the jump was moved, in between": {prerouting: []string{standRule, kubeRule}, ours: []string{guideRule, returnRule}},
	"killed while the jump was moved, after":      {prerouting: []string{jumpRule, standRule, kubeRule}, ours: []string{guideRule, returnRule}},
}

func TestEnsure(t *testing.T) {
	for name, tc := range starts {
		t.Run(name, func(t *testing.T) {
			f := redirecttest.NewTables()
			f.Set(tc.prerouting, tc.ours)
			before := cmp.Equal(wanted, f.Rules())

			changed, err := Ensure(f, guideTarget)
			if err != nil {
				t.Fatal(err)
			}
			if changed == before {
				t.Errorf("changed = %v", changed)
			}
			if diff := cmp.Diff(wanted, f.Rules()); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			if changed, err := Ensure(f, guideTarget); changed || err != nil {
				t.Errorf("a second run: changed %v, error %v", changed, err)
			}
		})
	}
}

// TestEnsureOpensNoGap: while a redirect is repaired, packets go either where
// they went or where they shall go, after every single command.
func TestEnsureOpensNoGap(t *testing.T) {
	for name, tc := range starts {
		t.Run(name, func(t *testing.T) {
			f := redirecttest.NewTables()
			f.Set(tc.prerouting, tc.ours)
			if !f.Redirects("10.240.0.34:2579") && !f.Redirects("127.0.0.1:2579") {
				t.Skip("nothing is redirected to begin with")
			}
			f.Inspect([]string{"10.240.0.34:2579", "127.0.0.1:2579"}, func(redirected bool) {
				if !redirected {
					t.Error("a gap")
				}
			})
			if _, err := Ensure(f, guideTarget); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestEnsureSurvivesAnyFailure fails each command in turn: the next run finishes
// the work, whatever was left behind.
func TestEnsureSurvivesAnyFailure(t *testing.T) {
	for name, tc := range starts {
		t.Run(name, func(t *testing.T) {
			for nth := 1; ; nth++ {
				f := redirecttest.NewTables()
				f.Set(tc.prerouting, tc.ours)
				n, boom := 0, errors.New("boom")
				f.Fail(func(string) error {
					if n++; n == nth {
						return boom
					}
					return nil
				})
				_, err := Ensure(f, guideTarget)
				f.Fail(nil)
				if err == nil {
					break // fewer commands than nth
				}
				if !errors.Is(err, boom) || !strings.Contains(err.Error(), "table nat") {
					t.Errorf("error %q does not say what was being done", err)
				}
				if _, err := Ensure(f, guideTarget); err != nil {
					t.Fatalf("after command %d failed: %v", nth, err)
				}
				if diff := cmp.Diff(wanted, f.Rules()); diff != "" {
					t.Errorf("after command %d failed (-want +got):\n%s", nth, diff)
				}
			}
		})
	}
}

// between runs a function once, after the rules of our chain were listed.
type between struct {
	*redirecttest.Tables
	act func()
}

func (b *between) List(t, c string) ([]string, error) {
	lines, err := b.Tables.List(t, c)
	if act := b.act; c == chain && act != nil {
		b.act = nil
		act()
	}
	return lines, err
}

// TestEnsureSeesWhatHappensWhileItLooks: an NMI of 1.8 that ends deletes its jump,
// flushes its chain and deletes it, and this one looks at the same time.
func TestEnsureSeesWhatHappensWhileItLooks(t *testing.T) {
	for name, after := range map[string]struct{ prerouting, ours []string }{
		"flushed":              {prerouting: []string{kubeRule}, ours: []string{}},
		"deleted":              {prerouting: []string{kubeRule}},
		"flushed, with a jump": {prerouting: []string{kubeRule, jumpRule}, ours: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &between{Tables: redirecttest.NewTables()}
			f.Set([]string{jumpRule, kubeRule}, []string{guideRule, returnRule})
			f.act = func() { f.Set(after.prerouting, after.ours) }
			_, err := Ensure(f, guideTarget)
			if after.ours == nil {
				// The jump has nowhere to go; the runner tries again soon.
				if !missing(err) {
					t.Errorf("error %v", err)
				}
				_, err = Ensure(f, guideTarget)
			}
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(wanted, f.Rules()); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
		})
	}
}

// undone flushes our chain whenever there is a jump to it.
type undone struct{ *redirecttest.Tables }

func (u undone) Insert(t, c string, pos int, spec ...string) error {
	err := u.Tables.Insert(t, c, pos, spec...)
	if c == hook {
		u.Set([]string{kubeRule}, []string{})
	}
	return err
}

func TestEnsureGivesUpAgainstSomebodyWhoUndoesIt(t *testing.T) {
	if _, err := Ensure(undone{redirecttest.NewTables()}, guideTarget); err == nil || !strings.Contains(err.Error(), "somebody else changes it as often") {
		t.Errorf("error %v", err)
	}
}

func TestRemove(t *testing.T) {
	for name, tc := range starts {
		t.Run(name, func(t *testing.T) {
			f := redirecttest.NewTables()
			f.Set(tc.prerouting, tc.ours)
			removed, err := Remove(f, guideTarget)
			if err != nil || removed != (tc.ours != nil) {
				t.Fatalf("removed %v, error %v", removed, err)
			}
			if diff := cmp.Diff([]string{"-A PREROUTING " + kubeRule}, f.Rules()); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			if exists, err := f.ChainExists(table, chain); exists || err != nil {
				t.Errorf("the chain is left: %v, %v", exists, err)
			}
			if removed, err := Remove(f, guideTarget); removed || err != nil {
				t.Errorf("a second run: removed %v, error %v", removed, err)
			}
		})
	}
}

func TestEnsureRefusesAMixOfFamilies(t *testing.T) {
	v4, v6 := guideTarget.NMI, netip.MustParseAddrPort("[fd00::1]:2579")
	for _, target := range []Target{
		{Metadata: guideTarget.Metadata, NMI: v6},
		{Metadata: v6.Addr(), NMI: v4},
		{Metadata: netip.MustParseAddr("::ffff:169.254.169.254"), NMI: v6},
		{Metadata: netip.MustParseAddr("fe80::1%eth0"), NMI: v6},
		{NMI: v4},
	} {
		if _, err := Ensure(redirecttest.NewTables(), target); err == nil {
			t.Errorf("%v: no error", target)
		}
	}
}
