package resourceid

import (
	"strings"
	"unicode/utf8"
)

// IsGUID reports whether s is a GUID in the usual form: 8-4-4-4-12 hexadecimal
// digits of either case, without braces.
func IsGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return false
		}
	}
	return true
}

// RepairGUID returns the GUID that s is meant as: in white space, quotes or
// braces, or without hyphens. It returns "" if s is none of these.
func RepairGUID(s string) string {
	s = strings.Trim(strings.TrimFunc(s, isSpace), quotes)
	if n := len(s); n > 2 && strings.ContainsRune("{(<", rune(s[0])) && strings.ContainsRune("})>", rune(s[n-1])) {
		s = s[1 : n-1]
	}
	if len(s) == 32 && utf8.ValidString(s) && !strings.Contains(s, "-") {
		s = s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
	}
	if IsGUID(s) {
		return s
	}
	return ""
}

// indexFold is strings.Index for an ASCII needle, ignoring case.
func indexFold(s, needle string) int {
	for i := 0; i+len(needle) <= len(s); i++ {
		if equalFoldASCII(s[i:i+len(needle)], needle) {
			return i
		}
	}
	return -1
}
