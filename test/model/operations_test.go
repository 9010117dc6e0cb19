package model

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// op is one thing that happens. Its arguments depend on its kind.
type op struct {
	kind string
	// on is the object, or the name of a target or identity in Azure as its name.
	on   named
	a, b string
	n    int
}

// Kinds of operations.
const (
	quiet = "quiet" // everything comes to rest, and is compared

	makePod     = "make pod"     // a: node, b: label
	remakePod   = "remake pod"   // the same, under the name of one that is deleted
	removePod   = "remove pod"   //
	schedulePod = "schedule pod" // a: node
	finishPod   = "finish pod"   // a: phase
	labelPod    = "label pod"    // b: label, empty for none
	endPod      = "pod begins to end"
	makeBinding = "make binding"    // a: identity, b: selector
	editBinding = "edit binding"    // the same
	dropBinding = "remove binding"  //
	makeID      = "make identity"   // a: resource, empty for a service principal; b: namespaced
	editID      = "edit identity"   // the same
	remakeID    = "remake identity" // the same, under the name of one that is deleted
	dropID      = "remove identity"
	makeNode    = "make node"
	dropNode    = "remove node"
	nameVM      = "set provider ID of node"

	permit      = "MIC may assign what is closed"
	forbid      = "MIC may not assign what is closed"
	azureMake   = "make in Azure"
	azureRemove = "remove in Azure"
	gone        = "VM or scale set is deleted"
	back        = "VM or scale set is made again"
	deleting    = "VM or scale set begins to be deleted"
	addBehind   = "assign behind MIC's back"   // a: resource
	takeBehind  = "unassign behind MIC's back" // a: resource

	fault       = "Azure fails"          // a: which fault, n: how often
	apiFault    = "API server fails"     // n: how often
	killBefore  = "kill MIC before call" // n: which of the next
	killAfter   = "kill MIC after call"  // n: which of the next
	restart     = "restart MIC"
	deleteByHnd = "delete AzureAssignedIdentity by hand"               // n: which
	clearByHand = "clear finalizer of AzureAssignedIdentity by hand"   // n: which
	forceByHand = "clear finalizer by hand, then delete, while no MIC" // n: which
)

