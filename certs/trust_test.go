package certs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

const testConfiguration = "webhook"

// configurations makes both webhook configurations, with a webhook for each
// bundle.
func configurations(mutating, validating [][]byte) []client.Object {
	m := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: testConfiguration}}
	for i, bundle := range mutating {
		m.Webhooks = append(m.Webhooks, admissionv1.MutatingWebhook{Name: "m" + string(rune('0'+i)), ClientConfig: admissionv1.WebhookClientConfig{CABundle: bundle}})
	}
	v := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: testConfiguration}}
	for i, bundle := range validating {
		v.Webhooks = append(v.Webhooks, admissionv1.ValidatingWebhook{Name: "v" + string(rune('0'+i)), ClientConfig: admissionv1.WebhookClientConfig{CABundle: bundle}})
	}
	return []client.Object{m, v}
}

func fakeClient(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(addWebhookConfigurations(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

func TestTrust(t *testing.T) {
	year := noon.AddDate(1, 0, 0)
	ours, theirs := newAuthority(t, "ca", noon, year), newAuthority(t, "ca", noon, year)
	both := slices.Concat(theirs.pem, ours.pem)
	old := newAuthority(t, "old", noon.AddDate(-2, 0, 0), noon.AddDate(-1, 0, 0))
	tests := map[string]struct {
		objects []client.Object
		host    string
		want    string // "": trusted
	}{
		"every webhook has the authority":             {objects: configurations([][]byte{ours.pem, ours.pem}, [][]byte{ours.pem})},
		"the authority is one of several":             {objects: configurations([][]byte{both, both}, [][]byte{both})},
		"one webhook has no authority yet":            {objects: configurations([][]byte{ours.pem, nil}, [][]byte{ours.pem}), want: "MutatingWebhookConfiguration webhook, webhook m1: no CA has been put into its caBundle yet"},
		"one webhook has another authority":           {objects: configurations([][]byte{ours.pem}, [][]byte{theirs.pem}), want: "ValidatingWebhookConfiguration webhook, webhook v0: its caBundle does not vouch for the serving certificate: x509: certificate signed by unknown authority"},
		"an authority of other days":                  {objects: configurations([][]byte{old.pem}, [][]byte{ours.pem}), want: "does not vouch for the serving certificate"},
		"a bundle that is none":                       {objects: configurations([][]byte{[]byte("CA")}, nil), want: "its caBundle holds no certificate"},
		"no validating configuration":                 {objects: configurations([][]byte{ours.pem}, nil)[:1], want: "ValidatingWebhookConfiguration webhook does not exist"},
		"no configurations":                           {want: "MutatingWebhookConfiguration webhook does not exist"},
		"the certificate is for another host":         {objects: configurations([][]byte{ours.pem}, nil), host: "webhook.other.svc", want: "x509: certificate is valid for " + testHost + ", not webhook.other.svc"},
		"configurations that ask the webhook nothing": {objects: configurations(nil, nil)},
	}
	cert, key := ours.issue(t, 1, testHost, noon, year)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			host := tt.host
			if host == "" {
				host = testHost
			}
			trust := &Trust{name: testConfiguration, host: host, now: func() time.Time { return noon.Add(time.Hour) }, reader: fakeClient(t, tt.objects...)}
			trust.prepared.Store(true)
			err := trust.Check(t.Context(), keyPair(t, cert, key))
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	t.Run("nothing is said before the watch has begun", func(t *testing.T) {
		if err := (&Trust{}).Check(t.Context(), keyPair(t, cert, key)); err == nil {
			t.Error("trusted, and there is no API server")
		}
		trust := &Trust{synced: []func() bool{func() bool { return false }}}
		trust.prepared.Store(true)
		if err := trust.Check(t.Context(), keyPair(t, cert, key)); err == nil {
			t.Error("trusted")
		}
	})
}

func TestReady(t *testing.T) {
	year := noon.AddDate(1, 0, 0)
	ours, theirs := newAuthority(t, "ca", noon, year), newAuthority(t, "ca", noon, year)
	fail, ignore := admissionv1.Fail, admissionv1.Ignore
	type policies []*admissionv1.FailurePolicyType
	tests := map[string]struct {
		bundles  [][]byte
		policies policies
		want     string // "": ready
	}{
		"all vouch":                                   {bundles: [][]byte{ours.pem, ours.pem}, policies: policies{&fail, &ignore}},
		"a new one that is not needed is empty":       {bundles: [][]byte{ours.pem, nil}, policies: policies{&fail, &ignore}},
		"a needed one is empty":                       {bundles: [][]byte{nil, ours.pem}, policies: policies{&fail, &ignore}, want: "webhook m0: no CA has been put into its caBundle yet"},
		"one of two that are needed is another":       {bundles: [][]byte{ours.pem, theirs.pem}, policies: policies{&fail, &fail}, want: "webhook m1: its caBundle does not vouch"},
		"without a policy one is needed":              {bundles: [][]byte{ours.pem, nil}, policies: policies{&ignore, nil}, want: "webhook m1: no CA"},
		"none is needed and one vouches":              {bundles: [][]byte{nil, ours.pem}, policies: policies{&ignore, &ignore}},
		"none is needed and none vouches":             {bundles: [][]byte{nil, theirs.pem}, policies: policies{&ignore, &ignore}, want: "webhook m0: no CA"},
		"configurations that ask the webhook nothing": {},
	}
	cert, key := ours.issue(t, 1, testHost, noon, year)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			objects := configurations(tt.bundles, nil)
			if m, ok := objects[0].(*admissionv1.MutatingWebhookConfiguration); ok {
				for i := range m.Webhooks {
					m.Webhooks[i].FailurePolicy = tt.policies[i]
				}
			}
			trust := &Trust{name: testConfiguration, host: testHost, now: func() time.Time { return noon.Add(time.Hour) }, reader: fakeClient(t, objects...)}
			trust.prepared.Store(true)
			err := trust.Ready(t.Context(), keyPair(t, cert, key))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestOverlap(t *testing.T) {
	year := noon.AddDate(1, 0, 0)
	// cert-controller dates back what it makes.
	current := newAuthority(t, "new", noon.Add(-backdated), year)
	former, other := newAuthority(t, "former", noon.AddDate(-1, 0, 0), year), newAuthority(t, "cert-manager's", noon.AddDate(-1, 0, 0), year)
	expired := newAuthority(t, "expired", noon.AddDate(-2, 0, 0), noon.AddDate(-1, 0, 0))
	tests := map[string]struct {
		own, trusted [][]byte
		now          time.Time
		want         [][]byte
	}{
		"the first authority of all":                   {own: [][]byte{current.pem}, want: [][]byte{current.pem}},
		"what is trusted stays beside a new authority": {own: [][]byte{current.pem}, trusted: [][]byte{former.pem, other.pem}, want: [][]byte{current.pem, former.pem, other.pem}},
		"every webhook says the same":                  {own: [][]byte{current.pem}, trusted: [][]byte{former.pem, former.pem, current.pem}, want: [][]byte{current.pem, former.pem}},
		"what the Secret had stays, too":               {own: [][]byte{current.pem, former.pem}, trusted: [][]byte{other.pem}, want: [][]byte{current.pem, former.pem, other.pem}},
		"an expired authority helps nobody":            {own: [][]byte{current.pem}, trusted: [][]byte{expired.pem}, want: [][]byte{current.pem}},
		"what is no certificate helps nobody":          {own: [][]byte{current.pem}, trusted: [][]byte{[]byte("?\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}, want: [][]byte{current.pem}},
		"a renewal within the day keeps former ones":   {own: [][]byte{current.pem, former.pem}, now: noon.Add(overlapTime - time.Second), want: [][]byte{current.pem, former.pem}},
		"a renewal after the day drops former ones":    {own: [][]byte{current.pem, former.pem}, trusted: [][]byte{former.pem}, now: noon.Add(overlapTime), want: [][]byte{current.pem}},
		"what cannot be read is left to who can":       {own: [][]byte{[]byte("?")}, trusted: [][]byte{former.pem}, want: [][]byte{[]byte("?")}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			now := tt.now
			if now.IsZero() {
				now = noon
			}
			got := overlap(slices.Concat(tt.own...), slices.Concat(tt.trusted...), now)
			if want := slices.Concat(tt.want...); string(got) != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// What cert-controller writes passes through here.
func TestOverlappingClient(t *testing.T) {
	year := noon.AddDate(1, 0, 0)
	current, former := newAuthority(t, "new", noon, year), newAuthority(t, "former", noon, year)
	key := types.NamespacedName{Namespace: "pod-identity", Name: "certificates"}
	secret := func(key types.NamespacedName) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
	}
	objects := append(configurations([][]byte{former.pem}, nil), secret(key))
	write := func(c client.Client, key types.NamespacedName) (string, error) {
		var s corev1.Secret
		if err := c.Get(t.Context(), key, &s); err != nil {
			return "", err
		}
		s.Data = map[string][]byte{caFile: current.pem}
		err := c.Update(t.Context(), &s)
		return string(s.Data[caFile]), err
	}
	over := func(c client.Client) client.Client {
		return overlapping{Client: c, live: c, secret: key, configuration: testConfiguration, now: func() time.Time { return noon }}
	}
	t.Run("the former authority is kept", func(t *testing.T) {
		got, err := write(over(fakeClient(t, objects...)), key)
		if want := string(current.pem) + string(former.pem); err != nil || got != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
		}
	})
	t.Run("on a first installation there is none", func(t *testing.T) {
		got, err := write(over(fakeClient(t, secret(key))), key)
		if err != nil || got != string(current.pem) {
			t.Errorf("%v, got\n%s", err, got)
		}
	})
	t.Run("one configuration suffices", func(t *testing.T) {
		got, err := write(over(fakeClient(t, objects[0], secret(key))), key)
		if want := string(current.pem) + string(former.pem); err != nil || got != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
		}
	})
	t.Run("other objects pass as they are", func(t *testing.T) {
		other := types.NamespacedName{Namespace: "pod-identity", Name: "other"}
		got, err := write(over(fakeClient(t, append(objects, secret(other))...)), other)
		if err != nil || got != string(current.pem) {
			t.Errorf("%v, got\n%s", err, got)
		}
	})
	t.Run("nothing is written while what is trusted is not known", func(t *testing.T) {
		c := interceptor.NewClient(fakeClient(t, objects...), interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
				if _, ok := obj.(*corev1.Secret); !ok {
					return errors.New("the API server is away")
				}
				return c.Get(ctx, key, obj, opts...)
			},
			Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error {
				t.Error("written")
				return nil
			},
		})
		if _, err := write(over(c), key); err == nil || !strings.Contains(err.Error(), "finding out which authorities are trusted") {
			t.Errorf("error %v", err)
		}
	})
}
