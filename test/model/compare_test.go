package model

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// poll is how often the world is compared with the facts while it comes to rest.
const poll = 25 * time.Millisecond

// rest lets failures end and waits until the world is as the facts say. Then each
// VM and scale set that MIC looks after must have been looked at twice more, and
// the world must be the same. What MIC was about to write when the facts changed may
// still come, and is taken back: that happens once.
func (w *world) rest(patience time.Duration) error {
	w.azure.RemoveFault("")
	w.mic.refuseNext(0)
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	var later error
	for range 2 {
		if err := w.until(ctx, w.differences); err != nil {
			return fmt.Errorf("not within %s: %w", patience, err)
		}
		mark := int64(0)
		if calls := w.azure.Calls(azure.CallFilter{}); len(calls) > 0 {
			mark = calls[len(calls)-1].Seq
		}
		if err := w.until(ctx, func(context.Context) error { return w.looked(mark) }); err != nil {
			return fmt.Errorf("not within %s: %w", patience, err)
		}
		// A read may be followed by a change, so the second look ends the first one.
		if later = w.differences(ctx); later == nil {
			return nil
		}
	}
	return fmt.Errorf("right at first, and then twice: %w", later)
}

// until repeats check until it passes. A MIC that died has a successor.
func (w *world) until(ctx context.Context, check func(context.Context) error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error
	for {
		if w.mic.isDead() {
			if err := w.startMIC(); err != nil {
				return err
			}
		}
		err := check(ctx)
		if err == nil {
			return nil
		}
		// A check that the end of ctx cut off says nothing of the world.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
	}
}

// looked says whether the targets on which something is wanted were read twice
// since a call. A calm MIC reads nothing.
func (w *world) looked(mark int64) error {
	if w.pace == calm {
		return nil
	}
	for name, t := range w.facts.targets {
		if t.gone || len(w.facts.wanted(name)) == 0 {
			continue
		}
		reads := 0
		for _, c := range w.azure.Calls(azure.CallFilter{Service: azure.ServiceARM, PathContains: targetIDs[name], After: mark}) {
			if c.Operation == azure.OpVMGet || c.Operation == azure.OpVMSSGet {
				reads++
			}
		}
		if reads < 2 {
			return fmt.Errorf("%s was not read again", name)
		}
	}
	return nil
}

// differences are those between the world and the facts.
func (w *world) differences(ctx context.Context) error {
	var errs []error
	here := map[string]map[string]bool{}
	for _, name := range targets {
		on, err := w.compareTarget(name)
		here[name] = on
		errs = append(errs, err)
	}
	return errors.Join(append(errs, w.compareAssigned(ctx, here), w.compareTags(ctx), w.compareConditions(ctx))...)
}

// compareTarget compares what is on a VM or scale set, and returns it without what
// Azure does not know any more.
func (w *world) compareTarget(name string) (map[string]bool, error) {
	on := map[string]bool{}
	if w.facts.targets[name].gone {
		return on, nil
	}
	c, err := w.azure.Compute(targetIDs[name])
	if err != nil {
		return nil, err
	}
	known := map[string]string{}
	for _, i := range w.azure.State().Identities {
		known[resourceOf(i.ID)] = i.ClientID
	}
	must, may := w.facts.on(name)
	var errs []error
	for _, a := range c.UserAssigned {
		r := resourceOf(a.ID)
		if !must[r] && !may[r] {
			errs = append(errs, fmt.Errorf("%s has %s, which nobody needs", name, r))
		}
		if known[r] != "" && known[r] == a.ClientID {
			on[r] = true
		} else if _, foreign := w.facts.targets[name].foreign[r]; !foreign && !may[r] && w.facts.targets[name].deleting == nil {
			errs = append(errs, fmt.Errorf("%s has %s, which Azure does not know any more", name, r))
		}
		delete(must, r)
	}
	for _, r := range slices.Sorted(maps.Keys(must)) {
		errs = append(errs, fmt.Errorf("%s lacks %s", name, r))
	}
	if !c.SystemAssigned || c.SystemPrincipalID != w.systems[name] {
		errs = append(errs, fmt.Errorf("the system-assigned identity of %s was changed", name))
	}
	return on, errors.Join(errs...)
}

