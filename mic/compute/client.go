package compute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azarm "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
)

// Client reads and changes the identities of VMs and scale sets. It never calls
// an operation on instances: identities on a scale set's model hold for all of
// them, and updating instances may restart nodes.
type Client struct {
	credential azcore.TokenCredential
	options    *azarm.ClientOptions
	observe    func(operation string, took time.Duration, err error)

	mu       sync.Mutex
	clients  map[string]clients // by subscription, lower case
	pollBase time.Duration
	scope    string // of tokens for ARM
}

type clients struct {
	vm   *armcompute.VirtualMachinesClient
	vmss *armcompute.VirtualMachineScaleSetsClient
}

// Intervals at which a running operation is polled when ARM does not say, which
// it nearly always does. Polls are reads: at these a hundred operations of a
// minute each stay within the budget.
const (
	firstPoll = 500 * time.Millisecond
	lastPoll  = 5 * time.Second
)

// operationTimeout bounds a long-running operation. The slowest that was
// reported took 16 minutes; what takes longer is looked at afresh.
const operationTimeout = 20 * time.Minute

// NewClient returns a Client. Observe is called after each read and change, with
// one of the operation types of package metric; it may be nil.
func NewClient(credential azcore.TokenCredential, options *azarm.ClientOptions, observe func(operation string, took time.Duration, err error)) *Client {
	if observe == nil {
		observe = func(string, time.Duration, error) {}
	}
	return &Client{
		credential: credential, options: options, observe: observe, clients: map[string]clients{}, pollBase: firstPoll,
		scope: options.Cloud.Services[cloud.ResourceManager].Audience + "/.default",
	}
}

// of returns the clients of a subscription.
func (c *Client) of(subscription string) (clients, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := strings.ToLower(subscription)
	if found, ok := c.clients[key]; ok {
		return found, nil
	}
	vm, err := armcompute.NewVirtualMachinesClient(subscription, c.credential, c.options)
	if err != nil {
		return clients{}, fmt.Errorf("client of virtual machines: %w", err)
	}
	vmss, err := armcompute.NewVirtualMachineScaleSetsClient(subscription, c.credential, c.options)
	if err != nil {
		return clients{}, fmt.Errorf("client of scale sets: %w", err)
	}
	c.clients[key] = clients{vm, vmss}
	return c.clients[key], nil
}

// get reads a target. The error is an *arm.Error.
func (c *Client) get(ctx context.Context, target resourceid.Compute) (r *resource, err error) {
	start := time.Now()
	operation := metric.OpVMGet
	if target.Kind == resourceid.VMSS {
		operation = metric.OpVMSSGet
	}
	defer func() { c.observe(operation, time.Since(start), err) }()
	of, err := c.of(target.Subscription)
	if err != nil {
		return nil, err
	}
	if target.Kind == resourceid.VMSS {
		response, err := of.vmss.Get(ctx, target.ResourceGroup, target.Name, nil)
		if err != nil {
			return nil, c.explain(ctx, err)
		}
		kind, ids := scaleSetIdentity(response.Identity)
		var state *string
		if response.Properties != nil {
			state = response.Properties.ProvisioningState
		}
		return newResource(kind, ids, state, response.Etag), nil
	}
	response, err := of.vm.Get(ctx, target.ResourceGroup, target.Name, nil)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	kind, ids := machineIdentity(response.Identity)
	var state *string
	if response.Properties != nil {
		state = response.Properties.ProvisioningState
	}
	return newResource(kind, ids, state, response.Etag), nil
}

func scaleSetIdentity(i *armcompute.VirtualMachineScaleSetIdentity) (*armcompute.ResourceIdentityType, map[string]*armcompute.UserAssignedIdentitiesValue) {
	if i == nil {
		return nil, nil
	}
	return i.Type, i.UserAssignedIdentities
}

func machineIdentity(i *armcompute.VirtualMachineIdentity) (*armcompute.ResourceIdentityType, map[string]*armcompute.UserAssignedIdentitiesValue) {
	if i == nil {
		return nil, nil
	}
	return i.Type, i.UserAssignedIdentities
}

// update sends a PATCH and waits until ARM has carried it out. It fails as
// Changed if the resource is another than that with the ETag. Answer is the
// resource as ARM describes it after the PATCH, nil if it does not. Started says
// that ARM took the PATCH, so its effect is unknown if err is not nil. The error
// is an *arm.Error.
func (c *Client) update(ctx context.Context, target resourceid.Compute, p patch, etag string) (answer *resource, started bool, err error) {
	start := time.Now()
	operation := metric.OpVMUpdate
	if target.Kind == resourceid.VMSS {
		operation = metric.OpVMSSUpdate
	}
	defer func() { c.observe(operation, time.Since(start), err) }()
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	of, err := c.of(target.Subscription)
	if err != nil {
		return nil, false, err
	}
	var match *string
	if etag != "" {
		match = &etag
	}
	var first *http.Response
	begin := policy.WithCaptureResponse(ctx, &first)
	// The SDK repeats what was not answered, and then knows the last answer only.
	var sent atomic.Int32
	begin = arm.CountSent(begin, &sent)
	var last *reply
	if target.Kind == resourceid.VMSS {
		poller, err := of.vmss.BeginUpdate(begin, target.ResourceGroup, target.Name, armcompute.VirtualMachineScaleSetUpdate{
			Identity: &armcompute.VirtualMachineScaleSetIdentity{Type: &p.kind, UserAssignedIdentities: p.identities},
		}, &armcompute.VirtualMachineScaleSetsClientBeginUpdateOptions{IfMatch: match})
		if err != nil {
			return nil, unknown(sent.Load(), first), c.explain(ctx, err)
		}
		last, err = wait(ctx, poller, first, c.pollBase)
		if err != nil {
			return nil, true, c.explain(ctx, err)
		}
		return describe(last, replyOf(first)), true, nil
	}
	poller, err := of.vm.BeginUpdate(begin, target.ResourceGroup, target.Name, armcompute.VirtualMachineUpdate{
		Identity: &armcompute.VirtualMachineIdentity{Type: &p.kind, UserAssignedIdentities: p.identities},
	}, &armcompute.VirtualMachinesClientBeginUpdateOptions{IfMatch: match})
	if err != nil {
		return nil, unknown(sent.Load(), first), c.explain(ctx, err)
	}
	last, err = wait(ctx, poller, first, c.pollBase)
	if err != nil {
		return nil, true, c.explain(ctx, err)
	}
	return describe(last, replyOf(first)), true, nil
}

