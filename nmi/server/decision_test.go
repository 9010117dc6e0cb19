package server

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr/funcr"
	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/redact"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// TestDecisionRecords: each request has one record, which says what came of it and
// holds neither a token nor a full client ID.
func TestDecisionRecords(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	klog.SetLogger(funcr.New(func(_, args string) {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(args, `"msg"="Decision"`) {
			lines = append(lines, args)
		}
	}, funcr.Options{}))
	t.Cleanup(klog.ClearLogger)

	w := newWorld(t, func(o *Options) { o.Records = true })
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	token := w.get(webIP, tokenURL, nil).tokenOf(t)["access_token"]
	w.get(webIP, tokenURL, nil)
	w.get(otherIP, tokenURL, nil)
	w.get(webIP, "/metadata/instance?api-version=2021-02-01", nil)
	w.get(webIP, tokenURL, map[string]string{"Metadata": ""})
	if _, err := w.azure.AddFault(azure.Fault{Operation: azure.OpIMDSToken, Status: http.StatusBadRequest, Code: "invalid_resource"}); err != nil {
		t.Fatal(err)
	}
	w.get(webIP, "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://other.example", nil)
	calls := w.azure.Calls(azure.CallFilter{Operation: azure.OpIMDSToken})
	identity := `"identity"="default/demo" "clientID"="` + redact.ClientID(w.demo.ClientID) + `"`
	want := [][]string{
		{`"pod"="default/web" "source"="127.0.0.2" "operation"="/metadata/identity/oauth2/token" "status"=200 "outcome"="token"`, `"resource"="https://vault.azure.net"`, identity, `"cache"="miss" "requestID"="` + calls[0].RequestID + `"`},
		{`"outcome"="token"`, identity, `"cache"="hit" "requestID"="` + calls[0].RequestID + `"`},
		{`"pod"="default/other"`, `"status"=404 "outcome"="not_assigned"`},
		{`"operation"="/metadata/instance" "status"=200 "outcome"="passed_on"`},
		{`"status"=400 "outcome"="invalid_request"`},
		{`"status"=403 "outcome"="upstream_refused"`, identity, `"cache"="miss" "requestID"="` + calls[len(calls)-1].RequestID + `"`},
	}
	eventually(t, "all records", func() bool { mu.Lock(); defer mu.Unlock(); return len(lines) >= len(want) })
	mu.Lock()
	defer mu.Unlock()
	for i, l := range lines {
		for _, part := range want[min(i, len(want)-1)] {
			if !strings.Contains(l, part) {
				t.Errorf("record %d lacks %s:\n%s", i, part, l)
			}
		}
		if strings.Contains(l, token) || strings.Contains(l, w.demo.ClientID) || bytes.Contains([]byte(l), []byte("access_token")) {
			t.Errorf("record %d says too much: %s", i, l)
		}
	}
}
