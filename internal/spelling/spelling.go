// Package spelling tells a typing mistake from another word, for messages that
// say what was probably meant. It is pure.
package spelling

import (
	"strings"
	"unicode/utf8"
)

// IsTypo reports whether word is likely meant as known: at most two slips of the
// keyboard away, three for a long word and one for a short one, ignoring case.
func IsTypo(word, known string) bool {
	limit := limitFor(known)
	return word != "" && distance(strings.ToLower(word), strings.ToLower(known), limit) <= limit
}

// Nearest returns the one known word that word is likely meant as; "" if there
// is none, or if several are equally near.
func Nearest(word string, known []string) string {
	best, nearest, ties := 0, "", 0
	for _, k := range known {
		if !IsTypo(word, k) {
			continue
		}
		switch d := distance(strings.ToLower(word), strings.ToLower(k), limitFor(k)); {
		case nearest == "" || d < best:
			best, nearest, ties = d, k, 0
		case d == best:
			ties++
		}
	}
	if ties > 0 {
		return ""
	}
	return nearest
}

func limitFor(known string) int {
	switch n := len(known); {
	case n < 6:
		return 1
	case n < 20:
		return 2
	default:
		return 3
	}
}

// distance is the optimal string alignment distance of a and b: insertions,
// deletions, substitutions and swaps of neighbours. Above limit it may return
// any number above limit.
func distance(a, b string, limit int) int {
	// A rune has at most four bytes: far too long words are not even looked at.
	if len(a) > 4*(len(b)+limit) {
		return limit + 1
	}
	if na, nb := utf8.RuneCountInString(a), utf8.RuneCountInString(b); na > nb+limit || nb > na+limit {
		return limit + 1
	}
	ra, rb := []rune(a), []rune(b)
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
