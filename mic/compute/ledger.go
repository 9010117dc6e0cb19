package compute

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// LedgerNamePrefix begins the names of the ConfigMaps that are ledgers.
const LedgerNamePrefix = "aad-pod-identity-ledger-"

// Keys of a ledger's data.
const (
	ledgerTarget      = "target"
	ledgerAdded       = "added"
	ledgerPreexisting = "preexisting"
)

// Ledger records who put the wanted identities of a target there.
type Ledger struct {
	// Target is the VM or scale set.
	Target resourceid.Compute
	// Added are the identities that MIC added, or is about to add, by
	// resourceid.Key; the value is the ID as written.
	Added map[string]string
	// Preexisting are the wanted identities that were there before MIC needed
	// them. MIC never removes them.
	Preexisting map[string]string

	uid             types.UID
	resourceVersion string
}

func newLedger(target resourceid.Compute) *Ledger {
	return &Ledger{Target: target, Added: map[string]string{}, Preexisting: map[string]string{}}
}

func (l *Ledger) empty() bool { return len(l.Added) == 0 && len(l.Preexisting) == 0 }

// clone returns a copy to be changed, written and only then believed.
func (l *Ledger) clone() *Ledger {
	c := *l
	c.Added, c.Preexisting = maps.Clone(l.Added), maps.Clone(l.Preexisting)
	return &c
}

func (l *Ledger) equal(o *Ledger) bool {
	return maps.Equal(l.Added, o.Added) && maps.Equal(l.Preexisting, o.Preexisting)
}

// LedgerStore keeps ledgers as ConfigMaps, one for each target, in one
// namespace. Its client must not read from a cache: a ledger decides what is
// removed.
type LedgerStore struct {
	Client    client.Client
	Namespace string
}

// Load reads all ledgers. Those that cannot be decoded are returned as errors.
func (s LedgerStore) Load(ctx context.Context) (ledgers []*Ledger, damaged []error, err error) {
	var list corev1.ConfigMapList
	if err := s.Client.List(ctx, &list, client.InNamespace(s.Namespace), client.MatchingLabels{v1.LedgerLabelKey: "true"}); err != nil {
		return nil, nil, fmt.Errorf("listing ownership ledgers: %w", err)
	}
	for i := range list.Items {
		l, err := decode(&list.Items[i])
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		ledgers = append(ledgers, l)
	}
	return ledgers, damaged, nil
}

func decode(cm *corev1.ConfigMap) (*Ledger, error) {
	fail := func(err error) (*Ledger, error) {
		return nil, fmt.Errorf("ownership ledger %s/%s is damaged, repair or delete it: %w", cm.Namespace, cm.Name, err)
	}
	target, err := parseTarget(cm.Data[ledgerTarget])
	if err != nil {
		return fail(err)
	}
	l := newLedger(target)
	l.uid, l.resourceVersion = cm.UID, cm.ResourceVersion
	for key, into := range map[string]map[string]string{ledgerAdded: l.Added, ledgerPreexisting: l.Preexisting} {
		text := cm.Data[key]
		if text == "" {
			continue
		}
		var ids []string
		if err := json.Unmarshal([]byte(text), &ids); err != nil {
			return fail(fmt.Errorf("key %s: %w", key, err))
		}
		for _, id := range ids {
			into[resourceid.Key(id)] = id
		}
	}
	return l, nil
}

// Save writes a ledger, or deletes it if it is empty. It fails if somebody else
// wrote it meanwhile, such as the next leader.
func (s LedgerStore) Save(ctx context.Context, l *Ledger) error {
	if l.empty() {
		return s.delete(ctx, l)
	}
	cm := s.encode(l)
	var err error
	if l.resourceVersion == "" {
		err = s.Client.Create(ctx, cm)
	} else {
		err = s.Client.Update(ctx, cm)
	}
	if err != nil {
		return fmt.Errorf("writing ownership ledger %s/%s of %s: %w", cm.Namespace, cm.Name, l.Target, err)
	}
	l.uid, l.resourceVersion = cm.UID, cm.ResourceVersion
	return nil
}

func (s LedgerStore) delete(ctx context.Context, l *Ledger) error {
	if l.resourceVersion == "" {
		return nil
	}
	cm := s.encode(l)
	err := s.Client.Delete(ctx, cm, client.Preconditions{UID: &l.uid, ResourceVersion: &l.resourceVersion})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting ownership ledger %s/%s of %s: %w", cm.Namespace, cm.Name, l.Target, err)
	}
	l.uid, l.resourceVersion = "", ""
	return nil
}

// Read returns the ledger of a target as it is stored.
func (s LedgerStore) Read(ctx context.Context, target resourceid.Compute) (*Ledger, error) {
	var cm corev1.ConfigMap
	err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: ledgerName(target)}, &cm)
	if apierrors.IsNotFound(err) {
		return newLedger(target), nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading ownership ledger of %s: %w", target, err)
	}
	return decode(&cm)
}

func (s LedgerStore) encode(l *Ledger) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: ledgerName(l.Target),
			UID: l.uid, ResourceVersion: l.resourceVersion,
			Labels: map[string]string{v1.LedgerLabelKey: "true"},
		},
		Data: map[string]string{
			ledgerTarget:      l.Target.String(),
			ledgerAdded:       list(l.Added),
			ledgerPreexisting: list(l.Preexisting),
		},
	}
}

// list encodes IDs in a stable order. Strings always encode.
func list(ids map[string]string) string {
	values := make([]string, 0, len(ids))
	for _, key := range slices.Sorted(maps.Keys(ids)) {
		values = append(values, ids[key])
	}
	raw, err := json.MarshalIndent(values, "", "  ")
	if err != nil {
		return "[]"
	}
	return string(raw)
}

// ledgerName begins with something that people recognise and ends with a hash
// that keeps targets of one name apart.
func ledgerName(target resourceid.Compute) string {
	readable := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		}
		return '-'
	}, strings.ToLower(target.Name)), "-")
	if len(readable) > 63 {
		readable = strings.TrimRight(readable[:63], "-")
	}
	sum := sha256.Sum256([]byte(target.Key()))
	return LedgerNamePrefix + strings.TrimLeft(readable+"-", "-") + hex.EncodeToString(sum[:])[:12]
}

// parseTarget reads Compute.String.
func parseTarget(id string) (resourceid.Compute, error) {
	segments := strings.Split(strings.TrimPrefix(id, "/"), "/")
	if len(segments) != 8 {
		return resourceid.Compute{}, fmt.Errorf("key %s: %q is not the ID of a VM or scale set", ledgerTarget, id)
	}
	c := resourceid.Compute{Subscription: segments[1], ResourceGroup: segments[3], Kind: resourceid.VM, Name: segments[7]}
	if strings.EqualFold(segments[6], string(resourceid.VMSS)) {
		c.Kind = resourceid.VMSS
	}
	if !resourceid.Equal(c.String(), id) {
		return resourceid.Compute{}, fmt.Errorf("key %s: %q is not the ID of a VM or scale set", ledgerTarget, id)
	}
	return c, nil
}
