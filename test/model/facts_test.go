package model

import (
	"cmp"
	"maps"
	"slices"
)

// This file is the model. It shares no code with MIC.

// named is an object of the cluster.
type named struct{ namespace, name string }

func (n named) String() string { return n.namespace + "/" + n.name }

// facts are what exists, and what of it decides who has which identity where.
type facts struct {
	pods       map[named]pod
	bindings   map[named]binding
	identities map[named]identity
	// nodes are the VM or scale set of each node, "" for a node without one.
	nodes   map[string]string
	targets map[string]*target
	// azure has the identities that exist in Azure, with a number that is another
	// for one that was deleted and made again.
	azure map[string]int
	made  int
	// permitted: MIC may assign closed; once: it was allowed to before.
	permitted, once bool
	// settled: nothing has happened since the last quiet period.
	settled bool
	// recent is what was there since then.
	recent recent
}

// recent has all versions of objects since the last quiet period. MIC is told of
// objects of different kinds in any order, and so may see some of them together that
// never were.
type recent struct {
	pods     map[named]map[pod]bool
	bindings map[named]map[binding]bool
	nodes    map[string]map[string]bool
	// fixed are the identities that were fixed.
	fixed map[named]bool
}

func note[K, V comparable](all map[K]map[V]bool, k K, v V) {
	if all[k] == nil {
		all[k] = map[V]bool{}
	}
	all[k][v] = true
}

// remember adds what is there now.
func (f *facts) remember() {
	r := &f.recent
	if r.pods == nil {
		*r = recent{map[named]map[pod]bool{}, map[named]map[binding]bool{}, map[string]map[string]bool{}, map[named]bool{}}
	}
	for n, p := range f.pods {
		note(r.pods, n, p)
	}
	for n, b := range f.bindings {
		note(r.bindings, n, b)
	}
	for n, t := range f.nodes {
		note(r.nodes, n, t)
	}
	for n, id := range f.identities {
		if id.resource == fixed {
			r.fixed[n] = true
		}
	}
}

// fixedSeen are the targets on which MIC may have seen a pod that needs what is fixed.
func (f *facts) fixedSeen() map[string]bool {
	labels, seen := map[string]bool{}, map[string]bool{}
	for n, versions := range f.recent.bindings {
		for b := range versions {
			if f.recent.fixed[named{n.namespace, b.identity}] {
				labels[b.selector] = true
			}
		}
	}
	for _, versions := range f.recent.pods {
		for p := range versions {
			if labels[p.label] {
				for t := range f.recent.nodes[p.node] {
					seen[t] = true
				}
			}
		}
	}
	return seen
}

type pod struct {
	node, label string
	finished    bool
	// ending: it is being deleted, and keeps what it has.
	ending bool
}

type binding struct{ identity, selector string }

type identity struct {
	// resource is the identity in Azure, "" for a service principal.
	resource   string
	namespaced bool
}

// target is a VM or scale set.
type target struct {
	gone bool
	// deleting has what was on it when its deletion began, nil before.
	deleting map[string]int
	// foreign are the identities on it that MIC must not remove, with their number.
	foreign map[string]int
	// unsure are those of which nobody can say whose they are, because of what
	// happened faster than MIC looks.
	unsure map[string]bool
}

const (
	// closed is an identity that MIC has no right to assign at first.
	closed = "closed"
	// fixed is one that MIC's configuration calls immutable.
	fixed = "fixed"
)

// grant is an identity that a pod has.
type grant struct{ identity, binding named }

// grants are the identities of a pod, in order: of its bindings by namespace and
// name those whose identity exists, is not confined to another namespace, and has
// a name that no earlier one has.
func (f *facts) grants(n named) []grant {
	var all []grant
	seen := map[string]bool{}
	for _, b := range slices.SortedFunc(maps.Keys(f.bindings), byName) {
		id := named{b.namespace, f.bindings[b].identity}
		i, exists := f.identities[id]
		switch {
		case f.pods[n].label == "", f.bindings[b].selector != f.pods[n].label, !exists:
		case i.namespaced && id.namespace != n.namespace, seen[id.name]:
		default:
			seen[id.name] = true
			all = append(all, grant{id, b})
		}
	}
	return all
}

