package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// TestRightWithdrawnWhileIMDSIsAsked: what counts is the right when the token is
// handed out, not when it was asked for.
func TestRightWithdrawnWhileIMDSIsAsked(t *testing.T) {
	tests := map[string]struct {
		withdraw func(*world)
		status   int // 0 if the connection, which is the pod's, is cut off
	}{
		"nothing happens":       {func(*world) {}, 200},
		"it is unassigned":      {func(w *world) { w.assign("web", w.demo, v1.AssignedIDUnassigned) }, 404},
		"the label is removed":  {func(w *world) { w.setPod("web", webIP, func(p *corev1.Pod) { p.Labels = nil }) }, 404},
		"the pod is gone":       {func(w *world) { w.index.DeletePod(types.NamespacedName{Namespace: "default", Name: "web"}) }, 0},
		"another pod is called": {func(w *world) { w.setPod("web", webIP, func(p *corev1.Pod) { p.UID = "uid-2" }) }, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			asked, answer := make(chan struct{}), make(chan struct{})
			imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				close(asked)
				<-answer
				_, _ = io.WriteString(w, `{"access_token":"a","expires_in":"86400","token_type":"Bearer"}`)
			}))
			defer imds.Close()
			endpoint, err := url.Parse(imds.URL)
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, func(o *Options) { o.Metadata = endpoint })
			w.assign("web", w.demo, v1.AssignedIDAssigned)
			got := make(chan reply, 1)
			go func() {
				r, err := w.try(t.Context(), webIP, tokenURL, nil)
				if err != nil && tc.status != 0 {
					t.Error(err)
				}
				got <- r
			}()
			<-asked
			tc.withdraw(w)
			if tc.status == 0 {
				eventually(t, "the connection is cut off", func() bool { return w.server.Connections() == 0 })
			}
			close(answer)
			if r := <-got; r.status != tc.status || tc.status != 200 && strings.Contains(r.body, "access_token") {
				t.Errorf("status %d, %s", r.status, r.body)
			}
		})
	}
}
