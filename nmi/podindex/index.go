package podindex

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

// Why an address or name has no pod.
var (
	// ErrNotSynced: the watches have not delivered their first list yet.
	ErrNotSynced = errors.New("the pods of this node are not known yet")
	// ErrUnknown: no live pod of this node has the address or name.
	ErrUnknown = errors.New("no pod of this node has this address")
	// ErrAmbiguous: several live pods have the address.
	ErrAmbiguous = errors.New("several pods of this node have this address")
	// ErrUncertain: the address may have passed from a terminating pod to one
	// that is just starting.
	ErrUncertain = errors.New("the pod with this address is terminating while another one is starting")
)

// View is a pod with what belongs to it, as of one moment. Its contents must not
// be modified.
type View struct {
	Pod *Pod
	// Assigned are the AzureAssignedIdentities that name the pod, in binding
	// order. Whether the pod may use them is the reader's to check.
	Assigned []*v1.AzureAssignedIdentity
	// Managed says that there is no MIC and nothing is assigned: the pod may use
	// the identities in Bound, which are in binding order.
	Managed bool
	Bound   []*v1.AzureIdentity
	// Exception is the AzurePodIdentityException that matches the pod, or nil.
	Exception *v1.AzurePodIdentityException
}

// Index is the index of one node. Its methods are safe for concurrent use; slices
// and objects in it are replaced, never changed.
type Index struct {
	node string

	mu       sync.RWMutex
	synced   bool
	pods     map[types.NamespacedName]*Pod
	byIP     map[netip.Addr][]*Pod
	assigned map[types.NamespacedName][]*v1.AzureAssignedIdentity // by pod
	owner    map[types.NamespacedName]types.NamespacedName        // AzureAssignedIdentity -> pod
	except   map[string][]*v1.AzurePodIdentityException           // by namespace
	bound    *bound                                               // in the managed mode, else nil
	// doubted are the terminating pods whose address a pod may have that is gone
	// from the API server.
	doubted map[types.UID]struct{}

	podsChanged signal
	changed     map[types.NamespacedName]*signal // by pod, while someone waits
	fresh       queue
}

// New makes an empty index of a node.
func New(node string) *Index {
	return &Index{
		node:     node,
		pods:     map[types.NamespacedName]*Pod{},
		byIP:     map[netip.Addr][]*Pod{},
		assigned: map[types.NamespacedName][]*v1.AzureAssignedIdentity{},
		owner:    map[types.NamespacedName]types.NamespacedName{},
		except:   map[string][]*v1.AzurePodIdentityException{},
		changed:  map[types.NamespacedName]*signal{},
		doubted:  map[types.UID]struct{}{},
	}
}

// MarkSynced says that the first lists are in. Before, nothing is found: an
// exception or a second pod with the address could still be missing.
func (x *Index) MarkSynced() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.synced = true
	x.podsChanged.fire()
}

// ByIP returns the pod that has the address now.
func (x *Index) ByIP(ip netip.Addr) (View, error) { return x.ByConnection(ip, "") }

// ByConnection is ByIP for a connection that is known to be a pod's, by its UID; empty
// for none. It cannot change hands, so that it is certain whose it is also when the pod
// is terminating and its address may be about to be another's.
func (x *Index) ByConnection(ip netip.Addr, owner types.UID) (View, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if !x.synced {
		return View{}, ErrNotSynced
	}
	p, err := x.holder(x.byIP[ip.Unmap()], owner, time.Now())
	if err != nil {
		return View{}, err
	}
	return x.view(p), nil
}

// holder picks the pod that has an address among the live pods that report it.
func (x *Index) holder(candidates []*Pod, owner types.UID, now time.Time) (*Pod, error) {
	var stable, terminating *Pod
	several := false
	for _, p := range candidates {
		switch {
		case p.Deadline.IsZero() && stable == nil:
			stable = p
		case p.Deadline.IsZero():
			return nil, ErrAmbiguous
		case !now.Before(p.Deadline): // killed, only not reported yet
		default:
			several = terminating != nil
			terminating = p
		}
	}
	switch {
	case stable != nil:
		return stable, nil
	case terminating == nil:
		return nil, ErrUnknown
	case several:
		return nil, ErrAmbiguous
	case terminating.UID == owner:
		return terminating, nil
	}
	if _, ok := x.doubted[terminating.UID]; ok {
		return nil, ErrUncertain
	}
	for _, p := range x.pods {
		if p.starting() {
			return nil, ErrUncertain
		}
	}
	return terminating, nil
}

// ByName returns a live pod by its name.
func (x *Index) ByName(pod types.NamespacedName) (View, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if !x.synced {
		return View{}, ErrNotSynced
	}
	p, ok := x.pods[pod]
	if !ok || !p.Live {
		return View{}, ErrUnknown
	}
	return x.view(p), nil
}

