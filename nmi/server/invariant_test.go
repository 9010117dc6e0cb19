package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
	"github.com/aad-pod-identity/aad-pod-identity/test/soak"
)

// TestNeverTheWrongToken drives random histories of a node whose few addresses and
// names are used again and again, while every pod asks for tokens, and processes of
// the node ask for the pods. Each token that is handed out must be one that the pod
// had a right to at some moment of the request; and a pod whose right and address
// are beyond doubt must get its token, or refusing everything would pass.
func TestNeverTheWrongToken(t *testing.T) {
	histories := soak.Size(t, "histories", 3, 200)
	operations := soak.Size(t, "operations of each", 1000, 2000)
	for seed := range histories {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel() // most of a history is waiting
			testHistory(t, uint64(seed), operations)
		})
	}
}

func testHistory(t *testing.T, seed uint64, operations int) {
	w := newWorld(t, func(o *Options) {
		o.Waiting = Waiting{Created: 20 * time.Millisecond, Assigned: 50 * time.Millisecond}
	})
	if err := w.azure.SetSettings(azure.Settings{IMDS: azure.Duration(2 * time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	h := &history{w: w, rng: rand.New(rand.NewPCG(seed, 0)), assigned: map[string]*v1.AzureAssignedIdentity{}} //nolint:gosec // has to repeat
	h.free = h.addresses()
	on := []azure.Assignment{}
	for n := range historyIdentities {
		id := w.identity(fmt.Sprintf("id%d", n))
		h.identities, on = append(h.identities, id), append(on, azure.Assignment{ID: id.ID})
	}
	if _, err := w.azure.PutCompute(azure.Compute{ID: vmID, SystemAssigned: true, UserAssigned: on}); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	askers := &askers{t: t, h: h, seed: seed, served: make(chan struct{})}
	h.start = func(i *onePod) {
		for n := range 2 {
			askers.running.Go(func() { askers.pod(ctx, i, n == 0) })
		}
	}
	askers.running.Go(func() { askers.node(ctx) })

	for range operations {
		h.random()
		// A few tokens are handed out before the next one, so that requests fall on all
		// operations: to a pod that must get one, since nothing changes meanwhile.
		for range h.rng.IntN(5) {
			if h.pick(func(i *onePod) bool {
				now := i.rights[len(i.rights)-1]
				return !i.isDead() && now.certain && len(now.ids) > 0
			}) != nil {
				<-askers.served
			}
		}
	}
	// All pods go. Then their connections must be cut off, or this waits for ever.
	for _, i := range slices.Clone(h.live) {
		if !i.isDead() {
			h.release(i)
		}
		if !i.deleted {
			h.remove(i)
		}
	}
	eventually(t, "the connections of all pods are cut off", func() bool { return askers.pods.Load() == 0 })
	stop()
	askers.running.Wait()

	t.Logf("%d pods, %d tokens, %d other answers, %d connections cut off", len(h.all), askers.tokens.Load(), askers.refusals.Load(), askers.cut.Load())
	for what, n := range map[string]int64{"token": askers.tokens.Load(), "refusal": askers.refusals.Load(), "connection of a dead pod that is cut off": askers.cut.Load()} {
		if n == 0 {
			t.Errorf("no %s: the history shows nothing", what)
		}
	}
}

// askers are the processes that ask for tokens.
type askers struct {
	t    *testing.T
	h    *history
	seed uint64

	running               sync.WaitGroup
	pods                  atomic.Int64
	tokens, refusals, cut atomic.Int64
	served                chan struct{} // a token to a pod
}

// trackedConn is a connection of a pod's process.
type trackedConn struct {
	net.Conn
	of    *onePod
	owned atomic.Bool // NMI has found out whose it is
}

func (c *trackedConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// dial opens a connection from the pod's address, as long as it is the pod's.
func (i *onePod) dial(ctx context.Context, address string) (net.Conn, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.dead {
		return nil, errDead
	}
	raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(i.address)}}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &trackedConn{Conn: raw, of: i}
	i.conns[c] = struct{}{}
	return c, nil
}

var errDead = errors.New("the process is dead")

// pod asks without a pause, either on one connection, which it goes on with even
// after its death until that is cut off, or on a new one each time.
func (a *askers) pod(ctx context.Context, i *onePod, keep bool) {
	a.pods.Add(1)
	defer a.pods.Add(-1)
	tr := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return i.dial(ctx, a.h.w.address) },
		DisableKeepAlives: !keep,
	}
	defer tr.CloseIdleConnections()
	stream := uint64(i.number) * 2
	if keep {
		stream++
	}
	rng := rand.New(rand.NewPCG(a.seed, stream)) //nolint:gosec // has to repeat
	for ctx.Err() == nil {
		q := a.question(rng)
		var on *trackedConn
		trace := &httptrace.ClientTrace{GotConn: func(g httptrace.GotConnInfo) { on, _ = g.Conn.(*trackedConn) }}
		from := a.h.done.Load()
		answer, err := a.ask(httptrace.WithClientTrace(ctx, trace), tr, "/metadata/identity/oauth2/token?"+q.query(), nil)
		to := a.h.begun.Load()
		if err != nil {
			if i.isDead() {
				if on != nil && on.owned.Load() {
					a.cut.Add(1)
				}
				return
			}
			continue // the connection was another pod's, or is cut off with the pod's object
		}
		if on != nil && keep && (answer.status == http.StatusOK || answer.status == http.StatusNotFound) {
			on.owned.Store(true)
		}
		a.judge(fmt.Sprintf("pod %s, number %d", i.name, i.number), q, answer, i.during(from, to), true)
		if answer.status != http.StatusOK {
			continue
		}
		select {
		case a.served <- struct{}{}:
		default:
		}
	}
}

