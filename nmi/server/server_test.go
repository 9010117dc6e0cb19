package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

func TestAzidentity(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.assign("web", w.second, v1.AssignedIDAssigned)
	tests := map[string]struct {
		id   azidentity.ManagedIDKind
		want string
	}{
		"the default is the first binding's":  {want: w.demo.ClientID},
		"by client ID":                        {id: azidentity.ClientID(w.second.ClientID), want: w.second.ClientID},
		"by resource ID":                      {id: azidentity.ResourceID(w.second.ID), want: w.second.ClientID},
		"by resource ID as the portal prints": {id: azidentity.ResourceID(strings.Replace(w.second.ID, "resourcegroups", "resourceGroups", 1)), want: w.second.ClientID},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			cred, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{
				ID: tc.id, ClientOptions: azcore.ClientOptions{Transport: w.client(webIP), Retry: policy.RetryOptions{MaxRetries: -1}},
			})
			if err != nil {
				t.Fatal(err)
			}
			tok, err := cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{vault + "/.default"}})
			if err != nil {
				t.Fatal(err)
			}
			if got := claim(t, tok.Token, "appid"); got != tc.want || time.Until(tok.ExpiresOn) < time.Hour {
				t.Errorf("token of %s until %s, want of %s", got, tok.ExpiresOn, tc.want)
			}
		})
	}
}

func TestTokenAnswers(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	tests := map[string]struct {
		from, url string
		header    map[string]string
		status    int
		code      string
		text      string // part of the description
	}{
		"a token":                            {url: tokenURL, status: 200},
		"a trailing slash":                   {url: strings.Replace(tokenURL, "token?", "token/?", 1), status: 200},
		"metadata in another case":           {url: strings.Replace(tokenURL, "metadata", "MetaData", 1), status: 200},
		"empty selectors select all":         {url: tokenURL + "&client_id=&msi_res_id=", status: 200},
		"no api-version, as 1.8 allowed":     {url: "/metadata/identity/oauth2/token?resource=" + vault, status: 200},
		"no header, before anything waits":   {from: strangerIP, url: tokenURL, header: map[string]string{"Metadata": ""}, status: 400, code: "invalid_request", text: "Required metadata header not specified"},
		"a header that is not true":          {url: tokenURL, header: map[string]string{"Metadata": "yes"}, status: 400, code: "invalid_request", text: "Required metadata header not specified"},
		"no resource":                        {url: "/metadata/identity/oauth2/token", status: 400, code: "invalid_request", text: "resource"},
		"a selector that cannot be read":     {url: tokenURL + "&client_id=%zz", status: 400, code: "invalid_request", text: "client_id"},
		"two selectors":                      {url: tokenURL + "&client_id=" + w.demo.ClientID + "&object_id=" + w.demo.PrincipalID, status: 400, code: "invalid_request", text: "only one of"},
		"a path that only looks like tokens": {url: "/metadata/identity/x/oauth2/token?resource=" + vault, status: 400, code: "invalid_request"},
		"a pod nobody knows":                 {from: strangerIP, url: tokenURL, status: 500, code: "unknown_pod"},
		"a pod without identity":             {from: otherIP, url: tokenURL, status: 404, code: "identity_not_assigned", text: "default/other"},
		"an identity of another pod":         {url: tokenURL + "&client_id=" + w.second.ClientID, status: 404, code: "identity_not_assigned"},
		"a resource that IMDS refuses":       {url: "/metadata/identity/oauth2/token?resource=nonsense", status: 403, code: "invalid_resource"},
		"a broken query":                     {url: tokenURL + "&%zz", status: 200},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			from := tc.from
			if from == "" {
				from = webIP
			}
			r := w.get(from, tc.url, tc.header)
			if r.status != tc.status || r.oauth.Code != tc.code || !strings.Contains(r.oauth.Description, tc.text) {
				t.Errorf("status %d, %s", r.status, r.body)
			}
			if !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") || r.header.Get("Content-Length") != fmt.Sprint(len(r.body)) {
				t.Errorf("header %v", r.header)
			}
			if tc.status == 200 {
				if m := r.tokenOf(t); m["client_id"] != w.demo.ClientID || m["resource"] != vault || m["token_type"] != "Bearer" {
					t.Errorf("token %v", m)
				}
			}
			if strings.Contains(r.oauth.Description, w.second.ClientID) {
				t.Error("the client ID is shown")
			}
		})
	}
}

