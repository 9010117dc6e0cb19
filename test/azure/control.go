package azure

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Control is a client of the control API. Tests that get one need not know whether the emulator is a process or their own.
// Its methods do what the methods of Emulator with the same names do.
type Control struct {
	base   string
	client *http.Client
}

// NewControl returns a client of the control API at a URL such as http://127.0.0.1:9000.
func NewControl(baseURL string) *Control {
	// A transport of its own: the control API is never behind a proxy.
	return &Control{base: strings.TrimSuffix(baseURL, "/"), client: &http.Client{Transport: &http.Transport{}}}
}

// handlerTransport answers requests by a handler in the same process.
type handlerTransport struct{ handler http.Handler }

func (t handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := &memoryWriter{header: http.Header{}, status: http.StatusOK}
	t.handler.ServeHTTP(w, r)
	return &http.Response{
		StatusCode: w.status, Status: strconv.Itoa(w.status) + " " + http.StatusText(w.status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

func newInProcessControl(handler http.Handler) *Control {
	return &Control{base: "http://emulator", client: &http.Client{Transport: handlerTransport{handler}}}
}

// do performs one request. in and out may be nil.
func (c *Control) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("control %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("control %s %s: %w", method, path, err)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("control %s %s: %w", method, path, err)
	}
	defer func() { _ = response.Body.Close() }() // read to its end already, or the error is known
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("control %s %s: %w", method, path, err)
	}
	if response.StatusCode != http.StatusOK {
		var answer struct{ Error string }
		if json.Unmarshal(data, &answer) != nil || answer.Error == "" {
			answer.Error = strings.TrimSpace(string(data))
		}
		return fmt.Errorf("control %s %s: %s: %s", method, path, response.Status, answer.Error)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("control %s %s: reading the answer: %w", method, path, err)
	}
	return nil
}

func query(path string, pairs ...string) string {
	values := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	return path + "?" + values.Encode()
}

// Healthy asks whether the emulator is up and sound.
func (c *Control) Healthy(ctx context.Context) error {
	return c.do(ctx, http.MethodGet, "/healthz", nil, nil)
}

// Info returns endpoint, tenant, CA and environment file.
func (c *Control) Info(ctx context.Context) (info Info, err error) {
	err = c.do(ctx, http.MethodGet, "/info", nil, &info)
	return info, err
}

// State dumps the registry.
func (c *Control) State(ctx context.Context) (state State, err error) {
	err = c.do(ctx, http.MethodGet, "/state", nil, &state)
	return state, err
}

// Reset goes back to the seed.
func (c *Control) Reset(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/reset", nil, nil)
}

// PutCompute creates or replaces a VM or scale set.
func (c *Control) PutCompute(ctx context.Context, compute Compute) (stored Compute, err error) {
	err = c.do(ctx, http.MethodPut, "/compute", compute, &stored)
	return stored, err
}

// Compute returns a VM or scale set as ARM has it now.
func (c *Control) Compute(ctx context.Context, id string) (found Compute, err error) {
	err = c.do(ctx, http.MethodGet, query("/compute", "id", id), nil, &found)
	return found, err
}

// DeleteCompute removes a VM or scale set.
func (c *Control) DeleteCompute(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, query("/compute", "id", id), nil, nil)
}

// SetProvisioningState puts a VM or scale set into a state.
func (c *Control) SetProvisioningState(ctx context.Context, id, state string) error {
	return c.do(ctx, http.MethodPut, query("/compute/state", "id", id, "state", state), nil, nil)
}

// PutIdentity creates or replaces a user-assigned identity.
func (c *Control) PutIdentity(ctx context.Context, identity Identity) (stored Identity, err error) {
	err = c.do(ctx, http.MethodPut, "/identities", identity, &stored)
	return stored, err
}

// DeleteIdentity removes a user-assigned identity.
func (c *Control) DeleteIdentity(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, query("/identities", "id", id), nil, nil)
}

// PutApp creates or replaces an application.
func (c *Control) PutApp(ctx context.Context, app App) (stored App, err error) {
	err = c.do(ctx, http.MethodPut, "/apps", app, &stored)
	return stored, err
}

// DeleteApp removes an application.
func (c *Control) DeleteApp(ctx context.Context, clientID string) error {
	return c.do(ctx, http.MethodDelete, query("/apps", "clientID", clientID), nil, nil)
}

// Grant assigns a role.
func (c *Control) Grant(ctx context.Context, role Role) error {
	return c.do(ctx, http.MethodPut, "/roles", role, nil)
}

// Revoke removes a role assignment.
func (c *Control) Revoke(ctx context.Context, role Role) error {
	return c.do(ctx, http.MethodDelete, "/roles", role, nil)
}

// Settings returns the present settings.
func (c *Control) Settings(ctx context.Context) (s Settings, err error) {
	err = c.do(ctx, http.MethodGet, "/settings", nil, &s)
	return s, err
}

// SetSettings replaces the settings.
func (c *Control) SetSettings(ctx context.Context, s Settings) error {
	return c.do(ctx, http.MethodPut, "/settings", s, nil)
}

// AddFault adds a fault.
func (c *Control) AddFault(ctx context.Context, f Fault) (stored Fault, err error) {
	err = c.do(ctx, http.MethodPost, "/faults", f, &stored)
	return stored, err
}

// RemoveFault removes a fault, or all of them for an empty ID.
func (c *Control) RemoveFault(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, query("/faults", "id", id), nil, nil)
}

// Faults lists the faults that are not used up.
func (c *Control) Faults(ctx context.Context) (list []Fault, err error) {
	err = c.do(ctx, http.MethodGet, "/faults", nil, &list)
	return list, err
}

// Calls lists the recorded calls, oldest first.
func (c *Control) Calls(ctx context.Context, f CallFilter) (list []Call, err error) {
	after := ""
	if f.After != 0 {
		after = strconv.FormatInt(f.After, 10)
	}
	err = c.do(ctx, http.MethodGet, query("/calls", "service", f.Service, "operation", f.Operation, "path", f.PathContains, "after", after), nil, &list)
	return list, err
}

// ClearCalls forgets the recorded calls.
func (c *Control) ClearCalls(ctx context.Context) error {
	return c.do(ctx, http.MethodDelete, "/calls", nil, nil)
}

// CompleteOperations ends all running operations and returns how many there were.
func (c *Control) CompleteOperations(ctx context.Context) (int, error) {
	var answer completed
	err := c.do(ctx, http.MethodPost, "/operations/complete", nil, &answer)
	return answer.Completed, err
}
