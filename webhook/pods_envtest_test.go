package main

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/aad-pod-identity/aad-pod-identity/test/helmtest"
)

// renderChart returns what a template of the chart renders to, with the features
// for pods switched on.
func renderChart(t *testing.T, template string) string {
	t.Helper()
	helmtest.Require(t)
	out, err := helmtest.Run(t, "template", "aad-pod-identity", "../charts/aad-pod-identity", "--namespace", "default",
		"--kube-version", "1.30.0", "--show-only", "templates/"+template,
		"--set", "webhook.injectSelector=true,readinessGate.enabled=true")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// chartConfiguration is the chart's MutatingWebhookConfiguration, with a longer timeout.
func chartConfiguration(t *testing.T) *admissionregv1.MutatingWebhookConfiguration {
	t.Helper()
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(renderChart(t, "webhook-configurations.yaml"))))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			t.Fatal("the chart has no MutatingWebhookConfiguration")
		}
		if err != nil {
			t.Fatal(err)
		}
		c := &admissionregv1.MutatingWebhookConfiguration{}
		if err := yaml.UnmarshalStrict(doc, c); err == nil && c.Kind == "MutatingWebhookConfiguration" {
			for i := range c.Webhooks {
				c.Webhooks[i].TimeoutSeconds = ptr.To[int32](callSeconds)
			}
			return c
		}
	}
}

// chartArguments are the flags that the chart gives the webhook and that pods
// depend on.
func chartArguments(t *testing.T) []string {
	t.Helper()
	var args []string
	for line := range strings.Lines(renderChart(t, "webhook-deployment.yaml")) {
		text, quoted := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if arg, err := strconv.Unquote(text); quoted && err == nil && (strings.HasPrefix(arg, "--inject-selector") || strings.HasPrefix(arg, "--readiness-gate")) {
			args = append(args, arg)
		}
	}
	return args
}

// testPods creates pods through a real API server with the webhook configuration of
// the chart, as a webhook with the rights of the chart's role.
func (s *apiServer) testPods(t *testing.T) {
	install := &s.env.WebhookInstallOptions
	s.must(t, "", "delete", "mutatingwebhookconfiguration", mutatingConfiguration().Name)
	install.MutatingWebhooks = []*admissionregv1.MutatingWebhookConfiguration{chartConfiguration(t)}
	install.ValidatingWebhooks = nil
	if err := install.ModifyWebhookDefinitions(); err != nil {
		t.Fatal(err)
	}
	if err := install.Install(s.config); err != nil {
		t.Fatal(err)
	}
	s.startWebhook(t, func(o *options, config *rest.Config) {
		args := chartArguments(t)
		if want := []string{"--inject-selector=true", "--readiness-gate=opt-in"}; !slices.Equal(args, want) {
			t.Fatalf("the chart gives the webhook %q, want %q", args, want)
		}
		o.injectSelector, o.readinessGate = true, "opt-in"
		s.must(t, renderChart(t, "webhook-rbac.yaml"), "apply", "-f", "-")
		config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:default:aad-pod-identity-webhook"}
	})
	for _, selector := range []string{"pods", "api"} {
		s.must(t, identityManifest(selector), "apply", "-f", "-")
		if r := s.run(t, bindingManifest(selector, selector, selector), "apply", "-f", "-"); r.failed || r.stderr != "" {
			t.Errorf("a binding right after its identity: %+v", r)
		}
		s.waitForBinding(t, selector)
	}
	t.Run("pods with the label are tagged, others lose their tags", s.testTags)
	t.Run("pods get the label of their ServiceAccount or Namespace", s.testInjection)
	t.Run("pods that ask for the readiness gate have it", s.testGate)
	t.Run("a webhook that comes later changes nothing in the end", s.testReinvocation)
	t.Run("a dry run says what would be and stores nothing", s.testPodDryRun)
}