func TestRefusedAndUnreachable(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	gone := w.identity("unassigned-by-hand")
	w.assign("web", gone, v1.AssignedIDAssigned)
	r := w.get(webIP, tokenURL+"&client_id="+gone.ClientID, nil)
	if r.status != 403 || r.oauth.Description != "Identity not found" {
		t.Errorf("an identity that is not on the VM: status %d, %s", r.status, r.body)
	}
	if _, err := w.azure.AddFault(azure.Fault{Operation: azure.OpIMDSToken, Status: 429, RetryAfter: 120, Code: "too_many"}); err != nil {
		t.Fatal(err)
	}
	if r := w.get(webIP, tokenURL, nil); r.status != 503 || r.header.Get("Retry-After") != "120" || r.oauth.Code == "" {
		t.Errorf("IMDS throttles for long: status %d, %v, %s", r.status, r.header, r.body)
	}
}

func TestRetryAfterFlag(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.SetRetryAfter = true })
	if r := w.get(webIP, tokenURL, nil); r.status != 503 || r.header.Get("Retry-After") != "20" || r.oauth.Code != "identity_not_assigned" {
		t.Errorf("status %d, %v, %s", r.status, r.header, r.body)
	}
}

func TestIdentityWithoutClientIDIsServedByResourceID(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned, func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.Spec.ClientID = "" })
	if m := w.get(webIP, tokenURL, nil).tokenOf(t); m["client_id"] != w.demo.ClientID {
		t.Errorf("token %v", m)
	}
	w.assign("web", w.demo, v1.AssignedIDAssigned, func(a *v1.AzureAssignedIdentity) { a.Spec.AzureIdentityRef.Spec = v1.AzureIdentitySpec{} })
	if r := w.get(webIP, tokenURL+"1", nil); r.status != 403 {
		t.Errorf("an identity without either: status %d, %s", r.status, r.body)
	}
}

// TestWaits: a request is answered the moment its identity is Assigned.
func TestWaits(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Waiting = Waiting{Created: time.Hour, Assigned: time.Hour} })
	got := make(chan reply, 1)
	go func() {
		r, err := w.try(t.Context(), webIP, tokenURL, nil)
		if err != nil {
			t.Error(err)
		}
		got <- r
	}()
	w.assign("web", w.demo, v1.AssignedIDCreated)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	if m := (<-got).tokenOf(t); m["client_id"] != w.demo.ClientID {
		t.Errorf("token %v", m)
	}
}

// TestUnlabelledPodDoesNotWait: credential chains in pods that have nothing to do
// with us must not hang.
func TestUnlabelledPodDoesNotWait(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Waiting = Waiting{Created: time.Hour, Assigned: time.Hour} })
	w.setPod("web", webIP, func(p *corev1.Pod) { p.Labels = nil })
	if r := w.get(webIP, tokenURL, nil); r.status != 404 || !strings.Contains(r.oauth.Description, "has no label aadpodidbinding") {
		t.Errorf("status %d, %s", r.status, r.body)
	}
}

func TestWaitIsBounded(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Waiting = Waiting{Created: 10 * time.Millisecond, Assigned: 20 * time.Millisecond} })
	if r := w.get(webIP, tokenURL, nil); r.status != 404 || !strings.Contains(r.oauth.Description, "after 10ms") {
		t.Errorf("nothing created: status %d, %s", r.status, r.body)
	}
	w.assign("web", w.demo, v1.AssignedIDCreated)
	if r := w.get(webIP, tokenURL, nil); r.status != 404 || !strings.Contains(r.oauth.Description, "not assigned to the node within 30ms") {
		t.Errorf("created: status %d, %s", r.status, r.body)
	}
}

