package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"
)

// certificateLife is long, because a cluster's certificates are made with it and go with it.
const certificateLife = 5 * 365 * 24 * time.Hour

// leaf describes a certificate that one of the cluster's CAs signs.
type leaf struct {
	name          string
	ca            string
	commonName    string
	organizations []string
	// hosts make it a serving certificate; without them it is a client's.
	hosts []string
}

// authorities are the cluster's CAs: clients of the aggregation layer must not be
// mistaken for clients of the API server, so they have one of their own.
var authorities = []string{"ca", "front-proxy-ca"}

// leaves are all certificates of a cluster whose node has the given name.
func leaves(nodeName string) []leaf {
	return []leaf{
		{name: "apiserver", ca: "ca", commonName: "kube-apiserver", hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
			"localhost", "127.0.0.1", nodeIP, gatewayIP, apiService}},
		{name: "kubelet-serving", ca: "ca", commonName: "system:node:" + nodeName, organizations: []string{"system:nodes"},
			hosts: []string{nodeName, nodeIP}},
		{name: "apiserver-kubelet-client", ca: "ca", commonName: "kube-apiserver-kubelet-client", organizations: []string{"system:masters"}},
		{name: "front-proxy-client", ca: "front-proxy-ca", commonName: "front-proxy-client"},
		{name: "admin", ca: "ca", commonName: "kubernetes-admin", organizations: []string{"system:masters"}},
		{name: "controller-manager", ca: "ca", commonName: "system:kube-controller-manager"},
		{name: "scheduler", ca: "ca", commonName: "system:kube-scheduler"},
		{name: "proxy", ca: "ca", commonName: "system:kube-proxy"},
		{name: "kubelet", ca: "ca", commonName: "system:node:" + nodeName, organizations: []string{"system:nodes"}},
	}
}

// ensurePKI creates the certificates and keys that are missing.
func ensurePKI(paths layout, nodeName string, now time.Time) error {
	cas := map[string]*authority{}
	for _, name := range authorities {
		ca, err := ensureAuthority(paths, name, now)
		if err != nil {
			return err
		}
		cas[name] = ca
	}
	for _, l := range leaves(nodeName) {
		if fileExists(paths.pki(l.name+".crt")) && fileExists(paths.pki(l.name+".key")) {
			continue
		}
		if err := cas[l.ca].issue(paths, l, now); err != nil {
			return fmt.Errorf("issuing the certificate %s: %w", l.name, err)
		}
	}
	if fileExists(paths.pki("service-account.key")) && fileExists(paths.pki("service-account.pub")) {
		return nil
	}
	return makeServiceAccountKey(paths)
}

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func ensureAuthority(paths layout, name string, now time.Time) (*authority, error) {
	ca, err := loadAuthority(paths, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return ca, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the key of %s: %w", name, err)
	}
	template := newTemplate(pkix.Name{CommonName: "aad-pod-identity local cluster " + name}, now)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("creating the CA %s: %w", name, err)
	}
	if err := writeKeyPair(paths, name, der, key); err != nil {
		return nil, err
	}
	return loadAuthority(paths, name)
}

func loadAuthority(paths layout, name string) (*authority, error) {
	certPEM, err := os.ReadFile(paths.pki(name + ".crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the CA %s: %w", name, err)
	}
	keyPEM, err := os.ReadFile(paths.pki(name + ".key"))
	if err != nil {
		return nil, fmt.Errorf("reading the key of the CA %s: %w", name, err)
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("the CA %s in %s is not PEM; remove the directory and repeat", name, paths.pki(""))
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the CA %s: %w", name, err)
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the key of the CA %s: %w", name, err)
	}
	return &authority{cert: cert, key: key}, nil
}

func (a *authority) issue(paths layout, l leaf, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generating its key: %w", err)
	}
	t := newTemplate(pkix.Name{CommonName: l.commonName, Organization: l.organizations}, now)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(l.hosts) > 0 {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, h := range l.hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	return writeKeyPair(paths, l.name, der, key)
}

func newTemplate(subject pkix.Name, now time.Time) *x509.Certificate {
	// The largest serial is 20 bytes (RFC 5280); rand.Int never fails with crypto/rand.
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-time.Hour), // a clock that steps back a little must not lock everybody out
		NotAfter:     now.Add(certificateLife),
	}
}

// writeKeyPair writes the key first: a certificate without its key would look complete.
func writeKeyPair(paths layout, name string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding the key %s: %w", name, err)
	}
	if err := writeFile(paths.pki(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return writeFile(paths.pki(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func makeServiceAccountKey(paths layout) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generating the service account key: %w", err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding the service account key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encoding the public service account key: %w", err)
	}
	if err := writeFile(paths.pki("service-account.key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		return err
	}
	return writeFile(paths.pki("service-account.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644)
}
