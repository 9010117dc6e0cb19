package redirect

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect/redirecttest"
)

// netlinkMessage is a message as nf_tables sends it.
func netlinkMessage(tb testing.TB, subsystem, kind uint16, family byte, attributes map[uint16]string) netlink.Message {
	tb.Helper()
	e := netlink.NewAttributeEncoder()
	for id, value := range attributes {
		e.String(id, value)
	}
	data, err := e.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(subsystem<<8 | kind)}, Data: append([]byte{family, 0, 0, 0}, data...)}
}

func TestTouchesRedirect(t *testing.T) {
	const nft, ip = unix.NFNL_SUBSYS_NFTABLES, unix.NFPROTO_IPV4
	rule := func(table, chain string) map[uint16]string {
		return map[uint16]string{unix.NFTA_RULE_TABLE: table, unix.NFTA_RULE_CHAIN: chain}
	}
	chainOf := func(table, chain string) map[uint16]string {
		return map[uint16]string{unix.NFTA_CHAIN_TABLE: table, unix.NFTA_CHAIN_NAME: chain}
	}
	cut := netlinkMessage(t, nft, unix.NFT_MSG_DELRULE, ip, rule("nat", "KUBE-SERVICES"))
	cut.Data = cut.Data[:len(cut.Data)-4]
	tests := map[string]struct {
		message netlink.Message
		want    bool
	}{
		"a rule of our chain is deleted": {netlinkMessage(t, nft, unix.NFT_MSG_DELRULE, ip, rule("nat", "aad-metadata")), true},
		"a rule is added to PREROUTING":  {netlinkMessage(t, nft, unix.NFT_MSG_NEWRULE, ip, rule("nat", "PREROUTING")), true},
		"our chain is deleted":           {netlinkMessage(t, nft, unix.NFT_MSG_DELCHAIN, ip, chainOf("nat", "aad-metadata")), true},
		"the table is deleted":           {netlinkMessage(t, nft, unix.NFT_MSG_DELTABLE, ip, map[uint16]string{unix.NFTA_TABLE_NAME: "nat"}), true},
		"a rule of another chain":        {netlinkMessage(t, nft, unix.NFT_MSG_DELRULE, ip, rule("nat", "KUBE-SERVICES")), false},
		"PREROUTING of another table":    {netlinkMessage(t, nft, unix.NFT_MSG_NEWRULE, ip, rule("raw", "PREROUTING")), false},
		"PREROUTING of IPv6":             {netlinkMessage(t, nft, unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV6, rule("nat", "PREROUTING")), false},
		"a message of another subsystem": {netlinkMessage(t, 1, unix.NFT_MSG_DELRULE, ip, rule("nat", "aad-metadata")), false},
		"a new set":                      {netlinkMessage(t, nft, 9, ip, rule("nat", "aad-metadata")), false},
		"an attribute that is cut off":   {cut, true},
		"nothing":                        {netlink.Message{}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := touchesRedirect(tc.message, ip); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func FuzzTouchesRedirect(f *testing.F) {
	m := netlinkMessage(f, unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, map[uint16]string{1: "nat", 2: "aad-metadata"})
	f.Add(uint16(m.Header.Type), m.Data)
	f.Fuzz(func(_ *testing.T, kind uint16, data []byte) {
		touchesRedirect(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: data}, unix.NFPROTO_IPV4)
	})
}

// noticing are tables that tell of changes.
type noticing struct {
	*redirecttest.Tables
	ready chan struct{}

	mu      sync.Mutex
	changed func(certain bool)
}

func newNoticing() *noticing {
	return &noticing{Tables: redirecttest.NewTables(), ready: make(chan struct{}), changed: func(bool) {}}
}

// Watch implements Noticing.
func (n *noticing) Watch(ctx context.Context, changed func(bool), _ func(error)) {
	n.mu.Lock()
	n.changed = changed
	n.mu.Unlock()
	close(n.ready)
	<-ctx.Done()
}

func (n *noticing) tell(certain bool) {
	n.mu.Lock()
	changed := n.changed
	n.mu.Unlock()
	changed(certain)
}

func TestRunnerRepairsAtOnceWhenItNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNoticing()
		repairs := 0
		r := NewRunner([]Redirect{{n, guideTarget}}, time.Hour, Hooks{Repaired: func() { repairs++ }})
		start(t, r)
		<-n.ready
		<-time.After(2 * noticePause)
		for i := range 5 {
			n.Set([]string{kubeRule}, []string{})
			n.tell(false)
			synctest.Wait()
			if diff := cmp.Diff(wanted, n.Rules()); i == 0 && diff != "" {
				t.Errorf("rules at once after the first flush (-want +got):\n%s", diff)
			}
			<-time.After(2 * echo)
		}
		<-time.After(2 * noticePause)
		synctest.Wait()
		if diff := cmp.Diff(wanted, n.Rules()); diff != "" {
			t.Errorf("rules after the last flush (-want +got):\n%s", diff)
		}
		if repairs != 2 {
			t.Errorf("%d repairs of five flushes within a moment; want the first at once and one for the rest", repairs)
		}
	})
}