// TestClientThatLeavesFreesItsSlot: the handler ends, which the log line shows.
func TestClientThatLeavesFreesItsSlot(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Waiting.Created = time.Hour })
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	got := make(chan error, 1)
	go func() {
		_, err := w.try(ctx, webIP, tokenURL, nil)
		got <- err
	}()
	eventually(t, "the request waits", func() bool { return w.index.Waiters() > 0 })
	leave()
	if err := <-got; err == nil {
		t.Fatal("an answer")
	}
	eventually(t, "the request ended", func() bool {
		lines := w.lines()
		return len(lines) > 0 && strings.HasPrefix(lines[len(lines)-1], "status (499)")
	})
}

// TestSuccessorPodGetsNothing: a pod is deleted and one of its name created while
// a request waits: the answer is not the new pod's token.
func TestSuccessorPodGetsNothing(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Waiting.Created = time.Hour })
	got := make(chan reply, 1)
	go func() {
		r, err := w.try(t.Context(), webIP, tokenURL, nil)
		if err != nil {
			r.oauth.Code = "cut off" // with the connection, which is the first pod's
		}
		got <- r
	}()
	eventually(t, "the request waits", func() bool { return w.index.Waiters() > 0 })
	w.setPod("web", webIP, func(p *corev1.Pod) { p.UID = "uid-2" })
	w.assign("web", w.demo, v1.AssignedIDAssigned, func(a *v1.AzureAssignedIdentity) { a.Annotations[v1.PodUIDAnnotationKey] = "uid-2" })
	if r := <-got; r.oauth.Code != "cut off" && (r.status != 500 || r.oauth.Code != "unknown_pod") {
		t.Errorf("status %d, %s", r.status, r.body)
	}
}

// TestCacheNeverGrants: a token in the cache is of no use to a pod whose right is
// gone, nor to another pod.
func TestCacheNeverGrants(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.get(webIP, tokenURL, nil).tokenOf(t)
	w.get(webIP, tokenURL, nil).tokenOf(t)
	if n := w.tokenCalls(); n != 1 {
		t.Fatalf("IMDS was asked %d times", n)
	}
	if r := w.get(otherIP, tokenURL+"&client_id="+w.demo.ClientID, nil); r.status != 404 {
		t.Errorf("another pod: status %d", r.status)
	}
	w.setPod("web", webIP, func(p *corev1.Pod) { p.Labels = nil })
	if r := w.get(webIP, tokenURL, nil); r.status != 404 {
		t.Errorf("after the label was removed: status %d", r.status)
	}
	w.setPod("web", webIP)
	w.get(webIP, tokenURL, nil).tokenOf(t)
	w.assign("web", w.demo, v1.AssignedIDUnassigned)
	if r := w.get(webIP, tokenURL, nil); r.status != 404 {
		t.Errorf("after it was unassigned: status %d", r.status)
	}
}

func TestColdStampedeAsksIMDSOnce(t *testing.T) {
	w := newWorld(t, nil)
	var wg sync.WaitGroup
	for i := range 50 {
		pod, ip := fmt.Sprintf("p%d", i), fmt.Sprintf("127.0.1.%d", i+1)
		w.setPod(pod, ip)
		w.assign(pod, w.demo, v1.AssignedIDAssigned)
		wg.Go(func() {
			if r, err := w.try(t.Context(), ip, tokenURL, nil); err != nil || r.status != 200 {
				t.Errorf("%s: status %d, %v", pod, r.status, err)
			}
		})
	}
	wg.Wait()
	if n := w.tokenCalls(); n != 1 {
		t.Errorf("IMDS was asked %d times", n)
	}
}

