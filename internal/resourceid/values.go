package resourceid

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxLength bounds the IDs that are looked at, in bytes. The longest valid ID
	// has about 600 (90 letters of a resource group at up to four bytes each).
	maxLength = 1024

	groupMax = 90
	nameMin  = 3
	nameMax  = 128
)

// groupProblem says what Azure refuses in the name of a resource group; "" is
// none. Letters and digits of any script are allowed.
func groupProblem(s string) string {
	if s == "" {
		return "is empty"
	}
	for _, r := range s {
		if !isGroupRune(r) {
			return fmt.Sprintf("contains %q; letters, digits and _ ( ) - . are allowed", r)
		}
	}
	if n := utf8.RuneCountInString(s); n > groupMax {
		return fmt.Sprintf("has %d characters, at most %d are allowed", n, groupMax)
	}
	if strings.HasSuffix(s, ".") {
		return "ends in a period"
	}
	return ""
}

func isGroupRune(r rune) bool {
	switch {
	case r == utf8.RuneError: // what is no UTF-8 comes as this
		return false
	case r > unicode.MaxASCII:
		return unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	return isAlnum(r) || strings.ContainsRune("_()-.", r)
}

// nameProblem says what Azure refuses in the name of a user-assigned identity;
// "" is none.
func nameProblem(s string) string {
	if s == "" {
		return "is empty"
	}
	for _, r := range s {
		if !isAlnum(r) && r != '-' && r != '_' {
			return fmt.Sprintf("contains %q; letters, digits, - and _ are allowed", r)
		}
	}
	if s[0] == '-' || s[0] == '_' {
		return "must begin with a letter or digit"
	}
	if len(s) < nameMin || len(s) > nameMax {
		return fmt.Sprintf("has %d characters, must have %d to %d", len(s), nameMin, nameMax)
	}
	return ""
}

func isAlnum(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// isSpace also counts what looks like nothing: control characters, zero-width
// characters and the byte order mark, which copying from web pages leaves.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || unicode.IsControl(r) || isInvisible(r)
}

// isInvisible reports characters that nobody sees.
func isInvisible(r rune) bool {
	return unicode.Is(unicode.Cf, r)
}

// dropInvisible, for strings.Map, drops them.
func dropInvisible(r rune) rune {
	if isInvisible(r) {
		return -1
	}
	return r
}

// dropSpace, for strings.Map, drops all white space.
func dropSpace(r rune) rune {
	if isSpace(r) {
		return -1
	}
	return r
}

// equalFoldASCII compares ignoring the case of ASCII letters only.
func equalFoldASCII(a, b string) bool {
	return len(a) == len(b) && strings.EqualFold(a, b)
}

// clip shortens s for a message.
func clip(s string) string {
	const limit = 300
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