func (s *apiServer) waitForBinding(t *testing.T, selector string) {
	t.Helper()
	waitFor(t, "the webhook to know the binding", func() bool {
		out := s.must(t, podManifest("trial", "aadpodidbinding: "+selector, ""), "create", "--dry-run=server", "-f", "-", "-o", "yaml")
		return strings.Contains(out, "aadpodidentity.k8s.io/bindings: default/"+selector)
	})
}

func podManifest(name, labels, annotations string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {" + labels + "}, annotations: {" + annotations + "}}\nspec: {containers: [{name: c, image: none}]}\n"
}

// seen reads what a pod carries of ours: label, tags and readiness gates,
// separated by bars.
func (s *apiServer) seen(t *testing.T, namespace, name string) string {
	t.Helper()
	var pod corev1.Pod
	if err := s.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &pod); err != nil {
		t.Fatal(err)
	}
	var gates []string
	for _, g := range pod.Spec.ReadinessGates {
		gates = append(gates, string(g.ConditionType))
	}
	return strings.Join([]string{
		pod.Labels["aadpodidbinding"], pod.Labels["aadpodidentity.k8s.io/binding"], pod.Labels["aadpodidentity.k8s.io/identity"],
		pod.Annotations["aadpodidentity.k8s.io/bindings"], strings.Join(gates, " "),
	}, "|")
}

const (
	unboundWarning = "Warning: no AzureIdentityBinding has selector \"nobody\" (yet): the pod gets no identity\n"
	gateType       = "aadpodidentity.k8s.io/identity-assigned"
	neverReady     = "Warning: spec.readinessGates: the condition " + gateType + " needs the label aadpodidbinding with a value: without it the pod cannot become Ready\n"
)

func (s *apiServer) testTags(t *testing.T) {
	tests := map[string]struct {
		namespace, labels, annotations string
		spec                           string
		want, wantWarning              string
	}{
		"tagged":       {labels: "aadpodidbinding: pods", want: "pods|pods|pods|default/pods|"},
		"overwritten":  {labels: "aadpodidbinding: pods, aadpodidentity.k8s.io/identity: admin", annotations: "aadpodidentity.k8s.io/bindings: a/b", want: "pods|pods|pods|default/pods|"},
		"stripped":     {labels: "aadpodidentity.k8s.io/identity: admin", annotations: "aadpodidentity.k8s.io/bindings: a/b", want: "||||"},
		"stripped-2":   {labels: "aadpodidentity.k8s.io/binding: b, aadpodidentity.k8s.io/identity: admin", want: "||||"},
		"stripped-3":   {annotations: "aadpodidentity.k8s.io/bindings: a/b", want: "||||"},
		"empty-label":  {labels: `aadpodidbinding: "", aadpodidentity.k8s.io/identity: admin`, want: "||||"},
		"unbound":      {labels: "aadpodidbinding: nobody", want: "nobody||||", wantWarning: unboundWarning},
		"system":       {namespace: "kube-system", labels: "aadpodidbinding: nobody, aadpodidentity.k8s.io/identity: own", want: "nobody||own||"},
		"system-2":     {namespace: "kube-system", labels: "aadpodidentity.k8s.io/identity: own", want: "||own||"},
		"of-ours":      {labels: "aadpodidbinding: nobody, aadpodidentity.k8s.io/identity: own, app.kubernetes.io/name: aad-pod-identity", want: "nobody||own||"},
		"mirror":       {labels: "aadpodidbinding: pods, aadpodidentity.k8s.io/identity: own", annotations: "kubernetes.io/config.mirror: x", spec: "nodeName: node-0, ", want: "pods||own||"},
		"gate-forlorn": {spec: "readinessGates: [{conditionType: " + gateType + "}], ", want: "||||" + gateType, wantWarning: neverReady},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.namespace == "" {
				tt.namespace = "default"
			}
			pod := strings.Replace(podManifest(name, tt.labels, tt.annotations), "spec: {", "spec: {"+tt.spec, 1)
			if said := s.create(t, tt.namespace, pod); said != tt.wantWarning {
				t.Errorf("the API server says %q, want %q", said, tt.wantWarning)
			}
			if got := s.seen(t, tt.namespace, name); got != tt.want {
				t.Errorf("the pod has %s, want %s", got, tt.want)
			}
		})
	}
}

