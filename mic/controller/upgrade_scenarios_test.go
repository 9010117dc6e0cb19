package controller

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/charts"
	"github.com/aad-pod-identity/aad-pod-identity/test/apiserver"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestTypeUpgrade starts MIC in a cluster that has objects of releases before 1.6.0.
func TestTypeUpgrade(t *testing.T) {
	c := startCluster(t)
	for name, run := range map[string]func(*scenario){
		"names are put right once, and bad objects are left alone": upgraded,
		"killed between any two writes":                            upgradeKilled,
		"what pods have stays theirs":                              upgradedInUse,
		"switched off":                                             notUpgraded,
	} {
		t.Run(name, func(t *testing.T) {
			s := c.scenario(t)
			s.stop()
			s.upgrade = &TypeUpgrade{ConfigMap: "aad-pod-identity-config", Key: "type-upgrade-status"}
			run(s)
		})
	}
}

// old stores objects under CRDs without rules, as those of older releases were, and
// brings ours back.
func (s *scenario) old(objects ...map[string]any) {
	s.t.Helper()
	docs, err := charts.CRDs()
	check(s.t, err)
	var ours, loose []*apiextensionsv1.CustomResourceDefinition
	for _, doc := range docs {
		crd := &apiextensionsv1.CustomResourceDefinition{}
		check(s.t, yaml.Unmarshal(doc, crd))
		ours = append(ours, crd)
		crd = crd.DeepCopy()
		for i := range crd.Spec.Versions {
			crd.Spec.Versions[i].Schema = &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}}
		}
		loose = append(loose, crd)
	}
	_, err = envtest.InstallCRDs(s.config, envtest.CRDInstallOptions{CRDs: loose, MaxTime: apiserver.Patience})
	check(s.t, err)
	for _, o := range objects {
		o["apiVersion"] = v1.GroupVersion.String()
		s.eventually("CRDs without rules", func() string {
			if err := s.client.Create(s.t.Context(), &unstructured.Unstructured{Object: o}); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	_, err = envtest.InstallCRDs(s.config, envtest.CRDInstallOptions{CRDs: ours, MaxTime: apiserver.Patience})
	check(s.t, err)
	for _, kind := range []client.Object{&v1.AzureIdentity{}, &v1.AzureIdentityBinding{}} {
		s.eventually("our CRDs", func() string {
			o := kind.DeepCopyObject().(client.Object)
			o.SetNamespace("default")
			o.SetName("trial")
			if err := s.client.Create(s.t.Context(), o, client.DryRunAll); !apierrors.IsInvalid(err) {
				return fmt.Sprintf("an empty object is not refused: %v", err)
			}
			return ""
		})
	}
}

type object = map[string]any

func named(name string) object { return object{"namespace": "default", "name": name} }

// oldPair is an identity that Azure has, and its binding, with names of old.
func (s *scenario) oldPair(name string) []object {
	inAzure, err := s.azure.PutIdentity(azure.Identity{ID: azure.IdentityID(testSub, testGroup, name)})
	check(s.t, err)
	return []object{
		{"kind": v1.KindAzureIdentity, "metadata": named(name), "spec": object{"type": int64(0), "ResourceID": inAzure.ID, "ClientID": inAzure.ClientID, "ClientPassword": object{"Name": "", "Namespace": ""}}},
		{"kind": v1.KindAzureIdentityBinding, "metadata": named(name), "spec": object{"AzureIdentity": name, "Selector": name, "Weight": int64(0)}},
	}
}

// stored says what is wrong if a field of a stored object has another value; nil is
// none.
func (s *scenario) stored(kind, name string, want any, path ...string) string {
	s.t.Helper()
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(v1.GroupVersion.WithKind(kind))
	check(s.t, s.client.Get(s.t.Context(), types.NamespacedName{Namespace: "default", Name: name}, o))
	got, _, err := unstructured.NestedFieldNoCopy(o.Object, path...)
	check(s.t, err)
	if got != want {
		return fmt.Sprintf("%s %s: %s is %v, want %v", kind, name, strings.Join(path, "."), got, want)
	}
	return ""
}

func (s *scenario) upgradeRecorded() string {
	var cm corev1.ConfigMap
	check(s.t, client.IgnoreNotFound(s.client.Get(s.t.Context(), types.NamespacedName{Namespace: micNamespace, Name: "aad-pod-identity-config"}, &cm)))
	if cm.Data["type-upgrade-status"] == "" {
		return "the upgrade is not recorded"
	}
	return ""
}

func upgraded(s *scenario) {
	const id = "/subscriptions/" + testSub + "/resourcegroups/nodes/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
	s.old(append(s.oldPair("demo"),
		object{"kind": v1.KindAzurePodIdentityException, "metadata": named("exception"), "spec": object{"PodLabels": object{"App": "x"}}},
		object{"kind": v1.KindAzureIdentity, "metadata": named("twice"), "spec": object{"ResourceID": id + "other", "resourceID": id + "twice", "clientID": testSub}},
		object{"kind": v1.KindAzureIdentity, "metadata": named("broken"), "spec": object{"ResourceID": "nonsense", "ClientID": testSub}},
		object{"kind": v1.KindAzureIdentityBinding, "metadata": named("broken"), "spec": object{"AzureIdentity": "broken"}},
	)...)
	s.pod("default", "app", "node0", "demo")
	s.startMIC()
	s.assigned("default/app-default-demo=Assigned")
	s.eventually("the record", s.upgradeRecorded)
	for _, problem := range []string{
		s.stored(v1.KindAzureIdentity, "demo", nil, "spec", "ResourceID"), s.stored(v1.KindAzureIdentity, "demo", "", "spec", "clientPassword", "name"),
		s.stored(v1.KindAzureIdentityBinding, "demo", "demo", "spec", "selector"), s.stored(v1.KindAzureIdentityBinding, "demo", nil, "spec", "Selector"),
		s.stored(v1.KindAzurePodIdentityException, "exception", "x", "spec", "podLabels", "App"), s.stored(v1.KindAzurePodIdentityException, "exception", nil, "spec", "PodLabels"),
		s.stored(v1.KindAzureIdentity, "twice", id+"other", "spec", "ResourceID"), s.stored(v1.KindAzureIdentity, "broken", "nonsense", "spec", "ResourceID"),
	} {
		if problem != "" {
			s.t.Error(problem)
		}
	}
	said := func() string {
		return cmp.Or(s.conditionIs(&v1.AzureIdentity{}, "twice", v1.ConditionValid, v1.ReasonFieldNamesConflict), s.conditionIs(&v1.AzureIdentity{}, "broken", v1.ConditionValid, v1.ReasonFieldNamesNotUpgraded),
			s.conditionIs(&v1.AzureIdentityBinding{}, "broken", v1.ConditionResolved, v1.ReasonFieldNamesNotUpgraded), s.conditionIs(&v1.AzureIdentity{}, "broken", v1.ConditionInUse, v1.ReasonNotInUse))
	}
	s.eventually("conditions of what was skipped", said)
	s.event("AzureIdentity", "twice", v1.ReasonFieldNamesConflict, "spec has ResourceID and resourceID with different values")
	s.event("AzureIdentity", "broken", v1.ReasonFieldNamesNotUpgraded, "Invalid resource id")

	// The next start does not look at them again, nor forget what was said.
	s.stop()
	s.old(object{"kind": v1.KindAzureIdentityBinding, "metadata": named("later"), "spec": object{"AzureIdentity": "demo", "Selector": "later"}})
	s.startMIC()
	s.eventually("condition of a later binding", func() string {
		return s.conditionIs(&v1.AzureIdentityBinding{}, "later", v1.ConditionResolved, v1.ReasonIdentityNotFound)
	})
	if problem := cmp.Or(said(), s.stored(v1.KindAzureIdentityBinding, "later", "later", "spec", "Selector")); problem != "" {
		s.t.Error(problem)
	}
}

func upgradeKilled(s *scenario) {
	s.old(append(s.oldPair("one"), s.oldPair("two")...)...)
	right := func() string {
		return cmp.Or(s.upgradeRecorded(), s.stored(v1.KindAzureIdentity, "one", nil, "spec", "ResourceID"), s.stored(v1.KindAzureIdentity, "two", nil, "spec", "ResourceID"),
			s.stored(v1.KindAzureIdentityBinding, "one", nil, "spec", "Selector"), s.stored(v1.KindAzureIdentityBinding, "two", nil, "spec", "Selector"))
	}
	// Each start writes one object more, so that every place to die is visited.
	for starts := 1; ; starts++ {
		s.cut = ptr.To(1)
		s.startMIC()
		s.eventually("the next write, or the end", func() string {
			if s.wire.isCut() {
				return ""
			}
			return right()
		})
		s.stop()
		if right() == "" {
			break
		}
		if starts > 10 {
			s.t.Fatalf("no progress: %s", right())
		}
	}
}

// upgradedInUse: a MIC that worked before the names are right would take from pods
// what they have.
func upgradedInUse(s *scenario) {
	pair := s.oldPair("demo")
	s.old(pair...)
	p := s.pod("default", "app", "node0", "demo")
	id := pair[0]["spec"].(object)["ResourceID"].(string)
	_, err := s.azure.PutCompute(azure.Compute{ID: azure.VMSSID(testSub, testGroup, "pool1"), UserAssigned: []azure.Assignment{{ID: id}}})
	check(s.t, err)
	a := &v1.AzureAssignedIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app-default-demo", Labels: map[string]string{v1.NodeNameLabelKey: "node0"}, Finalizers: []string{v1.AssignedIdentityFinalizer}},
		Spec: v1.AzureAssignedIdentitySpec{
			AzureIdentityRef: &v1.AzureIdentity{
				TypeMeta: metav1.TypeMeta{APIVersion: v1.GroupVersion.String(), Kind: v1.KindAzureIdentity}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "demo"},
				Spec: v1.AzureIdentitySpec{ResourceID: id},
			},
			Pod: "app", PodNamespace: "default", NodeName: "node0",
		},
		Status: v1.AzureAssignedIdentityStatus{Status: v1.AssignedIDAssigned, AvailableReplicas: 1},
	}
	s.create(s.t, a)
	s.startMIC()
	s.eventually("the object is the pod's", func() string { return s.belongs(p, v1.AssignedIDAssigned) })
	if now := s.all()[0]; now.UID != a.UID {
		s.t.Error("the object was deleted and made again")
	}
	if n := s.patches(); n != 0 {
		s.t.Errorf("%d PATCHes", n)
	}
}

func notUpgraded(s *scenario) {
	s.upgrade = nil
	s.old(s.oldPair("demo")...)
	s.startMIC()
	s.eventually("condition", func() string {
		return s.conditionIs(&v1.AzureIdentity{}, "demo", v1.ConditionValid, v1.ReasonIdentityInvalid)
	})
	if problem := s.stored(v1.KindAzureIdentity, "demo", nil, "spec", "resourceID"); problem != "" {
		s.t.Error(problem)
	}
}
