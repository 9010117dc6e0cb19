package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/lookup"
)

// newMux serves all paths of the webhook, without TLS, over an empty cluster.
func newMux(t testing.TB, change ...func(*options)) http.Handler {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	rules, err := validation.New()
	if err != nil {
		t.Fatal(err)
	}
	ctrl.SetLogger(klog.Background())
	server := ctrlwebhook.NewServer(ctrlwebhook.Options{})
	reader := fake.NewClientBuilder().WithScheme(scheme).WithIndex(lookup.Index()).Build()
	o := newOptions()
	for _, c := range change {
		c(o)
	}
	register(server, o, rules, lookup.NewFromReader(reader), nil)
	return server.WebhookMux()
}

func post(ctx context.Context, mux http.Handler, path, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, request)
	return recorder
}

var paths = []string{pathMutate, pathValidate, pathPods, pathStripPods}

// A malformed review is an error in the answer, not a panic, and never a yes.
func TestMalformedReviews(t *testing.T) {
	mux := newMux(t)
	tests := map[string]string{
		"nothing":                     ``,
		"no JSON":                     `{`,
		"null":                        `null`,
		"a list":                      `[]`,
		"another kind":                `{"apiVersion":"v1","kind":"Pod"}`,
		"no request":                  `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`,
		"no object":                   `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","kind":{"group":"aadpodidentity.k8s.io","version":"v1","kind":"AzureIdentity"}}}`,
		"an object that is a string":  `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","kind":{"group":"aadpodidentity.k8s.io","version":"v1","kind":"AzureIdentity"},"object":"x"}}`,
		"a kind that is not ours":     `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","kind":{"group":"apps","version":"v1","kind":"Deployment"},"object":{}}}`,
		"metadata that is no object":  `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","kind":{"group":"","version":"v1","kind":"Pod"},"object":{"metadata":5}}}`,
		"an update without the old":   `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"UPDATE","kind":{"group":"aadpodidentity.k8s.io","version":"v1","kind":"AzureIdentity"},"object":{"spec":{}}}}`,
		"an old object that is a bad": `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"UPDATE","kind":{"group":"aadpodidentity.k8s.io","version":"v1","kind":"AzureIdentity"},"object":{"spec":{}},"oldObject":[]}}`,
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			for _, path := range paths[:2] {
				recorder := post(t.Context(), mux, path, body)
				var review admissionv1.AdmissionReview
				if err := json.Unmarshal(recorder.Body.Bytes(), &review); err != nil || review.Response == nil {
					t.Fatalf("%s answers %q, %v", path, recorder.Body, err)
				}
				if review.Response.Allowed {
					t.Errorf("%s allows it", path)
				}
			}
		})
	}
}

// BenchmarkReview is a call without TLS and HTTP: decode, judge, encode.
func BenchmarkReview(b *testing.B) {
	mux := newMux(b)
	body := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","name":"x","namespace":"default","kind":{"group":"aadpodidentity.k8s.io","version":"v1","kind":"AzureIdentity"},` +
		`"userInfo":{"username":"someone"},"object":{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureIdentity","metadata":{"name":"x"},"spec":{"type":0,"resourceID":"` + goodID + `","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"}}}}`
	b.ReportAllocs()
	for b.Loop() {
		if recorder := post(b.Context(), mux, pathMutate, body); !strings.Contains(recorder.Body.String(), `"allowed":true`) {
			b.Fatal(recorder.Body)
		}
	}
}
