// Package access asks the API server whether the service account of a pod may use
// an AzureIdentity, which clusters can demand for identities of other namespaces.
package access

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/binding"
)

const (
	// timeout of one review. The API server answers in milliseconds, and whoever
	// asks has others to serve.
	timeout = 2 * time.Second
	// FailureLife is how long it is remembered at most that a question has no
	// answer, so that an outage costs those who ask no timeout each time.
	FailureLife = 5 * time.Second
	// maxAnswers bounds the memory of a Reviewer. There are as many answers as
	// pairs of service account and identity in use.
	maxAnswers = 10_000
	// defaultAccount is the service account of pods that name none.
	defaultAccount = "default"
)

// Account returns the name of the service account of a pod from its
// spec.serviceAccountName.
func Account(serviceAccountName string) string {
	if serviceAccountName == "" {
		return defaultAccount
	}
	return serviceAccountName
}

// MayUse says whether a service account has the verb "use" on an AzureIdentity. An
// error means that it is not known. (*Reviewer).MayUse is one; nil is for clusters
// that do not demand the verb.
type MayUse func(ctx context.Context, account, identity types.NamespacedName) (bool, error)

// For returns the question about one service account, as binding.Input asks it.
func (m MayUse) For(ctx context.Context, namespace, account string) func(*v1.AzureIdentity) (bool, error) {
	if m == nil {
		return nil
	}
	return func(id *v1.AzureIdentity) (bool, error) {
		return m(ctx, types.NamespacedName{Namespace: namespace, Name: account}, types.NamespacedName{Namespace: id.Namespace, Name: id.Name})
	}
}

// Reviews makes SubjectAccessReviews; client-go's typed client is one.
type Reviews interface {
	Create(ctx context.Context, review *authorizationv1.SubjectAccessReview, opts metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error)
}

// Reviewer asks, and remembers answers for a while. That a review failed is
// remembered as well, for less long, and never as an answer.
type Reviewer struct {
	reviews Reviews
	life    time.Duration

	flights singleflight.Group
	mu      sync.Mutex
	answers map[question]answer
}

// question is whether a service account may use an identity.
type question struct{ account, identity types.NamespacedName }

// answer is a yes or no, or why there is none.
type answer struct {
	allowed bool
	err     error
	until   time.Time
}

// New returns a Reviewer whose answers are at most life old, and whose failures
// are at most FailureLife old where that is less.
func New(reviews Reviews, life time.Duration) *Reviewer {
	return &Reviewer{reviews: reviews, life: life, answers: map[question]answer{}}
}

// MayUse answers the question of the type of that name.
func (r *Reviewer) MayUse(ctx context.Context, account, identity types.NamespacedName) (bool, error) {
	q := question{account, identity}
	r.mu.Lock()
	known, ok := r.answers[q]
	r.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.allowed, known.err
	}
	// Pods come in hundreds with one service account; the first asks for all, and
	// does not take the answer with it when it is cancelled.
	flight := r.flights.DoChan(account.String()+" "+identity.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		asked := time.Now()
		allowed, err := r.ask(ctx, q)
		if err != nil {
			// A failure may take its time, and counts from its end.
			r.remember(q, answer{err: err, until: time.Now().Add(min(FailureLife, r.life))})
			return false, err
		}
		r.remember(q, answer{allowed: allowed, until: asked.Add(r.life)})
		return allowed, nil
	})
	select {
	case <-ctx.Done():
		return false, fmt.Errorf("reviewing access: %w", ctx.Err())
	case result := <-flight:
		allowed, _ := result.Val.(bool)
		return allowed && result.Err == nil, result.Err
	}
}

func (r *Reviewer) ask(ctx context.Context, q question) (bool, error) {
	review, err := r.reviews.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		// As the API server names a service account that sends it a request.
		User:   "system:serviceaccount:" + q.account.Namespace + ":" + q.account.Name,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + q.account.Namespace, "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: v1.GroupName, Version: v1.GroupVersion.Version, Resource: "azureidentities",
			Verb: binding.VerbUse, Namespace: q.identity.Namespace, Name: q.identity.Name,
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("reviewing access: %w", err)
	}
	s := review.Status
	if !s.Allowed && s.EvaluationError != "" {
		// No authorizer allowed it, and one that might have could not be asked. With
		// failurePolicy Deny a webhook that is down denies: it failed closed, which is
		// no word about the right.
		return false, fmt.Errorf("reviewing access: %s", s.EvaluationError)
	}
	return s.Allowed && !s.Denied, nil
}

func (r *Reviewer) remember(q question, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) >= maxAnswers {
		now := time.Now()
		maps.DeleteFunc(r.answers, func(_ question, a answer) bool { return !now.Before(a.until) })
	}
	if len(r.answers) >= maxAnswers {
		clear(r.answers)
	}
	r.answers[q] = a
}
