package model

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// do lets an operation happen in the cluster and in Azure.
func (w *world) do(o op) error {
	if err := w.effect(o); err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	return nil
}

func (w *world) effect(o op) error {
	meta := metav1.ObjectMeta{Namespace: o.on.namespace, Name: o.on.name}
	switch o.kind {
	case makePod, remakePod:
		if o.kind == remakePod {
			if err := w.remove(w.ctx, &corev1.Pod{ObjectMeta: meta}); err != nil {
				return err
			}
		}
		meta.Labels = map[string]string{v1.BindingLabelKey: o.b}
		return w.client.Create(w.ctx, &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: o.a, Containers: []corev1.Container{{Name: "c", Image: "none"}}}})
	case removePod:
		return w.remove(w.ctx, &corev1.Pod{ObjectMeta: meta})
	case endPod:
		// Without a kubelet it goes on ending until it is removed.
		return w.client.Delete(w.ctx, &corev1.Pod{ObjectMeta: meta}, client.GracePeriodSeconds(30))
	case schedulePod:
		return w.client.SubResource("binding").Create(w.ctx, &corev1.Pod{ObjectMeta: meta}, &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: o.a}})
	case finishPod:
		return w.client.Status().Patch(w.ctx, &corev1.Pod{ObjectMeta: meta}, merge(map[string]any{"status": map[string]any{"phase": o.a}}))
	case labelPod:
		var label any = o.b
		if o.b == "" {
			label = nil
		}
		return w.client.Patch(w.ctx, &corev1.Pod{ObjectMeta: meta}, merge(map[string]any{"metadata": map[string]any{"labels": map[string]any{v1.BindingLabelKey: label}}}))
	case makeBinding:
		return w.client.Create(w.ctx, &v1.AzureIdentityBinding{ObjectMeta: meta, Spec: v1.AzureIdentityBindingSpec{AzureIdentity: o.a, Selector: o.b}})
	case editBinding:
		return w.client.Patch(w.ctx, &v1.AzureIdentityBinding{ObjectMeta: meta}, merge(map[string]any{"spec": map[string]any{"azureIdentity": o.a, "selector": o.b}}))
	case dropBinding:
		return w.remove(w.ctx, &v1.AzureIdentityBinding{ObjectMeta: meta})
	case makeID, editID, remakeID, dropID:
		return w.identityEffect(o, meta)
	case makeNode:
		return w.makeNode(o.on.name)
	case dropNode:
		return w.remove(w.ctx, &corev1.Node{ObjectMeta: meta})
	case nameVM:
		return w.client.Patch(w.ctx, &corev1.Node{ObjectMeta: meta}, merge(map[string]any{"spec": map[string]any{"providerID": providerIDs["n3"]}}))
	case restart, killBefore, killAfter, apiFault, deleteByHnd, clearByHand, forceByHand:
		return w.disturb(o)
	}
	return w.azureEffect(o)
}

func merge(change map[string]any) client.Patch {
	raw, err := json.Marshal(change)
	if err != nil {
		raw = nil // maps of strings always encode
	}
	return client.RawPatch(types.MergePatchType, raw)
}

func (w *world) makeNode(name string) error {
	return w.client.Create(w.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: providerIDs[name]}})
}

func (w *world) identityEffect(o op, meta metav1.ObjectMeta) error {
	if o.kind == dropID || o.kind == remakeID {
		if err := w.remove(w.ctx, &v1.AzureIdentity{ObjectMeta: meta}); err != nil || o.kind == dropID {
			return err
		}
	}
	if o.b != "" {
		meta.Annotations = map[string]string{v1.BehaviorAnnotationKey: v1.BehaviorNamespaced}
	}
	id := &v1.AzureIdentity{ObjectMeta: meta, Spec: v1.AzureIdentitySpec{ClientID: clientID}}
	if o.a == "" {
		id.Spec.Type, id.Spec.TenantID = v1.ServicePrincipal, sub
		id.Spec.ClientPassword = v1.SecretReference{Name: "secret", Namespace: "default"}
	} else if id.Spec.ResourceID = resourceID(o.a); meta.Namespace != "default" {
		// One identity in two spellings.
		id.Spec.ResourceID = strings.Replace(id.Spec.ResourceID, "resourceGroups", "resourcegroups", 1)
	}
	if o.kind != editID {
		return w.client.Create(w.ctx, id)
	}
	// MIC writes its status at the same time.
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var now v1.AzureIdentity
		if err := w.client.Get(w.ctx, client.ObjectKeyFromObject(id), &now); err != nil {
			return err
		}
		now.Spec, now.Annotations = id.Spec, meta.Annotations
		return w.client.Update(w.ctx, &now)
	})
}

func (w *world) azureEffect(o op) error {
	id := targetIDs[o.on.name]
	switch o.kind {
	case permit:
		return w.azure.Grant(closedRole)
	case forbid:
		return w.azure.Revoke(closedRole)
	case azureMake:
		_, err := w.azure.PutIdentity(azure.Identity{ID: resourceID(o.on.name)})
		return err
	case azureRemove:
		return w.azure.DeleteIdentity(resourceID(o.on.name))
	case gone:
		return w.azure.DeleteCompute(id)
	case back:
		if _, err := w.azure.PutCompute(azure.Compute{ID: id, SystemAssigned: true}); err != nil {
			return err
		}
		return w.noteSystem(o.on.name)
	case deleting:
		return w.azure.SetProvisioningState(id, "Deleting")
	case addBehind, takeBehind:
		c, err := w.azure.Compute(id)
		if err != nil {
			return err
		}
		c.UserAssigned = slices.DeleteFunc(c.UserAssigned, func(a azure.Assignment) bool { return resourceOf(a.ID) == o.a })
		if o.kind == addBehind {
			c.UserAssigned = append(c.UserAssigned, azure.Assignment{ID: resourceID(o.a)})
		}
		_, err = w.azure.PutCompute(c)
		return err
	case fault:
		f := faults[o.a]
		f.Count = o.n
		_, err := w.azure.AddFault(f)
		return err
	}
	return fmt.Errorf("unknown operation %q", o.kind)
}

// disturb does what happens to MIC and its objects.
func (w *world) disturb(o op) error {
	switch o.kind {
	case killBefore, killAfter:
		w.mic.killSoon(o.n, o.kind == killAfter)
		return nil
	case apiFault:
		w.mic.refuseNext(o.n)
		return nil
	case restart:
		if err := w.mic.stop(); err != nil {
			return err
		}
		w.all = slices.DeleteFunc(w.all, func(p *process) bool { return p == w.mic })
		return w.startMIC()
	}
	var list v1.AzureAssignedIdentityList
	if err := w.client.List(w.ctx, &list); err != nil || len(list.Items) == 0 {
		return err
	}
	a := &list.Items[o.n%len(list.Items)]
	switch o.kind {
	case deleteByHnd:
		return w.remove(w.ctx, a)
	case clearByHand:
		return w.clearFinalizer(w.ctx, a)
	}
	// While no MIC runs.
	w.mic.kill()
	if err := w.force(w.ctx, a); err != nil {
		return err
	}
	return w.startMIC()
}