// compareAssigned compares the AzureAssignedIdentities.
func (w *world) compareAssigned(ctx context.Context, here map[string]map[string]bool) error {
	var list v1.AzureAssignedIdentityList
	if err := w.client.List(ctx, &list); err != nil {
		return fmt.Errorf("listing assigned identities: %w", err)
	}
	var pods corev1.PodList
	if err := w.client.List(ctx, &pods); err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	uids := map[named]string{}
	for i := range pods.Items {
		uids[named{pods.Items[i].Namespace, pods.Items[i].Name}] = string(pods.Items[i].UID)
	}
	want := map[string]string{}
	for n, p := range w.facts.pods {
		if !w.facts.runs(n) {
			continue
		}
		for _, g := range w.facts.grants(n) {
			key, object := w.describe(n, p, g, uids[n], here)
			want[key] = object
		}
	}
	var errs []error
	for i := range list.Items {
		key, object := describeFound(&list.Items[i])
		if want[key] != object {
			errs = append(errs, fmt.Errorf("AzureAssignedIdentity %s is %s, must be %s", key, object, orNone(want[key])))
		}
		want[key] = "" // a second one is one too many
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if want[key] != "" {
			errs = append(errs, fmt.Errorf("no AzureAssignedIdentity %s, must be %s", key, want[key]))
		}
	}
	return errors.Join(errs...)
}

// describe is how the object for a grant must be.
func (w *world) describe(n named, p pod, g grant, uid string, here map[string]map[string]bool) (key, object string) {
	id := w.facts.identities[g.identity]
	state := w.facts.state(n, g)
	if state == either {
		if state = created; here[w.facts.nodes[p.node]][id.resource] {
			state = assigned
		}
	}
	namespace := "default"
	if id.namespaced {
		namespace = g.identity.namespace
	}
	return n.String() + " " + g.identity.String(), strings.Join([]string{
		state, "in " + namespace, "node " + p.node, "label " + p.node, "uid " + uid, "binding " + g.binding.String(), "resource " + id.resource, "finalizer true",
	}, ", ")
}

func describeFound(a *v1.AzureAssignedIdentity) (key, object string) {
	if a.Spec.AzureIdentityRef == nil || a.Spec.AzureBindingRef == nil {
		return a.Namespace + "/" + a.Name, "without references"
	}
	id, b := a.Spec.AzureIdentityRef, a.Spec.AzureBindingRef
	state := a.Status.Status
	if !a.DeletionTimestamp.IsZero() {
		state += " and being deleted"
	}
	resource := ""
	if id.Spec.ResourceID != "" {
		resource = resourceOf(id.Spec.ResourceID)
	}
	return a.Spec.PodNamespace + "/" + a.Spec.Pod + " " + id.Namespace + "/" + id.Name, strings.Join([]string{
		state, "in " + a.Namespace, "node " + a.Spec.NodeName, "label " + a.Labels[v1.NodeNameLabelKey], "uid " + a.Annotations[v1.PodUIDAnnotationKey],
		"binding " + b.Namespace + "/" + b.Name, "resource " + resource,
		fmt.Sprintf("finalizer %v", slices.Contains(a.Finalizers, v1.AssignedIdentityFinalizer)),
	}, ", ")
}

// ledgers says whether MIC's ledgers are gone once no pod is left: one that stays
// would name an identity for ever.
func (w *world) ledgers(ctx context.Context) error {
	var list corev1.ConfigMapList
	if err := w.client.List(ctx, &list, client.InNamespace(micNamespace), client.MatchingLabels{v1.LedgerLabelKey: "true"}); err != nil {
		return fmt.Errorf("listing ledgers: %w", err)
	}
	var errs []error
	for i := range list.Items {
		for _, name := range targets {
			t := w.facts.targets[name]
			if t.deleting == nil && strings.EqualFold(list.Items[i].Data["target"], targetIDs[name]) {
				errs = append(errs, fmt.Errorf("a ledger of %s is left: added %s, found there %s", name, list.Items[i].Data["added"], list.Items[i].Data["preexisting"]))
			}
		}
	}
	return errors.Join(errs...)
}
