package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel/trace"

	"github.com/aad-pod-identity/aad-pod-identity/internal/azure/cloud"
	"github.com/aad-pod-identity/aad-pod-identity/internal/metric"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

const (
	// cachedTokens bounds the token cache: a node runs up to 250 pods, and most
	// workloads ask for one or two resources.
	cachedTokens = 2048
	// perIdentity is how many tokens of one identity are asked for at a time.
	perIdentity = 2
	// infoPerSecond is how often pods that are not excepted are let ask IMDS about the
	// node's identities, which is for /metadata/identity/info: rarely.
	infoPerSecond = 2
)

// tokens are the ways to the token endpoints.
type tokens struct {
	// source gives tokens of all kinds of identities.
	source token.Source
	// passing leads pods to the instance metadata service.
	passing http.RoundTripper

	waits []func()
}

// wait returns when nothing is under way, after the context of newTokens has ended.
func (t *tokens) wait() {
	for _, w := range t.waits {
		w()
	}
}

// newTokens stacks the sources: the version of the credential, the cache, an order
// among identities, and IMDS or Azure AD.
func newTokens(ctx context.Context, o *options, metadata *url.URL, c clients, metrics *metric.NMI, tracer trace.Tracer) (*tokens, error) {
	agent := version.UserAgent(component, o.CustomUserAgent)
	authorities, err := token.NewAuthorities(o.authorityHosts)
	if err != nil {
		return nil, fmt.Errorf("--allowed-authority-hosts: %w", err)
	}
	aad, err := cloud.NewHTTPClient(o.cloudCAFile)
	if err != nil {
		return nil, fmt.Errorf("--cloud-ca-file: %w", err)
	}
	secrets := token.NewSecrets(ctx, c.readSecret(func() { metrics.KubernetesAPIErrors.WithLabelValues(metric.OpSecret).Inc() }))
	all, excepted := budgets()
	imds := token.NewIMDS(metadata.String(), agent, all.Transport(newTransport(tokenConnections)))
	endpoints := token.ByKind{
		Managed:    token.NewMetered(imds, metrics, metric.OpTokenUserAssigned),
		Principals: token.NewMetered(token.NewPrincipals(secrets, authorities, agent, aad), metrics, metric.OpToken),
	}
	if tracer != nil {
		endpoints.Managed = token.NewTraced(endpoints.Managed, tracer, "IMDS token")
		endpoints.Principals = token.NewTraced(endpoints.Principals, tracer, "Azure AD token")
	}
	cache := token.NewCache(ctx, token.NewFair(endpoints, perIdentity), cachedTokens, func(result string) { metrics.TokenCacheRequests.WithLabelValues(result).Inc() })
	return &tokens{
		source:  token.NewVersioned(secrets, cache),
		passing: token.Passing(all, excepted, token.NewBudget(infoPerSecond, infoPerSecond, 1), newTransport(2*proxyConnections)), // excepted pods', and others'
		waits:   []func(){cache.Wait, secrets.Wait},
	}, nil
}
