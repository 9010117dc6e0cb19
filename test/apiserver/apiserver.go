// Package apiserver starts real API servers for tests, with envtest.
package apiserver

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/aad-pod-identity/aad-pod-identity/test/freeport"
)

// assets is the environment variable by which envtest finds etcd and kube-apiserver.
const assets = "KUBEBUILDER_ASSETS"

// Patience is how long etcd and the API server may take to start and to stop, and the
// API server to serve what is installed, on a machine that does something else as well.
const Patience = 2 * time.Minute

// Require skips the test where there is no API server.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(assets) == "" {
		t.Skipf("needs the directory of etcd, kube-apiserver and kubectl in %s; 'make test' sets it", assets)
	}
}

// Kubectl returns the path of the kubectl beside the API server.
func Kubectl() string { return filepath.Join(os.Getenv(assets), "kubectl") }

// Start starts an API server until the test ends, or skips the test where there is none.
func Start(t testing.TB, env *envtest.Environment) *rest.Config {
	t.Helper()
	Require(t)
	config, err := Launch(env)
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stopping the API server: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// Launch starts an API server, which the caller stops, after an error as well. It
// and the webhook of env get ports that are theirs until this process ends: those
// that envtest takes by itself may be gone before they are used.
func Launch(env *envtest.Environment) (*rest.Config, error) {
	if err := reserve(env); err != nil {
		return nil, err
	}
	env.ControlPlaneStartTimeout, env.ControlPlaneStopTimeout = Patience, Patience
	env.CRDInstallOptions.MaxTime, env.WebhookInstallOptions.MaxTime = Patience, Patience
	unstarted := *env
	config, first := env.Start()
	if first == nil {
		return config, nil
	}
	// Once more: envtest waits 5 s for the namespace default, and no option changes that.
	if err := env.Stop(); err != nil {
		return nil, fmt.Errorf("starting the API server: %w", errors.Join(first, err))
	}
	*env = unstarted // without the credentials of the server that is gone
	config, err := env.Start()
	if err != nil {
		return nil, fmt.Errorf("starting the API server twice: %w", errors.Join(first, err))
	}
	return config, nil
}

func reserve(env *envtest.Environment) error {
	const host = "127.0.0.1"
	client, err1 := freeport.Find()
	peer, err2 := freeport.Find()
	secure, err3 := freeport.Find()
	webhook, err4 := freeport.Find()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	etcd := &envtest.Etcd{URL: &url.URL{Scheme: "http", Host: net.JoinHostPort(host, client)}}
	etcd.Configure().Set("listen-peer-urls", "http://"+net.JoinHostPort(host, peer))
	env.ControlPlane.Etcd = etcd
	serving := &env.ControlPlane.GetAPIServer().SecureServing
	serving.Address, serving.Port = host, secure
	install := &env.WebhookInstallOptions
	install.LocalServingHost = host
	var err error
	install.LocalServingPort, err = strconv.Atoi(webhook)
	return err
}
