package resourceid

import (
	"strings"
	"unicode/utf8"
)

// isTypo reports whether s is likely meant as want: a few slips of the keyboard
// away, ignoring case. The singular of a plural counts.
func isTypo(s, want string) bool {
	limit := 2
	if len(want) >= 20 {
		limit = 3
	}
	if s == "" || len(s) > len(want)+limit {
		return false
	}
	return distance(strings.ToLower(s), strings.ToLower(want), limit) <= limit
}

// distance is the optimal string alignment distance of a and b: insertions,
// deletions, substitutions and swaps of neighbours. Above limit it may return
// any number above limit.
func distance(a, b string, limit int) int {
	ra, rb := []rune(a), []rune(b)
	if abs(len(ra)-len(rb)) > limit {
		return limit + 1
	}
	before, last, row := make([]int, len(rb)+1), make([]int, len(rb)+1), make([]int, len(rb)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(ra); i++ {
		row[0] = i
		for j := 1; j <= len(rb); j++ {
			cost := 1
			if ra[i-1] == rb[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && ra[i-1] == rb[j-2] && ra[i-2] == rb[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(rb)]
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}

// repairGUID returns the GUID that s is meant as: in braces or without hyphens.
// It returns "" if s is neither.
func repairGUID(s string) string {
	if n := len(s); n > 2 && strings.ContainsRune("{(<", rune(s[0])) && strings.ContainsRune("})>", rune(s[n-1])) {
		s = s[1 : n-1]
	}
	if len(s) == 32 && utf8.ValidString(s) && !strings.Contains(s, "-") {
		s = s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
	}
	if isGUID(s) {
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
