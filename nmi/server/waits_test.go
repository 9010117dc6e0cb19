package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/podindex"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// endpoint is a token endpoint that gives each identity, by its client ID, tokens with
// an object ID, or an error.
type endpoint struct {
	mu      sync.Mutex
	objects map[string]string
	errs    map[string]error
	asked   []string
}

// fail has it answer a request for an identity's token with an error, or with a token.
func (e *endpoint) fail(clientID string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.errs[clientID] = err
}

func (e *endpoint) Token(_ context.Context, r token.Request) (token.Token, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, r.ClientID)
	if err := e.errs[r.ClientID]; err != nil {
		return token.Token{}, err
	}
	return token.Token{AccessToken: "t", ClientID: r.ClientID, ObjectID: e.objects[r.ClientID], ExpiresOn: time.Now().Add(time.Hour)}, nil
}

var (
	errNotOnVM  = &token.Error{Refused: true, Status: http.StatusBadRequest, Code: "invalid_request", Description: "Identity not found"}
	errResource = &token.Error{Refused: true, Status: http.StatusBadRequest, Code: "invalid_resource", Description: "no such resource"}
	errThrottle = &token.Error{Status: http.StatusTooManyRequests, Code: "too_many_requests"}
)

// waitingWorld is a server in fake time whose pod web asks without a connection.
type waitingWorld struct {
	*world
	endpoint      *endpoint
	first, second azure.Identity
}

const created, assignedIn = 80 * time.Second, 20 * time.Second

func inFakeTime(t *testing.T, test func(t *testing.T, w *waitingWorld)) {
	synctest.Test(t, func(t *testing.T) {
		identity := func(name string) azure.Identity {
			return azure.Identity{ID: azure.IdentityID(subscription, "rg", name), ClientID: name}
		}
		w := &waitingWorld{
			world:    &world{t: t, index: podindex.New("node-1")},
			endpoint: &endpoint{objects: map[string]string{"first": "object-1", "second": "object-2"}, errs: map[string]error{}},
			first:    identity("first"), second: identity("second"),
		}
		o := Options{Metadata: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, Waiting: Waiting{Created: created, Assigned: assignedIn}}
		w.server = New(o, w.index, w.endpoint, metric.NewNMI(prometheus.NewRegistry()), nil)
		w.setPod("web", webIP)
		w.index.MarkSynced()
		test(t, w)
	})
}

// ask returns whose token the pod gets.
func (w *waitingWorld) ask(sel selector) (clientID string, err error) {
	v, err := w.index.ByName(types.NamespacedName{Namespace: "default", Name: "web"})
	if err != nil {
		return "", err
	}
	tokens, _, err := w.server.tokensFor(w.t.Context(), v, tokenQuery{resource: vault, selector: sel}, allTenants)
	if err != nil {
		return "", err
	}
	return tokens[0].ClientID, nil
}

func statusOf(err error) int {
	if err == nil {
		return http.StatusOK
	}
	return asAPIError(err).status
}

