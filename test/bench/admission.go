package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
	"github.com/aad-pod-identity/aad-pod-identity/webhook/validate"
)

// admissionScenario measures the webhook: alone on one core, then as a process
// behind a real API server.
func admissionScenario(ctx context.Context, e *environment) ([]Result, error) {
	rules, err := validation.New()
	if err != nil {
		return nil, fmt.Errorf("compiling the rules: %w", err)
	}
	ours := endpoint(&validate.Handler{Rules: rules})
	bare := endpoint(admission.HandlerFunc(func(context.Context, admission.Request) admission.Response { return admission.Allowed("") }))
	oursRate, oursAllocs, bareRate, bareAllocs, err := compareHandlers(ctx, ours, bare)
	if err != nil {
		return nil, err
	}
	results := []Result{
		figure("webhook: reviews on one core", oursRate, "/s").against(bareRate).atLeast(5000),
		figure("webhook: allocations for a review", oursAllocs, "").against(bareAllocs),
	}
	throughServer, err := admissionThroughServer(ctx, e)
	return append(results, throughServer...), err
}

func endpoint(h admission.Handler) http.Handler { return &admission.Webhook{Handler: h} }

// review is what the API server sends when a user creates an AzureIdentity.
const review = `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"705ab4f5-6393-11e8-b7cc-42010a800002",
"kind":{"group":"aadpodidentity.k8s.io","version":"v1","kind":"AzureIdentity"},"resource":{"group":"aadpodidentity.k8s.io","version":"v1","resource":"azureidentities"},
"requestKind":{"group":"aadpodidentity.k8s.io","version":"v1","kind":"AzureIdentity"},"requestResource":{"group":"aadpodidentity.k8s.io","version":"v1","resource":"azureidentities"},
"name":"demo","namespace":"default","operation":"CREATE","userInfo":{"username":"admin","groups":["system:masters","system:authenticated"]},
"object":{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureIdentity","metadata":{"name":"demo","namespace":"default","creationTimestamp":"2026-01-01T00:00:00Z","generation":1,"uid":"705ab4f5-6393-11e8-b7cc-42010a800003",
"managedFields":[{"manager":"kubectl","operation":"Apply","apiVersion":"aadpodidentity.k8s.io/v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:clientID":{},"f:resourceID":{},"f:type":{}}}}]},
"spec":{"type":0,"resourceID":"/subscriptions/11111111-1111-1111-1111-111111111111/resourcegroups/demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"}},
"oldObject":null,"dryRun":false,"options":{"kind":"PatchOptions","apiVersion":"meta.k8s.io/v1"}}}`

// compareHandlers lets two handlers answer the same review on one core, in
// rounds that alternate, so that neither has the quieter machine.
func compareHandlers(ctx context.Context, a, b http.Handler) (rateA, allocsA, rateB, allocsB float64, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const rounds, length = 6, 500 * time.Millisecond
	var total [2]struct{ calls, allocs, seconds float64 }
	for round := range rounds * 2 {
		handler, sum := a, &total[round%2]
		if round%2 == 1 {
			handler = b
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		started := time.Now()
		for time.Since(started) < length {
			if ctx.Err() != nil {
				return 0, 0, 0, 0, ctx.Err()
			}
			if err := answer(ctx, handler); err != nil {
				return 0, 0, 0, 0, err
			}
			sum.calls++
		}
		sum.seconds += time.Since(started).Seconds()
		runtime.ReadMemStats(&after)
		sum.allocs += float64(after.Mallocs - before.Mallocs)
	}
	per := func(i int) (float64, float64) {
		return total[i].calls / total[i].seconds, total[i].allocs / total[i].calls
	}
	rateA, allocsA = per(0)
	rateB, allocsB = per(1)
	return rateA, allocsA, rateB, allocsB, nil
}

func answer(ctx context.Context, h http.Handler) error {
	req := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", bytes.NewReader([]byte(review)))
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	if w.Code != http.StatusOK || !bytes.Contains(w.Body.Bytes(), []byte(`"allowed":true`)) {
		return errors.New("the review was not answered with yes: " + w.Body.String())
	}
	return nil
}
