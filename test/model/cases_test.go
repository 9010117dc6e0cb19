package model

import "testing"

// TestCases lets histories happen that are too rare to wait for.
func TestCases(t *testing.T) {
	s := startServers(t)
	web, other := named{"default", "a"}, named{"c", "a"}
	pool := named{"", "pool"}
	// begin gives pods of label x the identity red, those of label y blue.
	begin := history{
		{kind: makeID, on: named{"default", "one"}, a: "red"},
		{kind: makeID, on: named{"default", "two"}, a: "blue"},
		{kind: makeBinding, on: named{"default", "p"}, a: "one", b: "x"},
		{kind: makeBinding, on: named{"default", "q"}, a: "two", b: "y"},
		{kind: makePod, on: web, a: "n0", b: "x"},
		{kind: quiet},
	}
	for name, then := range map[string]history{
		"an identity put on the scale set just before MIC needs it is not MIC's": {
			{kind: addBehind, on: pool, a: "blue"},
			{kind: makePod, on: other, a: "n1", b: "y"},
			{kind: quiet},
			{kind: removePod, on: other},
			{kind: quiet},
		},
		"nor if MIC dies in between": {
			{kind: killBefore, n: 3},
			{kind: addBehind, on: pool, a: "blue"},
			{kind: makePod, on: other, a: "n1", b: "y"},
			{kind: quiet},
			{kind: removePod, on: other},
			{kind: quiet},
		},
		"an identity that is made again while it is on the scale set works": {
			{kind: azureRemove, on: named{"", "red"}},
			{kind: azureMake, on: named{"", "red"}},
			{kind: restart},
			{kind: quiet},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := s.begin(t.Context(), calm)
			check(t, err)
			h := append(append(history{}, begin...), then...)
			if f := w.live(h, patience); f != nil {
				t.Errorf("after operation %d: %v\n%s\n%s", f.at+1, f.err, h, f.log)
			}
		})
	}
}
