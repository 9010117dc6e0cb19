package server

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// The names, addresses and identities of a random history are few, so that all are
// used again and again.
const (
	historyNames      = 7
	historyAddresses  = 5
	historyIdentities = 4
)

// entitlement is what a pod has a right to at one moment. It is worked out from the
// history alone, by no code of the product.
type entitlement struct {
	since int64
	// ids are the client IDs of the pod's identities in binding order.
	ids []string
	// excepted pods may have whatever the node has.
	excepted bool
	// certain says that the pod can be told by its address.
	certain bool
}

func (e entitlement) equal(o entitlement) bool {
	return e.excepted == o.excepted && e.certain == o.certain && slices.Equal(e.ids, o.ids)
}

// onePod is one pod, of which several have a name one after the other.
type onePod struct {
	number  int
	name    string
	object  *corev1.Pod // as the API server has it; the driver's alone
	deleted bool        // from the API server; the driver's alone
	address string      // that its processes have, whether reported or not

	mu     sync.RWMutex
	dead   bool                      // its processes are
	conns  map[*trackedConn]struct{} // open ones
	rights []entitlement             // oldest first
}

// during are the entitlements that held at some moment between two points of the
// history.
func (i *onePod) during(from, to int64) []entitlement {
	i.mu.RLock()
	defer i.mu.RUnlock()
	var found []entitlement
	for n, e := range i.rights {
		if e.since <= to && (n+1 == len(i.rights) || i.rights[n+1].since > from) {
			found = append(found, e)
		}
	}
	return found
}

// kill ends the pod's processes. What they have sent before NMI has learnt whose
// connection it is goes with them; other connections stay open, as if packets could
// still be sent on them.
func (i *onePod) kill() {
	i.mu.Lock()
	i.dead = true
	var unowned []*trackedConn
	for c := range i.conns {
		if !c.owned.Load() {
			unowned = append(unowned, c)
		}
	}
	i.mu.Unlock()
	for _, c := range unowned {
		_ = c.Close()
	}
}

// history is a random history of one node. Only its driver changes it.
type history struct {
	w          *world
	rng        *rand.Rand
	identities []azure.Identity
	start      func(*onePod) // starts the processes of a pod

	begun, done atomic.Int64 // operations
	free        []string     // addresses, the one that was freed last at the end
	assigned    map[string]*v1.AzureAssignedIdentity
	excepting   bool

	mu   sync.Mutex
	all  []*onePod // those that ever were
	live []*onePod // those that the API server has, or whose processes run
}

// step does one operation on the API server's objects, and the index hears of it.
// What pods have a right to afterwards is noted before.
func (h *history) step(change func() (publish func())) {
	now := h.begun.Add(1)
	publish := change()
	h.mu.Lock()
	h.live = slices.DeleteFunc(h.live, func(i *onePod) bool {
		i.mu.RLock()
		defer i.mu.RUnlock()
		return i.deleted && i.dead && len(i.rights[len(i.rights)-1].ids) == 0
	})
	for _, i := range h.live {
		e := h.entitlement(i)
		e.since = now
		i.mu.Lock()
		if n := len(i.rights); n == 0 || !i.rights[n-1].equal(e) {
			i.rights = append(i.rights, e)
		}
		i.mu.Unlock()
	}
	h.mu.Unlock()
	publish()
	h.done.Add(1)
}

func (h *history) entitlement(i *onePod) entitlement {
	var e entitlement
	if i.deleted || finished(i.object) {
		return e
	}
	label := i.object.Labels[v1.BindingLabelKey]
	var mine []*v1.AzureAssignedIdentity
	for _, a := range h.assigned {
		if a.Spec.Pod == i.name && a.Annotations[v1.PodUIDAnnotationKey] == string(i.object.UID) && a.DeletionTimestamp.IsZero() &&
			a.Status.Status == v1.AssignedIDAssigned && label != "" && a.Spec.AzureBindingRef.Spec.Selector == label {
			mine = append(mine, a)
		}
	}
	slices.SortFunc(mine, func(a, b *v1.AzureAssignedIdentity) int {
		return cmp.Compare(a.Spec.AzureBindingRef.Name, b.Spec.AzureBindingRef.Name)
	})
	for _, a := range mine {
		e.ids = append(e.ids, a.Spec.AzureIdentityRef.Spec.ClientID)
	}
	e.excepted = h.excepting && i.object.Labels["app"] == "excepted"
	e.certain = i.address != "" && steady(i) && i.object.Status.PodIP == i.address
	for _, o := range h.live {
		if o != i && steady(o) && !o.object.Spec.HostNetwork && reports(o.object, i.address) {
			e.certain = false
		}
	}
	return e
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func steady(i *onePod) bool {
	return !i.deleted && !finished(i.object) && i.object.DeletionTimestamp == nil
}

func reports(p *corev1.Pod, address string) bool {
	return p.Status.PodIP == address || slices.ContainsFunc(p.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == address })
}

