package server

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// askedFor are the identities that IMDS was asked for, by client ID.
func (w *world) askedFor() map[string]int {
	asked := map[string]int{}
	for _, c := range w.azure.Calls(azure.CallFilter{Operation: azure.OpIMDSToken}) {
		q, err := url.ParseQuery(c.Query)
		if err != nil {
			w.t.Fatal(err)
		}
		asked[q.Get("client_id")]++
	}
	return asked
}

func TestByObjectID(t *testing.T) {
	w := newWorld(t, nil)
	app := w.application()
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.assign("web", w.second, v1.AssignedIDAssigned)
	w.assignSpec("web", "third", w.principal(app, nil))
	third := w.identity("of-another-pod")
	w.assign("other", third, v1.AssignedIDAssigned)

	for range 2 {
		for object, client := range map[string]string{
			w.demo.PrincipalID: w.demo.ClientID, strings.ToUpper(w.second.PrincipalID): w.second.ClientID, app.ObjectID: app.ClientID,
		} {
			if m := w.get(webIP, tokenURL+"&object_id="+object, nil).tokenOf(t); m["client_id"] != client {
				t.Errorf("object ID %s: token of %s, want %s", object, m["client_id"], client)
			}
		}
	}
	if asked := w.askedFor(); asked[w.demo.ClientID] != 1 || asked[w.second.ClientID] != 1 {
		t.Errorf("IMDS was asked %v", asked)
	}
	for name, object := range map[string]string{
		"of another pod's identity": third.PrincipalID,
		"of nobody":                 "99999999-9999-4999-8999-999999999999",
		"a client ID":               w.demo.ClientID,
		"a part of one":             w.demo.PrincipalID[:8],
	} {
		if r := w.get(webIP, tokenURL+"&object_id="+object, nil); r.status != http.StatusNotFound || r.oauth.Code != codeUnassigned {
			t.Errorf("object ID %s: status %d, %s", name, r.status, r.body)
		}
	}
	if n := w.askedFor()[third.ClientID]; n != 0 {
		t.Error("IMDS was asked for the identity of another pod")
	}
}

// TestByObjectIDOfTheFirst does not ask for the others.
func TestByObjectIDOfTheFirst(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.assign("web", w.second, v1.AssignedIDAssigned)
	w.get(webIP, tokenURL+"&object_id="+w.demo.PrincipalID, nil).tokenOf(t)
	if asked := w.askedFor(); asked[w.second.ClientID] != 0 {
		t.Errorf("IMDS was asked %v", asked)
	}
}

// TestByObjectIDPastABrokenIdentity: one identity without tokens does not hide
// the next, and is the reason if there is none.
func TestByObjectIDPastABrokenIdentity(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.assign("web", w.second, v1.AssignedIDAssigned)
	if _, err := w.azure.AddFault(azure.Fault{Operation: azure.OpIMDSToken, Match: w.demo.ClientID, Status: 429, RetryAfter: 120}); err != nil {
		t.Fatal(err)
	}
	if m := w.get(webIP, tokenURL+"&object_id="+w.second.PrincipalID, nil).tokenOf(t); m["client_id"] != w.second.ClientID {
		t.Errorf("token of %s", m["client_id"])
	}
	if r := w.get(webIP, tokenURL+"&object_id="+w.demo.PrincipalID, nil); r.status != http.StatusServiceUnavailable {
		t.Errorf("status %d, %s", r.status, r.body)
	}
}

func TestByObjectIDWaits(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Waiting = Waiting{Created: time.Hour, Assigned: time.Hour} })
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	got := make(chan reply, 1)
	go func() {
		r, err := w.try(t.Context(), webIP, tokenURL+"&object_id="+w.second.PrincipalID, nil)
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	eventually(t, "the request waits", func() bool { return w.index.Waiters() > 0 })
	w.assign("web", w.second, v1.AssignedIDAssigned)
	if m := (<-got).tokenOf(t); m["client_id"] != w.second.ClientID {
		t.Errorf("token of %s", m["client_id"])
	}
}
