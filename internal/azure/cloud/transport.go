package cloud

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// imdsHost is the instance metadata service. It is link-local, so a proxy would
// ask the proxy's own machine.
const imdsHost = "169.254.169.254"

// A connection that says nothing for pingAfter is asked whether it lives, and
// given up after pingTimeout. All calls share one HTTP/2 connection; if a
// firewall or NAT gateway forgets it, nothing else would notice for a quarter of
// an hour, in which every call runs into its timeout.
const (
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// NewHTTPClient returns the client for Azure's APIs: it trusts the system's CAs
// and, if caFile is not empty, those in that PEM file. It has connection
// timeouts only; calls are bounded by their contexts. Redirects are not
// followed, since they would carry the token elsewhere.
func NewHTTPClient(caFile string) (*http.Client, error) {
	pool, err := trustedRoots(caFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 proxy,
			DialContext:           dialer.DialContext,
			ForceAttemptHTTP2:     true,
			HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
			MaxIdleConns:          100,
			MaxIdleConnsPerHost:   32,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: time.Second,
			ResponseHeaderTimeout: 60 * time.Second,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func proxy(r *http.Request) (*url.URL, error) {
	if r.URL.Hostname() == imdsHost {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// trustedRoots returns nil, the system's roots, when caFile is empty.
func trustedRoots(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("reading the CA file of the cloud: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("loading the system's CAs: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("CA file of the cloud " + caFile + " holds no PEM certificate")
	}
	return pool, nil
}
