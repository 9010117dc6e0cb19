package main

import (
	"context"
	"fmt"
	"time"

	azarm "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// bareClient is the baseline of MIC: armcompute as it is, which sends the PATCHes
// that the outcome needs and nothing else.
type bareClient struct {
	sets *armcompute.VirtualMachineScaleSetsClient
}

func (w *micWorld) bareClient() (*bareClient, error) {
	c, err := cloud.Open(w.cloudOptions())
	if err != nil {
		return nil, fmt.Errorf("the baseline's configuration: %w", err)
	}
	options := &azarm.ClientOptions{ClientOptions: policy.ClientOptions{Cloud: c.Environment.Configuration, Transport: c.HTTP}, DisableRPRegistration: true}
	sets, err := armcompute.NewVirtualMachineScaleSetsClient(micSubscription, c.Credential, options)
	if err != nil {
		return nil, fmt.Errorf("the baseline's client: %w", err)
	}
	return &bareClient{sets}, nil
}

// assign puts identities on a scale set and waits until ARM has done it.
func (b *bareClient) assign(ctx context.Context, set int, identities ...int) error {
	kind := armcompute.ResourceIdentityTypeUserAssigned
	on := map[string]*armcompute.UserAssignedIdentitiesValue{}
	for _, i := range identities {
		on[azure.IdentityID(micSubscription, micIDGroup, identityName(i))] = &armcompute.UserAssignedIdentitiesValue{}
	}
	poller, err := b.sets.BeginUpdate(ctx, micNodeGroup, fmt.Sprintf("set%03d", set), armcompute.VirtualMachineScaleSetUpdate{
		Identity: &armcompute.VirtualMachineScaleSetIdentity{Type: &kind, UserAssignedIdentities: on},
	}, nil)
	if err != nil {
		return fmt.Errorf("the baseline's PATCH: %w", err)
	}
	if _, err := poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: time.Second}); err != nil {
		return fmt.Errorf("the baseline's PATCH: %w", err)
	}
	return nil
}
