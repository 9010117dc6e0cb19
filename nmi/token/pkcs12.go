package token

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf16"

	"software.sslmate.com/src/go-pkcs12"
)

const (
	// maxIterations bounds what each key derivation of a bundle may cost. OpenSSL and
	// Windows write about 2,000, Java 10,000, Firefox 600,000.
	maxIterations = 1_000_000
	// maxBundle bounds a bundle; with a long chain it has some 20 KiB.
	maxBundle = 256 << 10
)

// bundles reads PKCS#12 bundles, one at a time: whoever writes a Secret decides how
// much work its bundle is, and that work cannot be broken off.
type bundles struct{ turn chan struct{} }

func newBundles() bundles { return bundles{make(chan struct{}, 1)} }

// decode reads key, certificate and chain of a bundle when it is its turn.
func (b bundles) decode(ctx context.Context, bundle []byte, password string) (crypto.PrivateKey, *x509.Certificate, []*x509.Certificate, error) {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return nil, nil, nil, ctx.Err()
	}
	return decodeBundle(bundle, password)
}

// decodeBundle reads a bundle whose cost is bounded. go-pkcs12 derives keys with
// however many iterations a bundle asks for, 2⁶³ if it likes. So they are read first,
// which leaves one place where they could hide: a key with a password of its own
// inside of the encrypted part. The parts that are not encrypted, which have the key
// in bundles of all tools, are therefore put first: go-pkcs12 opens one key only.
// The order is under the MAC, so that is made anew; it proves nothing here, where
// bundle and password come from one Secret.
func decodeBundle(bundle []byte, password string) (crypto.PrivateKey, *x509.Certificate, []*x509.Certificate, error) {
	safe, err := orderedSafe(bundle)
	if err != nil {
		return nil, nil, nil, err
	}
	// No password is an empty one with its terminator, or nothing at all. go-pkcs12
	// goes by which of them the MAC was made with.
	encoded := [][]byte{bmp(password)}
	if password == "" {
		encoded = append(encoded, nil)
	}
	for _, p := range encoded {
		var again []byte
		if again, err = withMAC(safe, p); err != nil {
			break
		}
		var key any
		var certificate *x509.Certificate
		var chain []*x509.Certificate
		if key, certificate, chain, err = pkcs12.DecodeChain(again, password); err == nil {
			return key, certificate, chain, nil
		}
	}
	return nil, nil, nil, fmt.Errorf("decoding it: %w", err)
}

// Structures of RFC 7292 and RFC 8018, as far as they are looked at.
type (
	pfx struct {
		Version  int
		AuthSafe contentInfo
		MAC      asn1.RawValue `asn1:"optional"`
	}
	contentInfo struct {
		ContentType asn1.ObjectIdentifier
		Content     asn1.RawValue `asn1:"tag:0,explicit,optional"`
	}
	encryptedData struct {
		Version int
		Content struct {
			ContentType asn1.ObjectIdentifier
			Algorithm   pkix.AlgorithmIdentifier
			Data        asn1.RawValue `asn1:"optional"`
		}
	}
	safeBag struct {
		ID         asn1.ObjectIdentifier
		Value      asn1.RawValue `asn1:"tag:0,explicit"`
		Attributes asn1.RawValue `asn1:"optional"`
	}
	shroudedKey struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}
	pbeParameters struct {
		Salt       []byte
		Iterations int
	}
	pbes2Parameters struct {
		KDF    pkix.AlgorithmIdentifier
		Cipher pkix.AlgorithmIdentifier
	}
	pbkdf2Parameters struct {
		Salt       asn1.RawValue
		Iterations int
		KeyLength  int                      `asn1:"optional"`
		PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	macData struct {
		MAC struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
		Salt       []byte
		Iterations int
	}
)

var (
	oidData        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidEncrypted   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 6}
	oidKey         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 1}
	oidShroudedKey = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidPBES2       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidSHA1        = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
)