// TestByObjectIDOfAnIdentityWithoutTokens: what keeps NMI from looking into the tokens
// is waited for as far as it passes, and is the answer at once otherwise.
func TestByObjectIDOfAnIdentityWithoutTokens(t *testing.T) {
	const soon = 10*time.Second + imdsLagPoll/2 // between two questions to IMDS
	tests := map[string]struct {
		begin  func(w *waitingWorld)
		later  func(w *waitingWorld) // soon after
		object string
		want   string // client ID
		err    error
		status int
		took   time.Duration
	}{
		"IMDS learns of the assignment late": {
			begin: func(w *waitingWorld) {
				w.assign("web", w.first, v1.AssignedIDAssigned, assignedFor(0))
				w.endpoint.fail("first", errNotOnVM)
			},
			later:  func(w *waitingWorld) { w.endpoint.fail("first", nil) },
			object: "object-1", want: "first", took: soon + imdsLagPoll/2,
		},
		"IMDS never learns of two assignments": {
			begin: func(w *waitingWorld) {
				w.assign("web", w.first, v1.AssignedIDAssigned, assignedFor(0))
				w.assign("web", w.second, v1.AssignedIDAssigned, assignedFor(0))
				w.endpoint.fail("first", errNotOnVM)
				w.endpoint.fail("second", errNotOnVM)
			},
			object: "object-1", err: errNotOnVM, status: 403, took: assignedIn,
		},
		"the resource is refused": {
			begin: func(w *waitingWorld) {
				w.assign("web", w.first, v1.AssignedIDAssigned)
				w.endpoint.fail("first", errResource)
			},
			object: "object-1", err: errResource, status: 403,
		},
		"one is refused, and the next cannot be asked for": {
			begin: func(w *waitingWorld) {
				w.assign("web", w.first, v1.AssignedIDAssigned)
				w.assign("web", w.second, v1.AssignedIDAssigned)
				w.endpoint.fail("first", errResource)
				w.endpoint.fail("second", errThrottle)
			},
			object: "object-1", err: errThrottle, status: 503,
		},
		"one cannot be asked for, and the next is refused": {
			begin: func(w *waitingWorld) {
				w.assign("web", w.first, v1.AssignedIDAssigned)
				w.assign("web", w.second, v1.AssignedIDAssigned)
				w.endpoint.fail("first", errThrottle)
				w.endpoint.fail("second", errResource)
			},
			object: "object-1", err: errThrottle, status: 503,
		},
		"one is refused, and MIC is at work on the next": {
			begin: func(w *waitingWorld) {
				w.assign("web", w.first, v1.AssignedIDAssigned)
				w.assign("web", w.second, v1.AssignedIDCreated)
				w.endpoint.fail("first", errNotOnVM)
			},
			later:  func(w *waitingWorld) { w.assign("web", w.second, v1.AssignedIDAssigned) },
			object: "object-2", want: "second", took: soon,
		},
		"one is another, and the next, which is another, comes late": {
			begin:  func(w *waitingWorld) { w.assign("web", w.first, v1.AssignedIDAssigned) },
			later:  func(w *waitingWorld) { w.assign("web", w.second, v1.AssignedIDAssigned) },
			object: "object-3", status: 404, took: created,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, w *waitingWorld) {
				tc.begin(w)
				if tc.later != nil {
					time.AfterFunc(soon, func() { tc.later(w) })
				}
				start := time.Now()
				got, err := w.ask(selector{objectID: tc.object})
				if got != tc.want || tc.err != nil && !errors.Is(err, tc.err) || tc.status != 0 && statusOf(err) != tc.status || time.Since(start) != tc.took {
					t.Errorf("token of %q, %v after %s", got, err, time.Since(start))
				}
			})
		})
	}
}

// TestByObjectIDOfAnIdentityMadeAnew: what is remembered of an identity is not what
// decides.
func TestByObjectIDOfAnIdentityMadeAnew(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *waitingWorld) {
		w.assign("web", w.first, v1.AssignedIDAssigned)
		w.assign("web", w.second, v1.AssignedIDAssigned)
		want := func(object, client string, status int) {
			t.Helper()
			if got, err := w.ask(selector{objectID: object}); got != client || statusOf(err) != status {
				t.Errorf("%s: token of %q, %v", object, got, err)
			}
		}
		want("object-1", "first", 200)
		want("object-2", "second", 200)
		w.endpoint.objects["first"] = "object-3"
		want("object-3", "first", 200)
		want("object-1", "", 404)
		w.endpoint.objects["second"] = "object-4"
		want("object-2", "", 404)
		want("object-4", "second", 200)
	})
}

// TestByObjectIDAsksTheOneThatHadIt and nobody else, also when it has failed.
func TestByObjectIDAsksTheOneThatHadIt(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *waitingWorld) {
		w.assign("web", w.first, v1.AssignedIDAssigned)
		w.assign("web", w.second, v1.AssignedIDAssigned)
		for _, err := range []error{nil, errThrottle, errResource} {
			if _, err := w.ask(selector{objectID: "object-2"}); err != nil {
				t.Fatal(err)
			}
			w.endpoint.asked = nil
			w.endpoint.fail("second", err)
			if _, got := w.ask(selector{objectID: "object-2"}); !errors.Is(got, err) {
				t.Errorf("got %v, want %v", got, err)
			}
			for _, client := range w.endpoint.asked {
				if client != "second" {
					t.Errorf("%v: asked for tokens of %s", err, client)
				}
			}
			w.endpoint.fail("second", nil)
		}
	})
}

// TestNMIEndsWhileIMDSLearns: who waits is sent to the next NMI, by whatever it asks.
func TestNMIEndsWhileIMDSLearns(t *testing.T) {
	for name, sel := range map[string]selector{"for the first": {}, "by object ID": {objectID: "object-1"}} {
		t.Run(name, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, w *waitingWorld) {
				w.assign("web", w.first, v1.AssignedIDAssigned, assignedFor(0))
				w.endpoint.fail("first", errNotOnVM)
				got := make(chan error, 1)
				go func() { _, err := w.ask(sel); got <- err }()
				synctest.Wait()
				close(w.server.draining)
				if err := <-got; !errors.Is(err, errEnding) || statusOf(err) != http.StatusServiceUnavailable || asAPIError(err).retryAfter != time.Second {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}
