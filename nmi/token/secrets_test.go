package token

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var (
	secretName = types.NamespacedName{Namespace: "ns", Name: "s"}
	secrets    = schema.GroupResource{Resource: "secrets"}
	notFound   = apierrors.NewNotFound(secrets, "s")
	forbidden  = apierrors.NewForbidden(secrets, "s", errors.New("no"))
	loggedOut  = apierrors.NewUnauthorized("no") // which NMI itself is
	errAway    = errors.New("connection refused")
)

// apiServer has one Secret.
type apiServer struct {
	mu    sync.Mutex
	data  map[string][]byte
	err   error
	hang  bool
	reads int
}

func (a *apiServer) read(ctx context.Context, _ types.NamespacedName) (map[string][]byte, error) {
	a.mu.Lock()
	a.reads++
	data, err, hang := a.data, a.err, a.hang
	a.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return data, err
}

func (a *apiServer) set(change func(*apiServer)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func withSecrets(t *testing.T, a *apiServer, test func(t *testing.T, s *Secrets)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := NewSecrets(ctx, a.read)
		test(t, s)
		cancel()
		s.Wait()
	})
}

func versionOf(t *testing.T, s *Secrets) string {
	t.Helper()
	v, err := s.Version(t.Context(), secretName)
	if err != nil || v == "" {
		t.Fatalf("version %q, %v", v, err)
	}
	return v
}

func TestVersionFollowsTheSecret(t *testing.T) {
	a := &apiServer{data: map[string][]byte{"a": []byte("1"), "b": []byte("2")}}
	withSecrets(t, a, func(t *testing.T, s *Secrets) {
		first := versionOf(t, s)
		for range 100 {
			if versionOf(t, s) != first {
				t.Fatal("the version changes by itself")
			}
		}
		if a.reads != 1 {
			t.Errorf("%d reads", a.reads)
		}
		a.set(func(a *apiServer) { a.data = map[string][]byte{"a": []byte("12"), "b": nil} })
		<-time.After(versionRefresh)
		if versionOf(t, s) != first {
			t.Error("whoever asks when it is renewed in the background waits for it")
		}
		synctest.Wait()
		second := versionOf(t, s)
		if second == first {
			t.Error("the same version for another content")
		}
		a.set(func(a *apiServer) { a.data = map[string][]byte{"a": []byte("1"), "b": []byte("2")} })
		<-time.After(versionLife)
		if versionOf(t, s) != first {
			t.Error("another version for the same content, or a version that is too old")
		}
	})
}

func TestVersionOutlivesAnOutageOfTheAPIServer(t *testing.T) {
	for name, outage := range map[string]error{"it is away": errAway, "it does not know NMI": loggedOut} {
		t.Run(name, func(t *testing.T) {
			a := &apiServer{data: map[string][]byte{"a": []byte("1")}}
			withSecrets(t, a, func(t *testing.T, s *Secrets) {
				first := versionOf(t, s)
				a.set(func(a *apiServer) { a.err = outage })
				for range 200 {
					<-time.After(time.Second)
					if versionOf(t, s) != first {
						t.Error("another version")
					}
					synctest.Wait()
				}
				if a.reads > 60 {
					t.Errorf("%d reads in 200 s", a.reads)
				}
				a.set(func(a *apiServer) { a.err = notFound })
				<-time.After(versionLife)
				versionErrs := 0
				for range 2 {
					if _, err := s.Version(t.Context(), secretName); err != nil {
						versionErrs++
					}
					synctest.Wait()
				}
				if versionErrs == 0 {
					t.Error("the Secret is gone, and its version is not")
				}
			})
		})
	}
}

func TestVersionOfASecretThatCannotBeRead(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		code string
		want string
	}{
		"there is none":     {notFound, CodeSecret, "Secret ns/s of the AzureIdentity cannot be used: it does not exist"},
		"no right":          {forbidden, CodeSecret, "rbac.allowAccessToSecrets"},
		"no API server yet": {errAway, codeUnavailable, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &apiServer{err: tc.err}
			withSecrets(t, a, func(t *testing.T, s *Secrets) {
				for range 3 {
					_, err := s.Version(t.Context(), secretName)
					var e *Error
					if !errors.As(err, &e) || e.Refused || e.Code != tc.code || !strings.Contains(e.Description, tc.want) {
						t.Errorf("error %v", err)
					}
				}
				if a.reads != 1 {
					t.Errorf("%d reads", a.reads)
				}
				a.set(func(a *apiServer) { a.err, a.data = nil, map[string][]byte{"a": []byte("1")} })
				<-time.After(versionFailure)
				versionOf(t, s)
			})
		})
	}
}

func TestVersionIsReadOnceForAll(t *testing.T) {
	a := &apiServer{hang: true}
	withSecrets(t, a, func(t *testing.T, s *Secrets) {
		var wg sync.WaitGroup
		start := time.Now()
		for range 100 {
			wg.Go(func() {
				if _, err := s.Version(t.Context(), secretName); err == nil {
					t.Error("a version")
				}
			})
		}
		synctest.Wait()
		ctx, leave := context.WithCancel(t.Context())
		leave()
		if _, err := s.Version(ctx, secretName); !errors.Is(err, context.Canceled) {
			t.Errorf("whoever left got %v", err)
		}
		wg.Wait()
		if a.reads != 1 || time.Since(start) != secretTimeout {
			t.Errorf("%d reads, %v", a.reads, time.Since(start))
		}
	})
}

func TestVersioned(t *testing.T) {
	a := &apiServer{data: map[string][]byte{"a": []byte("1")}}
	withSecrets(t, a, func(t *testing.T, s *Secrets) {
		source := &fakeSource{lifetime: dayLong}
		c := NewCache(s.ctx, source, 10, nil)
		v := NewVersioned(s, c)
		principal := Request{ClientID: "p", Principal: Principal{Credential: CredentialSecret, Secret: secretName}}
		ask := func(r Request, want string) {
			t.Helper()
			if tok, err := v.Token(t.Context(), r); err != nil || tok.AccessToken != want {
				t.Errorf("token %q, %v, want %q", tok.AccessToken, err, want)
			}
		}
		ask(principal, "1")
		ask(principal, "1")
		ask(Request{ClientID: "managed"}, "2")
		a.set(func(a *apiServer) { a.data["a"] = []byte("2") })
		<-time.After(versionLife)
		ask(principal, "3")
		ask(Request{ClientID: "managed"}, "2")
		a.set(func(a *apiServer) { a.err = notFound })
		<-time.After(versionLife)
		if tok, err := v.Token(t.Context(), principal); err == nil {
			t.Errorf("the Secret was deleted, and its token %q is served", tok.AccessToken)
		}
	})
}