func byName(a, b named) int {
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

// runs says whether a pod needs what it is granted.
func (f *facts) runs(n named) bool {
	p := f.pods[n]
	_, there := f.nodes[p.node]
	return there && !p.finished
}

// wanted are the identities that the pods on a target need.
func (f *facts) wanted(t string) map[string]bool {
	all := map[string]bool{}
	for n, p := range f.pods {
		if !f.runs(n) || f.nodes[p.node] != t {
			continue
		}
		for _, g := range f.grants(n) {
			if r := f.identities[g.identity].resource; r != "" {
				all[r] = true
			}
		}
	}
	return all
}

// on are the identities that are on a target when all is quiet, and those that may
// be.
func (f *facts) on(name string) (must, may map[string]bool) {
	must, may = map[string]bool{}, map[string]bool{}
	t, wanted := f.targets[name], f.wanted(name)
	if t.gone {
		return must, may
	}
	if t.deleting != nil {
		for r := range t.deleting {
			must[r] = true
		}
		return must, t.unsure
	}
	for r := range wanted {
		switch {
		case f.azure[r] != 0 && (r != closed || f.permitted), t.foreign[r] != 0:
			must[r] = true
		case t.unsure[r], r == closed && f.once:
			may[r] = true
		}
	}
	for r := range t.foreign {
		must[r] = true
	}
	for r := range t.unsure {
		may[r] = true
	}
	return must, may
}

// states of an AzureAssignedIdentity.
const (
	created  = "Created"
	assigned = "Assigned"
	// either: Assigned if the identity is on the target, else Created.
	either = "either"
)

// state is that of the AzureAssignedIdentity for a grant of a pod that runs.
func (f *facts) state(n named, g grant) string {
	r := f.identities[g.identity].resource
	name := f.nodes[f.pods[n].node]
	switch {
	case r == "":
		return assigned
	case name == "" || f.targets[name].gone || f.azure[r] == 0:
		return created
	case f.targets[name].deleting != nil:
		switch {
		case f.targets[name].deleting[r] == f.azure[r]:
			return assigned
		case f.targets[name].unsure[r]:
			return either
		}
		return created
	}
	must, may := f.on(name)
	switch {
	case must[r]:
		return assigned
	case may[r]:
		return either
	}
	return created
}

// inUse says whether a pod has an identity, or waits for it.
func (f *facts) inUse(id named) bool {
	for n := range f.pods {
		if f.runs(n) && slices.ContainsFunc(f.grants(n), func(g grant) bool { return g.identity == id }) {
			return true
		}
	}
	return false
}

// matched says whether a binding selects a pod that its identity is for.
func (f *facts) matched(b named) bool {
	id, exists := f.identities[named{b.namespace, f.bindings[b].identity}]
	for n, p := range f.pods {
		if p.label == f.bindings[b].selector && !p.finished && (n.namespace == b.namespace || !exists || !id.namespaced) {
			return true
		}
	}
	return false
}

// settle follows who put what on the targets, after each change.
func (f *facts) settle() {
	for name, t := range f.targets {
		wanted := f.wanted(name)
		for r := range wanted {
			if n, foreign := t.foreign[r]; foreign && n != f.azure[r] {
				// MIC removes and adds again what Azure does not know any more, or would.
				delete(t.foreign, r)
				t.unsure[r] = true
			}
		}
	}
	f.remember()
	for name := range f.fixedSeen() {
		t := f.targets[name]
		if t == nil || t.gone || t.deleting != nil {
			continue
		}
		if _, foreign := t.foreign[fixed]; !foreign {
			t.unsure[fixed] = true
		}
	}
}

// quiet is the end of a quiet period: what is immutable is there for good.
func (f *facts) quiet() {
	f.settled = true
	f.recent = recent{}
	f.remember()
	for name, t := range f.targets {
		if must, _ := f.on(name); must[fixed] && t.deleting == nil && f.azure[fixed] != 0 {
			t.foreign[fixed] = f.azure[fixed]
			delete(t.unsure, fixed)
		}
	}
}
