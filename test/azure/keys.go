package azure

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"slices"
	"time"
)

// quietLog drops what net/http says about clients that break off; every request has its line in the access log.
var quietLog = log.New(io.Discard, "", 0)

// keys are the CA of the HTTPS endpoints and the key that signs tokens.
type keys struct {
	caKey   *ecdsa.PrivateKey
	caCert  *x509.Certificate
	signing *rsa.PrivateKey
	kid     string
}

const lifetime = 10 * 365 * 24 * time.Hour

func newKeys() (*keys, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Azure emulator CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("making the CA certificate: %w", err)
	}
	caCert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the CA certificate: %w", err)
	}
	signing, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("making the token key: %w", err)
	}
	return withKid(&keys{caKey: caKey, caCert: caCert, signing: signing})
}

func withKid(k *keys) (*keys, error) {
	der, err := x509.MarshalPKIXPublicKey(k.signing.Public())
	if err != nil {
		return nil, fmt.Errorf("naming the token key: %w", err)
	}
	sum := sha256.Sum256(der)
	k.kid = base64.RawURLEncoding.EncodeToString(sum[:20])
	return k, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return serial, nil
}

func (k *keys) caPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.caCert.Raw})
}

// serving issues a server certificate for names and IP addresses.
func (k *keys) serving(hosts []string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Azure emulator"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	slices.Sort(hosts)
	for _, host := range slices.Compact(hosts) {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, k.caCert, key.Public(), k.caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, k.caCert.Raw}, PrivateKey: key}, nil
}

// encode returns the private keys and the CA as one PEM file.
func (k *keys) encode() ([]byte, error) {
	var out []byte
	for _, private := range []crypto.PrivateKey{k.caKey, k.signing} {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			return nil, fmt.Errorf("encoding the keys: %w", err)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return append(out, k.caPEM()...), nil
}

func decodeKeys(data []byte) (*keys, error) {
	k := &keys{}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("reading the CA certificate: %w", err)
			}
			k.caCert = cert
			continue
		}
		private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the keys: %w", err)
		}
		switch private := private.(type) {
		case *ecdsa.PrivateKey:
			k.caKey = private
		case *rsa.PrivateKey:
			k.signing = private
		}
	}
	if k.caCert == nil || k.caKey == nil || k.signing == nil {
		return nil, errors.New("the key file is incomplete")
	}
	return withKid(k)
}