// Find returns a live pod that is looked for, or nil.
func (x *Index) Find(is func(*Pod) bool) *Pod {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, p := range x.pods {
		if p.Live && is(p) {
			return p
		}
	}
	return nil
}

func (x *Index) view(p *Pod) View {
	v := View{
		Pod:       p,
		Assigned:  x.assigned[p.Key()],
		Exception: binding.Exception(p.Namespace, p.Labels, x.except[p.Namespace]),
	}
	if x.bound != nil {
		v.Managed, v.Bound = true, x.bound.of(p)
	}
	return v
}

// SetPod adds or replaces a pod.
func (x *Index) SetPod(p *Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := p.Key()
	old := x.pods[key]
	x.unlinkIPs(old)
	x.pods[key] = p
	if old != nil && old.UID != p.UID {
		x.vanished(old)
	}
	if p.Live && !p.HostNetwork {
		for _, ip := range p.IPs {
			x.byIP[ip] = append(slices.Clone(x.byIP[ip]), p)
		}
	}
	x.podChanged(key)
	if old == nil || old.UID != p.UID {
		x.gained(key)
	}
}

// DeletePod forgets a pod.
func (x *Index) DeletePod(key types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.pods[key]
	x.unlinkIPs(old)
	delete(x.pods, key)
	if old != nil {
		x.vanished(old)
	}
	x.podChanged(key)
	x.lost(key)
}

// vanished notes that a pod is gone from the API server. Deleted by force, its
// processes may run on for a moment, with an address that was free by then: that of
// a pod that was terminating and still is, unless it was another one by its report.
func (x *Index) vanished(gone *Pod) {
	delete(x.doubted, gone.UID)
	for _, p := range x.pods {
		if p.Live && !p.HostNetwork && !p.Deadline.IsZero() && (gone.starting() || gone.shares(p)) {
			x.doubted[p.UID] = struct{}{}
		}
	}
}

func (x *Index) unlinkIPs(p *Pod) {
	if p == nil {
		return
	}
	for _, ip := range p.IPs {
		left := slices.DeleteFunc(slices.Clone(x.byIP[ip]), func(q *Pod) bool { return q == p })
		if len(left) == 0 {
			delete(x.byIP, ip)
		} else {
			x.byIP[ip] = left
		}
	}
}

// SetAssigned adds or replaces an AzureAssignedIdentity. One of another node is
// forgotten: no pod of this node may use it.
func (x *Index) SetAssigned(a *v1.AzureAssignedIdentity) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := types.NamespacedName{Namespace: a.Namespace, Name: a.Name}
	was := x.isAssigned(key)
	x.dropAssigned(key)
	if a.Spec.NodeName != x.node {
		return
	}
	pod := types.NamespacedName{Namespace: a.Spec.PodNamespace, Name: a.Spec.Pod}
	list := append(slices.Clone(x.assigned[pod]), a)
	slices.SortStableFunc(list, compareAssigned)
	x.assigned[pod] = list
	x.owner[key] = pod
	x.assignedChanged(pod)
	if !was && assignedNow(a) {
		x.gained(pod)
	}
}

// DeleteAssigned forgets an AzureAssignedIdentity.
func (x *Index) DeleteAssigned(key types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropAssigned(key)
}

func (x *Index) dropAssigned(key types.NamespacedName) {
	pod, ok := x.owner[key]
	if !ok {
		return
	}
	delete(x.owner, key)
	left := slices.DeleteFunc(slices.Clone(x.assigned[pod]), func(a *v1.AzureAssignedIdentity) bool {
		return a.Namespace == key.Namespace && a.Name == key.Name
	})
	if len(left) == 0 {
		delete(x.assigned, pod)
	} else {
		x.assigned[pod] = left
	}
	x.assignedChanged(pod)
}

// compareAssigned orders by the binding, which decides the pod's default
// identity; the rest only makes the order total.
func compareAssigned(a, b *v1.AzureAssignedIdentity) int {
	if a.Spec.AzureBindingRef != nil && b.Spec.AzureBindingRef != nil {
		if c := binding.Compare(a.Spec.AzureBindingRef, b.Spec.AzureBindingRef); c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// SetException adds or replaces an exception.
func (x *Index) SetException(e *v1.AzurePodIdentityException) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.except[e.Namespace] = append(x.withoutException(e.Namespace, e.Name), e)
}

// DeleteException forgets an exception.
func (x *Index) DeleteException(key types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	left := x.withoutException(key.Namespace, key.Name)
	if len(left) == 0 {
		delete(x.except, key.Namespace)
		return
	}
	x.except[key.Namespace] = left
}

func (x *Index) withoutException(namespace, name string) []*v1.AzurePodIdentityException {
	return slices.DeleteFunc(slices.Clone(x.except[namespace]), func(e *v1.AzurePodIdentityException) bool {
		return e.Name == name
	})
}
