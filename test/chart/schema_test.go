package chart_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestValuesAreRefused(t *testing.T) {
	tests := map[string]struct {
		json string // --set-json
		want string
	}{
		"an unknown value":                     {`micc={"replicas":1}`, "additional properties 'micc' not allowed"},
		"an unknown value of a component":      {`mic.replica=1`, "additional properties 'replica' not allowed"},
		"a miscapitalised value":               {`nmi.blockInstanceMetaData=true`, "additional properties 'blockInstanceMetaData' not allowed"},
		"a string for a number":                {`mic.replicas="two"`, "/mic/replicas"},
		"a word for a boolean":                 {`forceNamespaced="yes"`, "/forceNamespaced"},
		"a word for a port":                    {`nmi.probePort="http"`, "/nmi/probePort"},
		"a port that does not exist":           {`mic.prometheusPort=65536`, "/mic/prometheusPort"},
		"a word for a number of tries":         {`nmi.retryAttemptsForCreated="many"`, "/nmi/retryAttemptsForCreated"},
		"a number for a duration":              {`mic.syncRetryDuration=3600`, "/mic/syncRetryDuration"},
		"a duration without a unit":            {`mic.leaderElection.duration="15"`, "/mic/leaderElection/duration"},
		"a readiness gate without MIC":         {`readinessGate.enabled=true,operationMode="managed"`, "readinessGate.enabled needs operationMode standard"},
		"a word for the readiness gate":        {`readinessGate.enabled="opt-in"`, "/readinessGate/enabled"},
		"a third mode":                         {`operationMode="automatic"`, "/operationMode"},
		"a third failure policy":               {`webhook.failurePolicy="Maybe"`, "/webhook/failurePolicy"},
		"a timeout that holds the API server":  {`webhook.timeoutSeconds=10`, "/webhook/timeoutSeconds"},
		"a relative path":                      {`mic.cloudConfig="azure.json"`, "/mic/cloudConfig"},
		"a CA that is not PEM":                 {`customCloud.caBundle="MIIB"`, "/customCloud/caBundle"},
		"a number as a label":                  {`mic.podLabels={"a":1}`, "/mic/podLabels/a"},
		"identities as the list of chart 2":    {`azureIdentities=[]`, "/azureIdentities"},
		"an identity of a fourth type":         {`azureIdentities={"a":{"type":3,"clientID":"x","binding":{"selector":"s"}}}`, "/azureIdentities/a/type"},
		"an identity with a miscapitalised ID": {`azureIdentities={"a":{"clientId":"x","binding":{"selector":"s"}}}`, "clientID"},
		"an authority as a URL":                {`allowedAuthorityHosts=["https://adfs.example.com"]`, "/allowedAuthorityHosts/0"},
		"an authority with a path":             {`allowedAuthorityHosts=["adfs.example.com/adfs"]`, "/allowedAuthorityHosts/0"},
		"an authority with a dot at its end":   {`allowedAuthorityHosts=["adfs.example.com."]`, "/allowedAuthorityHosts/0"},
		"an authority with a wildcard":         {`allowedAuthorityHosts=["*.example.com"]`, "/allowedAuthorityHosts/0"},
		"a word for a right":                   {`webhook.requireUse="maybe"`, "/webhook/requireUse"},
		"an identity without a selector":       {`azureIdentities={"a":{"clientID":"x","binding":{"name":"b"}}}`, "selector"},
		"an identity of type 0 without its ID": {`azureIdentities={"a":{"clientID":"x","binding":{"selector":"s"}}}`, "azureIdentities.a.resourceID is required for type 0"},
		"an identity of type 1 without tenant": {`azureIdentities={"a":{"type":1,"clientID":"x","binding":{"selector":"s"}}}`, "azureIdentities.a.tenantID is required for type 1"},
		"an incomplete admin secret":           {`adminsecret={"cloud":"AzurePublicCloud"}`, "is required when adminsecret is set"},
		"an image of the old release":          {`mic.tag="v1.8.17"`, "mic.tag is v1.8.17, an image of the old release"},
		"an uninstallation without time":       {`uninstall.timeoutSeconds=1`, "/uninstall/timeoutSeconds"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := render(t, "--set-json", tc.json)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one that says %q", err, tc.want)
			}
		})
	}
}