// TestOwnUseOfIptablesIsNoNotice: or a look would lead to the next one for ever.
func TestOwnUseOfIptablesIsNoNotice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNoticing()
		looks := 0
		n.Fail(func(op string) error {
			if op == "exists" {
				looks++
				n.tell(false)
			}
			return nil
		})
		r := NewRunner([]Redirect{{n, guideTarget}}, time.Hour, Hooks{})
		start(t, r)
		<-n.ready
		<-time.After(2 * noticePause) // once more, as the redirect had to be set
		synctest.Wait()
		settled := looks
		<-time.After(10 * noticePause)
		synctest.Wait()
		if looks != settled {
			t.Errorf("looked %d times more", looks-settled)
		}
	})
}

// TestKernelTellsOfChanges flushes chains with the real iptables.
func TestKernelTellsOfChanges(t *testing.T) {
	for _, f := range families {
		t.Run(f.commands[0], f.tellsOfChanges)
	}
}

func (f family) tellsOfChanges(t *testing.T) {
	path, err := exec.LookPath(f.commands[0])
	if err != nil {
		t.Skip("not installed")
	}
	inNewNetwork(t)
	ipt, err := iptables.New(iptables.IPFamily(f.protocol), iptables.Path(path), iptables.Timeout(lockTimeout))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(ipt, f.target); err != nil {
		t.Skipf("the kernel has no nat table: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan struct{}, 100) // more than there are changes
	ended := make(chan error, 1)
	conn, err := openNetlink() // on the thread that is in the test's network
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- watchNetlink(ctx, conn, f.family, func() { told <- struct{}{} }) }()
	for _, args := range [][]string{{"-F", "aad-metadata"}, {"-D", "PREROUTING", "-j", "aad-metadata"}, {"-X", "aad-metadata"}} {
		if out, err := exec.CommandContext(ctx, path, append([]string{"-t", "nat"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
		select {
		case <-told:
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing was told of %v", args)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestOneBackendThatCannotBeWatched is said at once, and the other is watched.
func TestOneBackendThatCannotBeWatched(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed, ended := make(chan error, 2), make(chan struct{})
	go func() {
		defer close(ended)
		watchAll(ctx, func(err error) { failed <- err },
			func() error { return errors.New("too many open files") },
			func() error { <-ctx.Done(); return nil })
	}()
	if err := <-failed; err == nil {
		t.Error("no error")
	}
	select {
	case <-ended:
		t.Error("the other ended, too")
	default:
	}
	cancel()
	<-ended
}

func TestUseOfTheLockIsNoticed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	if err := watchLock(t.Context(), file, func() {}); err != nil {
		t.Errorf("without a lock: %v", err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	used, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- watchLock(ctx, file, func() { used <- struct{}{} }) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for noticed := false; !noticed; { // from when on it watches is not known
		if _, err := os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		select {
		case <-used:
			noticed = true
		case <-tick.C:
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