func TestExceptedPodsGetTheNodesIdentity(t *testing.T) {
	exception := &v1.AzurePodIdentityException{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"},
		Spec:       v1.AzurePodIdentityExceptionSpec{PodLabels: map[string]string{"app": "MIC"}},
	}
	tests := map[string]struct {
		pod    func(*corev1.Pod)
		system bool
	}{
		"a pod that an exception matches":       {pod: func(p *corev1.Pod) { p.Labels["app"] = "mic" }, system: true},
		"MIC, by its service account":           {pod: func(p *corev1.Pod) { p.Spec.ServiceAccountName = "mic" }, system: true},
		"a pod of MIC's account elsewhere":      {pod: func(p *corev1.Pod) { p.Namespace, p.Spec.ServiceAccountName = "evil", "mic" }},
		"a pod that is only called like MIC":    {pod: func(p *corev1.Pod) { p.Name = "mic-0" }},
		"a pod in a namespace without one":      {pod: func(p *corev1.Pod) { p.Namespace, p.Labels["app"] = "evil", "mic" }},
		"a pod whose label has another value":   {pod: func(p *corev1.Pod) { p.Labels["app"] = "web" }},
		"a pod with the value on another label": {pod: func(p *corev1.Pod) { p.Labels["tier"] = "mic" }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.index.SetException(exception)
			w.setPod("x", strangerIP, tc.pod)
			r := w.get(strangerIP, tokenURL, nil)
			if !tc.system {
				if r.status != 404 || r.oauth.Code != "identity_not_assigned" {
					t.Errorf("status %d, %s", r.status, r.body)
				}
				return
			}
			c, err := w.azure.Compute(vmID)
			if err != nil {
				t.Fatal(err)
			}
			if m := r.tokenOf(t); m["client_id"] != c.SystemClientID {
				t.Errorf("token of %s, want the node's own %s", m["client_id"], c.SystemClientID)
			}
			if m := w.get(strangerIP, tokenURL+"&msi_res_id="+url.QueryEscape(w.second.ID), nil).tokenOf(t); m["client_id"] != w.second.ClientID {
				t.Errorf("by resource ID: token of %s", m["client_id"])
			}
		})
	}
}

func TestProxy(t *testing.T) {
	w := newWorld(t, nil)
	const compute = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
	tests := map[string]struct {
		from, url string
		header    map[string]string
		status    int
		body      string
	}{
		"instance metadata":               {url: compute, status: 200, body: "vm"},
		"without the header":              {url: compute, header: map[string]string{"Metadata": ""}, status: 400, body: "Required metadata header not specified"},
		"an unknown path":                 {url: "/nope", status: 404, body: "Not found"},
		"whoever is no pod of this node":  {from: strangerIP, url: compute, status: 500, body: "unknown_pod"},
		"a process of the node":           {from: hostIP, url: compute, status: 500, body: "unknown_pod"},
		"forwarded requests stay refused": {url: compute, header: map[string]string{"X-Forwarded-For": "10.0.0.1"}, status: 400, body: "X-Forwarded-For"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			from := tc.from
			if from == "" {
				from = webIP
			}
			r := w.get(from, tc.url, tc.header)
			if r.status != tc.status || !strings.Contains(r.body, tc.body) {
				t.Errorf("status %d, %s", r.status, r.body)
			}
		})
	}
	for _, c := range w.azure.Calls(azure.CallFilter{Service: azure.ServiceIMDS}) {
		if c.ForwardedFor != "" && c.ForwardedFor != "10.0.0.1" {
			t.Errorf("NMI added X-Forwarded-For: %s", c.ForwardedFor)
		}
	}
}

func TestProxyWithoutIMDS(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Metadata = &url.URL{Scheme: "http", Host: "127.0.0.1:1"} })
	if r := w.get(webIP, "/metadata/instance?api-version=1", nil); r.status != 503 || r.oauth.Code != "temporarily_unavailable" {
		t.Errorf("status %d, %s", r.status, r.body)
	}
}

func TestProxyIgnoresProxyVariables(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	w := newWorld(t, nil)
	if r := w.get(webIP, "/metadata/instance?api-version=1", nil); r.status != 200 {
		t.Errorf("status %d, %s", r.status, r.body)
	}
}