// explain types an error, and adds who the caller is if ARM only says what that
// one lacks.
func (c *Client) explain(ctx context.Context, err error) error {
	err = arm.Classify(err)
	var e *arm.Error
	if !errors.As(err, &e) || e.Missing == nil || e.Missing.PrincipalID != "" {
		return err
	}
	// The token is a cached one: ARM has just answered to it.
	token, tokenErr := c.credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{c.scope}})
	if tokenErr == nil {
		e.Missing.PrincipalID = arm.ObjectID(token.Token)
	}
	return err
}

// reply is what an answer of ARM says.
type reply struct {
	raw  []byte
	etag string
}

// replyOf reads an answer, which the SDK has done before and keeps.
func replyOf(r *http.Response) *reply {
	if r == nil {
		return nil
	}
	raw, err := runtime.Payload(r)
	if err != nil {
		return nil
	}
	return &reply{raw, r.Header.Get("ETag")}
}

// describe returns the resource as the first of the replies shows it that does
// so; nil if none does, or none has an ETag.
func describe(replies ...*reply) *resource {
	for _, r := range replies {
		if r == nil {
			continue
		}
		var body struct {
			ID       string `json:"id"`
			Etag     string `json:"etag"`
			Identity struct {
				Type         *armcompute.ResourceIdentityType                   `json:"type"`
				UserAssigned map[string]*armcompute.UserAssignedIdentitiesValue `json:"userAssignedIdentities"`
			} `json:"identity"`
		}
		if err := json.Unmarshal(r.raw, &body); err != nil || body.ID == "" {
			continue
		}
		if body.Etag == "" {
			body.Etag = r.etag
		}
		if body.Etag != "" {
			return newResource(body.Identity.Type, body.Identity.UserAssigned, nil, &body.Etag)
		}
	}
	return nil
}

// unknown says whether a PATCH without success may have had an effect: it was sent more
// than once, ARM did not answer it, or with a server error.
func unknown(sent int32, r *http.Response) bool {
	if sent != 1 {
		return sent > 1
	}
	return r == nil || r.StatusCode >= http.StatusInternalServerError || r.StatusCode < http.StatusBadRequest
}

// wait polls an operation to its end and returns the last answer; nil if the
// first one was final. azcore's own loop cannot poll more often than once a
// second, gives up when a poll is throttled, and reads the resource once more at
// the end.
func wait[T any](ctx context.Context, poller *runtime.Poller[T], first *http.Response, base time.Duration) (*reply, error) {
	next, told := base, first
	var last *reply
	failures := 0
	for !poller.Done() {
		delay := next
		if told != nil {
			if asked := arm.RetryAfter(told.Header); asked > 0 {
				delay = asked
			}
		}
		if err := sleep(ctx, delay); err != nil {
			return nil, err
		}
		next = min(next*3/2, lastPoll)
		response, err := poller.Poll(ctx) //nolint:bodyclose // the SDK has read and closed it
		if err != nil {
			err = arm.Classify(err)
			after, throttled := arm.IsThrottled(err)
			switch {
			case throttled:
				// The operation runs on; only the question came too early.
			case passing(err) && failures < maxPollFailures:
				failures++
				after = min(base<<failures, lastPoll)
			default:
				return nil, err
			}
			if err := sleep(ctx, after); err != nil {
				return nil, err
			}
			told = nil
			continue
		}
		failures = 0
		last, told = replyOf(response), response
	}
	if last != nil && succeeded(last) {
		return last, nil
	}
	// Result only says whether it failed if the last answer is the resource, or
	// there was nothing to poll; else it would read the resource again.
	_, err := poller.Result(ctx)
	return last, err
}

// maxPollFailures is how often in a row a poll may fail for reasons that pass.
const maxPollFailures = 5

// passing says whether a failed poll tells nothing of the operation.
func passing(err error) bool {
	var e *arm.Error
	return errors.As(err, &e) && e.Kind == arm.Other && (e.Status == 0 || e.Status >= http.StatusInternalServerError)
}

// succeeded says whether the last answer of an operation tells success in so
// many words.
func succeeded(r *reply) bool {
	var operation struct {
		Status string `json:"status"`
	}
	return json.Unmarshal(r.raw, &operation) == nil && strings.EqualFold(operation.Status, "Succeeded")
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
