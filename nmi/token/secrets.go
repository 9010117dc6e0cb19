package token

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
)

const (
	// versionLife is how old NMI's knowledge of a Secret may be when a token of it
	// is handed out. NMI has no right to watch Secrets.
	versionLife = 30 * time.Second
	// versionRefresh is from when on it is renewed in the background.
	versionRefresh = 20 * time.Second
	// versionFailure is how long it is remembered that a Secret could not be read:
	// it may be made any moment, and during an outage nobody should have to wait
	// for the timeout each time.
	versionFailure = 5 * time.Second
	// secretTimeout bounds one read.
	secretTimeout = 5 * time.Second
	// maxVersions bounds the Secrets that are remembered.
	maxVersions = 1024
)

// ReadSecret reads the data of a Secret.
type ReadSecret func(ctx context.Context, secret types.NamespacedName) (map[string][]byte, error)

// Secrets knows which version of a Secret there is now. It keeps no secret: a
// version is a keyed digest.
type Secrets struct {
	ctx  context.Context // of reads that outlive the request that began them
	read ReadSecret
	salt [sha256.Size]byte

	versions *lru.Cache // by types.NamespacedName

	mu      sync.Mutex
	flights map[types.NamespacedName]chan struct{}
	running sync.WaitGroup
}

// version is what was last learnt about a Secret. It is replaced, never changed.
type version struct {
	digest string
	err    *Error    // why it cannot be used
	renew  time.Time // from when on it is renewed in the background
	until  time.Time
}

// NewSecrets makes Secrets that read with read. Reads in the background end with
// ctx.
func NewSecrets(ctx context.Context, read ReadSecret) *Secrets {
	s := &Secrets{ctx: ctx, read: read, versions: lru.New(maxVersions), flights: map[types.NamespacedName]chan struct{}{}}
	_, _ = rand.Read(s.salt[:]) // never fails
	return s
}

// Wait returns when no read is under way. It is called after the context of
// NewSecrets has ended.
func (s *Secrets) Wait() { s.running.Wait() }

// Version names the content of a Secret, as of at most versionLife ago. If the API
// server cannot be asked, the last known one goes on to count: tokens outlive its
// outage. If it says that there is no such Secret, or that NMI may not read it,
// the error says so at once.
func (s *Secrets) Version(ctx context.Context, secret types.NamespacedName) (string, error) {
	known := s.known(secret)
	now := time.Now()
	if known != nil && now.Before(known.until) {
		if !now.Before(known.renew) {
			s.look(secret)
		}
		return known.result()
	}
	select {
	case <-s.look(secret):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if known = s.known(secret); known == nil {
		return "", &Error{Code: codeUnavailable, Description: fmt.Sprintf("Secret %s was not read in time", secret)}
	}
	return known.result()
}

func (v *version) result() (string, error) {
	if v.err != nil {
		return "", v.err
	}
	return v.digest, nil
}

func (s *Secrets) known(secret types.NamespacedName) *version {
	v, ok := s.versions.Get(secret)
	if !ok {
		return nil
	}
	known, _ := v.(*version)
	return known
}

// look reads a Secret, once for all who ask meanwhile, and closes the channel when
// its version is known.
func (s *Secrets) look(secret types.NamespacedName) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	done, ok := s.flights[secret]
	if ok {
		return done
	}
	done = make(chan struct{})
	s.flights[secret] = done
	s.running.Go(func() {
		defer close(done)
		_, _ = s.Data(s.ctx, secret) // the version has the error
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.flights, secret)
	})
	return done
}

// Data reads a Secret now.
func (s *Secrets) Data(ctx context.Context, secret types.NamespacedName) (map[string][]byte, error) {
	short, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	asked := time.Now()
	data, err := s.read(short, secret)
	switch {
	case err == nil:
		s.versions.Add(secret, &version{digest: s.digest(data), renew: asked.Add(versionRefresh), until: asked.Add(versionLife)})
		return data, nil
	case ctx.Err() != nil:
		return nil, ended(ctx, "reading Secret "+secret.String())
	}
	failed, now := readError(secret, err), time.Now()
	again := now.Add(versionFailure)
	if known := s.known(secret); known != nil && known.err == nil && !definite(err) {
		s.versions.Add(secret, &version{digest: known.digest, renew: again, until: now.Add(versionLife)})
	} else {
		s.versions.Add(secret, &version{err: failed, renew: again, until: again})
	}
	return nil, failed
}

// definite says whether an error is an answer about the Secret, rather than the lack
// of one. Unauthorized is about NMI's own credential.
func definite(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err)
}

// readError is the error of a Secret that could not be read. Like contentError it
// is no refusal: the 1.8 releases answered 503, so clients try again, and somebody
// can mend the Secret meanwhile.
func readError(secret types.NamespacedName, err error) *Error {
	var why string
	switch {
	case apierrors.IsNotFound(err):
		why = "it does not exist"
	case apierrors.IsForbidden(err):
		why = "NMI may not read it; rbac.allowAccessToSecrets of the chart gives it that right"
	default:
		return &Error{Code: codeUnavailable, Description: fmt.Sprintf("reading Secret %s: %v", secret, err), err: err}
	}
	return &Error{Code: CodeSecret, Description: fmt.Sprintf("Secret %s of the AzureIdentity cannot be used: %s", secret, why), err: err}
}

// contentError is the error of a Secret with no usable credential in it.
func contentError(secret types.NamespacedName, err error) *Error {
	return &Error{Code: CodeSecret, Description: fmt.Sprintf("Secret %s of the AzureIdentity cannot be used: %v", secret, err), err: err}
}

func (s *Secrets) digest(data map[string][]byte) string {
	h := hmac.New(sha256.New, s.salt[:])
	for _, key := range slices.Sorted(maps.Keys(data)) {
		part(h, []byte(key))
		part(h, data[key])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// part adds a value with its length, so that no two Secrets are the same text.
func part(h hash.Hash, value []byte) {
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(value)))
	_, _ = h.Write(length[:]) // never fails
	_, _ = h.Write(value)
}

// Versioned puts the version of a service principal's Secret into the request, so
// that the cache below it has no token for a credential that was changed.
type Versioned struct {
	secrets *Secrets
	next    Source
}

// NewVersioned makes a Versioned on top of a cache.
func NewVersioned(secrets *Secrets, next Source) *Versioned { return &Versioned{secrets, next} }

// Token implements Source.
func (v *Versioned) Token(ctx context.Context, req Request) (Token, error) {
	if req.Principal.Credential != "" {
		var err error
		if req.version, err = v.secrets.Version(ctx, req.Principal.Secret); err != nil {
			return Token{}, err
		}
	}
	return v.next.Token(ctx, req)
}
