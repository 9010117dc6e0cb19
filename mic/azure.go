package main

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/arm"
	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/resourceid"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
	"github.com/aad-pod-identity/aad-pod-identity/mic/compute"
)

// azureAccess is MIC's connection to Azure. The budget outlives a change of the
// configuration: Azure counts calls by principal and subscription.
type azureAccess struct {
	options *options
	budget  *arm.Budget
	metrics *metric.MIC
	cloud   atomic.Pointer[cloud.Cloud]
}

func openAzure(o *options, metrics *metric.MIC) (*azureAccess, error) {
	c, err := cloud.Open(o.cloudOptions())
	if err != nil {
		return nil, err
	}
	a := &azureAccess{options: o, budget: arm.NewBudget(), metrics: metrics}
	a.budget.Observe(a.request)
	a.cloud.Store(c)
	return a, nil
}

// request counts an HTTP request to ARM.
func (a *azureAccess) request(r arm.Request) {
	call, status := metric.CallRead, "none"
	if r.Write {
		call = metric.CallWrite
	}
	if r.Status != 0 {
		status = strconv.Itoa(r.Status)
	}
	a.metrics.ARMRequests.WithLabelValues(call, status).Inc()
	a.metrics.ARMBudgetWait.WithLabelValues(call).Observe(r.Waited.Seconds())
}

// client returns a client for the configuration as last read.
func (a *azureAccess) client() *compute.Client {
	c := a.cloud.Load()
	options := arm.ClientOptions(c, a.budget, version.UserAgent("mic", a.options.CustomUserAgent))
	return compute.NewClient(c.Credential, options, func(operation string, took time.Duration, err error) {
		a.metrics.CloudDuration.WithLabelValues(operation).Observe(took.Seconds())
		if err != nil {
			a.metrics.CloudErrors.WithLabelValues(operation).Inc()
			a.metrics.CloudErrorsByCode.WithLabelValues(operation, arm.MetricCode(err)).Inc()
		}
	})
}

// watch reads azure.json, and the files of a custom cloud, again whenever they
// change.
func (a *azureAccess) watch(ctx context.Context, engine *compute.Engine, interval time.Duration) {
	cloud.Watch(ctx, a.options.cloudOptions().Files(), a.cloud.Load().Read, interval, func() bool { return a.reopen(ctx, engine) })
}

// reopen reads the configuration again. One that is wrong, or half written,
// changes nothing.
func (a *azureAccess) reopen(ctx context.Context, engine *compute.Engine) bool {
	log := klog.FromContext(ctx)
	c, err := cloud.Open(a.options.cloudOptions())
	if err != nil {
		log.Error(err, "The cloud configuration changed and is not usable; the old one stays in use", logkey.File, a.options.cloudConfig)
		return false
	}
	a.cloud.Store(c)
	engine.SetClient(a.client())
	log.Info("The cloud configuration changed and is in use", logkey.File, a.options.cloudConfig)
	return true
}

// immutable says which identities are never removed: those of the flag, and the
// cluster's own, by client ID or resource ID.
func (a *azureAccess) immutable(resourceID, clientID string) bool {
	own := a.cloud.Load().Config.UserAssignedIdentityID
	if own != "" && (strings.EqualFold(own, clientID) || resourceid.Equal(own, resourceID)) {
		return true
	}
	for _, id := range a.options.immutableUserMSIs {
		if id = strings.TrimSpace(id); id != "" && strings.EqualFold(id, clientID) {
			return true
		}
	}
	return false
}
