package azure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// ControlHandler serves the control API that the package comment describes. It has no authentication: serve it on loopback only.
func (e *Emulator) ControlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := e.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintln(w, "ok") // the client may be gone
	})
	mux.HandleFunc("GET /info", control(func(*http.Request, struct{}) (Info, error) { return e.Info(), nil }))
	mux.HandleFunc("GET /state", control(func(*http.Request, struct{}) (State, error) { return e.State(), nil }))
	mux.HandleFunc("POST /reset", control(func(*http.Request, struct{}) (none, error) { return none{}, e.Reset() }))

	mux.HandleFunc("PUT /compute", control(func(_ *http.Request, c Compute) (Compute, error) { return e.PutCompute(c) }))
	mux.HandleFunc("GET /compute", control(func(r *http.Request, _ struct{}) (Compute, error) { return e.Compute(r.FormValue("id")) }))
	mux.HandleFunc("DELETE /compute", control(func(r *http.Request, _ struct{}) (none, error) { return none{}, e.DeleteCompute(r.FormValue("id")) }))
	mux.HandleFunc("PUT /compute/state", control(func(r *http.Request, _ struct{}) (none, error) {
		return none{}, e.SetProvisioningState(r.FormValue("id"), r.FormValue("state"))
	}))
	mux.HandleFunc("PUT /identities", control(func(_ *http.Request, i Identity) (Identity, error) { return e.PutIdentity(i) }))
	mux.HandleFunc("DELETE /identities", control(func(r *http.Request, _ struct{}) (none, error) { return none{}, e.DeleteIdentity(r.FormValue("id")) }))
	mux.HandleFunc("PUT /apps", control(func(_ *http.Request, a App) (App, error) { return e.PutApp(a) }))
	mux.HandleFunc("DELETE /apps", control(func(r *http.Request, _ struct{}) (none, error) { return none{}, e.DeleteApp(r.FormValue("clientID")) }))
	mux.HandleFunc("PUT /roles", control(func(_ *http.Request, role Role) (none, error) { return none{}, e.Grant(role) }))
	mux.HandleFunc("DELETE /roles", control(func(_ *http.Request, role Role) (none, error) { return none{}, e.Revoke(role) }))

	mux.HandleFunc("GET /settings", control(func(*http.Request, struct{}) (Settings, error) { return e.Settings(), nil }))
	mux.HandleFunc("PUT /settings", control(func(_ *http.Request, s Settings) (none, error) { return none{}, e.SetSettings(s) }))
	mux.HandleFunc("PATCH /settings", control(func(_ *http.Request, patch json.RawMessage) (Settings, error) { return e.patchSettings(patch) }))

	mux.HandleFunc("GET /faults", control(func(*http.Request, struct{}) ([]Fault, error) { return e.Faults(), nil }))
	mux.HandleFunc("POST /faults", control(func(_ *http.Request, f Fault) (Fault, error) { return e.AddFault(f) }))
	mux.HandleFunc("DELETE /faults", control(func(r *http.Request, _ struct{}) (none, error) {
		if id := r.FormValue("id"); !e.RemoveFault(id) && id != "" {
			return none{}, fmt.Errorf("no fault %q", id)
		}
		return none{}, nil
	}))
	mux.HandleFunc("GET /calls", control(func(r *http.Request, _ struct{}) ([]Call, error) {
		f := CallFilter{Service: r.FormValue("service"), Operation: r.FormValue("operation"), PathContains: r.FormValue("path")}
		if after := r.FormValue("after"); after != "" {
			n, err := strconv.ParseInt(after, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("after: %w", err)
			}
			f.After = n
		}
		return e.Calls(f), nil
	}))
	mux.HandleFunc("DELETE /calls", control(func(*http.Request, struct{}) (none, error) { e.ClearCalls(); return none{}, nil }))
	mux.HandleFunc("POST /operations/complete", control(func(*http.Request, struct{}) (completed, error) {
		return completed{e.CompleteOperations()}, nil
	}))
	return mux
}

type none struct{}

type completed struct {
	Completed int `json:"completed"`
}

// Info is what a client needs to reach and trust the emulator.
type Info struct {
	Endpoint    string          `json:"endpoint"`
	TenantID    string          `json:"tenantID"`
	CAPEM       string          `json:"caPEM"`
	Environment json.RawMessage `json:"environment"`
}

// Info describes the running emulator.
func (e *Emulator) Info() Info {
	return Info{Endpoint: e.Endpoint(), TenantID: e.TenantID(), CAPEM: string(e.CAPEM()), Environment: e.EnvironmentFile()}
}

// patchSettings changes only the settings that the JSON names.
func (e *Emulator) patchSettings(patch json.RawMessage) (Settings, error) {
	s := e.Settings()
	if err := decodeStrict(patch, &s); err != nil {
		return Settings{}, err
	}
	return s, e.SetSettings(s)
}

// control makes a handler of a function: JSON in, unknown fields refused, JSON out, errors as 400.
func control[In, Out any](f func(*http.Request, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out, err := func() (out Out, err error) {
			var in In
			data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
			if err != nil {
				return out, fmt.Errorf("reading the request: %w", err)
			}
			if _, empty := any(in).(struct{}); !empty {
				if err := decodeStrict(data, &in); err != nil {
					return out, err
				}
			}
			return f(r, in)
		}()
		if err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		writeJSON(w, http.StatusOK, out)
	}
}

func decodeStrict(data []byte, into any) error {
	if len(data) == 0 {
		return errors.New("the request needs a JSON body")
	}
	if raw, ok := into.(*json.RawMessage); ok {
		*raw = data
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("reading the JSON body: %w", err)
	}
	return nil
}
