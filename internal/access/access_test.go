package access

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
)

// server answers reviews.
type server struct {
	asked  atomic.Int64
	last   authorizationv1.SubjectAccessReviewSpec
	answer func() (authorizationv1.SubjectAccessReviewStatus, error)
}

func (s *server) Create(_ context.Context, review *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error) {
	s.asked.Add(1)
	s.last = review.Spec
	status, err := s.answer()
	if err != nil {
		return nil, err
	}
	return &authorizationv1.SubjectAccessReview{Spec: review.Spec, Status: status}, nil
}

func says(status authorizationv1.SubjectAccessReviewStatus, err error) *server {
	return &server{answer: func() (authorizationv1.SubjectAccessReviewStatus, error) { return status, err }}
}

var (
	account  = types.NamespacedName{Namespace: "team-b", Name: "web"}
	identity = types.NamespacedName{Namespace: "team-a", Name: "demo"}
)

func TestMayUse(t *testing.T) {
	for name, test := range map[string]struct {
		status  authorizationv1.SubjectAccessReviewStatus
		err     error
		allowed bool
		unknown string
	}{
		"allowed":                         {status: authorizationv1.SubjectAccessReviewStatus{Allowed: true}, allowed: true},
		"no authorizer has an opinion":    {},
		"denied":                          {status: authorizationv1.SubjectAccessReviewStatus{Denied: true}},
		"allowed although another failed": {status: authorizationv1.SubjectAccessReviewStatus{Allowed: true, EvaluationError: "x"}, allowed: true},
		"an authorizer failed closed":     {status: authorizationv1.SubjectAccessReviewStatus{Denied: true, EvaluationError: "authorizer is down"}, unknown: "authorizer is down"},
		"an authorizer cannot be asked":   {status: authorizationv1.SubjectAccessReviewStatus{EvaluationError: "authorizer is down"}, unknown: "authorizer is down"},
		"the API server cannot be asked":  {err: errors.New("connection refused"), unknown: "connection refused"},
		"a contradiction is no yes":       {status: authorizationv1.SubjectAccessReviewStatus{Allowed: true, Denied: true}},
	} {
		t.Run(name, func(t *testing.T) {
			allowed, err := New(says(test.status, test.err), time.Minute).MayUse(t.Context(), account, identity)
			if allowed != test.allowed || (err != nil) != (test.unknown != "") {
				t.Fatalf("allowed %v, error %v", allowed, err)
			}
			if err != nil && !strings.Contains(err.Error(), test.unknown) {
				t.Errorf("error %v does not say %q", err, test.unknown)
			}
		})
	}
}

func TestTheReview(t *testing.T) {
	s := says(authorizationv1.SubjectAccessReviewStatus{}, nil)
	_, err := New(s, time.Minute).MayUse(t.Context(), account, identity)
	if err != nil {
		t.Fatal(err)
	}
	want := authorizationv1.SubjectAccessReviewSpec{
		User:   "system:serviceaccount:team-b:web",
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:team-b", "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: "team-a", Verb: "use", Group: "aadpodidentity.k8s.io", Version: "v1", Resource: "azureidentities", Name: "demo",
		},
	}
	if diff := cmp.Diff(want, s.last); diff != "" {
		t.Errorf("review (-want +got):\n%s", diff)
	}
}

func TestAnswersAreRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		allowed := true
		var failure error
		s := &server{answer: func() (authorizationv1.SubjectAccessReviewStatus, error) {
			return authorizationv1.SubjectAccessReviewStatus{Allowed: allowed}, failure
		}}
		r := New(s, 10*time.Second)
		ask := func(want bool, wantErr error, asked int64) {
			t.Helper()
			got, err := r.MayUse(t.Context(), account, identity)
			if got != want || !errors.Is(err, wantErr) || s.asked.Load() != asked {
				t.Errorf("%v, %v after %d reviews; want %v, %v after %d", got, err, s.asked.Load(), want, wantErr, asked)
			}
		}
		ask(true, nil, 1)
		allowed = false
		<-time.After(9 * time.Second)
		ask(true, nil, 1)
		<-time.After(time.Second)
		ask(false, nil, 2) // the right was taken away
		allowed = true
		ask(false, nil, 2)
		<-time.After(10 * time.Second)
		failed := errors.New("down")
		failure = failed
		ask(false, failed, 3)
		failure = nil
		<-time.After(4 * time.Second)
		ask(false, failed, 3) // for a while it is remembered, as what it is
		<-time.After(time.Second)
		ask(true, nil, 4)
	})
}

func TestAFailureIsRememberedNoLongerThanAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := says(authorizationv1.SubjectAccessReviewStatus{}, errors.New("down"))
		r := New(s, time.Second)
		for range 3 {
			if allowed, err := r.MayUse(t.Context(), account, identity); allowed || err == nil {
				t.Errorf("%v, %v", allowed, err)
			}
			<-time.After(time.Second)
		}
		if n := s.asked.Load(); n != 3 {
			t.Errorf("%d reviews, want 3", n)
		}
	})
}

// silent is an API server that does not answer.
type silent struct{ asked atomic.Int64 }

func (s *silent) Create(ctx context.Context, _ *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error) {
	s.asked.Add(1)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAnOutageHoldsUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s silent
		r := New(&s, time.Minute)
		begin := time.Now()
		for range 100 {
			if allowed, err := r.MayUse(t.Context(), account, identity); allowed || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%v, %v", allowed, err)
			}
		}
		if waited := time.Since(begin); waited != 2*time.Second || s.asked.Load() != 1 {
			t.Errorf("100 pods waited %v for %d reviews", waited, s.asked.Load())
		}
	})
}

func TestOneReviewForManyPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &server{answer: func() (authorizationv1.SubjectAccessReviewStatus, error) {
			<-release
			return authorizationv1.SubjectAccessReviewStatus{Allowed: true}, nil
		}}
		r := New(s, time.Minute)
		first, cancel := context.WithCancel(t.Context())
		var pods sync.WaitGroup
		pods.Go(func() {
			if allowed, err := r.MayUse(first, account, identity); allowed || !errors.Is(err, context.Canceled) {
				t.Errorf("the first: %v, %v", allowed, err)
			}
		})
		synctest.Wait()
		for range 100 {
			pods.Go(func() {
				if allowed, err := r.MayUse(t.Context(), account, identity); !allowed || err != nil {
					t.Errorf("%v, %v", allowed, err)
				}
			})
		}
		synctest.Wait()
		cancel() // the first hangs up and takes nobody's answer along
		synctest.Wait()
		close(release)
		pods.Wait()
		if n := s.asked.Load(); n != 1 {
			t.Errorf("%d reviews", n)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	r := New(says(authorizationv1.SubjectAccessReviewStatus{Allowed: true}, nil), time.Hour)
	for i := range maxAnswers + 10 {
		if _, err := r.MayUse(t.Context(), account, types.NamespacedName{Namespace: "n", Name: string(rune(i))}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.answers); n > maxAnswers {
		t.Errorf("%d answers are kept", n)
	}
}

func TestFor(t *testing.T) {
	if (MayUse)(nil).For(t.Context(), "a", "b") != nil {
		t.Error("who does not ask has a question")
	}
	var got []types.NamespacedName
	ask := MayUse(func(_ context.Context, account, identity types.NamespacedName) (bool, error) {
		got = []types.NamespacedName{account, identity}
		return true, nil
	}).For(t.Context(), "team-b", "web")
	if allowed, err := ask(&v1.AzureIdentity{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "demo"}}); !allowed || err != nil {
		t.Errorf("%v, %v", allowed, err)
	}
	if diff := cmp.Diff([]types.NamespacedName{account, identity}, got); diff != "" {
		t.Errorf("question (-want +got):\n%s", diff)
	}
	if Account("") != "default" || Account("web") != "web" {
		t.Error("the account of a pod that names none is default")
	}
}