// node asks for the pods by their names, as a process of the node may.
func (a *askers) node(ctx context.Context) {
	tr := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, a.h.w.address)
	}}
	defer tr.CloseIdleConnections()
	rng := rand.New(rand.NewPCG(a.seed, 1<<32)) //nolint:gosec // has to repeat
	for ctx.Err() == nil {
		q, name := a.question(rng), fmt.Sprintf("p%d", rng.IntN(historyNames))
		from := a.h.done.Load()
		answer, err := a.ask(ctx, tr, "/host/token?"+q.query(), map[string]string{"podns": "default", "podname": name})
		to := a.h.begun.Load()
		if err != nil {
			if ctx.Err() == nil {
				a.t.Errorf("asking for %s: %v", name, err)
			}
			return
		}
		var states []entitlement
		a.h.mu.Lock()
		for _, i := range a.h.all {
			if i.name == name {
				for _, e := range i.during(from, to) {
					e.excepted = false // which is between a pod and the real service
					states = append(states, e)
				}
			}
		}
		a.h.mu.Unlock()
		a.judge("the node for "+name, q, answer, states, false)
	}
}

// question is what is asked for: the first identity, or a certain one.
type question struct {
	resource, by string
	id           azure.Identity
}

func (a *askers) question(rng *rand.Rand) question {
	// Ever new resources, so that IMDS has to be asked and rights change meanwhile.
	q := question{resource: fmt.Sprintf("https://r%d.example", a.h.begun.Load()/100*3+rng.Int64N(3))}
	if q.by = []string{"", "", "client_id", "msi_res_id", "object_id"}[rng.IntN(5)]; q.by != "" {
		q.id = a.h.identities[rng.IntN(len(a.h.identities))]
	}
	return q
}

func (q question) query() string {
	v := url.Values{"api-version": {"2018-02-01"}, "resource": {q.resource}}
	switch q.by {
	case "client_id":
		v.Set(q.by, q.id.ClientID)
	case "msi_res_id":
		v.Set(q.by, strings.ToUpper(q.id.ID))
	case "object_id":
		v.Set(q.by, q.id.PrincipalID)
	}
	return v.Encode()
}

// entitles says which identity the pod has a right to by this question.
func (q question) entitles(e entitlement) (clientID string, ok bool) {
	if q.by == "" {
		return slices.Concat(e.ids, []string{""})[0], len(e.ids) > 0
	}
	return q.id.ClientID, slices.Contains(e.ids, q.id.ClientID)
}

// judge compares an answer with what the pod had a right to while it was asked for.
func (a *askers) judge(who string, q question, answer reply, states []entitlement, byAddress bool) {
	if answer.status != http.StatusOK {
		a.refusals.Add(1)
		if id, ok := certainly(q, states); ok && byAddress {
			a.t.Errorf("%s asked for %+v, and got status %d, %s, not the token of %s; its rights were %+v", who, q, answer.status, answer.body, id, states)
		}
		return
	}
	a.tokens.Add(1)
	got, err := tokenIdentity(answer.body)
	if err != nil {
		a.t.Errorf("%s: %v", who, err)
		return
	}
	for _, e := range states {
		if id, ok := q.entitles(e); e.excepted || ok && id == got {
			return
		}
	}
	a.t.Errorf("WRONG TOKEN: %s asked for %+v, and got the token of %s; its rights were %+v", who, q, got, states)
}

// certainly says whether the pod could be told, and had a right to the same
// identity, in each of the states.
func certainly(q question, states []entitlement) (string, bool) {
	wanted := ""
	for n, e := range states {
		id, ok := q.entitles(e)
		if !ok || !e.certain || e.excepted || n > 0 && id != wanted {
			return "", false
		}
		wanted = id
	}
	return wanted, len(states) > 0
}

// ask sends one request.
func (a *askers) ask(ctx context.Context, tr http.RoundTripper, path string, header map[string]string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://169.254.169.254"+path, nil)
	if err != nil {
		return reply{}, err
	}
	header = maps.Clone(header)
	req.Header.Set("Metadata", "true")
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, body: string(body)}, err
}

// tokenIdentity reads from the token itself whose it is. The answer must not say
// otherwise.
func tokenIdentity(body string) (string, error) {
	type token struct {
		AccessToken string `json:"access_token"`
		ClientID    string `json:"client_id"`
	}
	var answer struct {
		token
		OfNode *token `json:"token"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return "", fmt.Errorf("reading %q: %w", body, err)
	}
	if answer.OfNode != nil {
		answer.token = *answer.OfNode
	}
	parts := strings.Split(answer.AccessToken, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("no token in %q", body)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	var claims struct {
		AppID string `json:"appid"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	if claims.AppID == "" || claims.AppID != answer.ClientID {
		return "", fmt.Errorf("the answer says that the token is of %s, and that says %s", answer.ClientID, claims.AppID)
	}
	return claims.AppID, nil
}
