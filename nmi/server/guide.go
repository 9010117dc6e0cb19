package server

import (
	"net/http"
	"strings"
	"time"

	"k8s.io/klog/v2"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/redact"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
)

// guideLog writes the three lines that the troubleshooting guide shows, word for
// word, since people and scripts look for them. They are plain text, not fields:
// structured logging would put them in quotes. What a pod chose is made harmless
// first, so that it cannot forge lines.
type guideLog struct {
	printf func(depth int, format string, args ...any)
}

func newGuideLog() guideLog { return guideLog{klog.InfofDepth} }

func (g guideLog) defaulted(pod *podindex.Pod, id *v1.AzureIdentity) {
	g.printf(1, "no clientID or resourceID in request. %s/%s has been matched with azure identity %s/%s",
		pod.Namespace, pod.Name, id.Namespace, id.Name)
}

func (g guideLog) matched(id *v1.AzureIdentity, resource string) {
	g.printf(1, "matched identityType:%d clientid:%s resource:%s", id.Spec.Type, redact.ClientID(id.Spec.ClientID), harmless(resource))
}

func (g guideLog) answered(status int, took time.Duration, r *http.Request) {
	g.printf(1, "status (%d) took %d ns for req.method=%s reg.path=%s req.remote=%s",
		status, took.Nanoseconds(), harmless(r.Method), harmless(r.URL.EscapedPath()), source(r))
}

// harmless shortens a text and replaces what is not printable ASCII.
func harmless(s string) string {
	const longest = 256
	if len(s) > longest {
		s = s[:longest] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
