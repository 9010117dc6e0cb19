package server

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

func managedWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, podindex.NewManaged("node-1"), func(o *Options) { o.ForceNamespaced = true })
}

// bind makes an AzureIdentity and a binding of the same name.
func (w *world) bind(namespace, name, selector string, id azure.Identity) {
	w.index.SetIdentity(&v1.AzureIdentity{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentitySpec{ClientID: id.ClientID, ResourceID: id.ID},
	})
	w.index.SetBinding(&v1.AzureIdentityBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1.AzureIdentityBindingSpec{AzureIdentity: name, Selector: selector},
	})
}

func TestManagedMode(t *testing.T) {
	w := managedWorld(t)
	none := func(when, ip, url string) {
		t.Helper()
		if r := w.get(ip, url, nil); r.status != http.StatusNotFound || r.oauth.Code != codeUnassigned || strings.Contains(r.body, "MIC") {
			t.Errorf("%s: status %d, %s", when, r.status, r.body)
		}
	}
	some := func(when, url string, id azure.Identity) {
		t.Helper()
		if m := w.get(webIP, url, nil).tokenOf(t); m["client_id"] != id.ClientID {
			t.Errorf("%s: token of %s, want %s", when, m["client_id"], id.ClientID)
		}
	}
	key := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "default", Name: name} }
	none("nothing is bound", webIP, tokenURL)
	w.bind("elsewhere", "demo", "sel", w.demo)
	none("an identity of another namespace", webIP, tokenURL)
	w.bind("default", "upper", "SEL", w.demo)
	none("a selector in another case", webIP, tokenURL)
	w.bind("default", "b", "sel", w.second)
	w.bind("default", "a", "sel", w.demo)
	some("the first in binding order", tokenURL, w.demo)
	some("by client ID", tokenURL+"&client_id="+strings.ToUpper(w.second.ClientID), w.second)
	some("by resource ID in another case", tokenURL+"&msi_res_id="+strings.ToUpper(w.second.ID), w.second)
	some("by object ID", tokenURL+"&object_id="+w.second.PrincipalID, w.second)
	none("an identity that is not bound", webIP, tokenURL+"&client_id=99999999-9999-4999-8999-999999999999")
	none("an assigned identity, of which this mode knows nothing", otherIP, tokenURL+"&client_id="+w.identity("x").ClientID)

	w.index.DeleteBinding(key("a"))
	some("its binding was deleted", tokenURL, w.second)
	none("by client ID, with its token in the cache", webIP, tokenURL+"&client_id="+w.demo.ClientID)
	w.bind("default", "a", "other", w.demo)
	none("its binding selects others now", webIP, tokenURL+"&client_id="+w.demo.ClientID)
	w.index.DeleteIdentity(key("b"))
	none("the identity was deleted", webIP, tokenURL)
	w.bind("default", "b", "sel", w.second)
	some("it is back", tokenURL, w.second)
	w.setPod("web", webIP, func(p *corev1.Pod) { p.Labels = nil })
	none("the pod's label was removed", webIP, tokenURL)
}

func TestManagedModeHostTokenAndExceptions(t *testing.T) {
	w := managedWorld(t)
	w.bind("default", "a", "sel", w.demo)
	host := map[string]string{"podns": "default", "podname": "web"}
	if r := w.get(hostIP, "/host/token?resource="+vault, host); r.status != http.StatusOK || !strings.Contains(r.body, `"clientid":"`+w.demo.ClientID+`"`) {
		t.Errorf("status %d, %s", r.status, r.body)
	}
	w.index.SetException(&v1.AzurePodIdentityException{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"},
		Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{v1.BindingLabelKey: "sel"}},
	})
	c, err := w.azure.Compute(vmID)
	if err != nil {
		t.Fatal(err)
	}
	if m := w.get(webIP, tokenURL, nil).tokenOf(t); m["client_id"] != c.SystemClientID {
		t.Errorf("an excepted pod got a token of %s", m["client_id"])
	}
}
