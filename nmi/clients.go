package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/internal/version"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
)

// opWatch is the operation_type of failed lists and watches.
const opWatch = "watch"

// clients reach the API server. They are REST clients of two API groups, since a
// full clientset would link, and keep in memory, every API there is.
type clients struct{ core, custom rest.Interface }

func newClients(o *options) (clients, error) {
	config, err := restConfig(o.kubeconfig)
	if err != nil {
		return clients{}, err
	}
	config.UserAgent = version.UserAgent(component, o.CustomUserAgent)
	return clientsFor(config)
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("finding the API server without a kubeconfig: %w", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, run.Usagef("reading the kubeconfig: %w", err)
	}
	return config, nil
}

func clientsFor(config *rest.Config) (clients, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1.AddToScheme} {
		if err := add(scheme); err != nil {
			return clients{}, fmt.Errorf("registering API types: %w", err)
		}
	}
	codecs := serializer.NewCodecFactory(scheme).WithoutConversion()
	client := func(gv schema.GroupVersion, apiPath, contentType string) (rest.Interface, error) {
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath, c.NegotiatedSerializer = &gv, apiPath, codecs
		c.ContentType, c.AcceptContentTypes = contentType, contentType+",application/json"
		r, err := rest.RESTClientFor(c)
		if err != nil {
			return nil, fmt.Errorf("making a client for %s: %w", gv, err)
		}
		return r, nil
	}
	core, err := client(corev1.SchemeGroupVersion, "/api", runtime.ContentTypeProtobuf)
	if err != nil {
		return clients{}, err
	}
	custom, err := client(v1.GroupVersion, "/apis", runtime.ContentTypeJSON)
	if err != nil {
		return clients{}, err
	}
	return clients{core: core, custom: custom}, nil
}

// readSecret reads the data of a Secret. Among the rights that NMI has this is the
// only one to Secrets: to get one by its name.
func (c clients) readSecret(onError func()) token.ReadSecret {
	return func(ctx context.Context, secret types.NamespacedName) (map[string][]byte, error) {
		var s corev1.Secret
		if err := c.core.Get().Namespace(secret.Namespace).Resource("secrets").Name(secret.Name).Do(ctx).Into(&s); err != nil {
			onError()
			return nil, err
		}
		return s.Data, nil
	}
}

// Connections to the instance metadata service, at most.
const (
	tokenConnections = 4
	proxyConnections = 32
)

// budgets keep token requests to the instance metadata service below what it allows
// a VM, 20 a second and 5 at a time, and leave some of that to others on the node.
// Those that excepted pods send through NMI are part of it and have a share that
// they cannot exceed, since nobody bounds them otherwise.
func budgets() (all, excepted *token.Budget) {
	return token.NewBudget(15, 3, tokenConnections), token.NewBudget(5, 2, 1)
}

// newTransport leads to the instance metadata service: link-local, so never
// through a proxy, and bodies are left as they are.
func newTransport(connections int) http.RoundTripper {
	return &http.Transport{
		Proxy:                 nil,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxConnsPerHost:       connections,
		MaxIdleConnsPerHost:   connections,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 150 * time.Second, // the first call of scheduled events takes two minutes
		DisableCompression:    true,
	}
}