func namespaceManifest(name, labels, annotations string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + ", labels: {" + labels + "}, annotations: {" + annotations + "}}\n---\n"
}

func accountManifest(name, annotations string) string {
	return "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: " + name + ", annotations: {" + annotations + "}}\n---\n"
}

func (s *apiServer) testInjection(t *testing.T) {
	const optIn, selector = "aadpodidentity.k8s.io/inject-selector: enabled", "aadpodidentity.k8s.io/selector: "
	s.must(t, namespaceManifest("team", optIn, selector+"api")+namespaceManifest("plain", optIn, "")+
		namespaceManifest("closed", "", selector+"api"), "create", "-f", "-")
	s.must(t, "", "label", "namespace", "kube-system", "aadpodidentity.k8s.io/inject-selector=enabled")
	s.must(t, "", "annotate", "namespace", "kube-system", "aadpodidentity.k8s.io/selector=api")
	const api, pods = "api|api|api|default/api|", "pods|pods|pods|default/pods|"
	tests := map[string]struct {
		namespace           string
		account             string // annotations of the ServiceAccount, made with the pod
		labels, annotations string
		want, wantWarning   string
	}{
		"namespaces":      {namespace: "team", want: api},
		"accounts":        {namespace: "plain", account: selector + "pods", want: pods},
		"account-wins":    {namespace: "team", account: selector + "pods", want: pods},
		"account-refuses": {namespace: "team", account: selector + `""`, want: "||||"},
		"nobody-names":    {namespace: "plain", account: "a: b", want: "||||"},
		"closed":          {namespace: "closed", account: selector + "pods", want: "||||"},
		"users-label":     {namespace: "team", labels: "aadpodidbinding: pods", want: pods},
		"users-empty":     {namespace: "team", labels: `aadpodidbinding: ""`, want: "||||"},
		"forged":          {namespace: "team", labels: "aadpodidentity.k8s.io/identity: admin", annotations: "aadpodidentity.k8s.io/bindings: a/b", want: api},
		"forged-2":        {namespace: "plain", labels: "aadpodidentity.k8s.io/identity: admin", want: "||||"},
		"unbound":         {namespace: "plain", account: selector + "nobody", want: "nobody||||", wantWarning: unboundWarning},
		"no-label": {
			namespace: "team", account: selector + "-x", want: "||||",
			wantWarning: `Warning: the pod gets no label aadpodidbinding: annotation aadpodidentity.k8s.io/selector of ServiceAccount team/no-label: "-x" cannot be a label value: a valid label must be `,
		},
		"mirror":         {namespace: "team", annotations: "kubernetes.io/config.mirror: x", want: "||||"},
		"of-ours":        {namespace: "team", labels: "app.kubernetes.io/name: aad-pod-identity", want: "||||"},
		"system-account": {namespace: "kube-system", account: selector + "pods", want: "||||"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pod := strings.Replace(podManifest(name, tt.labels, tt.annotations), "spec: {", "spec: {nodeName: node-0, serviceAccountName: "+name+", ", 1)
			if tt.account != "" {
				// Both at once: the webhook's cache may not know the account yet.
				pod = accountManifest(name, tt.account) + pod
			}
			if said := s.create(t, tt.namespace, pod); !strings.HasPrefix(said, tt.wantWarning) || (tt.wantWarning == "" && said != "") {
				t.Errorf("the API server says %q, want %q", said, tt.wantWarning)
			}
			if got := s.seen(t, tt.namespace, name); got != tt.want {
				t.Errorf("the pod has %s, want %s", got, tt.want)
			}
		})
	}
}

