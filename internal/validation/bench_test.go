package validation

import (
	"testing"
	"time"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

var someTime = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

var benchObject = []byte(`{"apiVersion":"aadpodidentity.k8s.io/v1","kind":"AzureIdentity","metadata":{"name":"demo","namespace":"default","uid":"1a2b",
"creationTimestamp":"2026-01-01T00:00:00Z","generation":1,"labels":{"a":"b"},"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"},
"managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"aadpodidentity.k8s.io/v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:clientID":{},"f:resourceID":{},"f:type":{}}}}]},
"spec":{"type":0,"resourceID":"` + goodID + `","clientID":"7eb6d1a0-2c4f-4b8e-9d3a-5f1e0c7ba6a9"}}`)

func BenchmarkRaw(b *testing.B) {
	v := newValidator(b)
	b.ReportAllocs()
	for b.Loop() {
		if findings, err := v.Raw(v1.KindAzureIdentity, benchObject); err != nil || len(findings) > 0 {
			b.Fatal(findings, err)
		}
	}
}
