package token

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// selfSigned makes a key and a certificate of it.
func selfSigned(t *testing.T) (*rsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, certificate
}

func encode(t *testing.T, e *pkcs12.Encoder, key *rsa.PrivateKey, certificate *x509.Certificate, password string) []byte {
	t.Helper()
	bundle, err := e.Encode(key, certificate, nil, password)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// marked are iterations that are easy to find in a bundle; each place where they
// stand can be given others of the same length.
const marked = 65_539

// overdone are the bundles with enormous iterations in one place each.
func overdone(t *testing.T, bundle []byte) [][]byte {
	t.Helper()
	number := func(n uint32) []byte {
		return append([]byte{asn1.TagInteger, 3}, binary.BigEndian.AppendUint32(nil, n)[1:]...)
	}
	var found [][]byte
	for at := 0; ; at++ {
		next := bytes.Index(bundle[at:], number(marked))
		if next < 0 {
			return found
		}
		at += next
		crafted := bytes.Clone(bundle)
		copy(crafted[at:], number(1<<23-1))
		found = append(found, crafted)
	}
}

func TestBundlesThatCostTooMuchAreRefused(t *testing.T) {
	key, certificate := selfSigned(t)
	for name, e := range map[string]*pkcs12.Encoder{
		"as OpenSSL 3 writes it":    pkcs12.Modern2023,
		"with a MAC by PBMAC1":      pkcs12.Modern2026,
		"as Windows writes it":      pkcs12.LegacyDES,
		"with still weaker ciphers": pkcs12.LegacyRC2,
	} {
		t.Run(name, func(t *testing.T) {
			bundle := encode(t, e.WithIterations(marked), key, certificate, "pw")
			if got, _, _, err := decodeBundle(bundle, "pw"); err != nil || !key.Equal(got) {
				t.Fatalf("as it was made: %v", err)
			}
			crafted := overdone(t, bundle)
			if len(crafted) != 3 { // certificates, key, MAC
				t.Fatalf("the iterations stand in %d places", len(crafted))
			}
			refused := 0
			for _, c := range crafted {
				_, _, _, err := decodeBundle(c, "pw")
				if err == nil {
					continue // the MAC's are not made
				}
				if refused++; !strings.Contains(err.Error(), "8388607 iterations") {
					t.Errorf("got %v", err)
				}
			}
			if refused != 2 {
				t.Errorf("%d of 3 were refused", refused)
			}
		})
	}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// pbes2 names an encryption by AES with a key from PBKDF2.
func pbes2(t *testing.T, salt, iv []byte, iterations int) pkix.AlgorithmIdentifier {
	t.Helper()
	raw := func(v any) asn1.RawValue { return asn1.RawValue{FullBytes: marshal(t, v)} }
	kdf := pbkdf2Parameters{
		Salt: raw(salt), Iterations: iterations,
		PRF: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, Parameters: asn1.NullRawValue},
	}
	return pkix.AlgorithmIdentifier{Algorithm: oidPBES2, Parameters: raw(pbes2Parameters{
		KDF:    pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}, Parameters: raw(kdf)},
		Cipher: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, Parameters: raw(iv)},
	})}
}

// encrypted is a part of a bundle that only the password opens.
func encrypted(t *testing.T, content []byte, password string) asn1.RawValue {
	t.Helper()
	salt, iv := make([]byte, 8), make([]byte, aes.BlockSize)
	key, err := pbkdf2.Key(sha256.New, password, salt, 1, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	pad := aes.BlockSize - len(content)%aes.BlockSize
	content = append(bytes.Clone(content), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(content, content)
	var e encryptedData
	e.Content.ContentType = oidData
	e.Content.Algorithm = pbes2(t, salt, iv, 1)
	e.Content.Data = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: content}
	return section(t, oidEncrypted, e)
}

func section(t *testing.T, kind asn1.ObjectIdentifier, v any) asn1.RawValue {
	t.Helper()
	return asn1.RawValue{FullBytes: marshal(t, contentInfo{
		ContentType: kind, Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: marshal(t, v)},
	})}
}

func bag(t *testing.T, kind asn1.ObjectIdentifier, v any) safeBag {
	t.Helper()
	return safeBag{ID: kind, Value: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: marshal(t, v)}}
}

// TestNoKeyHidesInTheEncryptedPart: the iterations of a key within an encrypted part
// can be read by nobody but who has opened it. Deriving that key would not end.
func TestNoKeyHidesInTheEncryptedPart(t *testing.T) {
	key, certificate := selfSigned(t)
	plainKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	hidden := bag(t, oidShroudedKey, shroudedKey{Algorithm: pbes2(t, []byte("salt"), make([]byte, aes.BlockSize), 1<<40), Data: make([]byte, 32)})
	open := bag(t, oidKey, asn1.RawValue{FullBytes: plainKey})
	certificates := bag(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}, struct {
		ID   asn1.ObjectIdentifier
		Data []byte `asn1:"tag:0,explicit"`
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}, certificate.Raw})
	bags := func(all ...safeBag) []byte { return marshal(t, all) }
	for _, password := range []string{"pw", ""} {
		for name, tc := range map[string]struct {
			parts []asn1.RawValue
			want  string // empty for success
		}{
			"no hidden key":                    {[]asn1.RawValue{encrypted(t, bags(certificates), password), section(t, oidData, bags(open))}, ""},
			"alone":                            {[]asn1.RawValue{encrypted(t, bags(certificates, hidden), password)}, "not in a part of its own"},
			"before the part with another key": {[]asn1.RawValue{encrypted(t, bags(hidden, certificates), password), section(t, oidData, bags(open))}, "one key bag"},
			"after the part with another key":  {[]asn1.RawValue{section(t, oidData, bags(open)), encrypted(t, bags(certificates, hidden), password)}, "one key bag"},
			"in plain sight":                   {[]asn1.RawValue{section(t, oidData, bags(certificates, hidden))}, "1099511627776 iterations"},
		} {
			t.Run(name+", password "+password, func(t *testing.T) {
				bundle, err := withMAC(marshal(t, tc.parts), bmp(password))
				if err != nil {
					t.Fatal(err)
				}
				got, _, _, err := decodeBundle(bundle, password)
				if tc.want == "" {
					if err != nil || !key.Equal(got) {
						t.Fatal(err)
					}
				} else if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

// TestNoPasswordAtAll reads a bundle of which every key was derived from nothing, not
// even from an empty password with its terminator. It is that of go-pkcs12's tests.
func TestNoPasswordAtAll(t *testing.T) {
	bundle, err := os.ReadFile("testdata/no-password.pfx")
	if err != nil {
		t.Fatal(err)
	}
	if _, certificate, _, err := decodeBundle(bundle, ""); err != nil || certificate.Subject.CommonName != "Windows Azure Tools" {
		t.Errorf("got %v", err)
	}
	if _, _, _, err := decodeBundle(bundle, "pw"); err == nil {
		t.Error("another password opens it")
	}
}

func TestBundlesAreReadOneAtATime(t *testing.T) {
	b := newBundles()
	b.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := b.decode(ctx, nil, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("while another one is read: %v", err)
	}
	<-b.turn
	if _, _, _, err := b.decode(t.Context(), make([]byte, maxBundle+1), ""); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

func FuzzDecodeBundle(f *testing.F) {
	f.Add([]byte("0"), "")
	f.Fuzz(func(_ *testing.T, bundle []byte, password string) {
		_, _ = orderedSafe(bundle)
		_, _ = withMAC(bundle, bmp(password))
	})
}
