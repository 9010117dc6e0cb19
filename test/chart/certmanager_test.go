package chart_test

import (
	"fmt"
	"slices"
	"testing"

	cmv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestCertificates decodes the chart's cert-manager objects strictly into
// cert-manager's own types and follows the chain: the serving certificate, which
// the webhook's pod mounts and whose names are the Service's, is signed by the CA.
func TestCertificates(t *testing.T) {
	all := mustRender(t)
	serving, ca := certificate(t, all, "aad-pod-identity-webhook"), certificate(t, all, "aad-pod-identity-webhook-ca")

	host := fmt.Sprintf("aad-pod-identity-webhook.%s.svc", namespace)
	if !slices.Contains(serving.Spec.DNSNames, host) {
		t.Errorf("the serving certificate is for %q, not for the Service's name %s", serving.Spec.DNSNames, host)
	}
	if !slices.Contains(serving.Spec.Usages, cmv1.UsageServerAuth) || serving.Spec.IsCA {
		t.Errorf("the serving certificate has usages %v, isCA %v", serving.Spec.Usages, serving.Spec.IsCA)
	}
	if serving.Spec.RenewBefore.Duration >= serving.Spec.Duration.Duration || ca.Spec.Duration.Duration <= serving.Spec.Duration.Duration {
		t.Errorf("durations do not fit: serving %s, renewed %s before, CA %s", serving.Spec.Duration, serving.Spec.RenewBefore, ca.Spec.Duration)
	}
	issuer := decode[cmv1.Issuer](t, all["Issuer/"+serving.Spec.IssuerRef.Name])
	if !ca.Spec.IsCA || issuer.Spec.CA == nil || issuer.Spec.CA.SecretName != ca.Spec.SecretName {
		t.Errorf("issuer %s does not sign with the CA of %s", issuer.Name, ca.Name)
	}
	if root := decode[cmv1.Issuer](t, all["Issuer/"+ca.Spec.IssuerRef.Name]); root.Spec.SelfSigned == nil {
		t.Errorf("issuer %s of the CA is not self-signed", root.Name)
	}
}

func certificate(t *testing.T, all objects, name string) cmv1.Certificate {
	t.Helper()
	return decode[cmv1.Certificate](t, all["Certificate/"+name])
}

// decode converts an object and fails on fields that the type does not know.
func decode[T any](t *testing.T, o *unstructured.Unstructured) T {
	t.Helper()
	var typed T
	if o == nil {
		t.Fatalf("the chart renders no such %T", typed)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &typed, true); err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return typed
}
