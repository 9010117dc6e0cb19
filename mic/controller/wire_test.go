package controller

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// wire is a process's connection to the world. It counts what goes over it, and
// can be cut, which for everybody else is the same as a process that was killed.
type wire struct {
	mu sync.Mutex
	// writes are the calls that change something, without events, in order. One that
	// creates an object has its name in the path as well.
	writes []string
	events int
	// limit, if limited, is how many writes there may be before the wire is cut.
	limit   int
	limited bool
	cut     bool
	// listless: watches, which caches are filled by, hang.
	listless bool
	// watches are the answers of watches that are open.
	watches map[*watch]bool
}

var errCut = errors.New("the wire is cut")

// cutAfter lets a number of further writes through.
func (w *wire) cutAfter(writes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.limited = len(w.writes)+writes, true
}

// setCut cuts the wire, or mends it. Watches break with it.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut, w.limited = cut, false
	if cut {
		for body := range w.watches {
			body.sever()
		}
	}
}

// isCut says whether it was cut.
func (w *wire) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

// written returns the writes so far, and how many events were written.
func (w *wire) written() ([]string, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.writes...), w.events
}

// pass notes a call and says whether it goes through.
func (w *wire) pass(r *http.Request) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	write := r.Method != http.MethodGet && r.Method != http.MethodHead && !strings.HasSuffix(r.URL.Path, "/token")
	event := strings.Contains(r.URL.Path, "/events")
	if w.limited && write && !event && len(w.writes) >= w.limit {
		w.cut = true
	}
	switch {
	case w.cut:
		return false
	case event:
		w.events++
	case write:
		w.writes = append(w.writes, fmt.Sprintf("%s %s%s", r.Method, r.URL.Path, created(r)))
	}
	return true
}

var decoder = sync.OnceValues(func() (runtime.Decoder, error) {
	s, err := Scheme()
	if err != nil {
		return nil, err
	}
	return serializer.NewCodecFactory(s).UniversalDeserializer(), nil
})

// created is "/" and the name of the object that a call creates, "" for other calls.
func created(r *http.Request) string {
	if r.Method != http.MethodPost || r.GetBody == nil {
		return ""
	}
	body, err := r.GetBody()
	if err != nil {
		return ""
	}
	defer body.Close()
	raw, err1 := io.ReadAll(body)
	d, err2 := decoder()
	if errors.Join(err1, err2) != nil {
		return ""
	}
	o, _, err := d.Decode(raw, nil, nil)
	if err != nil {
		return ""
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return ""
	}
	return "/" + m.GetName()
}

func (w *wire) around(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if !w.pass(r) {
			return nil, errCut
		}
		if w.listless && r.URL.Query().Get("watch") != "" {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		response, err := next.RoundTrip(r)
		if err == nil && r.URL.Query().Get("watch") != "" {
			response.Body = w.watch(response.Body)
		}
		return response, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// watch is the stream of a watch.
type watch struct {
	io.ReadCloser
	wire *wire
}

func (w *wire) watch(body io.ReadCloser) io.ReadCloser {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := &watch{ReadCloser: body, wire: w}
	if w.watches == nil {
		w.watches = map[*watch]bool{}
	}
	w.watches[b] = true
	return b
}

// sever ends the stream under its reader.
func (b *watch) sever() { _ = b.ReadCloser.Close() }

// Close implements io.Closer.
func (b *watch) Close() error {
	b.wire.mu.Lock()
	delete(b.wire.watches, b)
	b.wire.mu.Unlock()
	return b.ReadCloser.Close()
}
