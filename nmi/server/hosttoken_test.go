package server

import (
	"net/http"
	"testing"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestHostTokenNeverSaysLater: processes of the node are answered 404 for a pod
// without identity, also where pods are told to come back.
func TestHostTokenNeverSaysLater(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.SetRetryAfter = true })
	host := map[string]string{"podns": "default", "podname": "web"}
	if r := w.get(webIP, tokenURL, nil); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") != "20" {
		t.Errorf("a pod: status %d, %v", r.status, r.header)
	}
	if r := w.get(hostIP, "/host/token?resource="+vault, host); r.status != http.StatusNotFound || r.header.Get("Retry-After") != "" || r.oauth.Code != codeUnassigned {
		t.Errorf("a process of the node: status %d, %v, %s", r.status, r.header, r.body)
	}
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.assign("web", w.second, v1.AssignedIDAssigned)
	for _, selector := range []string{"client_id=" + w.second.ClientID, "object_id=" + w.second.PrincipalID, "mi_res_id=" + w.second.ID} {
		r := w.get(hostIP, "/host/token?resource="+vault+"&"+selector, host)
		if r.status != http.StatusOK {
			t.Errorf("by %s: status %d, %s", selector, r.status, r.body)
		}
	}
}