func (s *apiServer) testGate(t *testing.T) {
	s.must(t, namespaceManifest("gated", "aadpodidentity.k8s.io/readiness-gate: enabled, aadpodidentity.k8s.io/inject-selector: enabled", "aadpodidentity.k8s.io/selector: pods"), "create", "-f", "-")
	const ask = "aadpodidentity.k8s.io/readiness-gate: "
	tests := map[string]struct {
		namespace, labels, annotations string
		want                           string
	}{
		"pod-asks":       {"default", "aadpodidbinding: pods", ask + `"true"`, gateType},
		"nobody-asks":    {"default", "aadpodidbinding: pods", "", ""},
		"namespace-asks": {"gated", "aadpodidbinding: pods", "", gateType},
		"pod-declines":   {"gated", "aadpodidbinding: pods", ask + `"false"`, ""},
		"injected":       {"gated", "", "", gateType},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s.create(t, tt.namespace, podManifest(name, tt.labels, tt.annotations))
			if got, want := s.seen(t, tt.namespace, name), "pods|pods|pods|default/pods|"+tt.want; got != want {
				t.Errorf("the pod has %s, want %s", got, want)
			}
		})
	}
}

// Another mutating webhook, of a configuration that comes after ours, changes the
// pod and forges a tag: the API server then calls ours again.
func (s *apiServer) testReinvocation(t *testing.T) {
	var calls atomic.Int32
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{
			UID: review.Request.UID, Allowed: true, PatchType: ptr.To(admissionv1.PatchTypeJSONPatch),
			Patch: []byte(`[{"op":"add","path":"/metadata/labels/aadpodidentity.k8s.io~1identity","value":"admin"},{"op":"add","path":"/metadata/labels/other","value":"seen"}]`),
		}
		review.Request = nil
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	defer other.Close()
	configuration, err := json.Marshal(&admissionregv1.MutatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: "zz-other"},
		Webhooks: []admissionregv1.MutatingWebhook{{
			Name: "other.example.com",
			ClientConfig: admissionregv1.WebhookClientConfig{
				URL:      &other.URL,
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw}),
			},
			Rules: []admissionregv1.RuleWithOperations{{
				Operations: []admissionregv1.OperationType{admissionregv1.Create},
				Rule:       admissionregv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
			ObjectSelector:          &metav1.LabelSelector{MatchLabels: map[string]string{"reinvoke": "yes"}},
			SideEffects:             ptr.To(admissionregv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.must(t, string(configuration), "create", "-f", "-")
	defer s.must(t, "", "delete", "mutatingwebhookconfiguration", "zz-other")
	const labels = "aadpodidbinding: pods, reinvoke: 'yes'"
	waitFor(t, "the API server to ask the other webhook", func() bool {
		return strings.Contains(s.must(t, podManifest("trial", labels, ""), "create", "--dry-run=server", "-f", "-", "-o", "yaml"), "other: seen")
	})
	before := calls.Load()
	s.must(t, podManifest("twice", labels, `aadpodidentity.k8s.io/readiness-gate: "true"`), "create", "-f", "-")
	if n := calls.Load() - before; n != 1 {
		t.Errorf("the other webhook was asked %d times", n)
	}
	if got, want := s.seen(t, "default", "twice"), "pods|pods|pods|default/pods|"+gateType; got != want {
		t.Errorf("the pod has %s, want %s", got, want)
	}
}

func (s *apiServer) testPodDryRun(t *testing.T) {
	pod := podManifest("dry", "aadpodidbinding: pods", `aadpodidentity.k8s.io/readiness-gate: "true"`)
	out := s.must(t, pod, "create", "--dry-run=server", "-f", "-", "-o", "yaml")
	for _, want := range []string{"aadpodidentity.k8s.io/identity: pods", "aadpodidentity.k8s.io/bindings: default/pods", "conditionType: " + gateType} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if out := s.must(t, "", "get", "pod", "dry", "--ignore-not-found", "-o", "name"); out != "" {
		t.Errorf("%s is stored", out)
	}
}
