package lookup

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// TestStartsBeforeTheAPIServer: a Lookup whose API server is away waits for it, is not
// synced meanwhile, and ends with its context.
func TestStartsBeforeTheAPIServer(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	var refused atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		const group = "/apis/aadpodidentity.k8s.io/v1"
		var body string
		switch {
		case away.Load():
			refused.Add(1)
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		case r.URL.Query().Get("sendInitialEvents") != "": // a list it is, then
			w.WriteHeader(http.StatusUnprocessableEntity)
			body = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`
		case r.URL.Query().Get("watch") != "":
			<-r.Context().Done()
			return
		case r.URL.Path == "/api":
			body = `{"kind":"APIVersions","versions":["v1"]}`
		case r.URL.Path == "/apis":
			body = `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"aadpodidentity.k8s.io",
				"versions":[{"groupVersion":"aadpodidentity.k8s.io/v1","version":"v1"}],"preferredVersion":{"groupVersion":"aadpodidentity.k8s.io/v1","version":"v1"}}]}`
		case r.URL.Path == group:
			body = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"aadpodidentity.k8s.io/v1","resources":[
				{"name":"azureidentities","namespaced":true,"kind":"AzureIdentity","verbs":["list","watch"]},
				{"name":"azureidentitybindings","namespaced":true,"kind":"AzureIdentityBinding","verbs":["list","watch"]}]}`
		case strings.HasPrefix(r.URL.Path, group+"/"):
			kind := map[string]string{"azureidentities": "AzureIdentityList", "azureidentitybindings": "AzureIdentityBindingList"}[strings.TrimPrefix(r.URL.Path, group+"/")]
			body = `{"kind":"` + kind + `","apiVersion":"aadpodidentity.k8s.io/v1","metadata":{"resourceVersion":"1"},"items":[]}`
		default:
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	l, err := New(&rest.Config{Host: server.URL}, Options{})
	if err != nil {
		t.Fatalf("without an API server: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	for refused.Load() == 0 {
		select {
		case err := <-ended:
			t.Fatalf("ended without an API server: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if l.Synced() {
		t.Error("synced without an API server")
	}
	away.Store(false)
	waitCtx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if !l.WaitForSync(waitCtx) || !l.Synced() {
		t.Error("not synced with an API server")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("at the end: %v", err)
	}
}
