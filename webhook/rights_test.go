package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Rights are asked for only where --require-use says so, and of the API server.
func TestReviewer(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Method != http.MethodPost || r.URL.Path != "/apis/authorization.k8s.io/v1/subjectaccessreviews" {
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
		w.Header().Set("Content-Type", "application/json")
		review := authorizationv1.SubjectAccessReview{Status: authorizationv1.SubjectAccessReviewStatus{Allowed: true}}
		review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SubjectAccessReview"
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
	o := newOptions()
	mayUse, err := reviewer(o, config)
	if mayUse != nil || err != nil {
		t.Errorf("without the flag: %v", err)
	}
	o.requireUse = true
	if mayUse, err = reviewer(o, config); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		allowed, err := mayUse(t.Context(), types.NamespacedName{Namespace: "b", Name: "web"}, types.NamespacedName{Namespace: "a", Name: "demo"})
		if !allowed || err != nil {
			t.Errorf("%v, %v", allowed, err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
