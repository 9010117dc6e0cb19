package resourceid

import (
	"strings"
	"unicode"
)

// Key returns the form of an ID under which it is stored in maps and compared:
// lower case. Two IDs name the same Azure resource exactly if their keys are
// equal. The key of a string that is no resource ID is its lower case.
func Key(id string) string {
	return strings.Map(foldRune, id)
}

// Equal reports whether two IDs name the same Azure resource: equal, ignoring
// case.
func Equal(a, b string) bool {
	return a == b || Key(a) == Key(b)
}

// foldRune lowers a letter. A letter outside ASCII never becomes one of ASCII:
// the Kelvin sign is no k, or one resource could pass for another.
func foldRune(r rune) rune {
	switch {
	case 'A' <= r && r <= 'Z':
		return r + ('a' - 'A')
	case r <= unicode.MaxASCII:
		return r
	}
	if l := unicode.ToLower(r); l > unicode.MaxASCII {
		return l
	}
	return r
}