// update changes a pod's object.
func (h *history) update(i *onePod, change func(*corev1.Pod)) {
	h.step(func() func() {
		p := i.object.DeepCopy()
		change(p)
		i.object = p
		return func() { h.w.index.SetPod(podindex.NewPod(p)) }
	})
}

// pick returns a random pod of those for which the condition holds, or nil.
func (h *history) pick(is func(*onePod) bool) *onePod {
	var found []*onePod
	for _, i := range h.live {
		if is(i) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found[h.rng.IntN(len(found))]
}

func (i *onePod) isDead() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.dead
}

// random does one random operation that is possible now. What the kubelet does
// follows upon what the API server says, and what it reports comes later: an
// address can be another pod's before anybody has said so.
func (h *history) random() {
	terminating := func(i *onePod) bool { return !i.deleted && i.object.DeletionTimestamp != nil }
	there := func(i *onePod) bool { return !i.deleted && !finished(i.object) }
	operations := []struct {
		weight int
		do     func()
	}{
		{6, h.create},
		{8, func() { // the sandbox is made
			if i := h.pick(func(i *onePod) bool {
				return there(i) && i.address == "" && !i.object.Spec.HostNetwork && !i.isDead()
			}); i != nil && len(h.free) > 0 {
				h.sandbox(i)
			}
		}},
		{6, func() { // and reported
			if i := h.pick(func(i *onePod) bool { return there(i) && i.address != "" && i.object.Status.PodIP == "" }); i != nil {
				h.update(i, func(p *corev1.Pod) {
					p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, i.address, []corev1.PodIP{{IP: i.address}}
				})
			}
		}},
		{12, h.assign},
		{2, h.withdraw},
		{1, func() {
			if i := h.pick(there); i != nil {
				label := h.label()
				h.update(i, func(p *corev1.Pod) { p.Labels = map[string]string{v1.BindingLabelKey: label, "app": p.Labels["app"]} })
			}
		}},
		{3, func() { // the pod is deleted, with a grace period
			if i := h.pick(steady); i != nil {
				h.update(i, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(time.Hour)} })
			}
		}},
		{3, func() { // its processes are killed, and its address is free
			if i := h.pick(func(i *onePod) bool { return terminating(i) && !i.isDead() }); i != nil {
				h.release(i)
			}
		}},
		{2, func() { // and then its object goes
			if i := h.pick(func(i *onePod) bool { return terminating(i) && i.isDead() }); i != nil {
				h.remove(i)
			}
		}},
		{1, func() { // the pod comes to its end
			if i := h.pick(func(i *onePod) bool { return there(i) && !i.isDead() }); i != nil {
				i.kill()
				h.update(i, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
				h.release(i)
			}
		}},
		{2, func() {
			if i := h.pick(func(i *onePod) bool { return !i.deleted && finished(i.object) }); i != nil {
				h.remove(i)
			}
		}},
		{1, func() { // deleted by force: the processes do not know
			if i := h.pick(there); i != nil {
				h.remove(i)
			}
		}},
		{2, func() {
			if i := h.pick(func(i *onePod) bool { return i.deleted && !i.isDead() }); i != nil {
				h.release(i)
			}
		}},
		{1, h.except},
		{1, h.contend},
	}
	total := 0
	for _, o := range operations {
		total += o.weight
	}
	n := h.rng.IntN(total)
	for _, o := range operations {
		if n -= o.weight; n < 0 {
			o.do()
			return
		}
	}
}

func (h *history) label() string {
	return []string{"sel", "sel", "sel", "other", ""}[h.rng.IntN(5)]
}

