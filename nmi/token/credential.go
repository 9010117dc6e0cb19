package token

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Keys of a Secret with a credential.
const (
	// keyClientSecret is preferred for a client secret; with a single key, any
	// name does, as in the 1.8 releases.
	keyClientSecret = "clientSecret"
	// keyCertificate and keyPassword are a PKCS#12 bundle and its password.
	keyCertificate = "certificate"
	keyPassword    = "password"
)

// clientSecret picks the client secret. The 1.8 releases took any key, that is of
// several sometimes the wrong one. A line break at the end is no part of a client
// secret: whoever made the Secret by "echo" put it there.
func clientSecret(data map[string][]byte) (string, error) {
	value, ok := data[keyClientSecret]
	switch {
	case ok:
	case len(data) == 1:
		for _, only := range data {
			value = only
		}
	case len(data) == 0:
		return "", errors.New("it has no data")
	default:
		return "", fmt.Errorf("it has the keys %q: name the one with the client secret %q", slices.Sorted(maps.Keys(data)), keyClientSecret)
	}
	value = bytes.TrimRight(value, "\r\n")
	if len(value) == 0 {
		return "", errors.New("the client secret in it is empty")
	}
	return string(value), nil
}

// clientCertificate reads the certificate with its chain, and its key. Both the
// old ciphers of Windows and older tools and those of OpenSSL 3 are read.
func (b bundles) clientCertificate(ctx context.Context, data map[string][]byte) ([]*x509.Certificate, crypto.PrivateKey, error) {
	bundle, ok := data[keyCertificate]
	if !ok || len(bundle) == 0 {
		return nil, nil, fmt.Errorf("it has no key %q with a PKCS#12 bundle", keyCertificate)
	}
	// An empty password and none are the same here: both are tried.
	key, certificate, chain, err := b.decode(ctx, bundle, string(bytes.TrimRight(data[keyPassword], "\r\n")))
	if err != nil {
		return nil, nil, fmt.Errorf("key %q is not a PKCS#12 bundle that the password in key %q opens: %w", keyCertificate, keyPassword, err)
	}
	if _, ok := key.(*rsa.PrivateKey); !ok {
		return nil, nil, fmt.Errorf("the private key in key %q is not an RSA key, and Azure AD takes no other", keyCertificate)
	}
	return append([]*x509.Certificate{certificate}, chain...), key, nil
}