func (o op) String() string {
	words := []string{o.kind}
	if o.on.namespace != "" {
		words = append(words, o.on.String())
	} else if o.on.name != "" {
		words = append(words, o.on.name)
	}
	switch o.kind {
	case makePod, remakePod:
		words = append(words, "on node "+orNone(o.a), "with label "+orNone(o.b))
	case labelPod:
		words = append(words, orNone(o.b))
	case makeBinding, editBinding:
		words = append(words, "of "+o.a+", selector "+o.b)
	case makeID, editID, remakeID:
		what := "resource " + o.a
		if o.a == "" {
			what = "a service principal"
		}
		words = append(words, "as "+strings.TrimSpace(what+" "+o.b))
	default:
		if o.a != "" {
			words = append(words, o.a)
		}
	}
	if o.n > 0 {
		words = append(words, fmt.Sprintf("(%d)", o.n))
	}
	return strings.Join(words, " ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// history is what happens, in order.
type history []op

func (h history) String() string {
	var b strings.Builder
	for i, o := range h {
		fmt.Fprintf(&b, "  %2d. %s\n", i+1, o)
	}
	return b.String()
}

// The small world of the histories. Pod a-b of namespace c and pod a of namespace
// b-c have AzureAssignedIdentities of one name.
var (
	podNames   = []named{{"default", "a"}, {"c", "a-b"}, {"b-c", "a"}, {"c", "a"}, {"default", "web-0"}}
	labels     = []string{"x", "y"}
	ids        = []named{{"default", "one"}, {"default", "two"}, {"c", "one"}, {"c", "two"}}
	bindings   = []named{{"default", "p"}, {"default", "q"}, {"c", "p"}, {"c", "q"}}
	resources  = []string{"red", "green", "blue", "lost", closed, fixed}
	nodeTarget = map[string]string{"n0": "pool", "n1": "pool", "n2": "twin", "n3": "vm", "n4": "flex", "n5": ""}
	nodes      = slices.Sorted(maps.Keys(nodeTarget))
	targets    = []string{"pool", "twin", "vm", "flex"}
)

// newFacts is the world at the beginning: nodes, VMs, scale sets and identities in
// Azure, all but one, which is lost.
func newFacts() *facts {
	f := &facts{
		pods: map[named]pod{}, bindings: map[named]binding{}, identities: map[named]identity{},
		nodes: map[string]string{}, targets: map[string]*target{}, azure: map[string]int{}, settled: true,
	}
	for _, t := range targets {
		f.targets[t] = &target{foreign: map[string]int{}, unsure: map[string]bool{}}
	}
	for _, n := range nodes {
		f.nodes[n] = nodeTarget[n]
	}
	for _, r := range resources {
		if r != "lost" {
			f.made++
			f.azure[r] = f.made
		}
	}
	return f
}

// change makes the facts those after o. It reports false, and changes nothing, if
// o cannot happen.
func (o op) change(f *facts) bool {
	settled := f.settled
	f.settled = false
	if o.kind == quiet {
		f.quiet()
		return true
	}
	if !o.possible(f, settled) {
		f.settled = settled
		return false
	}
	t := f.targets[o.on.name]
	switch o.kind {
	case makePod, remakePod:
		f.pods[o.on] = pod{node: o.a, label: o.b}
	case removePod:
		delete(f.pods, o.on)
	case schedulePod:
		p := f.pods[o.on]
		p.node = o.a
		f.pods[o.on] = p
	case finishPod:
		p := f.pods[o.on]
		p.finished = true
		f.pods[o.on] = p
	case labelPod:
		p := f.pods[o.on]
		p.label = o.b
		f.pods[o.on] = p
	case endPod:
		p := f.pods[o.on]
		p.ending = true
		f.pods[o.on] = p
		f.settled = settled
	case permit:
		f.permitted, f.once = true, true
	case forbid:
		f.permitted = false
	case makeBinding, editBinding:
		f.bindings[o.on] = binding{identity: o.a, selector: o.b}
	case dropBinding:
		delete(f.bindings, o.on)
	case makeID, editID, remakeID:
		f.identities[o.on] = identity{resource: o.a, namespaced: o.b != ""}
	case dropID:
		delete(f.identities, o.on)
	case makeNode:
		f.nodes[o.on.name] = nodeTarget[o.on.name]
	case dropNode:
		delete(f.nodes, o.on.name)
	case nameVM:
		f.nodes[o.on.name] = "vm"
	case killBefore, killAfter:
		f.settled = settled
	case azureMake:
		f.made++
		f.azure[o.on.name] = f.made
	case azureRemove:
		delete(f.azure, o.on.name)
	case deleting:
		must, may := f.on(o.on.name)
		for r := range may {
			t.unsure[r] = true
		}
		t.deleting = map[string]int{}
		for r := range must {
			t.deleting[r] = f.azure[r]
			if n, foreign := t.foreign[r]; foreign {
				t.deleting[r] = n
			}
		}
		f.settled = settled
	case gone:
		t.gone, t.deleting = true, nil
		for r := range t.foreign {
			t.unsure[r] = true
		}
		t.foreign = map[string]int{}
	case back:
		t.gone = false
	case addBehind:
		t.foreign[o.a] = f.azure[o.a]
		f.settled = settled
	case takeBehind:
		if _, foreign := t.foreign[o.a]; foreign && f.wanted(o.on.name)[o.a] {
			t.unsure[o.a] = true
		} else if !f.wanted(o.on.name)[o.a] {
			delete(t.unsure, o.a)
		}
		delete(t.foreign, o.a)
		f.settled = settled
	}
	f.settle()
	return true
}

// possible says whether o can happen. What is done behind MIC's back is done while
// MIC is at rest, or nobody could say who was first.
func (o op) possible(f *facts, settled bool) bool {
	if f.ending() && !slices.Contains([]string{removePod, fault, apiFault, killBefore, killAfter, restart}, o.kind) {
		return false // what an ending pod still has would depend on what MIC saw in between
	}
	p, podThere := f.pods[o.on]
	_, bindingThere := f.bindings[o.on]
	_, idThere := f.identities[o.on]
	node, nodeThere := f.nodes[o.on.name]
	t := f.targets[o.on.name]
	switch o.kind {
	case makePod:
		return !podThere
	case remakePod, removePod:
		return podThere
	case schedulePod:
		return podThere && p.node == "" && !p.finished
	case finishPod:
		return podThere && !p.finished && p.node != ""
	case labelPod:
		return podThere && p.label != o.b
	case endPod:
		return settled && podThere && p.node != "" && !p.finished
	case permit:
		return !f.permitted
	case forbid:
		return f.permitted
	case makeBinding:
		return !bindingThere
	case editBinding, dropBinding:
		return bindingThere
	case makeID:
		return !idThere
	case editID, remakeID, dropID:
		return idThere
	case makeNode:
		return !nodeThere
	case dropNode:
		return nodeThere
	case nameVM:
		return nodeThere && node == "" && o.on.name == "n5"
	case azureMake:
		return f.azure[o.on.name] == 0
	case azureRemove:
		return f.azure[o.on.name] != 0
	case gone:
		return !t.gone
	case back:
		return t.gone
	case deleting:
		return settled && !t.gone && t.deleting == nil
	case addBehind:
		must, may := f.on(o.on.name)
		return settled && !t.gone && t.deleting == nil && f.azure[o.a] != 0 && !must[o.a] && !may[o.a] && !f.wanted(o.on.name)[o.a]
	case takeBehind:
		must, _ := f.on(o.on.name)
		return settled && !t.gone && t.deleting == nil && must[o.a]
	}
	return true
}

// ending says whether a pod ends.
func (f *facts) ending() bool {
	for _, p := range f.pods {
		if p.ending {
			return true
		}
	}
	return false
}

// weights say how often each kind happens.
var weights = []struct {
	kind string
	n    int
}{
	{quiet, 14},
	{makePod, 22}, {remakePod, 5}, {removePod, 8}, {schedulePod, 4}, {finishPod, 3}, {labelPod, 5}, {endPod, 6},
	{makeBinding, 9}, {editBinding, 3}, {dropBinding, 3}, {makeID, 9}, {editID, 4}, {remakeID, 2}, {dropID, 2},
	{makeNode, 3}, {dropNode, 2}, {nameVM, 1},
	{permit, 2}, {forbid, 2}, {azureMake, 2}, {azureRemove, 2}, {gone, 1}, {back, 2}, {deleting, 1}, {addBehind, 4}, {takeBehind, 4},
	{fault, 3}, {apiFault, 1}, {killBefore, 3}, {killAfter, 3}, {restart, 1},
	{deleteByHnd, 2}, {clearByHand, 2}, {forceByHand, 1},
}

// random makes up an operation.
func random(r *rand.Rand) op {
	total := 0
	for _, w := range weights {
		total += w.n
	}
	x, kind := r.IntN(total), ""
	for _, w := range weights {
		if x -= w.n; x < 0 {
			kind = w.kind
			break
		}
	}
	o := op{kind: kind}
	one := func(of []string) string { return of[r.IntN(len(of))] }
	switch kind {
	case makePod, remakePod:
		o.on, o.a, o.b = podNames[r.IntN(len(podNames))], one(nodes), one(labels)
		if r.IntN(8) == 0 {
			o.a = ""
		}
	case schedulePod:
		o.on, o.a = podNames[r.IntN(len(podNames))], one(nodes)
	case finishPod:
		o.on, o.a = podNames[r.IntN(len(podNames))], one([]string{"Succeeded", "Failed"})
	case labelPod:
		o.on, o.b = podNames[r.IntN(len(podNames))], one([]string{"x", "y", ""})
	case removePod, endPod:
		o.on = podNames[r.IntN(len(podNames))]
	case makeBinding, editBinding:
		o.on, o.a, o.b = bindings[r.IntN(len(bindings))], one([]string{"one", "two"}), one(labels)
	case dropBinding:
		o.on = bindings[r.IntN(len(bindings))]
	case makeID, editID, remakeID:
		o.on, o.a = ids[r.IntN(len(ids))], one(resources)
		if r.IntN(10) == 0 {
			o.a = ""
		}
		if r.IntN(6) == 0 {
			o.b = "namespaced"
		}
	case dropID:
		o.on = ids[r.IntN(len(ids))]
	case makeNode, dropNode:
		o.on.name = one(nodes)
	case nameVM:
		o.on.name = "n5"
	case azureMake, azureRemove:
		o.on.name = one(resources)
	case gone, back, deleting:
		o.on.name = one(targets)
	case addBehind, takeBehind:
		o.on.name, o.a = one(targets), one(resources)
	case fault:
		o.a, o.n = one(slices.Sorted(maps.Keys(faults))), 1+r.IntN(3)
	case apiFault:
		o.n = 1 + r.IntN(3)
	case killBefore, killAfter:
		o.n = 1 + r.IntN(8)
	case deleteByHnd, clearByHand, forceByHand:
		o.n = 1 + r.IntN(4)
	}
	return o
}

// randomHistory makes up a history that ends in a quiet period.
func randomHistory(seed uint64, length int) history {
	r := rand.New(rand.NewPCG(seed, 0))
	f := newFacts()
	var h history
	for len(h) < length {
		if o := random(r); o.change(f) {
			h = append(h, o)
		}
	}
	return append(h, op{kind: quiet})
}