func (h *history) create() {
	name := fmt.Sprintf("p%d", h.rng.IntN(historyNames))
	if h.pick(func(i *onePod) bool { return !i.deleted && i.name == name }) != nil {
		return
	}
	i := &onePod{number: len(h.all), name: name, conns: map[*trackedConn]struct{}{}}
	app := []string{"web", "web", "web", "excepted"}[h.rng.IntN(4)]
	label, host := h.label(), h.rng.IntN(10) == 0
	h.step(func() func() {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: name, UID: types.UID(fmt.Sprintf("uid-%d", i.number)),
				Labels: map[string]string{v1.BindingLabelKey: label, "app": app},
			},
			Spec:   corev1.PodSpec{HostNetwork: host},
			Status: corev1.PodStatus{Phase: corev1.PodPending, HostIP: hostIP},
		}
		if host {
			// A pod that claims an address of others, which the node's are not.
			p.Status.Phase, p.Status.PodIP = corev1.PodRunning, h.addresses()[h.rng.IntN(historyAddresses)]
		}
		i.object = p
		h.mu.Lock()
		h.all, h.live = append(h.all, i), append(h.live, i)
		h.mu.Unlock()
		return func() { h.w.index.SetPod(podindex.NewPod(p)) }
	})
}

func (h *history) addresses() []string {
	var all []string
	for n := range historyAddresses {
		all = append(all, fmt.Sprintf("127.0.3.%d", n+1))
	}
	return all
}

func (h *history) sandbox(i *onePod) {
	n := len(h.free) - 1 // mostly the one that was freed last
	if h.rng.IntN(4) == 0 {
		n = h.rng.IntN(len(h.free))
	}
	h.step(func() func() {
		i.address = h.free[n]
		h.free = slices.Delete(h.free, n, n+1)
		return func() {}
	})
	h.start(i)
}

func (h *history) release(i *onePod) {
	i.kill()
	h.step(func() func() {
		if i.address != "" {
			h.free = append(h.free, i.address)
			i.address = ""
		}
		return func() {}
	})
}

func (h *history) remove(i *onePod) {
	h.step(func() func() {
		i.deleted = true
		return func() { h.w.index.DeletePod(types.NamespacedName{Namespace: "default", Name: i.name}) }
	})
}

func (h *history) assign() {
	i := h.pick(func(i *onePod) bool { return !i.deleted })
	if i == nil {
		return
	}
	id := h.identities[h.rng.IntN(len(h.identities))]
	status := []string{v1.AssignedIDCreated, v1.AssignedIDAssigned, v1.AssignedIDAssigned, v1.AssignedIDUnassigned}[h.rng.IntN(4)]
	selector := []string{"sel", "sel", "sel", "other"}[h.rng.IntN(4)]
	order := h.rng.IntN(10)
	h.step(func() func() {
		name := id.ID[len(id.ID)-1:]
		a := assignment(name, status, func(a *v1.AzureAssignedIdentity) {
			a.Name, a.Spec.Pod = i.name+"-default-"+name, i.name
			a.Annotations[v1.PodUIDAnnotationKey] = string(i.object.UID)
			a.Spec.AzureIdentityRef.Spec = v1.AzureIdentitySpec{ClientID: id.ClientID, ResourceID: id.ID}
			a.Spec.AzureBindingRef.Name = fmt.Sprintf("b%d-%s", order, name)
			a.Spec.AzureBindingRef.Spec.Selector = selector
		})
		h.assigned[a.Name] = a
		return func() { h.w.index.SetAssigned(a) }
	})
}

func (h *history) withdraw() {
	names := make([]string, 0, len(h.assigned))
	for name := range h.assigned {
		names = append(names, name)
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	name := names[h.rng.IntN(len(names))]
	marked := h.rng.IntN(2) == 0
	h.step(func() func() {
		if marked { // its finalizer still holds it
			a := h.assigned[name].DeepCopy()
			a.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			h.assigned[name] = a
			return func() { h.w.index.SetAssigned(a) }
		}
		delete(h.assigned, name)
		return func() { h.w.index.DeleteAssigned(types.NamespacedName{Namespace: "default", Name: name}) }
	})
}

func (h *history) except() {
	h.step(func() func() {
		h.excepting = !h.excepting
		e := &v1.AzurePodIdentityException{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"},
			Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"app": "excepted"}},
		}
		if h.excepting {
			return func() { h.w.index.SetException(e) }
		}
		return func() {
			h.w.index.DeleteException(types.NamespacedName{Namespace: "default", Name: "x"})
		}
	})
}

// contend makes a pod report the address of another one for a moment.
func (h *history) contend() {
	reported := func(i *onePod) bool { return steady(i) && i.address != "" && reports(i.object, i.address) }
	a := h.pick(reported)
	b := h.pick(func(i *onePod) bool { return reported(i) && i != a })
	if a == nil || b == nil {
		return
	}
	h.update(a, func(p *corev1.Pod) { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: b.address}) })
	h.update(a, func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: a.address}} })
}