func TestBlockInstanceMetadata(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.BlockInstanceMetadata = true })
	for _, path := range []string{"/metadata/instance", "/metadata/instance/compute", "/METADATA/instance?x=y", "/metadata//instance", "/metadata/%2e/instance"} {
		if r := w.get(webIP, path, map[string]string{"Metadata": ""}); r.status != 403 || r.oauth.Description != "Request blocked by AAD Pod Identity NMI" {
			t.Errorf("%s: status %d, %s", path, r.status, r.body)
		}
	}
	if n := len(w.azure.Calls(azure.CallFilter{Service: azure.ServiceIMDS})); n != 0 {
		t.Errorf("%d requests reached IMDS", n)
	}
}

func TestHostToken(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	const path = "/host/token?resource=" + vault
	of := func(pod string) map[string]string {
		return map[string]string{"Metadata": "", "podns": "default", "podname": pod}
	}
	r := w.get(hostIP, path, of("web"))
	var got struct {
		Token    map[string]string `json:"token"`
		ClientID string            `json:"clientid"`
	}
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != 200 || got.ClientID != w.demo.ClientID || got.Token["access_token"] == "" {
		t.Errorf("status %d, %v, %s", r.status, err, r.body)
	}
	tests := map[string]struct {
		from, path string
		header     map[string]string
		status     int
	}{
		"from a pod":             {from: webIP, path: path, header: of("web"), status: 403},
		"no pod named":           {path: path, status: 400},
		"no resource":            {path: "/host/token", header: of("web"), status: 400},
		"a pod of nowhere":       {path: path, header: of("nowhere"), status: 404},
		"a pod without identity": {path: path, header: of("other"), status: 404},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			from := tc.from
			if from == "" {
				from = hostIP
			}
			if r := w.get(from, tc.path, tc.header); r.status != tc.status || r.oauth.Code == "" {
				t.Errorf("status %d, %s", r.status, r.body)
			}
		})
	}
	off := newWorld(t, func(o *Options) { o.HostToken = false })
	if r := off.get(hostIP, path, of("web")); r.status != 403 {
		t.Errorf("turned off: status %d", r.status)
	}
}

// TestGuideLines compares with the lines of the troubleshooting guide.
func TestGuideLines(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.get(webIP, tokenURL, nil).tokenOf(t)
	want := []string{
		`^no clientID or resourceID in request\. default/web has been matched with azure identity default/demo$`,
		`^matched identityType:0 clientid:` + w.demo.ClientID[:4] + `##### REDACTED #####` + w.demo.ClientID[len(w.demo.ClientID)-4:] + ` resource:https://vault\.azure\.net$`,
		`^status \(200\) took [0-9]+ ns for req\.method=GET reg\.path=/metadata/identity/oauth2/token req\.remote=127\.0\.0\.2$`,
	}
	eventually(t, "three lines", func() bool { return len(w.lines()) >= len(want) })
	for i, l := range w.lines() {
		if i >= len(want) || !regexp.MustCompile(want[i]).MatchString(l) {
			t.Errorf("line %d: %q", i, l)
		}
	}
}

func TestMetricsAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	w.assign("web", w.demo, v1.AssignedIDAssigned)
	w.get(webIP, tokenURL, nil)
	before := testutil.CollectAndCount(w.registry, "aadpodidentity_nmi_operations_duration_seconds")
	const each = 9 // as many as are logged in full
	for i := range each {
		w.get(webIP, fmt.Sprintf("/metadata/identity/oauth2/token/%d?resource=https://r%d.example", i, i), nil)
		w.get(webIP, fmt.Sprintf("/nowhere/%d", i), nil)
	}
	eventually(t, "all counted", func() bool { return len(w.lines()) >= 3+each*4-each })
	if n := testutil.CollectAndCount(w.registry, "aadpodidentity_nmi_operations_duration_seconds"); n > before+2 {
		t.Errorf("%d series, %d before", n, before)
	}
}

func TestNotSyncedServesNothing(t *testing.T) {
	r := asAPIError(fmt.Errorf("caller: %w", podindex.ErrNotSynced))
	if r.status != http.StatusServiceUnavailable || r.retryAfter == 0 {
		t.Errorf("%+v", r)
	}
}

// claim reads a claim of a JWT without checking its signature.
func claim(t *testing.T, jwt, name string) string {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(claims[name])
}
