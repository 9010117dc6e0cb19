package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
)

// selectedTimeout bounds the question at NMI's end; the kubelet does not wait for
// long.
const selectedTimeout = 5 * time.Second

// placement is what of a DaemonSet says on which nodes it runs. The type of
// k8s.io/api/apps/v1 would link all of that group.
type placement struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Template struct {
			Spec struct {
				NodeSelector map[string]string `json:"nodeSelector"`
				Affinity     *corev1.Affinity  `json:"affinity"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

// selects says whether the DaemonSet runs on the node, by the selector and the
// required affinity of its pods. Taints are left out: they say nothing about the
// pods that are on the node already. It is pure.
func (p placement) selects(node *corev1.Node) (bool, error) {
	have := labels.Set(node.Labels)
	if !labels.SelectorFromSet(p.Spec.Template.Spec.NodeSelector).Matches(have) {
		return false, nil
	}
	a := p.Spec.Template.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true, nil
	}
	// Terms are alternatives; an empty one matches nothing.
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if len(term.MatchExpressions)+len(term.MatchFields) == 0 {
			continue
		}
		matches, err := all(term.MatchExpressions, have)
		if err != nil {
			return false, err
		}
		if matches {
			if matches, err = all(term.MatchFields, labels.Set{"metadata.name": node.Name}); err != nil {
				return false, err
			}
		}
		if matches {
			return true, nil
		}
	}
	return false, nil
}

func all(requirements []corev1.NodeSelectorRequirement, have labels.Set) (bool, error) {
	operators := map[corev1.NodeSelectorOperator]selection.Operator{
		corev1.NodeSelectorOpIn: selection.In, corev1.NodeSelectorOpNotIn: selection.NotIn,
		corev1.NodeSelectorOpExists: selection.Exists, corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist,
		corev1.NodeSelectorOpGt: selection.GreaterThan, corev1.NodeSelectorOpLt: selection.LessThan,
	}
	for _, r := range requirements {
		operator, ok := operators[r.Operator]
		if !ok {
			return false, fmt.Errorf("unknown operator %q", r.Operator)
		}
		requirement, err := labels.NewRequirement(r.Key, operator, r.Values)
		if err != nil {
			return false, fmt.Errorf("reading a node selector: %w", err)
		}
		if !requirement.Matches(have) {
			return false, nil
		}
	}
	return true, nil
}

// leaveNode removes the redirect if the DaemonSet, namespace/name, no longer runs
// on the node: no NMI will come back, and without one, pods that have nothing to
// do with us could not reach the instance metadata service. When that is not
// certain, as when the DaemonSet is gone altogether, the redirect stays.
func leaveNode(ctx context.Context, client rest.Interface, daemonSet, node string, redirects []redirect.Redirect) error {
	ctx, cancel := context.WithTimeout(ctx, selectedTimeout)
	defer cancel()
	namespace, name, _ := strings.Cut(daemonSet, "/")
	data, err := client.Get().AbsPath("/apis/apps/v1/namespaces", namespace, "daemonsets", name).
		SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return fmt.Errorf("reading DaemonSet %s: %w", daemonSet, err)
	}
	var p placement
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("reading DaemonSet %s: %w", daemonSet, err)
	}
	if p.Metadata.DeletionTimestamp != nil {
		return fmt.Errorf("DaemonSet %s is being deleted", daemonSet)
	}
	n := &corev1.Node{}
	if err := client.Get().Resource("nodes").Name(node).Do(ctx).Into(n); err != nil {
		return fmt.Errorf("reading Node %s: %w", node, err)
	}
	selected, err := p.selects(n)
	if err != nil {
		return fmt.Errorf("reading DaemonSet %s: %w", daemonSet, err)
	}
	if selected {
		return nil
	}
	var errs []error
	for _, r := range redirects {
		if _, err := redirect.Remove(r.Tables, r.Target); err != nil {
			errs = append(errs, fmt.Errorf("removing the redirect: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Removed the redirect: this node is no longer one of those that NMI's DaemonSet selects", logkey.Node, node)
	return nil
}

// startupTaint takes a taint off the node once NMI is ready. A node that starts
// with it takes no pods before, which would reach the instance metadata service
// around NMI.
type startupTaint struct {
	client    rest.Interface
	node, key string
	ready     func(context.Context) error
}

const (
	taintPoll  = 500 * time.Millisecond
	taintRetry = 5 * time.Second
)

// run returns when the taint is gone.
func (s *startupTaint) run(ctx context.Context) error {
	log := klog.FromContext(ctx)
	for pause := time.Duration(0); ; {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause = taintPoll
		if s.ready(ctx) != nil {
			continue
		}
		had, err := s.remove(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			log.Error(err, "Cannot take the startup taint off the node; trying again", logkey.Node, s.node)
			pause = taintRetry
		case err == nil && had:
			log.Info("NMI is ready; took the startup taint off the node", logkey.Node, s.node)
			return nil
		case err == nil:
			return nil
		}
	}
}

func (s *startupTaint) remove(ctx context.Context) (had bool, err error) {
	n := &corev1.Node{}
	if err := s.client.Get().Resource("nodes").Name(s.node).Do(ctx).Into(n); err != nil {
		return false, fmt.Errorf("reading the node: %w", err)
	}
	patch, err := withoutTaint(n.Spec.Taints, s.key)
	if patch == nil || err != nil {
		return false, err
	}
	if err := s.client.Patch(types.JSONPatchType).Resource("nodes").Name(s.node).Body(patch).Do(ctx).Error(); err != nil {
		return false, fmt.Errorf("patching the node: %w", err)
	}
	return true, nil
}

// withoutTaint is the JSON patch that removes the taints with the key, nil if
// there are none. It fails when the taints have changed meanwhile, so that a taint
// of somebody else is neither lost nor brought back.
func withoutTaint(taints []corev1.Taint, key string) ([]byte, error) {
	left := slices.DeleteFunc(slices.Clone(taints), func(t corev1.Taint) bool { return t.Key == key })
	if len(left) == len(taints) {
		return nil, nil
	}
	type operation struct {
		Op    string         `json:"op"`
		Path  string         `json:"path"`
		Value []corev1.Taint `json:"value"`
	}
	patch, err := json.Marshal([]operation{{"test", "/spec/taints", taints}, {"replace", "/spec/taints", left}})
	if err != nil {
		return nil, fmt.Errorf("encoding the patch: %w", err)
	}
	return patch, nil
}
