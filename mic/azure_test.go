package main

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

func TestAzureJSONIsRereadWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "azure.json")
	put := func(name, content string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const principal = `"tenantId":"t","aadClientSecret":"s","aadClientId":`
	put("azure.json", `{`+principal+`"one"}`)
	synctest.Test(t, func(t *testing.T) {
		o := newOptions(func(string) string { return "" })
		o.cloudConfig = path
		a, err := openAzure(o, metric.NewMIC(prometheus.NewRegistry()))
		if err != nil {
			t.Fatal(err)
		}
		// Between the first reading and the watch.
		put("azure.json", `{`+principal+`"two"}`)
		engine := compute.NewEngine(compute.LedgerStore{}, a.client(), compute.Options{})
		go a.watch(t.Context(), engine, time.Second)
		for _, step := range []struct {
			what, want string
			do         func()
		}{
			{"changed before it was watched", "two", func() {}},
			{"replaced by rename", "three", func() {
				if err := os.Rename(put("next", `{`+principal+`"three"}`), path); err != nil {
					t.Error(err)
				}
			}},
			{"half written", "three", func() { put("azure.json", `{"tenantId":`) }},
			{"written", "four", func() { put("azure.json", `{`+principal+`"four"}`) }},
			{"a managed identity", "", func() { put("azure.json", `{"useManagedIdentityExtension":true,"userAssignedIdentityID":"own"}`) }},
		} {
			step.do()
			<-time.After(1500 * time.Millisecond)
			synctest.Wait()
			if got := a.cloud.Load().Config.ClientID; got != step.want {
				t.Errorf("%s: signs in as %q, want %q", step.what, got, step.want)
			}
		}
		if !a.immutable("/x", "OWN") || a.immutable("/x", "other") {
			t.Error("the cluster's own identity is not that of the new configuration")
		}
	})
}