// orderedSafe returns the authenticated safe of a bundle with the parts first that are
// not encrypted, or says why the bundle is not read. It is pure.
func orderedSafe(bundle []byte) ([]byte, error) {
	if len(bundle) > maxBundle {
		return nil, fmt.Errorf("it is longer than %d bytes", maxBundle)
	}
	var p pfx
	var content []byte
	var parts []asn1.RawValue
	if err := unmarshal(bundle, &p); err != nil {
		return nil, err
	}
	if err := unmarshal(p.AuthSafe.Content.Bytes, &content); err != nil {
		return nil, err
	}
	if err := unmarshal(content, &parts); err != nil {
		return nil, err
	}
	var plain, encrypted []asn1.RawValue
	keys := 0
	for _, raw := range parts {
		var part contentInfo
		if err := unmarshal(raw.FullBytes, &part); err != nil {
			return nil, err
		}
		switch {
		case part.ContentType.Equal(oidData):
			n, err := keysIn(part.Content.Bytes)
			if err != nil {
				return nil, err
			}
			keys += n
			plain = append(plain, raw)
		case part.ContentType.Equal(oidEncrypted):
			var e encryptedData
			if err := unmarshal(part.Content.Bytes, &e); err != nil {
				return nil, err
			}
			if err := affordable(e.Content.Algorithm); err != nil {
				return nil, err
			}
			encrypted = append(encrypted, raw)
		default:
			return nil, fmt.Errorf("a part of it is of the type %s", part.ContentType)
		}
	}
	if keys == 0 && len(encrypted) > 0 {
		return nil, errors.New("its private key is not in a part of its own")
	}
	ordered, err := asn1.Marshal(slices.Concat(plain, encrypted))
	if err != nil {
		return nil, fmt.Errorf("encoding its parts: %w", err)
	}
	return ordered, nil
}

// keysIn counts the keys of a part that is not encrypted, all of them affordable.
func keysIn(part []byte) (int, error) {
	var content []byte
	var bags []safeBag
	if err := unmarshal(part, &content); err != nil {
		return 0, err
	}
	if err := unmarshal(content, &bags); err != nil {
		return 0, err
	}
	keys := 0
	for _, b := range bags {
		switch {
		case b.ID.Equal(oidKey):
			keys++
		case b.ID.Equal(oidShroudedKey):
			var k shroudedKey
			if err := unmarshal(b.Value.Bytes, &k); err != nil {
				return 0, err
			}
			if err := affordable(k.Algorithm); err != nil {
				return 0, err
			}
			keys++
		}
	}
	return keys, nil
}

// affordable says whether the key of an encryption can be derived within the bound.
func affordable(a pkix.AlgorithmIdentifier) error {
	var iterations int
	if a.Algorithm.Equal(oidPBES2) {
		var p pbes2Parameters
		var k pbkdf2Parameters
		if err := unmarshal(a.Parameters.FullBytes, &p); err != nil {
			return err
		}
		if err := unmarshal(p.KDF.Parameters.FullBytes, &k); err != nil {
			return err
		}
		iterations = k.Iterations
	} else {
		var p pbeParameters
		if err := unmarshal(a.Parameters.FullBytes, &p); err != nil {
			return err
		}
		iterations = p.Iterations
	}
	if iterations < 1 || iterations > maxIterations {
		return fmt.Errorf("it asks for %d iterations to derive a key, and %d at most are made", iterations, maxIterations)
	}
	return nil
}

// withMAC makes a bundle of an authenticated safe, with a MAC of one iteration.
func withMAC(safe, password []byte) ([]byte, error) {
	content, err := asn1.Marshal(safe)
	if err != nil {
		return nil, fmt.Errorf("encoding it: %w", err)
	}
	m := macData{Salt: []byte("fixed"), Iterations: 1}
	m.MAC.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oidSHA1, Parameters: asn1.NullRawValue}
	h := hmac.New(sha1.New, macKey(m.Salt, password))
	_, _ = h.Write(safe) // never fails
	m.MAC.Digest = h.Sum(nil)
	mac, err := asn1.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding its MAC: %w", err)
	}
	bundle, err := asn1.Marshal(pfx{
		Version:  3,
		AuthSafe: contentInfo{ContentType: oidData, Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: content}},
		MAC:      asn1.RawValue{FullBytes: mac},
	})
	if err != nil {
		return nil, fmt.Errorf("encoding it: %w", err)
	}
	return bundle, nil
}

// macKey is the key derivation of RFC 7292, appendix B.2, for a MAC with SHA-1 and a
// single iteration, which is a single hash.
func macKey(salt, password []byte) []byte {
	const block, purpose = 64, 3
	h := sha1.New()
	for _, part := range [][]byte{{purpose}, salt, password} {
		if len(part) > 0 {
			whole := (len(part) + block - 1) / block * block
			_, _ = h.Write(slices.Repeat(part, whole/len(part)+1)[:whole]) // never fails
		}
	}
	return h.Sum(nil)
}

// bmp is a password as a BMPString with its terminator.
func bmp(password string) []byte {
	var encoded []byte
	for _, unit := range append(utf16.Encode([]rune(password)), 0) {
		encoded = binary.BigEndian.AppendUint16(encoded, unit)
	}
	return encoded
}

// unmarshal reads a value that takes up all of the data.
func unmarshal(data []byte, into any) error {
	rest, err := asn1.Unmarshal(data, into)
	if err != nil {
		return fmt.Errorf("reading its structure: %w", err)
	}
	if len(rest) > 0 {
		return errors.New("reading its structure: something follows its end")
	}
	return nil
}