func TestValuesAreAccepted(t *testing.T) {
	for name, set := range map[string]string{
		"null for what is optional":    `nmi.tolerations=null,mic.affinity=null,webhook.podDisruptionBudget=null,mic.prometheusPort=null`,
		"booleans where strings were":  `forceNamespaced=true,installMICException=true,nmi.blockInstanceMetadata=true`,
		"strings where booleans are":   `nmi.setRetryAfterHeader="true",nmi.enableConntrackDeletion="false",nmi.enableScaleFeatures="true"`,
		"numbers where strings were":   `nmi.probePort=8085,mic.clientQps=12.5,nmi.findIdentityRetryIntervalInSeconds=5`,
		"values of a parent chart":     `global={"a":1},x-anchor={"b":2}`,
		"leftovers of earlier charts":  `installCRDs=true,forceNameSpaced="true",rbac.pspEnabled=true`,
		"a tag of this release":        `mic.tag="v2.0.1",nmi.tag="dev",webhook.tag="sha-1.2.3"`,
		"a budget by the other number": `webhook.podDisruptionBudget.minAvailable=1`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, "--set-json", set); err != nil {
				t.Error(err)
			}
		})
	}
}

// Every value has its entry in the schema, and every entry its value, so that
// neither falls behind.
func TestSchemaCoversValues(t *testing.T) {
	read := func(name string) map[string]any {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(chartDir, name))
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]any{}
		if err := yaml.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	schema := read("values.schema.json")
	// Kept for upgrades and parents; not values of ours.
	unlisted := map[string]bool{"global": true, "installCRDs": true, "forceNameSpaced": true}
	var walk func(path string, schema, values map[string]any)
	walk = func(path string, schema, values map[string]any) {
		properties, _ := schema["properties"].(map[string]any)
		for name := range properties {
			if _, ok := values[name]; !ok && !unlisted[name] {
				t.Errorf("values.yaml lacks %s%s", path, name)
			}
		}
		for name, value := range values {
			property, ok := properties[name].(map[string]any)
			if !ok {
				t.Errorf("values.schema.json lacks %s%s", path, name)
				continue
			}
			if sub, ok := value.(map[string]any); ok && property["properties"] != nil && len(sub) > 0 {
				walk(path+name+".", property, sub)
			}
		}
	}
	walk("", schema, read("values.yaml"))
	if _, err := json.Marshal(schema); err != nil {
		t.Fatal(err)
	}
}

func TestCertManagerIsRequired(t *testing.T) {
	ours := []string{"--api-versions", "aadpodidentity.k8s.io/v1"}
	if _, err := render(t, ours...); err == nil || !strings.Contains(err.Error(), "https://cert-manager.io/docs/installation/") {
		t.Errorf("without cert-manager: error %v, want one that says what to install", err)
	}
	if _, err := render(t, append(ours, "--api-versions", "cert-manager.io/v1")...); err != nil {
		t.Errorf("with cert-manager: %v", err)
	}
	if _, err := render(t, append(ours, "--set", "webhook.certManager.check=false")...); err != nil {
		t.Errorf("with the check off: %v", err)
	}
}

func TestNotes(t *testing.T) {
	for set, want := range map[string]string{
		"":                           "rollout status deployment/aad-pod-identity-webhook",
		"rbac.pspEnabled=true":       "rbac.pspEnabled is ignored",
		"installCRDs=true":           "installCRDs is ignored",
		"forceNameSpaced=true":       "forceNameSpaced is ignored",
		"crds.manage=false":          "kubectl apply --server-side --force-conflicts",
		"nmi.micNamespace=elsewhere": "nmi.micNamespace is elsewhere, but MIC runs in " + namespace,
	} {
		// Notes are not part of a rendering, so the template is rendered as a manifest.
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(chartDir)); err != nil {
			t.Fatal(err)
		}
		notes, err := os.ReadFile(filepath.Join(dir, "templates/NOTES.txt"))
		if err != nil {
			t.Fatal(err)
		}
		wrapped := "{{- define \"notes\" }}" + string(notes) + "{{ end }}\nkind: Notes\napiVersion: v1\nmetadata:\n  name: notes\ntext: {{ include \"notes\" . | toJson }}\n"
		if err := os.WriteFile(filepath.Join(dir, "templates/notes.yaml"), []byte(wrapped), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := helm(t, "template", release, dir, "--namespace", namespace, "--kube-version", kubeVersion, "--show-only", "templates/notes.yaml", "--set", set)
		if err != nil {
			t.Errorf("%s: %v", set, err)
			continue
		}
		text, _ := parse(t, out).get(t, "Notes/notes").Object["text"].(string)
		if !strings.Contains(text, want) {
			t.Errorf("with %q the notes do not say %q:\n%s", set, want, text)
		}
	}
}
