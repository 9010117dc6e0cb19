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
// first, so that it cannot forge lines. Beyond a rate they are sampled, and the
// next one is preceded by how many were left out.
type guideLog struct {
	printf  func(depth int, format string, args ...any)
	sampler *sampler[guideLine]
}

// guideLine is a kind of line about a pod, or a source address.
type guideLine struct {
	kind guideKind
	of   string
}

type guideKind int

const (
	lineDefaulted guideKind = iota
	lineMatched
	lineAnswered
)

func newGuideLog() guideLog { return guideLog{klog.InfofDepth, newSampler[guideLine]()} }

func (g guideLog) defaulted(pod *podindex.Pod, id *v1.AzureIdentity) {
	if g.write(lineDefaulted, string(pod.UID)) {
		g.printf(1, "no clientID or resourceID in request. %s/%s has been matched with azure identity %s/%s",
			pod.Namespace, pod.Name, id.Namespace, id.Name)
	}
}

func (g guideLog) matched(pod *podindex.Pod, id *v1.AzureIdentity, resource string) {
	if g.write(lineMatched, string(pod.UID)) {
		g.printf(1, "matched identityType:%d clientid:%s resource:%s", id.Spec.Type, redact.ClientID(id.Spec.ClientID), harmless(resource))
	}
}

func (g guideLog) answered(status int, took time.Duration, r *http.Request) {
	from := source(r).String()
	if g.write(lineAnswered, from) {
		g.printf(1, "status (%d) took %d ns for req.method=%s reg.path=%s req.remote=%s",
			status, took.Nanoseconds(), harmless(r.Method), harmless(r.URL.EscapedPath()), from)
	}
}

func (g guideLog) write(kind guideKind, of string) bool {
	write, left := g.sampler.take(guideLine{kind, of}, time.Now())
	if left > 0 {
		g.printf(2, "%d lines like the next one were left out: more than %d a second", left, fullRate)
	}
	return write
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
